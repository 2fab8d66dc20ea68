"""A CSV or Parquet file of rows from several environments, read into numbers, every change to it noted."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from settx_fast.predictor.columns import encode_column

MIN_SOURCE_ROWS = 10
MERGED_ENVIRONMENT = "(merged)"
NARROWEST, WIDEST = 1e-15, 1e15  # spread of a column: its square must fit float32
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")


class TableError(ValueError):
    """The table cannot be used as it is; the message says what to change."""


@dataclass(frozen=True, eq=False)
class Table:
    """R rows of P numeric features and one target, from K environments, one of which may be the deployment.

    features (R, P) float64 without gaps; target (R,) float64, NaN where unlabelled (only in the deployment);
    environment (R,) int64 into `environment_names`; deploy the index of the deployment environment or None.
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

    def limited_to(self, max_features: int, max_environments: int) -> Table:
        """The table cut to what a model reads: weakest features left out, smallest sources merged, both noted."""
        return _merge_environments(_drop_features(self, max_features), max_environments)


def read_table(path: str | Path, *, target: str, environment: str | None, deploy: str | None = None) -> Table:
    """Read a CSV, TSV or Parquet file; see `table_from_frame` for what happens to its columns and rows.

    Raises TableError where the file cannot be read or used, with a sentence that says what to change.
    """
    path = Path(path)
    return table_from_frame(_read_frame(path), target=target, environment=environment, deploy=deploy, name=path.name)


def table_from_frame(
    frame: pd.DataFrame, *, target: str, environment: str | None, deploy: str | None = None, name: str = "table"
) -> Table:
    """Numbers from a data frame: `target` and `environment` name columns, `deploy` a value of the environment column.

    Rows of the deployment may lack the target; other rows that do are left out. Columns are encoded as in
    `encode_column`, gaps filled with the mean over the source rows, columns constant over the source rows left out.
    `environment=None` makes all rows one environment. Raises TableError.
    """
    _check_columns(frame, target, environment)
    frame, labels, notes = _environment_labels(frame, environment)
    names = sorted(set(labels), key=_natural_order)
    _check_deploy(deploy, names, environment)
    values, target_notes = _target_values(frame[target])
    is_deploy = labels == deploy if deploy is not None else np.zeros(len(labels), dtype=bool)
    keep = np.isfinite(values) | is_deploy
    notes += target_notes + _missing_target_notes(target, labels, values, keep, deploy)
    features = frame.drop(columns=[target] if environment is None else [target, environment])
    feature_names, matrix, feature_notes = _encode_features(features[keep], ~is_deploy[keep])
    names = [name for name in names if name in set(labels[keep])]
    _check_sources(target, values[~is_deploy & keep])
    return Table(
        name=name,
        target_name=target,
        feature_names=feature_names,
        features=matrix,
        target=values[keep],
        environment=np.array([names.index(label) for label in labels[keep]], dtype=np.int64),
        environment_names=tuple(names),
        deploy=None if deploy is None else names.index(deploy),
        notes=(*notes, *feature_notes),
    )


def _read_frame(path: Path) -> pd.DataFrame:
    if not path.name.lower().endswith(_SUFFIXES):
        raise TableError(f"'{path}' is not a table this command reads: expected one of {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        raise TableError(f"There is no file '{path}'.")
    try:
        frame = pd.read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_text(path)
    except TableError:
        raise
    except UnicodeDecodeError as error:
        raise TableError(f"'{path}' is not text in UTF-8: save it again with that encoding, or as Parquet.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError, OSError) as error:
        raise TableError(f"'{path}' could not be read: {str(error).strip().rstrip('.')}.") from error
    if frame.empty:
        raise TableError(f"'{path}' holds no rows.")
    return frame


def _read_text(path: Path) -> pd.DataFrame:
    """Comma, semicolon and tab are told apart by which one the header holds most often."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as lines:
        header = lines.readline()
    separator = max(",;\t", key=header.count)
    _check_names(next(csv.reader([header], delimiter=separator), []))  # pandas would rename what is repeated
    return pd.read_csv(path, sep=separator, decimal="," if separator == ";" else ".", encoding="utf-8-sig")


def _check_names(names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise TableError(f"Column names must differ; repeated: {_listed(repeated)}.")


def _check_columns(frame: pd.DataFrame, target: str, environment: str | None) -> None:
    frame.columns = frame.columns.map(str)
    _check_names(frame.columns.tolist())
    for option, column in (("target", target), ("environment", environment)):
        if column is not None and column not in frame.columns:
            raise TableError(f"There is no {option} column '{column}'; the columns are {_listed(frame.columns)}.")
    if target == environment:
        raise TableError(f"Target and environment must be different columns; both are '{target}'.")


def _environment_labels(
    frame: pd.DataFrame, environment: str | None
) -> tuple[pd.DataFrame, np.ndarray, tuple[str, ...]]:
    if environment is None:
        return frame, np.full(len(frame), "all rows", dtype=object), ()
    missing = frame[environment].isna()
    frame = frame[~missing]
    labels = np.array([_label(value) for value in frame[environment]], dtype=object)
    if len(labels) > MIN_SOURCE_ROWS and len(set(labels)) > len(labels) / 2:
        raise TableError(
            f"The environment column '{environment}' has {len(set(labels))} different values in {len(labels)} rows: "
            "choose a column that says which group a row comes from."
        )
    note = f"{missing.sum()} of {len(missing)} rows were left out: no value in the environment column '{environment}'."
    return frame, labels, (note,) if missing.any() else ()


def _label(value: object) -> str:
    """Whole numbers read without a point: a column of integers with gaps is read as floats."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _natural_order(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _check_deploy(deploy: str | None, names: Sequence[str], environment: str | None) -> None:
    if deploy is None:
        return
    if environment is None:
        raise TableError("A deployment value needs an environment column to look it up in.")
    if deploy not in names:
        raise TableError(f"No row has '{deploy}' in the column '{environment}'; its values are {_listed(names)}.")
    if len(names) == 1:
        raise TableError(
            f"'{deploy}' is the only environment, so there are no source rows to learn from: "
            "add rows of other environments, or give no deployment value."
        )


def _target_values(column: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    encoded = encode_column(column)
    if encoded.kind in ("codes", "nothing") or encoded.values.shape[1] != 1:
        raise TableError(
            f"The target column '{column.name}' must hold numbers or two categories; "
            f"it holds {_listed([repr(value) for value in column.dropna().unique()], limit=3) or 'no values'}."
        )
    return encoded.values[:, 0], encoded.notes


def _missing_target_notes(
    target: str, labels: np.ndarray, values: np.ndarray, keep: np.ndarray, deploy: str | None
) -> tuple[str, ...]:
    if keep.all():
        return ()
    note = f"{(~keep).sum()} of {len(keep)} rows were left out: no value in the target column '{target}'."
    lost = sorted(set(labels) - set(labels[keep]))
    if not lost:
        return (note,)
    return note, (
        f"No row of {_listed(lost)} is labelled"
        + (f": name '{lost[0]}' as the deployment to predict for it." if deploy is None else ": it was left out.")
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


def _encode_features(frame: pd.DataFrame, is_source: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    names: list[str] = []
    columns: list[np.ndarray] = []
    notes: list[str] = []
    for column in frame.columns:
        if column.startswith("Unnamed: "):
            notes.append(f"Column '{column}' was left out: it has no name, as a row number saved with the table has.")
            continue
        encoded = encode_column(frame[column])
        notes.extend(encoded.notes)
        for name, values in zip(encoded.names, encoded.values.T, strict=True):
            filled, note = _fill(name, values, is_source)
            notes.extend(note)
            if filled is not None:
                names.append(name)
                columns.append(filled)
    if not names:
        raise TableError("No column is left to predict from: " + " ".join(notes or ["the table has no other columns."]))
    return tuple(names), np.stack(columns, axis=1), notes


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


def _drop_features(table: Table, max_features: int) -> Table:
    """Keep the features most correlated with the target over the labelled source rows."""
    if len(table.feature_names) <= max_features:
        return table
    rows = table.is_labelled & ~table.is_deploy
    features, target = table.features[rows], table.target[rows]
    centred = features - features.mean(0)
    correlation = np.abs(centred.T @ (target - target.mean())) / np.linalg.norm(centred, axis=0)
    keep = np.sort(np.argsort(-correlation, kind="stable")[:max_features])
    dropped = [name for index, name in enumerate(table.feature_names) if index not in set(keep.tolist())]
    note = (
        f"The model reads at most {max_features} features: {len(dropped)} least correlated with the target "
        f"were left out ({_listed(dropped)})."
    )
    names = tuple(table.feature_names[index] for index in keep)
    return replace(table, feature_names=names, features=table.features[:, keep], notes=(*table.notes, note))


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
    note = f"The model reads at most {max_environments} environments: the smallest were merged ({_listed(merged)})."
    deploy = None if table.deploy is None else kept.index(table.deploy)
    environment = renumbered[table.environment]
    return replace(table, environment=environment, environment_names=names, deploy=deploy, notes=(*table.notes, note))


def _listed(names: Sequence[str] | pd.Index, limit: int = 12) -> str:
    shown = ", ".join(str(name) for name in list(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
