"""What the properties need to know of an SCM's distribution: in closed form, or from a large fresh sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from settx_fast.scm.batch import Batch
from settx_fast.scm.mechanisms import MECHANISMS
from settx_fast.scm.noises import NOISE_EFFECTS
from settx_fast.scm.properties.effects import total_effect
from settx_fast.scm.properties.graph import ancestors, is_target
from settx_fast.scm.properties.moments import Moments, at_target, linear_moments, sample_moments
from settx_fast.scm.sampler import resample

STEP = 0.1  # of the standard deviation: the size of the interventions that measure a slope


@dataclass(frozen=True)
class Population:
    """Moments of every environment (B, K, V), and what only an intervention shows; float64.

    target_noise (B, K) is the variance of the target's noise, signal_variance (B,) that of target − noise in the pooled
    sources, total_effect (B, V) the change in the target per unit of every variable, averaged over the sources.
    """

    moments: Moments
    target_noise: Tensor
    signal_variance: Tensor
    total_effect: Tensor


def is_linear(batch: Batch) -> Tensor:
    """(B,) bool: every variable that has parents is a linear function of them plus noise."""
    return _linear_variables(batch).all(1)


def _linear_variables(batch: Batch) -> Tensor:
    has_parents = batch.adjacency.any(1)
    linear = (batch.mechanism == MECHANISMS.index("linear")) & (batch.noise_effect == NOISE_EFFECTS.index("additive"))
    return linear | ~has_parents


def last_gain(batch: Batch) -> Tensor:
    """(B, K, V) float64: what the last step of every variable multiplies it with."""
    return batch.gain.double()[:, None].masked_fill(batch.hard, 1.0)


def linear_population(batch: Batch, source_share: Tensor) -> Population:
    """Closed form, exact for any noise with finite variance; source_share (B, K) float64 sums to one.

    The last step of a linear variable is one with its weights, bias and noise.
    """
    gain = last_gain(batch)
    noise_variance = (batch.noise_scale.double() * gain).square()
    weights = batch.weights.double() * gain[:, :, None]
    bias = (batch.bias.double() - batch.centre.double()[:, None].masked_fill(batch.hard, 0.0)) * gain
    moments = linear_moments(weights, bias, noise_variance)
    target_noise = at_target(noise_variance, batch.target_index)
    target_variance = at_target(moments.pooled(source_share).variance, batch.target_index)
    return Population(
        moments,
        target_noise,
        target_variance - (source_share * target_noise).sum(1),
        total_effect(weights, source_share, batch.target_index),
    )


def sampled_population(batch: Batch, source_share: Tensor, num_rows: int, seed: int) -> Population:
    """Monte Carlo, for mechanisms of any kind; num_rows fresh rows of every environment.

    The signal is read off an SCM whose target has no noise. Effects are `sampled_total_effect`.
    """
    moments = _environment_moments(batch, num_rows, seed)
    target_noise = at_target((batch.noise_scale.double() * last_gain(batch)).square(), batch.target_index)
    deviation = moments.pooled(source_share).variance.sqrt()
    silenced = batch.noise_scale.scatter(2, _target_column(batch), 0.0)
    signal = _target_moments(replace(batch, noise_scale=silenced), num_rows, seed).pooled(source_share)
    return Population(
        moments,
        target_noise,
        signal.variance.squeeze(1),
        sampled_total_effect(batch, source_share, deviation, num_rows, seed),
    )


def sampled_total_effect(batch: Batch, share: Tensor, deviation: Tensor, num_rows: int, seed: int) -> Tensor:
    """(B, V): average change in the target per unit of v when v is moved around the values it takes by itself.

    The incremental effect of Rothenhäusler and Yu (2019, arXiv:1907.13258): E[Y under do(v := v + δ)] − E[Y under
    do(v := v − δ)] over 2δ, with δ a tenth of v's standard deviation (B, V), averaged over environments with shares
    (B, K). With additive noise, do(v := v ± δ) adds ±δ to the bias of v, in the units before its last step; both arms
    share their noise, so that only the effect differs. For linear SCMs it is [(I − W)⁻¹]_{v,target}.
    """
    rows = max(num_rows // share.shape[1], 1)
    step = STEP * torch.where(deviation > 0, deviation, 1.0)  # (B, V)
    gain = last_gain(batch)
    gain = gain.masked_fill(gain == 0, 1.0)
    cause = ancestors(batch.adjacency, batch.target_index)
    ranked = cause.int().argsort(stable=True, dim=1, descending=True)  # every dataset's ancestors first
    effect = torch.zeros_like(step).scatter_(1, batch.target_index[:, None], 1.0)
    for variable in ranked.T[: int(cause.sum(1).max())]:  # (B,): one ancestor of every dataset at a time
        moved = cause & is_target(variable, step.shape[1])
        delta = ((step * moved)[:, None] / gain).float()
        high = _target_moments(replace(batch, bias=batch.bias + delta), rows, seed).pooled(share).mean  # (B, 1)
        low = _target_moments(replace(batch, bias=batch.bias - delta), rows, seed).pooled(share).mean
        effect = torch.where(moved, (high - low) / (2 * step), effect)
    return effect


def seen(population: Population, batch: Batch) -> Population:
    """The same as `batch.values` show it: with errors of measurement, in units that may have been standardised."""
    unit, target_unit = _column_unit(batch), at_target(_column_unit(batch), batch.target_index)[:, None]
    moments, error = population.moments, torch.diag_embed(batch.error_scale.double().square())
    return Population(
        Moments(
            (moments.mean - batch.column_centre.double()[:, None]) * unit[:, None],
            (moments.covariance + error[:, None]) * (unit[:, None, :, None] * unit[:, None, None, :]),
        ),
        population.target_noise * target_unit.square(),
        population.signal_variance * target_unit.squeeze(1).square(),
        population.total_effect * target_unit / unit,
    )


def is_seen_linearly(batch: Batch) -> Tensor:
    """(B,) bool: no row is rejected, and all that is seen are numbers."""
    return ~(batch.accept_slope != 0).flatten(1).any(1) & ~(batch.num_levels > 0).any(1)


def sampled_seen_moments(batch: Batch, num_rows: int, seed: int) -> Moments:
    """Moments (B, K, V) of num_rows fresh rows of every environment as they are seen, with nothing missing."""
    complete = replace(batch, loss_rate=torch.zeros_like(batch.loss_rate))
    return _stacked([sample_moments(values) for values in _by_environment(complete, num_rows, seed, observed=True)])


def seen_weights(batch: Batch) -> Tensor:
    """(B, K, V, V) float64: the weights in the units of `batch.values`.

    Weights into a mechanism that is not linear only follow their cause's unit: they are not slopes.
    """
    unit = _column_unit(batch)
    slope = (last_gain(batch) * unit[:, None]).where(_linear_variables(batch)[:, None], 1.0)
    return batch.weights.double() * slope[:, :, None] / unit[:, None, :, None]


def _column_unit(batch: Batch) -> Tensor:
    unit = batch.column_gain.double()
    return unit.masked_fill(unit == 0, 1.0)  # of padding


def merged_moments(first: Moments, second: Moments, index: Tensor) -> Moments:
    """`first` with the datasets at index (P,) replaced by those of `second`."""
    mean, covariance = first.mean, first.covariance
    return Moments(mean.index_copy(0, index, second.mean), covariance.index_copy(0, index, second.covariance))


def merged(first: Population, second: Population, index: Tensor) -> Population:
    """As `merged_moments`."""

    def put(into: Tensor, what: Tensor) -> Tensor:
        return into.index_copy(0, index, what)

    return Population(
        merged_moments(first.moments, second.moments, index),
        put(first.target_noise, second.target_noise),
        put(first.signal_variance, second.signal_variance),
        put(first.total_effect, second.total_effect),
    )


def select(batch: Batch, index: Tensor) -> Batch:
    """The datasets at index (P,) of a batch."""
    shared = ("mechanism_parameters",)
    own = [f.name for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor) and f.name not in shared]
    return replace(batch, **{name: getattr(batch, name)[index] for name in own})


def _target_column(batch: Batch) -> Tensor:
    return batch.target_index[:, None, None].expand(-1, batch.noise_scale.shape[1], 1)


def _by_environment(batch: Batch, num_rows: int, seed: int, observed: bool = False) -> Iterator[Tensor]:
    """For every environment in turn (B, num_rows, V) fresh rows; padding repeats a dataset's last environment."""
    for k in range(batch.bias.shape[1]):
        environments = (batch.num_environments - 1).clamp_max(k)
        yield resample(batch, num_rows, seed=seed, environments=environments, observed=observed).values


def _environment_moments(batch: Batch, num_rows: int, seed: int) -> Moments:
    return _stacked([sample_moments(values) for values in _by_environment(batch, num_rows, seed)])


def _target_moments(batch: Batch, num_rows: int, seed: int) -> Moments:
    """Of the target alone: mean (B, K, 1) and covariance (B, K, 1, 1)."""
    rows = _by_environment(batch, num_rows, seed)
    return _stacked([sample_moments(at_target(values, batch.target_index)[..., None]) for values in rows])


def _stacked(each: list[Moments]) -> Moments:
    return Moments(torch.stack([m.mean for m in each], 1), torch.stack([m.covariance for m in each], 1))
