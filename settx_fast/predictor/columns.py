"""One column of a data frame becomes columns of numbers, and what was done to it is said in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from settx_fast.predictor import suspects
from settx_fast.predictor.numerals import EMPTY, MARKS, WORDS, Numerals, read_numbers

MAX_INDICATOR_LEVELS = 8
"""Text columns with more levels than this get one column of codes instead of one indicator per level."""

_NUMBER_SHARE = 0.95
_ROWS_PER_LEVEL = 5
_NEARLY = 0.5  # share of numbers from which a text column is told why it is none
_ISO_DATE = r"^\d{4}-\d{2}-\d{2}"

Kind = Literal["number", "flag", "date", "level", "code", "nothing"]


@dataclass(frozen=True)
class Encoded:
    """What one column became: its kind, names, values (R, len(names)) float64 with NaN where missing, and notes.

    kind: "number", "flag" (booleans), "date" (days), "level" (one 0/1 column per level but one), "code" (of a level) or
    "nothing". levels: of a column with several, the one that became 0 first.
    """

    kind: Kind
    names: tuple[str, ...]
    values: np.ndarray
    notes: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()

    @classmethod
    def left_out(cls, name: str, rows: int, reason: str) -> Encoded:
        """No columns at all, and the reason why."""
        return cls("nothing", (), np.empty((rows, 0)), (f"Column '{name}' was left out: {reason}.",))


class Words(NamedTuple):
    """A column's different texts, stripped: which of them each row has (−1 where missing), and rows of each."""

    codes: np.ndarray
    texts: list[str]
    counts: np.ndarray

    def without(self, gone: np.ndarray) -> Words:
        """Where `gone` (n,) bool says so, texts become missing."""
        place = np.append(np.where(gone, -1, np.cumsum(~gone) - 1), -1)
        kept = np.flatnonzero(~gone)
        return Words(place[self.codes], [self.texts[index] for index in kept], self.counts[kept])


def encode_column(
    column: pd.Series, *, keep: bool = False, is_target: bool = False, words_are_missing: bool = False
) -> Encoded:
    """Numbers, booleans, dates and text as float64 columns; anything else is left out with a note.

    Booleans become 0 and 1. Dates become days since the earliest. Text whose values nearly all read as numbers is
    numbers (`read_numbers`); text with up to `MAX_INDICATOR_LEVELS` levels becomes one 0/1 column per level except the
    most frequent, text with more becomes codes by descending frequency. Stand-ins for missing values (−999) are
    missing; what names something and is no amount is left out: identifiers, postal codes, counted rows, text that
    seldom repeats.

    keep: take the values as they stand. is_target: nothing is taken for an identifier. words_are_missing: "NA" and
    "None" are no levels.
    """
    name = str(column.name)
    kind = _kind_of(column)
    if kind == "empty":
        return Encoded.left_out(name, len(column), "it holds no values")
    if kind == "complex":
        return Encoded.left_out(name, len(column), "its values are complex numbers")
    if kind == "flags":
        return Encoded("flag", (name,), _floats(column.astype("boolean"))[:, None])
    if kind == "dates":
        return _encode_dates(name, column)
    if kind == "durations":
        return Encoded("number", (name,), (column.dt.total_seconds().to_numpy(float) / 86_400)[:, None])
    if kind == "numbers":
        return _encode_numbers(name, _floats(column), keep=keep, is_target=is_target)
    if kind == "objects":
        return _encode_objects(name, column, keep, is_target)
    return _encode_text(name, words_of(column), keep, is_target, words_are_missing)


def is_text(column: pd.Series) -> bool:
    """Whether a column holds text, whatever that stands for."""
    return _kind_of(column) == "text"


def words_of(column: pd.Series, as_text: Callable[[object], str] = lambda value: str(value).strip()) -> Words:
    """The different texts of a column, in the order of their appearance."""
    codes, found = pd.factorize(column)
    texts = [as_text(value) for value in found]
    if len(set(texts)) < len(texts):  # blanks made the difference
        merged, different = pd.factorize(np.array(texts, dtype=object))
        codes, texts = np.where(codes < 0, -1, np.append(merged, -1)[codes]), list(different)
    return Words(codes, texts, np.bincount(codes[codes >= 0], minlength=len(texts)))


def _kind_of(column: pd.Series) -> str:
    dtype = column.dtype
    if column.isna().all():
        return "empty"
    if pd.api.types.is_bool_dtype(dtype):
        return "flags"
    if pd.api.types.is_complex_dtype(dtype):
        return "complex"
    if pd.api.types.is_numeric_dtype(dtype):
        return "numbers"
    if pd.api.types.is_timedelta64_dtype(dtype):
        return "durations"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "dates"
    held = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else column
    inferred = pd.api.types.infer_dtype(held, skipna=True)
    if inferred == "boolean":
        return "text" if isinstance(dtype, pd.CategoricalDtype) else "flags"
    if inferred in ("date", "datetime", "datetime64"):
        return "dates"
    if inferred == "string":
        return "dates" if _is_iso_date(column) else "text"
    if isinstance(dtype, pd.CategoricalDtype) or _all_are(column.dropna(), (str, int, float, np.number)):
        return "text"
    return "objects"


def _is_iso_date(column: pd.Series) -> bool:
    present = column.dropna()
    if not present.head(100).astype(str).str.match(_ISO_DATE).all():
        return False
    return bool(_to_dates(pd.Series(present.unique())).notna().all())


def _all_are(present: pd.Series, types: tuple[type, ...]) -> bool:
    return all(isinstance(value, types) for value in present)


def _floats(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _encode_numbers(
    name: str, values: np.ndarray, notes: tuple[str, ...] = (), *, keep: bool, is_target: bool
) -> Encoded:
    infinite = np.isinf(values)
    if infinite.any():
        notes += (f"Column '{name}': {_count(infinite.sum(), 'infinite value')} treated as missing.",)
        values = np.where(infinite, np.nan, values)
    if keep:
        return Encoded("number", (name,), values[:, None], notes)
    dates = None if is_target else suspects.dates_in(name, values)
    if dates is not None:
        encoded = _encode_dates(name, pd.Series(dates), "whole numbers that are dates")
        return Encoded(encoded.kind, encoded.names, encoded.values, notes + encoded.notes)
    if not is_target and (reason := suspects.identity(name, values)) is not None:
        return Encoded.left_out(name, len(values), f"{reason} (`--keep '{name}'` keeps it)")
    for stand_in in suspects.stand_ins(values):
        rows = _count((values == stand_in).sum(), "value")
        values = np.where(values == stand_in, np.nan, values)
        text = f"{stand_in:.0f}".replace("-", "−")
        notes += (
            f"Column '{name}': {rows} of {text} treated as missing: farther from all others than those spread "
            f"(`--keep '{name}'` keeps them).",
        )
    return Encoded("number", (name,), values[:, None], notes)


def _to_dates(column: pd.Series) -> pd.Series:
    native = pd.api.types.is_datetime64_any_dtype(column)
    return pd.to_datetime(column, errors="coerce", utc=True, format=None if native else "ISO8601")


def _encode_dates(name: str, column: pd.Series, what: str = "dates") -> Encoded:
    dates = _to_dates(column)
    first = dates.min()
    note = f"Column '{name}': {what} became days since {first.date().isoformat()}."
    days = ((dates - first) / pd.Timedelta(days=1)).to_numpy(float)
    return Encoded("date", (name,), days[:, None], (note,))


def _encode_objects(name: str, column: pd.Series, keep: bool, is_target: bool) -> Encoded:
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().equals(column.notna()):
        return _encode_numbers(name, _floats(numbers), keep=keep, is_target=is_target)
    kind = type(column.dropna().iloc[0]).__name__
    return Encoded.left_out(name, len(column), f"its values are of type {kind}, not numbers, text or dates")


def _encode_text(name: str, words: Words, keep: bool, is_target: bool, words_are_missing: bool) -> Encoded:
    rows = len(words.codes)
    if not keep and not is_target and suspects.has_padding(words.texts):
        reason = f"'{words.texts[0]}' is a code, not an amount: its digits are padded with zeros"
        return Encoded.left_out(name, rows, f"{reason} (`--keep '{name}'` keeps it)")
    read = read_numbers(words.texts, words.counts)
    unread, known = words.counts[read.unread].sum(), words.counts[~read.is_missing].sum()
    if known and (unread <= (1 - _NUMBER_SHARE) * known or _has_a_stand_in(read)):
        values = np.append(read.values, np.nan)[words.codes]
        return _encode_numbers(name, values, _number_notes(name, words, read), keep=keep, is_target=is_target)
    is_level, notes = _which_are_levels(name, words, keep, words_are_missing)
    if 0 < unread < _NEARLY * known:
        cell = int(np.argmax(read.unread))
        row = int(np.argmax(words.codes == cell)) + 1
        notes += (f"Column '{name}' is text because of cells like {words.texts[cell]!r} in row {row}.",)
    encoded = _encode_levels(name, words.without(~is_level), keep)
    return replace(encoded, notes=notes + encoded.notes)


def _has_a_stand_in(read: Numerals) -> bool:
    """Whether one word alone, "unknown", keeps many different numbers from being numbers."""
    return int(read.unread.sum()) == 1 and int(np.isfinite(read.values).sum()) > MAX_INDICATOR_LEVELS


def _number_notes(name: str, words: Words, read: Numerals) -> tuple[str, ...]:
    is_mark = np.array([text in MARKS for text in words.texts], dtype=bool)
    gone = read.unread | is_mark
    notes: tuple[str, ...] = (f"Column '{name}': {read.note}.",) if read.note else ()
    if gone.any():
        examples = ", ".join(repr(words.texts[index]) for index in np.flatnonzero(gone)[:3])
        missing = _count(words.counts[gone].sum(), "value")
        notes += (f"Column '{name}': {missing} not a number ({examples}) treated as missing.",)
    return notes


def _which_are_levels(
    name: str, words: Words, keep: bool, words_are_missing: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which texts (n,) are levels and which stand for a missing value, and what to say of that."""
    gone = {
        "EMPTY": EMPTY,
        "MARKS": frozenset() if keep else MARKS,
        "WORDS": WORDS if words_are_missing else frozenset(),
    }
    is_level = np.ones(len(words.texts), dtype=bool)
    notes: tuple[str, ...] = ()
    for index, text in enumerate(words.texts):
        group = next((group for group, members in gone.items() if text.lower() in members), None)
        is_level[index] = group is None
        rows = _count(words.counts[index], "value")
        if group == "MARKS" or group == "WORDS":
            notes += (f"Column '{name}': {rows} {text!r} treated as missing.",)
        elif group is None and text.lower() in WORDS:
            notes += (f"Column '{name}': {rows} {text!r} taken for a category of that name.",)
    return is_level, notes


def _encode_levels(name: str, words: Words, keep: bool) -> Encoded:
    rows, counts = len(words.codes), dict(zip(words.texts, words.counts.tolist(), strict=True))
    levels = sorted(counts, key=lambda level: (-counts[level], level))
    if not levels:
        return Encoded.left_out(name, rows, "it holds no values")
    if len(levels) > max(MAX_INDICATOR_LEVELS, sum(counts.values()) / _ROWS_PER_LEVEL) and not keep:
        texts = f"{len(levels)} different texts ({', '.join(map(repr, levels[:2]))} …)"
        return Encoded.left_out(name, rows, f"its {texts} are too many for categories")
    place = {level: code for code, level in enumerate(levels)}
    codes = np.append([float(place[text]) for text in words.texts], np.nan)[words.codes]
    if len(levels) > MAX_INDICATOR_LEVELS:
        note = f"{len(levels)} categories became codes 0 to {len(levels) - 1}, the most frequent first"
        return Encoded("code", (name,), codes[:, None], (f"Column '{name}': {note}.",), tuple(levels))
    if len(levels) == 1:
        return Encoded("level", (name,), codes[:, None], (), tuple(levels))
    indicators = [np.where(np.isnan(codes), np.nan, codes == code) for code in range(1, len(levels))]
    names = tuple(f"{name}={level}" for level in levels[1:])
    note = f"{len(levels)} categories became {_count(len(names), '0/1 column')}, '{levels[0]}' being 0"
    return Encoded("level", names, np.stack(indicators, axis=1), (f"Column '{name}': {note}.",), tuple(levels))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
