"""How far a sort by variance, or by explained variance, finds the causal order."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.scm.properties.moments import Moments

TIE_RTOL = 1e-9
RIDGE = 1e-12  # keeps a singular correlation matrix invertible; an exact dependence still reads as R² = 1


def order_alignment(adjacency: Tensor, score: Tensor) -> Tensor:
    """(B,) share of the directed paths that lead from a lower to a higher score (Reisach et al. 2021, equation 1).

    adjacency (B, V, V) bool, score (B, V) ≥ 0. A pair of variables counts once for every length of path between them; a
    tie, up to rounding, counts one half. A graph without edges has no order to find: 1/2.
    """
    low, high = score[:, :, None], score[:, None, :]
    tie = (high - low).abs() <= TIE_RTOL * torch.maximum(low, high)
    aligned = torch.where(tie, 0.5, (high > low).double())
    edge = adjacency.double()
    path, found, total = edge, torch.zeros_like(edge), torch.zeros_like(edge)
    for _ in range(adjacency.shape[1] - 1):
        total = total + path
        found = found + path * aligned
        path = (path @ edge).clamp_max(1.0)
        if not path.any():
            break
    paths = total.sum((1, 2))
    return torch.where(paths > 0, found.sum((1, 2)) / paths.clamp_min(1.0), 0.5)


def r_squared(source: Moments) -> Tensor:
    """(B, V): share of every variable's variance that a linear regression on all the others explains.

    One minus the reciprocal of the inverse correlation matrix's diagonal. 0 for a constant, 1 for a variable that the
    others determine.
    """
    deviation = source.variance.sqrt()  # (B, V)
    scale = torch.where(deviation > 0, deviation.reciprocal(), 0.0)
    correlation = scale[:, :, None] * source.covariance * scale[:, None, :]
    loading = torch.where(deviation > 0, RIDGE, 1.0)
    precision = torch.linalg.inv(correlation + torch.diag_embed(loading))
    return 1.0 - precision.diagonal(dim1=1, dim2=2).reciprocal().clamp(0.0, 1.0)


def varsortability(adjacency: Tensor, source: Moments) -> Tensor:
    """(B,): `order_alignment` of the marginal variances (Reisach et al. 2021, arXiv:2102.13647)."""
    return order_alignment(adjacency, source.variance)


def r2_sortability(adjacency: Tensor, source: Moments) -> Tensor:
    """(B,): `order_alignment` of `r_squared`, free of units (Reisach et al. 2023, arXiv:2303.18211)."""
    return order_alignment(adjacency, r_squared(source))
