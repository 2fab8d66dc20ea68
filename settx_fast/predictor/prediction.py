"""A table's properties as a trained model sees them, and the learning framework to use on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from settx_fast.predictor import fixedgraph, frameworks
from settx_fast.predictor.advice import advise, contradictions
from settx_fast.predictor.answers import Column, Framework, Interval, is_decisive, same_columns, with_ties
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.evidence import weigh_roles
from settx_fast.predictor.familiarity import Unfamiliar, unfamiliar
from settx_fast.predictor.features import FeatureConfig, Observed, encode
from settx_fast.predictor.files import listed
from settx_fast.predictor.frameworks import MeasuredRisk
from settx_fast.predictor.knowledge import Knowledge
from settx_fast.predictor.model import SHIPPED, Estimate, PropertyPredictor
from settx_fast.predictor.records import Record, read_records
from settx_fast.predictor.rows import deal
from settx_fast.predictor.saving import as_json, save
from settx_fast.predictor.table import Progress, Table
from settx_fast.predictor.targets import FRAMEWORKS, ROLES, TARGETS
from settx_fast.predictor.wording import TITLES, units

__all__ = ["Column", "Framework", "Interval", "Prediction", "observe", "predict"]

SCHEMA = "settx_fast.prediction/2"
STAND_IN_SHARE = 0.2
"""Share of the rows that stand for the deployment where a table has one environment and no deployment."""
MOST_ROWS = 200_000
"""Rows that a model reads; more would say no more. Frameworks are fitted on all."""
MOST_SAMPLES = 8  # of rows, from which the share of sampling in an interval is told
LEAST_ROWS = 20  # of every environment in each of these


@dataclass(frozen=True)
class Prediction:
    """Everything that `predict` says of a table.

    headline: what to read first: where labelled rows contradict the prediction, then what the model did not read.
    properties: one `Interval` per property of the dataset. columns: those that the model read, in the table's order;
    unread: the others. frameworks: in the order of `FRAMEWORKS`, fitted on all columns. recommended: name of the one
    with the least predicted risk; tied: others that use the same columns; decisive: its interval overlaps no other's,
    and nothing measured contradicts it. variance: of the target in the sources, the risk of always predicting its mean
    where nothing changes. classes: of a target that holds two, else ().
    rows: per environment. deploy: name of the deployment environment or None. model: directory, prior and seed.
    unfamiliar: how the table is unlike the model's training datasets. records: how good the model was on held-out
    datasets, by property. units: of risk, properties and effects. knowledge: what was given. source: the table's file.
    advice: the headline, how far to trust the recommendation, what to do next. notes: what was done to the table.
    """

    table: str
    source: str | None
    target: str
    classes: tuple[str, ...]
    rows: dict[str, int]
    deploy: str | None
    model: dict[str, Any]
    headline: tuple[str, ...]
    recommended: str
    tied: tuple[str, ...]
    decisive: bool
    frameworks: tuple[Framework, ...]
    variance: float
    columns: tuple[Column, ...]
    unread: tuple[str, ...]
    properties: dict[str, Interval]
    records: dict[str, Record]
    units: dict[str, str]
    unfamiliar: tuple[Unfamiliar, ...]
    knowledge: Knowledge
    advice: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def risk_name(self) -> str:
        """What the risk is: of two classes the mean squared error is the Brier score."""
        return "Brier score" if self.classes else "mean squared error"

    def to_json(self, ascii_only: bool = False) -> str:
        """JSON text, `schema` first; numbers that are not finite are null."""
        return as_json({"schema": SCHEMA} | asdict(self), ascii_only)

    def save(self, where: str | Path) -> Path:
        """Write a .json file, or into a run directory, where the report finds it; see `saving.save`."""
        return save(self.to_json(), Path(where), self.table, self.target, self.source)


def predict(
    table: Table,
    directory: str | Path | None = None,
    *,
    knowledge: Knowledge | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Predict the properties of a table with the model of a run directory and recommend a framework.

    Without a directory it is the model that travels with the package.

    Labels of the deployment never enter a prediction; where there are any, they only measure risks. Without a
    deployment every environment plays that part in turn and predictions are averaged over rows. A table of one
    environment gets a random fifth of its rows for that part. A model reads as many columns as it was trained on, those
    most correlated with the target; frameworks use all. Raises FileNotFoundError if there is no trained model,
    TableError for knowledge of columns that are not there.
    """
    directory = Path(SHIPPED if directory is None else directory)
    config, model = TrainConfig.load(directory), PropertyPredictor.load(directory)
    knowledge = knowledge or Knowledge()
    knowledge.check(table)
    causes = [name for name, known in zip(table.feature_names, knowledge.are_causes(table), strict=True) if known]
    seen, note = _fewer_rows(table.limited_to(model.features.max_features, model.features.max_environments, causes))
    parts, note_on_parts = _deployments(seen)
    estimates, observed = [], []
    for number, (environment, is_target) in enumerate(parts):
        if progress:
            progress("Reading rows", number, len(parts))
        observed.append(observe(seen, model.features, environment, is_target))
        estimates.append(_estimate(seen, model, config.max_rows, environment, is_target))
    weights = np.array([is_target.sum() for _, is_target in parts], dtype=float)
    averaged = {name: _average([each[name] for each in estimates], weights) for name in estimates[0]}
    if progress:
        progress("Fitting frameworks", 0, 1)
    strange = unfamiliar(config, observed, len(table.emptied))
    notes = tuple(each for each in (note, note_on_parts) if each)
    return _assemble(table, seen, config, directory, averaged, strange, knowledge, notes)


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


def _fewer_rows(table: Table) -> tuple[Table, str | None]:
    if table.num_rows <= MOST_ROWS:
        return table, None
    chosen = deal(table, -(-table.num_rows // MOST_ROWS)) == 0
    note = f"The model read {int(chosen.sum()):,} of {table.num_rows:,} rows; frameworks were fitted on all."
    return replace(
        table, features=table.features[chosen], target=table.target[chosen], environment=table.environment[chosen]
    ), note


def _estimate(
    table: Table, model: PropertyPredictor, max_rows: int, environment: np.ndarray, is_target: np.ndarray
) -> dict[str, Estimate]:
    """What the model says of a batch of one; intervals are narrower the more rows there are than it was trained on."""

    def of(rows: np.ndarray) -> dict[str, Estimate]:
        part = replace(
            table, features=table.features[rows], target=table.target[rows], environment=table.environment[rows]
        )
        return model.predict(encode(observe(part, model.features, environment[rows], is_target[rows]), model.features))

    whole = of(np.ones(table.num_rows, dtype=bool))
    hands = min(table.num_rows // max_rows, int(np.unique(environment, return_counts=True)[1].min()) // LEAST_ROWS)
    if hands < 2:
        return whole
    hand = deal(replace(table, environment=environment), hands)
    samples = [of(hand == number) for number in range(min(hands, MOST_SAMPLES))]
    return {name: narrowed(each, [sample[name] for sample in samples], hands) for name, each in whole.items()}


def narrowed(whole: Estimate, samples: list[Estimate], hands: int) -> Estimate:
    """An estimate from `hands` times as many rows as samples of the same table have.

    The variance that a model states holds for as many rows as it was trained on. Part of it is from sampling, seen in
    how samples differ, and falls with the number of rows; the rest, what no number of rows tells, stays.
    """
    if whole.lower is None or whole.upper is None:
        return whole
    stated = torch.stack([s.standard_deviation for s in samples if s.standard_deviation is not None]).square().mean(0)
    count = len(samples)
    between = torch.stack([sample.value for sample in samples]).var(0) * (count - 1) / (count + 1)
    between = torch.minimum(between, stated)
    share = torch.where(stated > 0, (stated - between + between / hands) / stated, 1.0).sqrt()
    deviation = None if whole.standard_deviation is None else whole.standard_deviation * share
    lower, upper = (whole.value + (end - whole.value) * share for end in (whole.lower, whole.upper))
    return Estimate(whole.value, deviation, lower, upper)


def _average(estimates: list[Estimate], weights: np.ndarray) -> Estimate:
    """The mean over deployments of value and interval, weighted; of a batch of one, without the batch axis."""
    share = torch.from_numpy(weights / weights.sum())

    def mean(values: list[torch.Tensor | None]) -> torch.Tensor | None:
        present = [value[0].double() for value in values if value is not None]
        return torch.einsum("d,d...->...", share, torch.stack(present)) if present else None

    return Estimate._make(mean(list(values)) for values in zip(*estimates, strict=True))


def _assemble(
    table: Table,
    seen: Table,
    config: TrainConfig,
    directory: Path,
    estimates: Mapping[str, Estimate],
    strange: tuple[Unfamiliar, ...],
    knowledge: Knowledge,
    notes: tuple[str, ...],
) -> Prediction:
    columns = _columns(seen, estimates, knowledge)
    role = {column.name: column.role for column in columns}
    roles = [role.get(name, "unread") for name in table.feature_names]
    measured = frameworks.measure(table, roles)
    compared = with_ties([_framework(name, table, roles, estimates["risk"], measured.get(name)) for name in FRAMEWORKS])
    recommended = frameworks.best_of({each.name: each.risk.value for each in compared})
    variance = float(np.var(table.target[table.is_labelled & ~table.is_deploy]))
    wrong = fixedgraph.contradiction(table, config.prior)
    against = (*([wrong] if wrong else []), *contradictions(compared, recommended, variance))
    decisive = is_decisive(compared, recommended) and not against
    unread = tuple(name for name in table.feature_names if name not in role)
    headline = (*against, *_width(seen, unread))
    records, decisions = read_records(directory)
    return Prediction(
        table=table.name,
        source=table.source,
        target=table.target_name,
        classes=table.classes,
        rows=table.rows_per_environment,
        deploy=None if table.deploy is None else table.environment_names[table.deploy],
        model={"directory": str(directory), "prior": json.loads(config.prior.to_json()), "seed": config.seed},
        headline=headline,
        recommended=recommended,
        tied=tuple(each.name for each in same_columns(compared, recommended)),
        decisive=decisive,
        frameworks=compared,
        variance=variance,
        columns=columns,
        unread=unread,
        properties={
            target.name: _interval(estimates[target.name], ())
            for target in TARGETS
            if target.level == "dataset" and target.width == 1
        },
        records=records,
        units=units(table.target_name),
        unfamiliar=strange,
        knowledge=knowledge,
        advice=(*headline, *advise(directory, strange, compared, recommended, decisive, records, decisions)),
        notes=(*seen.notes, *notes, *_empty_note(compared, recommended)),
    )


def _width(seen: Table, unread: tuple[str, ...]) -> tuple[str, ...]:
    if not unread:
        return ()
    count = len(seen.feature_names)
    return (
        f"The model reads {count} of {count + len(unread)} columns, those most correlated with '{seen.target_name}' "
        f"({listed(seen.feature_names)}); what it predicts holds for these, and what is measured for all.",
    )


def _empty_note(compared: tuple[Framework, ...], recommended: str) -> tuple[str, ...]:
    best = compared[FRAMEWORKS.index(recommended)]
    if best.features:
        return ()
    return (f"No column has a role that {best.title} uses: as it stands it predicts the mean of the target.",)


def _columns(seen: Table, estimates: Mapping[str, Estimate], knowledge: Knowledge) -> tuple[Column, ...]:
    stated = estimates["role"].value[: len(seen.feature_names)].numpy()
    known = zip(knowledge.are_causes(seen), knowledge.are_no_effects(seen), strict=True)
    columns = []
    for index, (chances, (is_cause, is_no_effect)) in enumerate(zip(weigh_roles(seen, stated), known, strict=True)):
        probability = dict(zip(ROLES, chances.tolist(), strict=True))
        probability = knowledge.of_roles(probability, is_cause, is_no_effect)
        effects = {
            target.name: _interval(estimates[target.name], (index,))
            for target in TARGETS
            if target.level == "variable" and target.kind == "number"
        }
        if is_no_effect:
            effects["direct_effect_of_target"] = Interval(0.0, 0.0, 0.0)
        role = max(ROLES, key=probability.__getitem__)
        columns.append(Column(seen.feature_names[index], role, probability, effects))
    return tuple(columns)


def _framework(name: str, table: Table, roles: list[str], risk: Estimate, measured: MeasuredRisk | None) -> Framework:
    used = tuple(table.feature_names[index] for index in frameworks.features_of(name, roles))
    return Framework(name, TITLES[name], used, _interval(risk, (FRAMEWORKS.index(name),)), measured)


def _interval(estimate: Estimate, index: tuple[int, ...]) -> Interval:
    if estimate.lower is None or estimate.upper is None:
        raise ValueError("expected a number with an interval, got class probabilities")
    return Interval(*(float(part[index]) for part in (estimate.value, estimate.lower, estimate.upper)))
