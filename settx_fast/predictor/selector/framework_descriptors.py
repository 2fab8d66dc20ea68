"""Descriptors of frameworks: their risks in sample and left out, and what to expect of them in deployment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS, Linear
from settx_fast.predictor.frameworks.sources import mixture
from settx_fast.predictor.selector.across import FLOOR, deployed, log, mean_over, regressions, spread_over, top
from settx_fast.predictor.selector.fits import Fits

LEFT_OUT = 3  # the descriptor that is the log of the leave-one-source-out risk
COMPARED = [
    FRAMEWORKS.index(name) for name in ("erm", "mean", "stable", "within", "anchor")
]  # whose predictions in the sources all others are compared with


def of_frameworks(fits: Fits) -> Tensor:
    """(B, F, ·)."""
    sources, erm = fits.sources, FRAMEWORKS.index("erm")
    inside, outside = log(fits.in_sample), log(fits.left_out)
    against = outside - outside[..., erm : erm + 1]
    average_in, average_out = log(mean_over(fits.in_sample, sources)), log(mean_over(fits.left_out, sources))
    level = fits.levels.square()  # (B, K, F)
    missed = (fits.left_out.clamp(min=FLOOR), fits.left_out_levels.square())
    residual = fits.in_sample[..., erm : erm + 1].mean(1).clamp(min=FLOOR)
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    moved = deployed(sources)
    there, here = gaps(fits.whole, *moved), gaps(fits.whole, mean[:, :-1], covariance[:, :-1, :-1])
    expected = _expected(fits, *moved)
    return torch.stack(
        [
            average_in,
            top(inside, sources),
            spread_over(inside, sources),
            average_out,
            top(outside, sources),
            spread_over(outside, sources),
            mean_over(outside, sources),
            average_out - average_in,
            average_out - average_out[:, erm : erm + 1],
            mean_over(against, sources),
            top(against, sources),
            -top(-against, sources),
            spread_over(against, sources),
            log(mean_over(level, sources)),
            log(mean_over(missed[1], sources)) - average_out,
            log(mean_over((missed[0] - missed[1]), sources)),
            (fits.whole.coefficients * moved[0][:, None]).sum(-1).abs() / residual.sqrt(),
            log(there.variance) - log(here.variance),
            *log(there.between / residual[..., None]).unbind(-1),
            *(log(here.between[..., g] / residual) for g in COMPARED),
            (fits.whole.coefficients != 0).sum(-1) / sources.present.sum(1, keepdim=True).clamp(min=1),
            fits.whole.coefficients.square().sum(-1).asinh(),
            mean_over(expected, sources),
            top(expected, sources),
            -top(-expected, sources),
        ],
        -1,
    )


class Gaps(NamedTuple):
    """Under one distribution of the features: variance (B, F) of predictions, mean squared differences (B, F, F)."""

    variance: Tensor
    between: Tensor


def gaps(linear: Linear, mean: Tensor, covariance: Tensor) -> Gaps:
    """Between the predictions of the frameworks."""
    level = (linear.coefficients * mean[:, None]).sum(-1) + linear.intercept
    joint = linear.coefficients @ covariance @ linear.coefficients.mT
    variance = joint.diagonal(dim1=-2, dim2=-1)
    apart = variance[:, :, None] + variance[:, None, :] - 2 * joint
    return Gaps(variance, (apart + (level[:, :, None] - level[:, None, :]).square()).clamp(min=0.0))


def _expected(fits: Fits, mean: Tensor, covariance: Tensor) -> Tensor:
    """(B, K, F): log risk in deployment if the target were related to the columns there as it is in one source."""
    sources = fits.sources
    relation = regressions(sources)
    level = sources.mean[..., -1] - (relation.slopes * sources.mean[..., :-1]).sum(-1)
    apart = fits.whole.coefficients[:, None] - relation.slopes[:, :, None]  # (B, K, F, p)
    bias = (apart * mean[:, None, None]).sum(-1) + fits.whole.intercept[:, None] - level[..., None]
    spread = ((apart @ covariance[:, None]) * apart).sum(-1)
    return log(relation.unexplained[..., -1:] + spread.clamp(min=0.0) + bias.square())
