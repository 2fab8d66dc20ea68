"""`compute`: all properties of a batch of datasets."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from settx_fast.scm.batch import Batch
from settx_fast.scm.properties.effects import direct_effect_of_target, direct_effect_on_target, noise_to_signal
from settx_fast.scm.properties.graph import edge_density, num_children, num_parents, role
from settx_fast.scm.properties.moments import Moments, at_target
from settx_fast.scm.properties.population import (
    Population,
    is_linear,
    is_seen_linearly,
    linear_population,
    merged,
    merged_moments,
    sampled_population,
    sampled_seen_moments,
    seen,
    seen_weights,
    select,
)
from settx_fast.scm.properties.record import CLOSED_FORM, MONTE_CARLO, Properties, SourceProperties
from settx_fast.scm.properties.risk import risk
from settx_fast.scm.properties.shift import shift_decomposition
from settx_fast.scm.properties.sortability import r2_sortability, varsortability

SEED_OFFSET = 0x5EED  # keeps the fresh samples apart from the rows of the batch


def compute(batch: Batch, *, monte_carlo_rows: int = 16384, seed: int | None = None) -> Properties:
    """All properties of every dataset, from its SCM.

    Linear SCMs in closed form, standardised or not, with errors of measurement and hidden variables too; the others,
    and datasets with a selection, a label shift or levels, from monte_carlo_rows fresh rows of every environment, drawn
    with `seed` (None: one derived from the batch's). Effects, roles, sortabilities and noise to signal are those of the
    SCM, hidden variables included; shifts, risks and the target's variance are those of what is seen, with nothing
    missing. The rows of the batch count only as weights of the environments. Raises ValueError where a dataset has no
    target environment (`compute_source` needs none) or monte_carlo_rows is below 2.
    """
    population, source_share = _population(batch, monte_carlo_rows, seed)
    target_share = environment_share(batch, target=True)
    source = population.moments.pooled(source_share)
    visible = source.without(batch.is_hidden)
    target = population.moments.pooled(target_share).without(batch.is_hidden)
    covariate, mechanism = shift_decomposition(visible, target, batch.target_index)
    risks = risk(visible, target, batch.adjacency, batch.target_index, batch.num_variables)
    return Properties(
        **_source_fields(batch, population, source_share, source),
        covariate_shift=covariate.float(),
        mechanism_shift=mechanism.float(),
        risk=risks.float(),
        method=_method(batch),
    )


def compute_source(batch: Batch, *, monte_carlo_rows: int = 16384, seed: int | None = None) -> SourceProperties:
    """The properties that need no target environment; arguments as `compute`."""
    population, source_share = _population(batch, monte_carlo_rows, seed)
    source = population.moments.pooled(source_share)
    return SourceProperties(**_source_fields(batch, population, source_share, source), method=_method(batch))


def environment_share(batch: Batch, *, target: bool) -> Tensor:
    """(B, K) float64: each environment's share of the rows of the sources (or of the target environments).

    Equal shares where none of them has a row. Raises ValueError where a dataset has no such environment.
    """
    member = batch.environment_mask & (batch.is_target_environment == target)
    if not member.any(1).all():
        lacking = torch.nonzero(~member.any(1)).flatten().tolist()
        needs = (
            "covariate_shift, mechanism_shift and risk need a target environment (compute_source gives the rest)"
            if target
            else "properties need a source environment"
        )
        shown = ", ".join(map(str, lacking[:5])) + (", …" if len(lacking) > 5 else "")
        raise ValueError(f"batch: {needs}, but {len(lacking)} of {len(batch)} datasets have none: {shown}")
    rows = batch.row_counts * member
    counted = torch.where(rows.sum(1, keepdim=True) > 0, rows, member.long()).double()
    return counted / counted.sum(1, keepdim=True)


def _population(batch: Batch, monte_carlo_rows: int, seed: int | None) -> tuple[Population, Tensor]:
    if monte_carlo_rows < 2:
        raise ValueError(f"monte_carlo_rows: expected at least 2, got {monte_carlo_rows}")
    source_share = environment_share(batch, target=False)
    population = linear_population(batch, source_share)
    seed = (int(batch.seed) + SEED_OFFSET) % 2**64 if seed is None else seed
    index = torch.nonzero(~is_linear(batch)).flatten()
    if len(index):
        sampled = sampled_population(select(batch, index), source_share[index], monte_carlo_rows, seed)
        population = merged(population, sampled, index)
    population = seen(population, batch)
    index = torch.nonzero(~is_seen_linearly(batch)).flatten()
    if len(index):
        moments = sampled_seen_moments(select(batch, index), monte_carlo_rows, seed)
        population = replace(population, moments=merged_moments(population.moments, moments, index))
    return population, source_share


def _source_fields(batch: Batch, population: Population, source_share: Tensor, source: Moments) -> dict[str, Tensor]:
    weights, adjacency, target_index = seen_weights(batch), batch.adjacency, batch.target_index
    target_noise = (source_share * population.target_noise).sum(1)
    parents = num_parents(adjacency, target_index)
    return {
        "edge_density": edge_density(adjacency, batch.num_variables).float(),
        "num_parents": parents,
        "num_children": num_children(adjacency, target_index),
        "role": role(adjacency, target_index, batch.num_variables),
        "direct_effect_on_target": direct_effect_on_target(weights, source_share, target_index).float(),
        "direct_effect_of_target": direct_effect_of_target(weights, source_share, target_index).float(),
        "total_effect": population.total_effect.float(),
        "noise_to_signal": noise_to_signal(target_noise, population.signal_variance, parents).float(),
        "varsortability": varsortability(adjacency, source).float(),
        "r2_sortability": r2_sortability(adjacency, source).float(),
        "target_variance": at_target(source.variance, target_index).float(),
    }


def _method(batch: Batch) -> tuple[str, ...]:
    exact = is_linear(batch) & is_seen_linearly(batch)
    return tuple(CLOSED_FORM if closed else MONTE_CARLO for closed in exact.tolist())
