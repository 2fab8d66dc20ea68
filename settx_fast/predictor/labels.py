"""The target column: numbers, or two classes; what stands for a missing label, and what is refused."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from settx_fast.predictor.columns import Encoded, encode_column
from settx_fast.predictor.environments import Environments
from settx_fast.predictor.files import TableError, listed

MOST_CODES = 10  # different whole numbers up to which a target looks like classes
ROWS_PER_CODE = 5


class Target(NamedTuple):
    """Target values (R,), NaN where unlabelled; the names of two classes or (); notes."""

    values: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def target_of(column: pd.Series, environments: Environments, deployed: int | None, keep: bool) -> Target:
    """The labels of a column; TableError unless they are amounts or two classes. keep: whole numbers are amounts."""
    encoded = encode_column(column, is_target=True, keep=keep, words_are_missing=True)
    if encoded.kind in ("code", "nothing") or encoded.values.shape[1] != 1:
        raise TableError(
            f"The target column '{column.name}' must hold numbers or two categories; "
            f"it holds {listed([repr(value) for value in column.dropna().unique()], limit=3) or 'no values'}."
        )
    values, notes = _without_stand_in_labels(encoded.values[:, 0], environments, deployed)
    name = str(column.name)
    known = np.unique(values[np.isfinite(values) & (environments.codes >= 0)])
    if len(known) == 2 and not (keep and encoded.kind == "number"):
        return _two_classes(name, encoded, values, known, notes)
    if _are_codes(known, np.isfinite(values).sum()) and not keep:
        raise TableError(
            f"The target column '{name}' holds {len(known)} different whole numbers only "
            f"({listed([f'{value:g}' for value in known])}), as classes do: expected amounts or two classes; "
            f"`--keep '{name}'` reads them as amounts."
        )
    return Target(values, (), encoded.notes + notes)


def _are_codes(known: np.ndarray, rows: int) -> bool:
    is_few = 2 < len(known) <= MOST_CODES and rows >= ROWS_PER_CODE * len(known)
    return is_few and bool((known == np.rint(known)).all())


def _two_classes(name: str, encoded: Encoded, values: np.ndarray, known: np.ndarray, notes: tuple[str, ...]) -> Target:
    """Values as 0 and 1; the risk of a framework is then its Brier score."""
    if encoded.kind == "level":
        classes = encoded.levels[0], encoded.levels[1]
    elif encoded.kind == "flag":
        classes = "False", "True"
    else:
        classes = f"{known[0]:g}", f"{known[1]:g}"
    said = () if encoded.kind == "level" or classes == ("0", "1") else (f"Target '{name}': '{classes[1]}' became 1.",)
    values = np.where(np.isnan(values), np.nan, (values == known[1]).astype(float))
    return Target(values, classes, encoded.notes + notes + said)


def _without_stand_in_labels(
    values: np.ndarray, environments: Environments, deployed: int | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels that are all the same in the deployment stand for missing ones; elsewhere that is only said."""
    notes: tuple[str, ...] = ()
    for code, name in enumerate(environments.names):
        inside = (environments.codes == code) & np.isfinite(values)
        count = int(inside.sum())
        if count < 2 or count == np.isfinite(values).sum() or np.ptp(values[inside]) > 0:
            continue
        same = f"All {count:,} labels of '{name}' are {values[inside][0]:g}"
        if code == deployed:
            values = np.where(inside, np.nan, values)
            notes += (f"{same}: taken for unlabelled, so nothing is measured there.",)
        else:
            notes += (f"{same}: if that stands for unlabelled, empty these cells or name it as the deployment.",)
    return values, notes
