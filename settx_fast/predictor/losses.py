"""Losses for numbers: what the head emits, what it costs, and what it says about uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Z90 = 1.6448536269514722  # a 90 % interval of a Gaussian is mean ± Z90 standard deviations
TIE = 1e-5  # risks closer than this, relatively, are the same
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Band(NamedTuple):
    """A centre and the 5 % and 95 % quantiles around it, same shape each."""

    centre: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class Loss:
    """outputs: numbers the head emits per target, the last axis of what follows.

    cost(outputs (..., outputs), target (...)) -> (...), elementwise. band(outputs, spread) -> Band, where `spread` is
    the standard deviation of held-out residuals, used by losses whose outputs say nothing about uncertainty.
    """

    outputs: int
    cost: Callable[[Tensor, Tensor], Tensor]
    band: Callable[[Tensor, Tensor], Band]


def _point(cost: Callable[..., Tensor]) -> Loss:
    def band(outputs: Tensor, spread: Tensor) -> Band:
        centre = outputs[..., 0]
        return Band(centre, centre - Z90 * spread, centre + Z90 * spread)

    return Loss(1, lambda outputs, target: cost(outputs[..., 0], target, reduction="none"), band)


def _log_variance(outputs: Tensor) -> Tensor:
    return outputs[..., 1].clamp(-12.0, 6.0)


def _gaussian_nll_cost(outputs: Tensor, target: Tensor) -> Tensor:
    """The likelihood; its gradient is weighted by the predicted standard deviation.

    Otherwise hard cases are explained by variance and never learned: β-NLL with β = 1/2, Seitzer et al. 2022
    (arXiv:2203.09168).
    """
    log_variance = _log_variance(outputs)
    nll = 0.5 * (log_variance + (target - outputs[..., 0]).square() * (-log_variance).exp())
    weighted = nll * (0.5 * log_variance).exp().detach()
    return weighted + (nll - weighted).detach()


def _gaussian_band(outputs: Tensor, spread: Tensor) -> Band:
    centre, reach = outputs[..., 0], Z90 * (0.5 * _log_variance(outputs)).exp()
    return Band(centre, centre - reach, centre + reach)


def _pinball_cost(outputs: Tensor, target: Tensor) -> Tensor:
    error = target.unsqueeze(-1) - outputs
    level = outputs.new_tensor(QUANTILES)
    return torch.maximum(level * error, (level - 1) * error).sum(-1)


def _quantile_band(outputs: Tensor, spread: Tensor) -> Band:
    ordered = outputs.sort(-1).values
    return Band(ordered[..., 2], ordered[..., 0], ordered[..., -1])


LOSSES: dict[str, Loss] = {
    "mse": _point(F.mse_loss),
    "mae": _point(F.l1_loss),
    "huber": _point(F.huber_loss),
    "gaussian_nll": Loss(2, _gaussian_nll_cost, _gaussian_band),
    "pinball": Loss(len(QUANTILES), _pinball_cost, _quantile_band),
}


def loss_named(name: str) -> Loss:
    """The loss of that name; ValueError with the known names for any other."""
    if name not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name]


def masked_mean(cost: Tensor, valid: Tensor) -> Tensor:
    """Mean of `cost` where `valid`; zero (with a gradient of zero) where nothing is."""
    return cost.where(valid, 0.0).sum() / valid.sum().clamp(min=1)


def order_cost(scores: Tensor, truth: Tensor, steepness: Tensor) -> Tensor:
    """Binary cross-entropy of which of every two numbers is smaller; ties do not count.

    scores and truth (B, n), steepness (n(n−1)/2,): the logit per difference of scores. Returns the mean.
    """
    left, right = torch.triu_indices(scores.shape[-1], scores.shape[-1], offset=1)
    difference = truth[:, right] - truth[:, left]
    logits = (scores[:, right] - scores[:, left]) * steepness
    cost = F.binary_cross_entropy_with_logits(logits, (difference > 0).float(), reduction="none")
    return masked_mean(cost, difference.abs() > TIE)


def penalty(weights: Iterable[Tensor], l1: float, l2: float) -> Tensor | float:
    """l1 · Σ|w| + l2 · Σw² over weight matrices (biases, norms and single rows are left free)."""
    if l1 == 0 and l2 == 0:
        return 0.0
    matrices = [weight for weight in weights if weight.ndim > 1]
    return sum((l1 * weight.abs().sum() + l2 * weight.square().sum() for weight in matrices), torch.zeros(()))
