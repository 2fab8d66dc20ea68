"""Which columns are causes or effects of the target, as far as second moments say."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast.predictor.frameworks.sources import Sources

SIGNIFICANT = 2.5758  # a two-sided 1 % test of a partial correlation
BLUR = 1e-6  # added to variances of 1, so that collinear columns have an inverse


class Roles(NamedTuple):
    """(B, p) each: bool, the column is a cause, an effect, in the Markov blanket; and Fisher's z of that test."""

    cause: Tensor
    effect: Tensor
    blanket: Tensor
    statistic: Tensor


def predict_roles(sources: Sources) -> Roles:
    """Roles from covariances within the sources, which shifts do not enter.

    The blanket: columns whose partial correlation with the target, given all others, is not zero (Fisher's z). Of
    these a column is a cause if less of it than of the target is explained by all other columns, and an effect
    otherwise: R²-sortability (Reisach et al. 2023, arXiv:2303.18211), where the causal order is that of R². Effects
    that are not correlated with the target by themselves are spouses: in the blanket, neither cause nor effect.
    """
    within = sources.within
    variance = within.diagonal(dim1=-2, dim2=-1)
    there = torch.cat([sources.present, torch.ones_like(sources.present[:, :1])], 1) & (variance > BLUR)
    unit = torch.where(there, variance, 1.0).rsqrt() * there
    correlation = within * unit[:, :, None] * unit[:, None, :]
    correlation = correlation + torch.diag_embed(torch.where(there, BLUR, 1.0).double())
    precision = torch.linalg.inv(correlation)
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    unexplained = diagonal.reciprocal()  # 1 − R²
    partial = -precision[:, :-1, -1] * (unexplained[:, :-1] * unexplained[:, -1:]).sqrt()
    freedom = (sources.rows.sum(1) - sources.is_there.sum(1) - sources.present.sum(1) - 2).clamp(min=1.0)
    statistic = _fisher(partial, freedom)
    blanket = (statistic > SIGNIFICANT) & there[:, :-1]
    is_cause = unexplained[:, :-1] > unexplained[:, -1:]
    is_related = _fisher(correlation[:, :-1, -1], freedom + sources.present.sum(1)) > SIGNIFICANT
    return Roles(blanket & is_cause & is_related, blanket & ~is_cause & is_related, blanket, statistic)


def _fisher(correlation: Tensor, freedom: Tensor) -> Tensor:
    """|z| of correlations (B, p) with freedom (B,): standard normal where there is none."""
    return correlation.clamp(-1 + 1e-12, 1 - 1e-12).atanh().abs() * freedom[:, None].sqrt()
