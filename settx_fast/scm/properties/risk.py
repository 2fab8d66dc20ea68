"""What three frameworks, fitted on the pooled sources, risk in the target environment."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.scm.properties.graph import children, is_target, parents, present
from settx_fast.scm.properties.moments import Moments, at_target

FRAMEWORKS = ("erm", "causal", "anticausal")
"""Least squares on all visible features; on the parents; on parents and children."""

PINV_RTOL = 1e-12


def framework_features(adjacency: Tensor, target_index: Tensor, num_variables: Tensor) -> Tensor:
    """(B, 3, V) bool: the features that each of `FRAMEWORKS` uses (all; parents; parents and children)."""
    width = adjacency.shape[1]
    everything = present(num_variables, width) & ~is_target(target_index, width)
    causes = parents(adjacency, target_index)
    return torch.stack([everything, causes, causes | children(adjacency, target_index)], 1)


def least_squares(source: Moments, target_index: Tensor, features: Tensor) -> Tensor:
    """(B, F, V) population coefficients of the target on each of F feature sets (B, F, V); zero off the set.

    Collinear features get the solution of least norm in standardised units, a constant the coefficient 0.
    """
    deviation = source.variance.sqrt()
    scale = torch.where(deviation > 0, deviation.reciprocal(), 0.0)
    used = features * scale[:, None, :]  # (B, F, V)
    gram = used[..., :, None] * source.covariance[:, None] * used[..., None, :]
    cross = used * at_target(source.covariance, target_index)[:, None, :]
    inverse = torch.linalg.pinv(gram, rtol=PINV_RTOL, hermitian=True)
    return used * (inverse @ cross[..., None]).squeeze(-1)


def risk(source: Moments, target: Moments, adjacency: Tensor, target_index: Tensor, num_variables: Tensor) -> Tensor:
    """(B, 3) mean squared error in the target environment of `FRAMEWORKS`, units of the target squared.

    Least squares with intercept, fitted on the source moments (B, V), so with residual y − ŷ = rᵀ(x − μ_s) where
    r = e_target − coefficients, and risk rᵀ(Σ_t + δδᵀ)r with δ = μ_t − μ_s. A framework without features predicts the
    source mean. With parents known, unchanged noise and an unchanged mechanism the causal risk is the noise variance,
    whatever else changes (Peters, Bühlmann and Meinshausen 2016, arXiv:1501.01332).
    """
    features = framework_features(adjacency, target_index, num_variables)
    target_itself = is_target(target_index, adjacency.shape[1])[:, None].double()
    residual = target_itself - least_squares(source, target_index, features)  # (B, 3, V)
    bias = (residual * (target.mean - source.mean)[:, None]).sum(2)
    variance = (residual * (residual @ target.covariance)).sum(2)
    return (variance + bias.square()).clamp_min(0.0)


def chain_anticausal_wins(
    gamma: Tensor | float, epsilon: Tensor | float, eta_source: Tensor | float, eta_target: Tensor | float
) -> Tensor:
    """Bool: does anticausal ERM beat causal ERM on the chain, in the target environment? Arguments broadcast.

    The chain is X → Y → Z with X ~ N(0, 1) in the source, Y = αX + εn, Z = γY + ηm, and independent standard normal n
    and m. In the target environment η changes from η_s to η_t, and X may have any distribution.

    *Causal ERM* regresses Y on X. The source gives the coefficient α, the residual is εn, and the risk in the target
    environment is R_causal = ε².

    *Anticausal ERM* regresses Y on X and Z. Given X, what is left of Y is εn and what is left of Z is γεn + η_s m. So
    Z has the coefficient b = γε² / s, with s = γ²ε² + η_s², and X has a = α − bγα = α(1 − bγ). In the target
    environment

        Y − aX − bZ = αX + εn − α(1 − bγ)X − b(γαX + γεn + η_t m) = (1 − bγ)εn − bη_t m,

    where X has cancelled: neither α nor the shift of X matters. With 1 − bγ = η_s² / s,

        R_anticausal = (1 − bγ)²ε² + b²η_t² = ε² (η_s⁴ + γ²ε²η_t²) / s².

    It is below ε² if and only if η_s⁴ + γ²ε²η_t² < (γ²ε² + η_s²)², that is, for γε ≠ 0,

        η_t² < γ²ε² + 2η_s².

    So the effect helps as long as its own noise does not grow too far beyond what the source showed; a regression that
    saw much of it (large η_s) trusts Z less and forgives more. Where γε = 0 both risks are ε² and neither wins.

    Arguments and result have any shape (...) that broadcasts.
    """
    parameters = (gamma, epsilon, eta_source, eta_target)
    gamma, epsilon, eta_source, eta_target = (torch.as_tensor(p, dtype=torch.float64) for p in parameters)
    effect = (gamma * epsilon).square()
    return (effect > 0) & (eta_target.square() < effect + 2 * eta_source.square())
