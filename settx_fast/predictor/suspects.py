"""Numbers that are no measurements: stand-ins for a missing value, identifiers, codes, dates written as numbers."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

STAND_INS = tuple(sign * (10**digits - 1) for digits in range(2, 9) for sign in (-1, 1))  # 99, 999 …, and below zero
FEWEST = 20  # different values from which a column can be told to be an identifier, or dates

_IDENTIFIER = r"(?:id|ids|uid|uuid|guid|identifier|ssn|isbn|ean|barcode|serial)"
_PERHAPS = r"(?:nr|no|number|num|idx|index|key|code|row|record|case)"
_POSTAL = r"(?:zip|zip_?codes?|post_?codes?|postal_?codes?|postal|plz|fips)"
_TIME = r"(?:years?|months?|weeks?|days?|hours?|dates?|time|period|quarters?|t|step|jahr|monat|tag)"


def stand_ins(values: np.ndarray) -> list[float]:
    """Values like −999 or 9999 that lie farther from all others than those spread; (n,) in, NaN left out."""
    known = values[np.isfinite(values)]
    found: list[float] = []
    while len(known):
        ends = [end for end in (known.min(), known.max()) if end in STAND_INS]
        suspect = next((end for end in ends if _is_alone(end, known)), None)
        if suspect is None:
            break
        found.append(float(suspect))
        known = known[known != suspect]
    return found


def _is_alone(end: float, known: np.ndarray) -> bool:
    others = known[known != end]
    if not len(others) or others.min() == others.max():
        return False
    return bool(np.abs(others - end).min() > np.ptp(others))


def identity(name: str, values: np.ndarray) -> str | None:
    """Why a column of numbers is a name for something and no amount, or None; values (n,), NaN where missing."""
    known = values[np.isfinite(values)]
    if not len(known) or (known != np.rint(known)).any():
        return None
    different = len(np.unique(known))
    if _says(name, _POSTAL):
        return "postal codes are names of places, not amounts"
    if different < FEWEST:
        return None
    if _says(name, _IDENTIFIER) or (_says(name, _PERHAPS) and different == len(known)):
        return f"it looks like an identifier: {different:,} different whole numbers under this name"
    if not _says(name, _TIME) and len(known) == len(values) and (np.diff(known) == 1).all():
        return "it counts the rows"
    return None


def has_padding(texts: list[str]) -> bool:
    """Whether texts are digits of equal length with zeros in front: codes, not amounts."""
    return (
        bool(texts)
        and all(text.isdecimal() for text in texts)
        and len({len(text) for text in texts}) == 1
        and len(texts[0]) > 2
        and any(text.startswith("0") for text in texts)
    )


def dates_in(name: str, values: np.ndarray) -> np.ndarray | None:
    """Whole numbers that are all dates, 20240131 or 202401, as datetimes (n,), NaT where missing; else None."""
    known = values[np.isfinite(values)]
    if not len(known) or known.min() < 190001 or known.max() > 21001231 or (known != np.rint(known)).any():
        return None
    different = np.unique(known).astype(np.int64)
    form = "%Y%m%d" if different[0] >= 19000101 else "%Y%m" if different[-1] <= 210012 else None
    if form is None or (len(different) < FEWEST and not _says(name, _TIME)):
        return None
    if pd.to_datetime(pd.Series(different.astype(str)), format=form, errors="coerce").isna().any():
        return None
    texts = pd.Series(np.where(np.isfinite(values), values, 0).astype(np.int64).astype(str))
    return pd.to_datetime(texts, format=form, errors="coerce").to_numpy()


def _says(name: str, words: str) -> bool:
    """Whether a name has one of the words as a part: patient_id, PatientID, "patient id"."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return re.search(rf"(?:^|[^a-z0-9]){words}(?:$|[^a-z0-9])", parted) is not None
