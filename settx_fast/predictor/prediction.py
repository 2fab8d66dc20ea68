"""A table's properties as a trained model sees them, and the learning framework to use on it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from settx_fast.predictor import frameworks
from settx_fast.predictor.advice import advise
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.familiarity import Unfamiliar, unfamiliar
from settx_fast.predictor.features import FeatureConfig, Observed, encode
from settx_fast.predictor.frameworks import MeasuredRisk
from settx_fast.predictor.model import Estimate, PropertyPredictor
from settx_fast.predictor.table import Table
from settx_fast.predictor.targets import FRAMEWORKS, ROLES, TARGETS
from settx_fast.predictor.wording import TITLES, units

SCHEMA = "settx_fast.prediction/1"
STAND_IN_SHARE = 0.2
"""Share of the rows that stand for the deployment where a table has one environment and no deployment."""


@dataclass(frozen=True)
class Interval:
    """A number and its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Column:
    """What the model says of one feature: its role, the probability of every role, and effects by property name."""

    name: str
    role: str
    probability: dict[str, float]
    effects: dict[str, Interval]


@dataclass(frozen=True)
class Framework:
    """One learning framework on this table: the features it uses and its risk in units of the target, squared."""

    name: str
    title: str
    features: tuple[str, ...]
    risk: Interval
    measured: MeasuredRisk | None


@dataclass(frozen=True)
class Prediction:
    """Everything that `predict` says of a table.

    properties: one `Interval` per property of the dataset. columns: in the table's order. frameworks: in the order of
    `FRAMEWORKS`. recommended: name of the one with the least predicted risk; decisive: its interval overlaps no other.
    variance: of the target in the sources, the risk of always predicting its mean where nothing changes.
    rows: per environment. deploy: name of the deployment environment or None. model: directory, prior and seed.
    unfamiliar: how the table is unlike the model's training datasets. units: of risk, properties and effects.
    advice: how far to trust the recommendation, and what to do next. notes: what was done to the table.
    """

    table: str
    target: str
    rows: dict[str, int]
    deploy: str | None
    model: dict[str, Any]
    properties: dict[str, Interval]
    columns: tuple[Column, ...]
    frameworks: tuple[Framework, ...]
    recommended: str
    decisive: bool
    variance: float
    unfamiliar: tuple[Unfamiliar, ...]
    units: dict[str, str]
    advice: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """JSON text, `schema` first; numbers that are not finite are null."""
        return json.dumps(_plain({"schema": SCHEMA} | asdict(self)), indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, directory: str | Path) -> Path:
        """Write prediction-TABLE.json into a run directory, where the report finds it."""
        name = re.sub(r"\.(csv|tsv|parquet|pq)(\.gz)?$", "", self.table, flags=re.IGNORECASE)
        path = Path(directory) / f"prediction-{name}.json"
        path.write_text(self.to_json() + "\n")
        return path


def predict(table: Table, directory: str | Path) -> Prediction:
    """Predict the properties of a table with the model of a run directory and recommend a framework.

    Labels of the deployment never enter a prediction; where there are any, they only measure risks. Without a
    deployment every environment plays that part in turn and predictions are averaged over rows. A table of one
    environment gets a random fifth of its rows for that part. Raises FileNotFoundError if there is no trained model.
    """
    config, model = TrainConfig.load(directory), PropertyPredictor.load(directory)
    table = table.limited_to(model.features.max_features, model.features.max_environments)
    parts, note = _deployments(table)
    weights = np.array([is_target.sum() for _, is_target in parts], dtype=float)
    observed = [observe(table, model.features, *part) for part in parts]
    estimates = [model.predict(encode(each, model.features)) for each in observed]
    averaged = {name: _average([each[name] for each in estimates], weights) for name in estimates[0]}
    return _assemble(table, config, Path(directory), averaged, unfamiliar(config, observed), note)


def observe(table: Table, config: FeatureConfig, environment: np.ndarray, is_target: np.ndarray) -> Observed:
    """A table as a batch of one dataset; rows of the target environment are unlabelled, whatever the table knows."""
    width = table.features.shape[1]
    features = np.pad(table.features, ((0, 0), (0, config.max_features - width)))
    return Observed(
        features=torch.from_numpy(features)[None],
        target=torch.from_numpy(np.nan_to_num(table.target))[None],
        environment=torch.from_numpy(environment)[None],
        is_target=torch.from_numpy(is_target)[None],
        labelled=torch.from_numpy(~is_target)[None],
        present=(torch.arange(config.max_features) < width)[None],
    )


def _deployments(table: Table) -> tuple[list[tuple[np.ndarray, np.ndarray]], str | None]:
    """Every (environment (R,), is_target (R,)) to predict for, and a note on what stands for the deployment."""
    count = len(table.environment_names)
    if table.deploy is not None:
        return [(table.environment, table.is_deploy)], None
    if count > 1:
        parts = [(table.environment, table.environment == environment) for environment in range(count)]
        return parts, "No deployment was named: every environment played that part in turn, and results were averaged."
    is_target = np.random.default_rng(0).permutation(table.num_rows) < STAND_IN_SHARE * table.num_rows
    return [(is_target.astype(np.int64), is_target)], (
        f"There is one environment only, so no change between environments can be seen: a random {STAND_IN_SHARE:.0%} "
        "of the rows stood for the deployment, and the risks hold for new rows of the same kind. Name an environment "
        "column with at least two values, or a deployment, to see what changes."
    )


def _average(estimates: list[Estimate], weights: np.ndarray) -> Estimate:
    """The mean over deployments of value and interval, weighted; of a batch of one, without the batch axis."""
    share = torch.from_numpy(weights / weights.sum())

    def mean(values: list[torch.Tensor | None]) -> torch.Tensor | None:
        present = [value[0].double() for value in values if value is not None]
        return torch.einsum("d,d...->...", share, torch.stack(present)) if present else None

    return Estimate._make(mean(list(values)) for values in zip(*estimates, strict=True))


def _assemble(
    table: Table,
    config: TrainConfig,
    directory: Path,
    estimates: Mapping[str, Estimate],
    strange: tuple[Unfamiliar, ...],
    note: str | None,
) -> Prediction:
    columns = tuple(_column(table, index, estimates) for index in range(len(table.feature_names)))
    measured = frameworks.measure(table, [column.role for column in columns])
    compared = tuple(_framework(name, columns, estimates["risk"], measured.get(name)) for name in FRAMEWORKS)
    recommended = frameworks.best_of({each.name: each.risk.value for each in compared})
    best = compared[FRAMEWORKS.index(recommended)]
    decisive = all(best.risk.high < other.risk.low for other in compared if other is not best)
    return Prediction(
        table=table.name,
        target=table.target_name,
        rows=table.rows_per_environment,
        deploy=None if table.deploy is None else table.environment_names[table.deploy],
        model={"directory": str(directory), "prior": json.loads(config.prior.to_json()), "seed": config.seed},
        properties={
            target.name: _interval(estimates[target.name], ())
            for target in TARGETS
            if target.level == "dataset" and target.width == 1
        },
        columns=columns,
        frameworks=compared,
        recommended=recommended,
        decisive=decisive,
        variance=float(np.var(table.target[table.is_labelled & ~table.is_deploy])),
        unfamiliar=strange,
        units=units(table.target_name),
        advice=advise(directory, strange, recommended, decisive, measured),
        notes=(*table.notes, *([note] if note else []), *_empty_note(best)),
    )


def _empty_note(best: Framework) -> list[str]:
    if best.features:
        return []
    return [f"No column has a role that {best.title} uses: as it stands it predicts the mean of the target."]


def _column(table: Table, index: int, estimates: Mapping[str, Estimate]) -> Column:
    probability = dict(zip(ROLES, estimates["role"].value[index].tolist(), strict=True))
    effects = {
        target.name: _interval(estimates[target.name], (index,))
        for target in TARGETS
        if target.level == "variable" and target.kind == "number"
    }
    return Column(table.feature_names[index], max(ROLES, key=probability.__getitem__), probability, effects)


def _framework(name: str, columns: tuple[Column, ...], risk: Estimate, measured: MeasuredRisk | None) -> Framework:
    used = frameworks.features_of(name, [column.role for column in columns])
    return Framework(
        name,
        TITLES[name],
        tuple(columns[index].name for index in used),
        _interval(risk, (FRAMEWORKS.index(name),)),
        measured,
    )


def _interval(estimate: Estimate, index: tuple[int, ...]) -> Interval:
    if estimate.lower is None or estimate.upper is None:
        raise ValueError("expected a number with an interval, got class probabilities")
    return Interval(*(float(part[index]) for part in (estimate.value, estimate.lower, estimate.upper)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
