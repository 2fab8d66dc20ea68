"""A CSV or Parquet file of rows from several environments, read into numbers, every change to it noted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from settx_fast.predictor.columns import Kind, encode_column, is_text, words_of
from settx_fast.predictor.environments import MIN_SOURCE_ROWS, Environments, deployed, environments_of
from settx_fast.predictor.files import UNNAMED, TableError, check_names, listed, meant, read_frame
from settx_fast.predictor.labels import target_of
from settx_fast.predictor.numerals import WORDS, read_numbers

__all__ = ["MERGED_ENVIRONMENT", "MIN_SOURCE_ROWS", "Progress", "Table", "TableError", "read_table", "table_from_frame"]

MERGED_ENVIRONMENT = "(merged)"
NARROWEST, WIDEST = 1e-15, 1e15  # spread of a column: its square must fit float32

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and out of how much."""


@dataclass(frozen=True, eq=False)
class Table:
    """R rows of P numeric features and one target, from K environments, one of which may be the deployment.

    features (R, P) float64 without gaps; target (R,) float64, NaN where unlabelled (only in the deployment);
    environment (R,) int64 into `environment_names`; deploy the index of the deployment environment or None.
    notes: what was done to the table. origins: the file's column of each feature, which may have become several;
    kinds: what that column held ("number", "flag", "date", "level", "code"). classes: of a target that holds two, the
    one that is 0 and the one that is 1, else (). emptied: columns left out because the deployment lacks them; left_out:
    all columns that were. source: the file, as an absolute path, or None.
    """

    name: str
    target_name: str
    feature_names: tuple[str, ...]
    features: np.ndarray
    target: np.ndarray
    environment: np.ndarray
    environment_names: tuple[str, ...]
    deploy: int | None = None
    notes: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    classes: tuple[str, ...] = ()
    emptied: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        if len(self.origins) != len(self.feature_names):  # not given, or those of other features
            object.__setattr__(self, "origins", self.feature_names)
        if len(self.kinds) != len(self.feature_names):
            object.__setattr__(self, "kinds", ("number",) * len(self.feature_names))

    @property
    def num_rows(self) -> int:
        """R, labelled or not."""
        return len(self.target)

    @property
    def is_deploy(self) -> np.ndarray:
        """(R,) bool: rows of the deployment environment."""
        return self.environment == (-1 if self.deploy is None else self.deploy)

    @property
    def is_labelled(self) -> np.ndarray:
        """(R,) bool: rows whose target is known."""
        return np.isfinite(self.target)

    @property
    def rows_per_environment(self) -> dict[str, int]:
        """How many rows each environment has, by name."""
        counts = np.bincount(self.environment, minlength=len(self.environment_names))
        return dict(zip(self.environment_names, counts.tolist(), strict=True))

    def limited_to(self, max_features: int, max_environments: int, first: Collection[str] = ()) -> Table:
        """The table cut to what a model reads: columns chosen and smallest sources merged, the latter noted.

        The features in `first` are kept before all others, then those most correlated with the target over the
        labelled source rows: labels of the deployment never enter the choice.
        """
        return _merge_environments(_choose_features(self, max_features, first), max_environments)


class _Features(NamedTuple):
    """Feature matrix (R, P) without gaps, and what is known of each column."""

    matrix: np.ndarray
    names: tuple[str, ...]
    origins: tuple[str, ...]
    kinds: tuple[Kind, ...]
    emptied: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def read_table(
    path: str | Path,
    *,
    target: str,
    environment: str | None,
    deploy: object = None,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> Table:
    """Read a CSV, TSV or Parquet file; see `table_from_frame` for what happens to its columns and rows.

    Raises TableError where the file cannot be read or used, with a sentence that says what to change.
    """
    path = Path(path)
    if progress:
        progress(f"Reading {path.name}", 0, 1)
    frame = read_frame(path, as_text=() if environment is None else (environment.strip(),))
    table = table_from_frame(
        frame, target=target, environment=environment, deploy=deploy, name=path.name, keep=keep, progress=progress
    )
    return replace(table, source=str(path.resolve()))


def table_from_frame(
    frame: pd.DataFrame,
    *,
    target: object,
    environment: object,
    deploy: object = None,
    name: str = "table",
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> Table:
    """Numbers from a data frame: `target` and `environment` name columns, `deploy` a value of the environment column.

    Rows of the deployment may lack the target; other rows that do are left out. Columns are encoded as in
    `encode_column`, gaps filled with the mean over the source rows; columns that are constant over the source rows, or
    empty in the deployment, are left out. Columns in `keep` are taken as they stand: no value of theirs is a stand-in
    for a missing one, none of them an identifier, and the target's whole numbers no classes.
    `environment=None` makes all rows one environment. Raises TableError, a ValueError that
    says what to change.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TableError(f"frame: expected a pandas.DataFrame, got {type(frame).__module__}.{type(frame).__name__}.")
    frame = frame.set_axis([str(column).strip() for column in frame.columns], axis=1)
    target, environment = str(target).strip(), None if environment is None else str(environment).strip()
    _check_columns(frame, target, environment, keep)
    environments, notes = environments_of(frame, environment)
    place = deployed(deploy, environments.names, environment)
    is_deploy = environments.codes == (-2 if place is None else place)
    labels = target_of(frame[target], environments, place, target in keep)
    used = (np.isfinite(labels.values) | is_deploy) & (environments.codes >= 0)
    notes += labels.notes + _missing_target_notes(target, environments, labels.values, used, place)
    _check_sources(target, labels.values[used & ~is_deploy])
    others = frame.drop(columns=[target] if environment is None else [target, environment])
    features = _features_of(others, used, is_deploy[used], keep, progress)
    there = np.unique(environments.codes[used])
    return Table(
        name=name,
        target_name=target,
        feature_names=features.names,
        features=features.matrix,
        target=labels.values[used],
        environment=np.searchsorted(there, environments.codes[used]),
        environment_names=tuple(environments.names[code] for code in there),
        deploy=None if place is None else int(np.searchsorted(there, place)),
        notes=(*notes, *features.notes),
        origins=features.origins,
        kinds=features.kinds,
        classes=labels.classes,
        emptied=features.emptied,
        left_out=features.left_out,
    )


def _check_columns(frame: pd.DataFrame, target: str, environment: str | None, keep: Sequence[str]) -> None:
    check_names(frame.columns.tolist())
    named = [("target", target), ("environment", environment), *(("keep", column) for column in keep)]
    for option, column in named:
        if column is not None and column not in frame.columns:
            known = f"the columns are {listed(frame.columns)}.{meant(column, frame.columns)}"
            raise TableError(f"There is no {option} column '{column}'; {known}")
    if target == environment:
        raise TableError(f"Target and environment must be different columns; both are '{target}'.")


def _missing_target_notes(
    target: str, environments: Environments, values: np.ndarray, used: np.ndarray, deployed: int | None
) -> tuple[str, ...]:
    known = environments.codes >= 0
    dropped = int((known & ~used).sum())
    if not dropped:
        return ()
    note = f"{dropped} of {int(known.sum())} rows were left out: no value in the target column '{target}'."
    lost = [environments.names[code] for code in np.setdiff1d(environments.codes[known], environments.codes[used])]
    if not lost:
        return (note,)
    return note, (
        f"No row of {listed(lost)} is labelled"
        + (f": name '{lost[0]}' as the deployment to predict for it." if deployed is None else ": it was left out.")
    )


def _check_sources(target: str, values: np.ndarray) -> None:
    if len(values) < MIN_SOURCE_ROWS:
        raise TableError(
            f"Only {len(values)} labelled rows are left outside the deployment; at least {MIN_SOURCE_ROWS} are needed."
        )
    if values.min() == values.max():
        raise TableError(f"The target column '{target}' is constant: there is nothing to predict.")
    _check_spread(target, values)


def _check_spread(name: str, values: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        spread = np.ptp(values)
    if not NARROWEST <= spread <= WIDEST:
        raise TableError(
            f"Column '{name}': expected values that spread over {NARROWEST:g} to {WIDEST:g}, got {spread:.2g}; "
            "choose another unit."
        )


def _features_of(
    frame: pd.DataFrame, used: np.ndarray, is_deploy: np.ndarray, keep: Sequence[str], progress: Progress | None
) -> _Features:
    """The columns of `frame` in the rows `used` (all rows,) bool; is_deploy is of those rows."""
    columns: list[tuple[np.ndarray, str, str, Kind]] = []
    emptied: list[str] = []
    notes: list[str] = []
    words_are_missing = _words_are_missing(frame)
    for number, origin in enumerate(frame.columns):
        if progress:
            progress("Reading columns", number, len(frame.columns))
        if origin.startswith(UNNAMED):
            notes.append(f"Column '{origin}' was left out: it has no name, as a row number saved with the table has.")
            continue
        column = frame[origin] if used.all() else frame[origin][used]
        encoded = encode_column(column, keep=origin in keep, words_are_missing=words_are_missing)
        notes.extend(encoded.notes)
        if _is_emptied(encoded.values, is_deploy):
            emptied.append(origin)
            notes.append(f"Column '{origin}' was left out: it is empty in the deployment.")
            continue
        for name, values in zip(encoded.names, encoded.values.T, strict=True):
            filled, note = _fill(name, values, ~is_deploy)
            notes.extend(note)
            if filled is not None:
                columns.append((filled, name, origin, encoded.kind))
    if not columns:
        raise TableError("No column is left to predict from: " + " ".join(notes or ["the table has no other columns."]))
    values, names, origins, kinds = zip(*columns, strict=True)
    left_out = tuple(name for name in frame.columns if name not in origins)
    return _Features(np.stack(values, axis=1), names, origins, kinds, tuple(emptied), left_out, tuple(notes))


def _is_emptied(values: np.ndarray, is_deploy: np.ndarray) -> bool:
    """Whether a column (R, n) has values, but none in the deployment."""
    known = ~np.isnan(values)
    return bool(is_deploy.any() and known.any() and not known[is_deploy].any())


def _words_are_missing(frame: pd.DataFrame) -> bool:
    """Whether "NA" or "None" stands among numbers somewhere: then it stands for a missing value among words too."""
    for name in frame.columns:
        if is_text(frame[name]):
            words = words_of(frame[name])
            if any(text.lower() in WORDS for text in words.texts):
                read = read_numbers(words.texts, words.counts)
                if np.isfinite(read.values).any() and not read.unread.any():
                    return True
    return False


def _fill(name: str, values: np.ndarray, is_source: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    source = values[is_source & np.isfinite(values)]
    if not len(source):
        return None, [f"Column '{name}' was left out: it holds no values outside the deployment."]
    if source.min() == source.max():
        where = "" if np.nanmin(values) == np.nanmax(values) else " outside the deployment"
        return None, [f"Column '{name}' was left out: it is constant{where}."]
    _check_spread(name, source)
    missing = np.isnan(values)
    if not missing.any():
        return values, []
    note = f"Column '{name}': {missing.sum()} of {len(values)} values were missing and became the mean."
    return np.where(missing, source.mean(), values), [note]


def _choose_features(table: Table, max_features: int, first: Collection[str]) -> Table:
    if len(table.feature_names) <= max_features:
        return table
    rows = table.is_labelled & ~table.is_deploy
    features, target = table.features[rows], table.target[rows]
    centred = features - features.mean(0)
    correlation = np.abs(centred.T @ (target - target.mean())) / np.linalg.norm(centred, axis=0)
    wanted = np.array([name in first for name in table.feature_names])
    keep = np.sort(np.lexsort((-correlation, ~wanted))[:max_features]).tolist()
    return replace(
        table,
        feature_names=tuple(table.feature_names[index] for index in keep),
        features=table.features[:, keep],
        origins=tuple(table.origins[index] for index in keep),
        kinds=tuple(table.kinds[index] for index in keep),
    )


def _merge_environments(table: Table, max_environments: int) -> Table:
    """Merge the smallest source environments into one."""
    if len(table.environment_names) <= max_environments:
        return table
    counts = np.bincount(table.environment, minlength=len(table.environment_names))
    sources = [index for index in np.argsort(-counts, kind="stable").tolist() if index != table.deploy]
    deployment = [] if table.deploy is None else [table.deploy]
    kept = sorted([*sources[: max_environments - 1 - len(deployment)], *deployment])
    names = (*(table.environment_names[index] for index in kept), MERGED_ENVIRONMENT)
    renumbered = np.full(len(table.environment_names), len(kept))
    renumbered[kept] = np.arange(len(kept))
    merged = [name for index, name in enumerate(table.environment_names) if index not in kept]
    note = f"The model reads at most {max_environments} environments: the smallest were merged ({listed(merged)})."
    deploy = None if table.deploy is None else kept.index(table.deploy)
    environment = renumbered[table.environment]
    return replace(table, environment=environment, environment_names=names, deploy=deploy, notes=(*table.notes, note))
