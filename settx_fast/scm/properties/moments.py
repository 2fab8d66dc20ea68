"""Population means and covariances: what every linear method sees of a distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CONSTANT_RTOL = 1e-20  # a variance below this share of mean² is rounding


@dataclass(frozen=True)
class Moments:
    """Mean (..., V) and covariance (..., V, V) of V variables, float64."""

    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> Tensor:
        """(..., V); exactly zero where a variable is constant, whatever rounding left there."""
        variance = self.covariance.diagonal(dim1=-2, dim2=-1)
        return torch.where(variance > CONSTANT_RTOL * self.mean.square(), variance, 0.0)

    def without(self, hidden: Tensor) -> Moments:
        """With the variables at hidden (..., V) constant 0: nothing that is learned from these moments uses them."""
        some = hidden[..., :, None] | hidden[..., None, :]
        return Moments(self.mean.masked_fill(hidden, 0.0), self.covariance.masked_fill(some, 0.0))

    def pooled(self, share: Tensor) -> Moments:
        """Moments of a mixture of environments: from (B, K, V) and shares (B, K) that sum to one, to (B, V)."""
        mean = (share[..., None] * self.mean).sum(1)
        offset = self.mean - mean[:, None]
        second = self.covariance + offset[..., :, None] * offset[..., None, :]
        return Moments(mean, (share[..., None, None] * second).sum(1))


def total_effects(weights: Tensor) -> Tensor:
    """(..., V, V) acyclic edge weights, [p, v] = p → v, to total effects (I − W)⁻¹: paths' products, summed.

    W is nilpotent, so the inverse is the finite product (I + W)(I + W²)(I + W⁴)…, exactly zero where no path leads.
    """
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    total, power = identity + weights, weights
    for _ in range((weights.shape[-1] - 1).bit_length() - 1):
        power = power @ power
        total = total + total @ power
    return total


def linear_moments(weights: Tensor, bias: Tensor, noise_variance: Tensor) -> Moments:
    """Moments of linear SCMs x = Wᵀx + bias + noise, for independent noise of any shape with finite variance.

    weights (..., V, V) with [p, v] = p → v and acyclic, bias and noise_variance (..., V). With T = (I − W)⁻¹ the mean
    is Tᵀ bias and the covariance Tᵀ diag(noise_variance) T (Bollen 1989, Structural Equations with Latent Variables).
    """
    total = total_effects(weights)
    mean = (total.mT @ bias[..., None]).squeeze(-1)
    return Moments(mean, total.mT @ (noise_variance[..., None] * total))


def sample_moments(values: Tensor) -> Moments:
    """Moments of rows: values (..., R, V) to (..., V) and (..., V, V)."""
    values = values.double()
    mean = values.mean(-2)
    centred = values - mean[..., None, :]
    return Moments(mean, centred.mT @ centred / values.shape[-2])


def at_target(values: Tensor, target_index: Tensor) -> Tensor:
    """The target's entry of the last axis, a target per dataset: (B, ..., V) to (B, ...)."""
    index = target_index.view(-1, *[1] * (values.dim() - 1)).expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)
