"""How good a model was on held-out datasets, property by property: what its findings are worth."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from settx_fast._files import read_json

LEAST_R2 = 0.05
"""A property of which the model explains less than this share of the variance counts as not known."""


@dataclass(frozen=True)
class Record:
    """Of one property on held-out datasets: the metric, the model's value, that of the mean or commonest answer.

    is_known: whether the model is better than that, so that what it says is a finding.
    """

    metric: str
    value: float
    chance: float
    is_known: bool


@dataclass(frozen=True)
class DecisionRecord:
    """Share of `datasets` held-out datasets in which the better of causal and anticausal ERM was named.

    majority: the share that always naming the commoner one is right in.
    """

    model: float
    majority: float
    datasets: int

    @property
    def is_known(self) -> bool:
        """Whether the model is better than always naming the commoner one, by two standard errors."""
        return beats(self.model, self.majority, self.datasets)


def beats(share: float, chance: float, count: int) -> bool:
    """Whether a share of `count` trials is above chance by more than two standard errors."""
    return share - chance > 2 * sqrt(chance * (1 - chance) / max(count, 1))


def read_records(directory: Path) -> tuple[dict[str, Record], DecisionRecord | None]:
    """Records by key of `evaluation.json` (`role`, `risk/erm`, `total_effect` …); {} and None where there is none."""
    path = directory / "evaluation.json"
    if not path.exists():
        return {}, None
    evaluation = read_json(path, f"`settx-fast evaluate {directory}` writes it anew")
    records = {
        key: record
        for key, by_predictor in evaluation.get("metrics", {}).items()
        if (record := _record(by_predictor, evaluation.get("num_datasets", 1))) is not None
    }
    shares, count = evaluation["framework"], evaluation["framework_datasets"]
    return records, DecisionRecord(shares["model"], shares["majority"], count)


def _record(by_predictor: dict[str, dict[str, float | None]], datasets: int) -> Record | None:
    model, mean = by_predictor["model"], by_predictor.get("mean", {})
    for metric in ("r2", "accuracy"):
        value, chance = model.get(metric), mean.get(metric)
        if value is not None:
            chance = 0.0 if chance is None else max(chance, 0.0)
            is_known = value - chance > LEAST_R2 if metric == "r2" else beats(value, chance, datasets)
            return Record(metric, value, chance, is_known)
    return None
