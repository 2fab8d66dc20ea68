"""The endless stream of freshly sampled datasets that the predictor is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from settx_fast import scm
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.features import FeatureConfig, Observed, SetInputs, encode
from settx_fast.predictor.targets import TARGETS
from settx_fast.scm import properties as scm_properties
from settx_fast.scm.streaming import generator_of


class Example(NamedTuple):
    """B datasets as they are seen, as set elements, and their true properties in their own units.

    truth: property → (B,) or (B, several) per dataset, (B, F) per variable; NaN (class −1) where undefined.
    columns (B, F): which variable of the SCM each feature is; absent ones point at the target.
    """

    observed: Observed
    inputs: SetInputs
    truth: dict[str, Tensor]
    columns: Tensor

    def model_truth(self) -> dict[str, Tensor]:
        """`truth` on the scale on which the model learns."""
        return {target.name: target.to_model(self.truth[target.name], self.inputs) for target in TARGETS}


def draw(config: TrainConfig, seed: int, first_index: int, count: int, rows: int) -> Example:
    """Datasets first_index … first_index + count − 1 of the stream (config.prior, seed), as the model sees them."""
    batch = scm.sample(config.prior, count, rows, seed=seed, first_index=first_index, num_threads=1)
    return view(batch, config.features)


def view(batch: scm.Batch, config: FeatureConfig, generator: torch.Generator | None = None) -> Example:
    """Sampled datasets as the model sees them, in random order of columns and environments if there is a generator."""
    observed, columns = observe(batch, config, generator)
    properties = scm_properties.compute(batch)
    return Example(observed, encode(observed, config), truth(properties, columns, observed.present), columns)


def observe(
    batch: scm.Batch, config: FeatureConfig, generator: torch.Generator | None = None
) -> tuple[Observed, Tensor]:
    """What is seen of sampled datasets, target rows unlabelled, and which variable each feature is, (B, F).

    Hidden variables are left out; missing values become the column's mean over the source rows, as in a real table;
    a row whose target is missing is unlabelled.
    With a generator the order of columns and the ids of environments are random.
    """
    sets, variables = batch.variable_mask.shape
    is_feature = batch.visible_mask & (torch.arange(variables) != batch.target_index[:, None])
    columns = _order(is_feature, generator)[:, : variables - 1]
    present = is_feature.gather(1, columns)
    absent = config.max_variables - variables
    if absent < 0:
        raise ValueError(f"max_variables: expected at least the prior's {variables}, got {config.max_variables}")
    columns = torch.cat([columns, columns.new_zeros(sets, absent)], 1)
    present = torch.cat([present, present.new_zeros(sets, absent)], 1)
    columns = columns.where(present, batch.target_index[:, None])

    ids = _order(torch.ones(sets, config.max_environments, dtype=torch.bool), generator)
    is_target = batch.is_target_row
    is_missing = torch.zeros_like(batch.values, dtype=torch.bool) if batch.is_missing is None else batch.is_missing
    values = _filled(batch.values, is_missing, is_target)
    at_target = batch.target_index[:, None, None].expand(-1, values.shape[1], 1)
    observed = Observed(
        features=values.gather(2, columns[:, None].expand(-1, values.shape[1], -1)),
        target=values.gather(2, at_target).squeeze(2),
        environment=ids.gather(1, batch.environment),
        is_target=is_target,
        labelled=~is_target & ~is_missing.gather(2, at_target).squeeze(2),
        present=present,
    )
    return observed, columns


def _filled(values: Tensor, is_missing: Tensor, is_target: Tensor) -> Tensor:
    """values (B, R, V) with what is missing replaced by its column's mean over the source rows, 0 if none is known."""
    known = ~is_missing & ~is_target[..., None]
    mean = values.where(known, 0.0).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
    return values.where(~is_missing, mean)


def truth(properties: scm_properties.Properties, columns: Tensor, present: Tensor) -> dict[str, Tensor]:
    """The true properties by name, those of variables in the order of `columns` (B, F)."""
    values = {}
    for target in TARGETS:
        value = getattr(properties, target.name)
        if target.level == "variable":
            value = value.gather(1, columns).masked_fill(~present, -1 if target.kind == "classes" else torch.nan)
        values[target.name] = value if target.kind == "classes" else value.float()
    return values


class Stream(IterableDataset[Example]):
    """Training batches `first_step`, `first_step` + 1, … of one rank, without end.

    The batch of (step, rank) is a pure function of the config, whatever the number of loader workers.
    """

    def __init__(self, config: TrainConfig, first_step: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.config = config
        self.batches = scm.stream(
            config.prior,
            config.batch_size,
            config.seed,
            rank,
            ranks,
            num_rows=(config.min_rows, config.max_rows),
            first_index=first_step * ranks * config.batch_size,
            num_threads=1,
        )

    def __iter__(self) -> Iterator[Example]:
        return map(self._view, self.batches)

    def batch(self, step: int) -> Example:
        """Batch number `step` of this rank, as an iteration gives it."""
        return self._view(self.batches.batch(step))

    def _view(self, batch: scm.Batch) -> Example:
        permutation = generator_of(int(batch.seed), batch.first_index) if self.config.permute else None
        return view(batch, self.config.features, permutation)


def _order(first: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, n) mask → (B, n) permutation, the True ones first, in random order if there is a generator."""
    size = first.shape[1]
    key = torch.arange(size) / size if generator is None else torch.rand(first.shape, generator=generator)
    return (key + (~first).float()).argsort(dim=-1, stable=True)
