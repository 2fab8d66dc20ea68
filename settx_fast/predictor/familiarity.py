"""Whether a table looks like the datasets that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from settx_fast import scm
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.data import observe
from settx_fast.predictor.features import Observed

DATASETS = 400  # of training, that a table is held against
FEW_VALUES = 10
BOUNDED_BELOW = ("columns", "environments", "share of rows in deployment")  # little of anything else is no stranger


@dataclass(frozen=True)
class Unfamiliar:
    """A trait of a table that no training dataset has: its value, and the least and greatest in training."""

    trait: str
    value: float
    low: float
    high: float


def unfamiliar(config: TrainConfig, observed: Sequence[Observed], emptied: int = 0) -> tuple[Unfamiliar, ...]:
    """The traits in which a table, as seen with one deployment or with several in turn, is unlike training.

    It is held against the first datasets of the training stream, with as many rows where training has that many.
    emptied: columns that the deployment lacks, which no training dataset has.
    """
    rows = observed[0].target.shape[1]
    alike = min(max(rows, config.min_rows), config.max_rows)
    batch = scm.sample(config.prior, DATASETS, alike, seed=config.seed)
    trained = traits(observe(batch, config.features)[0])
    seen = [traits(each) for each in observed]
    found = [Unfamiliar("columns empty in deployment", emptied, 0, 0)] if emptied else []
    if rows < config.min_rows:
        found.append(Unfamiliar("rows", rows, config.min_rows, config.max_rows))
    for trait, values in trained.items():
        low, high = float(values.min()), float(values.max())
        least = low if trait in BOUNDED_BELOW else -torch.inf
        value = max((float(each[trait]) for each in seen), key=lambda value: max(least - value, value - high))
        if not least <= value <= high:
            found.append(Unfamiliar(trait, value, low, high))
    return tuple(found)


def traits(observed: Observed) -> dict[str, Tensor]:
    """How datasets look, (B,) each; no trait depends on units, on the order of columns or on labels in deployment.

    Means and standard deviations are those of the pooled source rows.
    """
    features = observed.features.double().where(observed.present[:, None], 0.0)
    labelled, deployed = observed.labelled & ~observed.is_target, observed.is_target
    mean, deviation, standard = _moments(features, ~deployed)
    there, deviation_there, _ = _moments(features, deployed)
    shift = ((there - mean) / deviation).abs().where((deviation > 0) & deployed.any(1, keepdim=True), 0.0)
    spread = (deviation_there / deviation).log().abs().where((deviation > 0) & (deviation_there > 0), 0.0)
    target = _moments(observed.target.double()[..., None], labelled)[2]
    columns = torch.cat([standard.where(labelled[..., None], 0.0), target], -1)
    correlation = (columns.mT @ columns / labelled.sum(1)[:, None, None]).tril(-1)
    return {
        "columns": observed.present.sum(1).double(),
        "environments": torch.tensor([ids.unique().numel() for ids in observed.environment]).double(),
        f"columns of at most {FEW_VALUES} values": _few_valued(features, ~deployed, observed.present),
        f"targets of at most {FEW_VALUES} values": _few_valued(observed.target[..., None], labelled),
        "greatest correlation of two columns": correlation.abs().amax((1, 2)),
        "heaviest tail of a column (kurtosis)": columns.pow(4).sum(1).amax(1) / labelled.sum(1),
        "greatest shift of a column in deployment (standard deviations)": shift.amax(1),
        "greatest change of a column's spread in deployment (factor)": spread.amax(1).exp(),
        "share of rows in deployment": deployed.double().mean(1),
    }


def _moments(columns: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation (B, n) over the rows of `member` (B, R), and those rows standardised, others 0."""
    member = member[..., None]
    count = member.sum(1, keepdim=True).clamp(min=1)
    mean = columns.where(member, 0.0).sum(1, keepdim=True) / count
    centred = (columns - mean).where(member, 0.0)
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    deviation = deviation.where(deviation > 1e-9 * mean.abs(), 0.0)
    return mean.squeeze(1), deviation.squeeze(1), torch.where(deviation > 0, centred / deviation, 0.0)


def _few_valued(features: Tensor, source: Tensor, present: Tensor | None = None) -> Tensor:
    """(B,): how many columns hold at most `FEW_VALUES` different values in the source rows."""
    present = torch.ones(len(features), features.shape[2], dtype=torch.bool) if present is None else present
    first = source.int().argmax(1)[:, None, None].expand(-1, 1, features.shape[2])
    ordered = features.where(source[..., None], features.gather(1, first)).sort(1).values
    values = 1 + (ordered.diff(dim=1) > 0).sum(1)
    return (present & (values <= FEW_VALUES)).sum(1).double()
