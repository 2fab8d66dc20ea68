"""Model, training mean and classical estimator side by side on held-out datasets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from settx_fast import scm
from settx_fast._files import replacing, write_text
from settx_fast.predictor.baselines import TrainingMean, anticausal_wins, classical, has_fixed_graph, tied
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.data import Example, view
from settx_fast.predictor.features import SetInputs
from settx_fast.predictor.losses import TIE
from settx_fast.predictor.metrics import METRICS, measure
from settx_fast.predictor.model import Estimate, PropertyPredictor
from settx_fast.predictor.targets import BY_NAME, TARGETS, Target

SEED_OFFSET = 2**32  # added to the evaluation seed: never a training or validation stream
CHUNK = 50  # datasets encoded at a time


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; the content of `evaluation.json`.

    metrics[property][predictor][metric]: predictor is "model", "mean", "classical" or, where the prior does not fix the
    graph, "informed", the classical estimator told the true graph. Metrics are those that fit the property: r2, mae,
    coverage (of the 90 % interval) for numbers; auroc, accuracy, calibration for roles; null where undefined. `risk`
    has a key per framework, `risk/erm`; effects of variables also one per column, `direct_effect_on_target/0`, under a
    prior whose graph is fixed. Properties that never vary are left out. Noise to signal, shifts, risks, and effects
    where graphs differ, are compared on the unit-free scale of `targets.TARGETS`, everything else in raw units.
    framework: share of datasets whose better framework of causal and anticausal ERM was named correctly, by the same
    predictors, "majority" (of the training distribution) for "mean"; of `framework_datasets`, where the two differ.
    recommendation[predictor]: what comes of using, in every dataset, the framework of least predicted risk; "best", the
    share of the datasets in which none is better, and "excess_risk", the geometric mean of its risk over the least,
    less 1.
    """

    prior: str
    seed: int
    num_datasets: int
    num_rows: int
    metrics: dict[str, dict[str, dict[str, float | None]]]
    framework: dict[str, float]
    framework_datasets: int
    recommendation: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Compared:
    """Held-out datasets: what is true, and what each predictor says; a leading axis of datasets."""

    inputs: SetInputs
    truth: dict[str, Tensor]
    estimates: dict[str, dict[str, Estimate]]


def evaluate(directory: Path | str, num_datasets: int = 500, seed: int = 1, num_rows: int = 1000) -> Evaluation:
    """Evaluate a run on held-out datasets of its prior; write evaluation.json and evaluation.npz.

    evaluation.npz holds, in raw units, `{property}/true`, `/model`, `/lower`, `/upper`, `/mean`, `/classical` with a
    leading axis of datasets; classes as ids in `/true`, as probabilities elsewhere.
    Raises FileNotFoundError where `directory` holds no trained model, ValueError for fewer than 2 datasets.
    """
    if num_datasets < 2:
        raise ValueError(f"num_datasets: expected at least 2, got {num_datasets}")
    config, model = TrainConfig.load(directory), PropertyPredictor.load(directory)
    mean = TrainingMean.of(config)
    compared = compare(config, model, mean, num_datasets, seed, num_rows)
    risk = compared.truth["risk"]
    differ = ~tied(risk)
    evaluation = Evaluation(
        prior=config.name,
        seed=seed,
        num_datasets=num_datasets,
        num_rows=num_rows,
        metrics=_metrics(compared, by_column=has_fixed_graph(config.prior)),
        framework=_framework(compared, differ, mean.anticausal_wins),
        framework_datasets=int(differ.sum()),
        recommendation=_recommendation(compared),
    )
    with replacing(Path(directory) / "evaluation.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, **_arrays(compared))  # type: ignore[arg-type]
    write_text(Path(directory) / "evaluation.json", json.dumps(asdict(evaluation), indent=2) + "\n")
    return evaluation


def compare(
    config: TrainConfig, model: PropertyPredictor, mean: TrainingMean, count: int, seed: int, rows: int
) -> Compared:
    """Model and baselines on the first `count` datasets of the evaluation stream."""
    parts = []
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        batch = scm.sample(config.prior, size, rows, seed=SEED_OFFSET + seed, first_index=first)
        example = view(batch, config.features)
        informed = classical(example.observed, known_graph(batch, example))
        said = {"model": model.predict(example.inputs), "mean": mean.predict(example.inputs)}
        if has_fixed_graph(config.prior):
            said |= {"classical": informed}
        else:
            said |= {"classical": classical(example.observed), "informed": informed}
        parts.append(Compared(example.inputs._replace(elements=torch.empty(size, 0)), example.truth, said))
    return _joined(parts)


def known_graph(batch: scm.Batch, example: Example) -> Tensor:
    """(B, F + 1, F + 1): the true graph in the order of the features, target last."""
    order = torch.cat([example.columns, batch.target_index[:, None]], 1)
    graph = batch.adjacency.gather(1, order[:, :, None].expand(-1, -1, batch.adjacency.shape[2]))
    graph = graph.gather(2, order[:, None, :].expand(-1, graph.shape[1], -1))
    there = torch.cat([example.observed.present, torch.ones(len(order), 1, dtype=torch.bool)], 1)
    return graph & there[:, :, None] & there[:, None, :]


def _joined(parts: list[Compared]) -> Compared:
    def estimates(predictor: str, name: str) -> Estimate:
        fields = zip(*(part.estimates[predictor][name] for part in parts), strict=True)
        return Estimate._make(None if values[0] is None else torch.cat(values) for values in fields)

    return Compared(
        SetInputs._make(map(torch.cat, zip(*(part.inputs for part in parts), strict=True))),
        {name: torch.cat([part.truth[name] for part in parts]) for name in parts[0].truth},
        {
            predictor: {name: estimates(predictor, name) for name in by_name}
            for predictor, by_name in parts[0].estimates.items()
        },
    )


def _metrics(compared: Compared, by_column: bool) -> dict[str, dict[str, dict[str, float | None]]]:
    result = {}
    for key, target, column in _keys(by_column, compared.inputs.present.shape[1]):
        truth, estimates = _on_scale(compared, target, target.is_compared_unit_free(graph_is_fixed=by_column))
        known = truth >= 0 if target.kind == "classes" else truth.isfinite()
        if column is not None:
            known = known & (torch.arange(known.shape[1]) == column)
        if known.any() and bool((truth[known] != truth[known][0]).any()):
            result[key] = {
                name: _measured(target, Estimate._make(None if x is None else x[known] for x in estimate), truth[known])
                for name, estimate in estimates.items()
            }
    return result


def _keys(by_column: bool, features: int) -> Iterator[tuple[str, Target, int | None]]:
    """Key of every entry of the metrics, its property, and the column of the property it is about."""
    for target in TARGETS:
        if target.shape:
            yield from ((f"{target.name}/{label}", target, index) for index, label in enumerate(target.labels))
            continue
        yield target.name, target, None
        if by_column and target.level == "variable" and target.kind == "number":
            yield from ((f"{target.name}/{column}", target, column) for column in range(features))


def _on_scale(compared: Compared, target: Target, unit_free: bool) -> tuple[Tensor, dict[str, Estimate]]:
    """Truth and estimates in the property's own units or on the scale on which it is learned."""
    truth = compared.truth[target.name]
    estimates = {name: by_name[target.name] for name, by_name in compared.estimates.items()}
    if not unit_free:
        return truth, estimates
    return target.to_model(truth, compared.inputs), {
        name: _unit_free(target, estimate, compared.inputs) for name, estimate in estimates.items()
    }


def _unit_free(target: Target, estimate: Estimate, inputs: SetInputs) -> Estimate:
    value, lower, upper = estimate.value, estimate.lower, estimate.upper
    if lower is None or upper is None:
        return Estimate(target.to_model(value, inputs))
    ends = target.to_model(lower, inputs), target.to_model(upper, inputs)  # swapped for a negated column
    return Estimate(target.to_model(value, inputs), None, torch.minimum(*ends), torch.maximum(*ends))


def _measured(target: Target, estimate: Estimate, truth: Tensor) -> dict[str, float | None]:
    values = {metric: measure(metric, target, estimate, truth) for metric in METRICS[target.kind]}
    return {metric: value if math.isfinite(value) else None for metric, value in values.items()}


def _framework(compared: Compared, differ: Tensor, majority: bool) -> dict[str, float]:
    """Share of the datasets in which the better of causal and anticausal ERM was named correctly."""
    truth = anticausal_wins(compared.truth["risk"])[differ]
    said = {name: anticausal_wins(each["risk"].value)[differ] for name, each in compared.estimates.items()}
    said["mean"] = torch.full_like(truth, majority)
    named = {"mean": "majority"}
    return {named.get(name, name): float((said[name] == truth).double().mean()) for name in said}


def _recommendation(compared: Compared) -> dict[str, dict[str, float]]:
    truth, estimates = _on_scale(compared, BY_NAME["risk"], unit_free=True)  # logarithms
    result = {}
    for name, estimate in estimates.items():
        chosen = truth.gather(1, estimate.value.argmin(1, keepdim=True)).squeeze(1)
        excess = (chosen - truth.amin(1)).double()
        result[name] = {"best": float((excess <= TIE).double().mean()), "excess_risk": float(excess.mean().expm1())}
    return result


def _arrays(compared: Compared) -> dict[str, np.ndarray]:
    arrays = {}
    for target in TARGETS:
        arrays[f"{target.name}/true"] = compared.truth[target.name]
        for predictor, by_name in compared.estimates.items():
            arrays[f"{target.name}/{predictor}"] = by_name[target.name].value
        model = compared.estimates["model"][target.name]
        if model.lower is not None and model.upper is not None:
            arrays |= {f"{target.name}/lower": model.lower, f"{target.name}/upper": model.upper}
    return {name: value.numpy() for name, value in arrays.items()}
