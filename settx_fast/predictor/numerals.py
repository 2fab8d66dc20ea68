"""Text that stands for a number, as people and spreadsheets write it, or for a missing value."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

EMPTY = frozenset({"", "nan", "-nan", "null", "<na>", "#n/a", "#na", "#n/a n/a", "1.#ind", "-1.#ind", "1.#qnan",
                   "-1.#qnan", "nat"})  # fmt: skip
"""Written by programs for a missing value, in lower case: never a value."""
WORDS = frozenset({"na", "n/a", "none"})
"""Missing among numbers, in lower case; among words they may be values: Namibia, North America, no garage."""
MARKS = frozenset({"?", "??", "-", "--", "–", "—", ".", "..", "*"})
"""What people type in place of a value that is missing."""

_CURRENCIES = "$€£¥₹"
_BLANKS = " \u00a0\u2009\u202f'’"
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_POINT = re.compile(
    rf"[+-]?(?:[1-9]\d{{0,2}}(?:,\d{{3}})+|[1-9]\d{{0,2}}(?:[{_BLANKS}]\d{{3}})+|\d*)(?:\.\d*)?{_EXPONENT}"
)
_COMMA = re.compile(
    rf"[+-]?(?:[1-9]\d{{0,2}}(?:\.\d{{3}})+|[1-9]\d{{0,2}}(?:[{_BLANKS}]\d{{3}})+|\d*)(?:,\d+)?{_EXPONENT}"
)


class Numerals(NamedTuple):
    """What texts (n,) are as numbers: values float64, NaN where missing or unread; and how they were read."""

    values: np.ndarray
    is_missing: np.ndarray
    unread: np.ndarray
    note: str


class _Parts(NamedTuple):
    """A text without its unit, its unit, and whether it is in brackets as a negative amount."""

    digits: str
    unit: str
    negative: bool


def read_numbers(texts: Sequence[str], counts: np.ndarray) -> Numerals:
    """Numbers with thousands separators, decimal commas, currency or percent signs, read alike in all of a column.

    texts: the different texts of a column, stripped; counts (n,): rows of each. `1,234` is 1234 unless another cell
    shows that commas are decimal. A percentage keeps its value: 12.5% is 12.5. Of several units the commonest is read.
    """
    lowered = [text.lower() for text in texts]
    missing = np.array([word in EMPTY or word in WORDS or word in MARKS for word in lowered], dtype=bool)
    values = pd.to_numeric(pd.Series(list(texts), dtype=object), errors="coerce").to_numpy(float, copy=True)
    values[missing] = np.nan
    plain = np.isfinite(values) | np.isin(lowered, ("inf", "-inf", "+inf", "infinity", "-infinity"))
    note = ""
    if (~missing & ~plain).any():
        shown = np.flatnonzero(~missing)
        formatted, example = _formatted([texts[index] for index in shown.tolist()], counts[shown], ~plain[shown])
        if example is not None:  # else nothing but plain numbers can be read
            values[shown] = np.where(np.isinf(values[shown]), values[shown], formatted)
            note = f"'{texts[shown[example]]}' was read as {values[shown[example]]:.15g}"
    return Numerals(values, missing, ~missing & np.isnan(values), note)


def _formatted(texts: list[str], counts: np.ndarray, in_style: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Texts in the style and unit that reads most rows, NaN where they are no numbers; which one shows the style.

    in_style (n,) bool: the text is no plain number.
    """
    parts = [_parts(text) for text in texts]
    unit = _commonest([part.unit for part in parts], counts)
    units = (unit,) if unit == "%" else ("", unit)  # of a share and a percentage nobody can know which is meant
    styles = [[_value(part, style) if part.unit in units else np.nan for part in parts] for style in (_POINT, _COMMA)]
    point, comma = (np.array(style, dtype=float) for style in styles)
    values = comma if counts[np.isfinite(comma)].sum() > counts[np.isfinite(point)].sum() else point
    read = np.flatnonzero(np.isfinite(values) & in_style)
    if not len(read) or (unit == "%" and counts[np.isfinite(values)].sum() < counts.sum() / 2):
        return values, None
    return values, int(read[0])


def _commonest(units: list[str], counts: np.ndarray) -> str:
    rows: Counter[str] = Counter()
    for unit, count in zip(units, counts.tolist(), strict=True):
        rows[unit] += count if unit else 0
    return rows.most_common(1)[0][0]


def _parts(text: str) -> _Parts:
    text = text.replace("−", "-")
    negative = text.startswith("(") and text.endswith(")")
    if negative:
        text = text[1:-1].strip()
    if text[:1] in "+-" and text[1:2] in tuple(_CURRENCIES):
        text = text[1] + text[0] + text[2:]
    for unit in (*_CURRENCIES, "%"):
        if text.endswith(unit) or (unit != "%" and text.startswith(unit)):
            return _Parts(text.strip(f"{unit}{_BLANKS}"), unit, negative)
    return _Parts(text, "", negative)


def _value(part: _Parts, style: re.Pattern[str]) -> float:
    if not any(letter.isdigit() for letter in part.digits) or not style.fullmatch(part.digits):
        return np.nan
    thousands, decimal = (",", ".") if style is _POINT else (".", ",")
    digits = re.sub(f"[{_BLANKS}{thousands}]", "", part.digits).replace(decimal, ".")
    return -float(digits) if part.negative else float(digits)
