"""Checks of user input, and JSON and YAML for frozen dataclasses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypeGuard

MAX_VARIABLES = 4096


def check(condition: bool, field: str, expected: str, got: object) -> None:
    """Raise ValueError naming field, expected and got unless `condition` holds."""
    if not condition:
        raise ValueError(f"{field}: expected {expected}, got {got!r}")


def is_int(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, NumPy's too; no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[Real]:
    """Whether it is a finite real number, NumPy's too, that a float can hold."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def as_variables(value: object, field: str) -> tuple[int | str, ...] | None:
    """None, or a tuple of numbers and names; one alone becomes a tuple."""
    given = (value,) if isinstance(value, int | str) else value
    known = given is None or (isinstance(given, tuple | list) and all(is_int(v) or isinstance(v, str) for v in given))
    check(known, field, "None or a tuple of numbers and names", value)
    return None if given is None else tuple(given)  # type: ignore[arg-type]


def as_range(value: object, field: str, low: int, high: int) -> tuple[int, int]:
    """An int n as (n, n), a pair as it is; both ends within [low, high]."""
    ends = (value, value) if is_int(value) else value
    expected = f"an int or (low, high) within {low}…{high}"
    check(isinstance(ends, tuple) and len(ends) == 2 and all(map(is_int, ends)), field, expected, value)
    assert isinstance(ends, tuple)
    check(low <= ends[0] <= ends[1] <= high, field, expected, value)
    return int(ends[0]), int(ends[1])


def encode(value: object) -> Any:
    """A frozen dataclass (or a tuple of them) as plain JSON data; the class name goes under "type"."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if is_int(value):
        return int(value)
    return float(value) if is_number(value) else value


def decode(data: Any, classes: Mapping[str, type], where: str) -> Any:
    """The inverse of `encode`, for the classes given by name."""
    if isinstance(data, list):
        return tuple(decode(item, classes, where) for item in data)
    if not isinstance(data, dict):
        return data
    name = data.get("type")
    if not (isinstance(name, str) and name in classes):
        hint = _nearest([name], set(classes)) if isinstance(name, str) else ""
        raise ValueError(f"{where}.type: expected one of {sorted(classes)}, got {name!r}{hint}")
    cls = classes[str(name)]
    known = {f.name for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING}
    given = {key: item for key, item in data.items() if key != "type"}
    strange = sorted(map(str, given.keys() - known))
    if strange:
        hint = _nearest(strange, known)
        raise ValueError(f"{name} fields: expected a subset of {sorted(known)}, got {strange}{hint}")
    check(needed <= given.keys(), f"{name} fields", f"at least {sorted(needed)}", sorted(given))
    return cls(**{key: decode(item, classes, f"{where}.{key}") for key, item in given.items()})


def _nearest(strange: list[str], known: set[str]) -> str:
    """The known names that are most like strange ones, as a question."""
    near = [close[0] for name in strange if (close := get_close_matches(name, sorted(known), 1))]
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


def parse_json(text: str, where: str) -> Any:
    check(isinstance(text, str), where, "JSON text", text)
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got {text[:60]!r} ({error})") from error


def parse_yaml(text: str, where: str) -> Any:
    import yaml  # part of the application's extras, not of the bare package

    check(isinstance(text, str), where, "YAML text", text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{where}: expected YAML, got {text[:60]!r} ({error})") from error
