"""What frameworks, as they were executed on sampled rows, really risk in the target environment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast import scm
from settx_fast.predictor.data import observe
from settx_fast.predictor.features import FeatureConfig, Observed
from settx_fast.predictor.frameworks import Sources, sources_of
from settx_fast.scm.properties import environment_share
from settx_fast.scm.properties.population import is_linear, is_seen_linearly, linear_population, seen, select

FRESH_ROWS = 20_000
AT_ONCE = 100_000  # fresh rows that stay in the cache
SEED_OFFSET = 0xF4E5


class Executed(NamedTuple):
    """Sampled datasets as a table shows them: rows, their moments, and moments of the target environment.

    target_mean (B, p + 1) and target_covariance (B, p + 1, p + 1), the target last, are in the units of `sources`;
    columns (B, p) int64 says which variable a column is.
    """

    observed: Observed
    sources: Sources
    target_mean: Tensor
    target_covariance: Tensor
    columns: Tensor


def execute(batch: scm.Batch, config: FeatureConfig | None = None, fresh_rows: int = FRESH_ROWS) -> Executed:
    """What a table of each dataset holds, and the moments under which a fitted linear model has its true risk.

    In closed form where variables are linear and all that is seen are numbers with nothing missing, else from
    `fresh_rows` fresh rows of the target environment, missing values filled as in the table. Raises ValueError unless
    every dataset has one target environment.
    """
    if not bool((batch.is_target_environment.sum(1) == 1).all()):
        raise ValueError("batch: expected one target environment in every dataset")
    config = config or FeatureConfig(batch.values.shape[2], batch.bias.shape[1])
    observed, columns = observe(batch, config)
    sources = sources_of(observed)
    order = torch.cat([columns, batch.target_index[:, None]], 1)
    environment = batch.is_target_environment.int().argmax(1)
    mean, covariance = _closed_form(batch, environment, order)
    closed = is_linear(batch) & is_seen_linearly(batch) & ~(batch.loss_rate > 0).any(1)
    index = torch.nonzero(~closed).flatten()
    for part in index.split(max(AT_ONCE // fresh_rows, 1)):
        moments = _fresh(select(batch, part), environment[part], _column_means(batch, part), fresh_rows)
        mean[part], covariance[part] = _ordered(*moments, order[part])
    return Executed(observed, sources, *sources.with_target_environment(mean, covariance), columns)


def _closed_form(batch: scm.Batch, environment: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    moments = seen(linear_population(batch, environment_share(batch, target=False)), batch).moments
    rows = torch.arange(len(batch.index))
    return _ordered(moments.mean[rows, environment], moments.covariance[rows, environment], order)


def _ordered(mean: Tensor, covariance: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(mean))[:, None, None]
    return mean.gather(1, order), covariance[rows, order[:, :, None], order[:, None, :]]


def _column_means(batch: scm.Batch, part: Tensor) -> Tensor:
    """(P, V) means over the source rows of what is not missing: what a gap becomes."""
    known = ~batch.is_target_row[part][..., None].expand(-1, -1, batch.values.shape[2])
    if batch.is_missing is not None:
        known = known & ~batch.is_missing[part]
    values = batch.values[part].where(known, 0.0)
    return values.sum(1, dtype=torch.float64) / known.sum(1).clamp(min=1)


def _fresh(batch: scm.Batch, environment: Tensor, fill: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Moments (P, V), (P, V, V) of fresh rows, gaps filled; rows whose target is missing have no risk and no say."""
    seed = (int(batch.seed) + SEED_OFFSET) % 2**64
    fresh = scm.resample(batch, rows, seed=seed, environments=environment, num_threads=1)
    values = fresh.values.sub_(fill.float()[:, None])  # a gap is now to become 0
    if fresh.is_missing is None:
        count = torch.full((len(values), 1), float(rows))
    else:
        target = batch.target_index[:, None, None].expand(-1, rows, 1)
        unlabelled = fresh.is_missing.gather(2, target)
        values.masked_fill_(fresh.is_missing | unlabelled, 0.0)
        count = (rows - unlabelled.sum(1)).float()
    mean = values.sum(1) / count
    second = values.mT @ values / count[..., None]
    covariance = second.double() - (mean[:, :, None] * mean[:, None, :]).double()
    return mean.double() + fill.float().double(), covariance
