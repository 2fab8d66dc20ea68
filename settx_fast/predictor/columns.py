"""One column of a data frame becomes columns of numbers, and what was done to it is said in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

MAX_INDICATOR_LEVELS = 8
"""Text columns with more levels than this get one column of codes instead of one indicator per level."""

_NUMBER_SHARE = 0.95
_ROWS_PER_LEVEL = 5
_ISO_DATE = r"^\d{4}-\d{2}-\d{2}"


@dataclass(frozen=True)
class Encoded:
    """What one column became: names, values (R, len(names)) float64 with NaN where missing, and notes."""

    kind: Literal["numbers", "indicators", "codes", "nothing"]
    names: tuple[str, ...]
    values: np.ndarray
    notes: tuple[str, ...] = ()

    @classmethod
    def left_out(cls, name: str, rows: int, reason: str) -> Encoded:
        """No columns at all, and the reason why."""
        return cls("nothing", (), np.empty((rows, 0)), (f"Column '{name}' was left out: {reason}.",))


def encode_column(column: pd.Series) -> Encoded:
    """Numbers, booleans, dates and text as float64 columns; anything else is left out with a note.

    Booleans become 0 and 1. Dates become days since the earliest. Text whose values nearly all read as numbers is
    numbers; text with up to `MAX_INDICATOR_LEVELS` levels becomes one 0/1 column per level except the most frequent,
    text with more becomes codes by descending frequency, and text that seldom repeats (an identifier) is left out.
    """
    name = str(column.name)
    present = column.dropna()
    if present.empty:
        return Encoded.left_out(name, len(column), "it holds no values")
    if pd.api.types.is_bool_dtype(present) or _all_are(present, (bool, np.bool_)):
        return Encoded("numbers", (name,), _floats(column.astype("boolean"))[:, None])
    if pd.api.types.is_complex_dtype(column):
        return Encoded.left_out(name, len(column), "its values are complex numbers")
    if pd.api.types.is_numeric_dtype(column):
        return _encode_numbers(name, _floats(column))
    if pd.api.types.is_timedelta64_dtype(column):
        return _encode_numbers(name, column.dt.total_seconds().to_numpy(float) / 86_400)
    if _is_date(present):
        return _encode_dates(name, column)
    if not _all_are(present, (str, int, float, np.number)) and not isinstance(column.dtype, pd.CategoricalDtype):
        return _encode_objects(name, column)
    return _encode_text(name, column.astype(object).where(column.notna()))


def _all_are(present: pd.Series, types: tuple[type, ...]) -> bool:
    return all(isinstance(value, types) for value in present)


def _floats(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _encode_numbers(name: str, values: np.ndarray, notes: tuple[str, ...] = ()) -> Encoded:
    infinite = np.isinf(values)
    if infinite.any():
        notes += (f"Column '{name}': {_count(infinite.sum(), 'infinite value')} treated as missing.",)
    return Encoded("numbers", (name,), np.where(infinite, np.nan, values)[:, None], notes)


def _is_date(present: pd.Series) -> bool:
    if pd.api.types.is_datetime64_any_dtype(present):
        return True
    if not _all_are(present, (str,)):
        return all(hasattr(value, "isoformat") and hasattr(value, "year") for value in present)
    return bool(present.astype(str).str.match(_ISO_DATE).all()) and bool(_to_dates(present).notna().all())


def _to_dates(column: pd.Series) -> pd.Series:
    return pd.to_datetime(column, errors="coerce", utc=True, format=None if _is_native(column) else "ISO8601")


def _is_native(column: pd.Series) -> bool:
    return pd.api.types.is_datetime64_any_dtype(column)


def _encode_dates(name: str, column: pd.Series) -> Encoded:
    dates = _to_dates(column)
    first = dates.min()
    note = f"Column '{name}': dates became days since {first.date().isoformat()}."
    days = ((dates - first) / pd.Timedelta(days=1)).to_numpy(float)
    return Encoded("numbers", (name,), days[:, None], (note,))


def _encode_objects(name: str, column: pd.Series) -> Encoded:
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().equals(column.notna()):
        return _encode_numbers(name, _floats(numbers))
    kind = type(column.dropna().iloc[0]).__name__
    return Encoded.left_out(name, len(column), f"its values are of type {kind}, not numbers, text or dates")


def _encode_text(name: str, column: pd.Series) -> Encoded:
    numbers = pd.to_numeric(column, errors="coerce")
    unread = column.notna() & numbers.isna()
    if unread.sum() <= (1 - _NUMBER_SHARE) * column.notna().sum():
        examples = ", ".join(repr(value) for value in column[unread].unique()[:3])
        note = f"Column '{name}': {_count(unread.sum(), 'value')} not a number ({examples}) treated as missing."
        return _encode_numbers(name, _floats(numbers), (note,) if unread.any() else ())
    text = column.map(lambda value: str(value).strip(), na_action="ignore")
    counts = text.value_counts()
    levels = sorted(counts.index, key=lambda level: (-counts[level], level))
    if len(levels) > max(MAX_INDICATOR_LEVELS, text.notna().sum() / _ROWS_PER_LEVEL):
        texts = f"{len(levels)} different texts ({', '.join(map(repr, levels[:2]))} …)"
        return Encoded.left_out(name, len(column), f"its {texts} are too many for categories")
    if len(levels) > MAX_INDICATOR_LEVELS:
        return _encode_codes(name, text, levels)
    return _encode_indicators(name, text, levels)


def _encode_codes(name: str, text: pd.Series, levels: list[str]) -> Encoded:
    codes = text.map({level: code for code, level in enumerate(levels)}).to_numpy(float)
    note = f"Column '{name}': {len(levels)} categories became codes 0 to {len(levels) - 1}, the most frequent first."
    return Encoded("codes", (name,), codes[:, None], (note,))


def _encode_indicators(name: str, text: pd.Series, levels: list[str]) -> Encoded:
    if len(levels) == 1:
        return Encoded("indicators", (name,), np.where(text.isna(), np.nan, 0.0)[:, None])
    indicators = [np.where(text.isna(), np.nan, text == level) for level in levels[1:]]
    names = tuple(f"{name}={level}" for level in levels[1:])
    note = (
        f"Column '{name}': {len(levels)} categories became {_count(len(names), '0/1 column')}, '{levels[0]}' being 0."
    )
    return Encoded("indicators", names, np.stack(indicators, axis=1).astype(float), (note,))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
