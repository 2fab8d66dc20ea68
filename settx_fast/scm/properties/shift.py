"""How far the target environment's distribution is from the sources'."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.scm.properties.moments import CONSTANT_RTOL, Moments

RESOLUTION = 1e-8  # variance, in units of the variable's spread, with which every variable is read


def shift_decomposition(source: Moments, target: Moments, target_index: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) covariate shift and (B,) mechanism shift in nats, between Gaussians with the given moments (B, V).

    KL(P_t(X, Y) ‖ P_s(X, Y)) = KL(P_t(X) ‖ P_s(X)) + E_{x∼t} KL(P_t(Y∣x) ‖ P_s(Y∣x)), Y the variable at target_index
    (B,), X all the others: the chain rule of relative entropy (Cover and Thomas 2006, theorem 2.5.3). For mixtures and
    for noise that is not Gaussian these are the divergences of the moment-matched Gaussians.

    Point masses (a hard intervention) would make both infinite. So both distributions are read with an independent
    error of variance 1e-8 · (Var_s + Var_t + squared difference of means) of the variable: a feature frozen in the
    target environment costs about ½ ln 1e8 ≈ 9 nats, one frozen in the sources alone up to 1e8. A variable that is the
    same constant on both sides costs nothing.
    """
    last = _target_last(target_index, source.mean.shape[1])
    gap = target.mean - source.mean
    spread = source.variance + target.variance + gap.square()
    constant = spread <= CONSTANT_RTOL * (source.mean.square() + target.mean.square())
    scale = torch.where(constant, 0.0, spread.rsqrt())
    factor_s = _factor(source.covariance, scale, last)
    factor_t = _factor(target.covariance, scale, last)
    gap = (scale * gap).gather(1, last)
    seen = torch.linalg.solve_triangular(factor_s, torch.cat([factor_t, gap[..., None]], 2), upper=False)
    ratio = factor_s.diagonal(dim1=1, dim2=2) / factor_t.diagonal(dim1=1, dim2=2)
    step = 0.5 * (seen.square().sum(2) - 1.0) + ratio.log()  # (B, V): KL of each variable given those before it
    return step[:, :-1].sum(1).clamp_min(0.0), step[:, -1].clamp_min(0.0)


def covariate_shift(source: Moments, target: Moments, target_index: Tensor) -> Tensor:
    """(B,) KL(P_target(X) ‖ P_source(X)) of the features, nats; see `shift_decomposition`."""
    return shift_decomposition(source, target, target_index)[0]


def mechanism_shift(source: Moments, target: Moments, target_index: Tensor) -> Tensor:
    """(B,) E_{x∼target} KL(P_target(Y∣x) ‖ P_source(Y∣x)), nats; see `shift_decomposition`."""
    return shift_decomposition(source, target, target_index)[1]


def _target_last(target_index: Tensor, width: int) -> Tensor:
    """(B, V) permutation that exchanges the target with the last column."""
    order = torch.arange(width, device=target_index.device).repeat(len(target_index), 1)
    order.scatter_(1, target_index[:, None], width - 1)
    order[:, -1] = target_index
    return order


def _factor(covariance: Tensor, scale: Tensor, order: Tensor) -> Tensor:
    """Cholesky factor (B, V, V) of the scaled, blurred and reordered covariance."""
    error = RESOLUTION * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    blurred = scale[:, :, None] * covariance * scale[:, None, :] + error
    rows = blurred.gather(1, order[:, :, None].expand_as(blurred))
    return torch.linalg.cholesky(rows.gather(2, order[:, None, :].expand_as(blurred)))
