"""Causal effects on and of the target, and how noisy the target is."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.scm.properties.moments import at_target, total_effects

SIGNAL_RTOL = 1e-12  # signal below this share of the noise is rounding


def direct_effect_on_target(weights: Tensor, share: Tensor, target_index: Tensor) -> Tensor:
    """(B, V): weight of the edge v → target, averaged over environments with shares (B, K); weights (B, K, V, V).

    For a mechanism that is not linear it is the weight with which the parent enters it, not a slope.
    """
    return (share[..., None] * at_target(weights, target_index)).sum(1)


def direct_effect_of_target(weights: Tensor, share: Tensor, target_index: Tensor) -> Tensor:
    """(B, V): weight of the edge target → v, averaged over environments; arguments as `direct_effect_on_target`."""
    return direct_effect_on_target(weights.mT, share, target_index)


def total_effect(weights: Tensor, share: Tensor, target_index: Tensor) -> Tensor:
    """(B, V): change in the target per unit of do(v) in linear SCMs, averaged over environments with shares (B, K).

    It is [(I − W)⁻¹]_{v,target}: the sum over directed paths of the product of their weights (Wright 1921). Zero for a
    variable that is no ancestor of the target, one for the target itself.
    """
    return direct_effect_on_target(total_effects(weights), share, target_index)


def noise_to_signal(noise_variance: Tensor, signal_variance: Tensor, num_parents: Tensor) -> Tensor:
    """(B,): the target's noise variance over Var(target − noise), both in the pooled sources; arguments (B,).

    ∞ for a root, and where the parents never move; 0 where there is no noise.
    """
    silent = (num_parents == 0) | ((signal_variance <= SIGNAL_RTOL * noise_variance) & (noise_variance > 0))
    ratio = torch.where(noise_variance > 0, noise_variance / signal_variance, 0.0)
    return torch.where(silent, torch.inf, ratio)
