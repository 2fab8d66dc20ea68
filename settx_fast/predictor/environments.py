"""Which environment every row of a table is from, and which one a deployment value means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from settx_fast.predictor.columns import words_of
from settx_fast.predictor.files import TableError, listed, meant
from settx_fast.predictor.numerals import EMPTY

MIN_SOURCE_ROWS = 10


class Environments(NamedTuple):
    """Which environment each row is from (−1: not known), and their names in natural order."""

    codes: np.ndarray
    names: tuple[str, ...]


def environments_of(frame: pd.DataFrame, environment: str | None) -> tuple[Environments, tuple[str, ...]]:
    """The environments that a column names, or one of all rows, and notes; TableError where it names no groups."""
    if environment is None:
        return Environments(np.zeros(len(frame), dtype=np.int64), ("all rows",)), ()
    words = words_of(frame[environment], _label)
    words = words.without(np.array([text.lower() in EMPTY for text in words.texts], dtype=bool))
    known, missing = int(words.counts.sum()), int((words.codes < 0).sum())
    if known > MIN_SOURCE_ROWS and len(words.texts) > known / 2:
        raise TableError(
            f"The environment column '{environment}' has {len(words.texts)} different values in {known} rows: "
            "choose a column that says which group a row comes from."
        )
    names = sorted(words.texts, key=_natural_order)
    place = np.array([*(names.index(text) for text in words.texts), -1], dtype=np.int64)
    note = f"{missing} of {len(frame)} rows were left out: no value in the environment column '{environment}'."
    return Environments(place[words.codes], tuple(names)), (note,) if missing else ()


def _label(value: object) -> str:
    """Whole numbers read without a point: a column of integers with gaps is read, and written, as floats."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", str(value).strip())


def _natural_order(label: str) -> tuple[int, float, str]:
    number = _as_number(label)
    return (1, 0.0, label) if number is None else (0, number, label)


def _as_number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def deployed(deploy: object, names: Sequence[str], environment: str | None) -> int | None:
    """Which environment a deployment value means: its name as it is written, or the only one of the same meaning."""
    if deploy is None:
        return None
    if environment is None:
        raise TableError("A deployment value needs an environment column to look it up in.")
    written = str(deploy).strip() if isinstance(deploy, str) else _label(deploy)
    alike = [name for name in names if name == written] or [name for name in names if _mean_the_same(name, written)]
    if not alike:
        known = f"its values are {listed(names)}.{meant(written, names)}"
        raise TableError(f"No row has '{written}' in the column '{environment}'; {known}")
    if len(alike) > 1:
        raise TableError(
            f"'{written}' may mean several values of the column '{environment}': {listed(alike)}: write one of them."
        )
    if len(names) == 1:
        raise TableError(
            f"'{written}' is the only environment, so there are no source rows to learn from: "
            "add rows of other environments, or give no deployment value."
        )
    return names.index(alike[0])


def _mean_the_same(one: str, other: str) -> bool:
    number = _as_number(one)
    return one.casefold() == other.casefold() or (number is not None and number == _as_number(other))
