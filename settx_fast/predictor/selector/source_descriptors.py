"""Descriptors of sources: how frameworks do in each, and how far it is from the others and from the deployment."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS, Sources
from settx_fast.predictor.frameworks.sources import mixture
from settx_fast.predictor.selector.across import FLOOR, deployed, log
from settx_fast.predictor.selector.fits import Fits


def of_sources(fits: Fits) -> Tensor:
    """(B, K, ·)."""
    sources = fits.sources
    outside = log(fits.left_out)
    against = outside - outside[..., :1]
    rest = fits.fold.sources
    shape = sources.rows.shape
    left = _distance(fits.fold.mean[:, :-1], fits.fold.covariance[:, :-1, :-1], *_pooled_features(rest), rest.present)
    there, seen = (tensor[:, None] for tensor in deployed(sources))
    apart = _distance(sources.mean[..., :-1], sources.covariance[..., :-1, :-1], there, seen, sources.present[:, None])
    erm = FRAMEWORKS.index("erm")
    parts = [
        sources.share,
        sources.rows.clamp(min=1.0).log() / 3,
        log(fits.in_sample[..., erm]),
        outside[..., erm],
        fits.levels[..., erm].abs(),
        fits.left_out_levels[..., erm].abs().asinh(),
        sources.mean[..., -1].abs(),
        log(sources.covariance[..., -1, -1]),
        *(part.unflatten(0, shape) for part in left),
        *apart,
    ]
    return torch.cat([torch.stack(parts, -1), against[..., 1:]], -1)


def _pooled_features(sources: Sources) -> tuple[Tensor, Tensor]:
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    return mean[:, :-1], covariance[:, :-1, :-1]


def _distance(
    mean: Tensor, covariance: Tensor, other: Tensor, other_covariance: Tensor, present: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """How far two distributions of the features are apart: in means, in spreads, in correlations; (...) each."""
    here = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)
    there = other_covariance.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)
    number = present.sum(-1).clamp(min=1)
    shift = ((mean - other).square() / (here + there) * present).sum(-1) / number
    spread = ((here / there).log().abs() * present).sum(-1) / number
    correlation = covariance * (here.rsqrt()[..., :, None] * here.rsqrt()[..., None, :])
    difference = correlation - other_covariance * (there.rsqrt()[..., :, None] * there.rsqrt()[..., None, :])
    both = present[..., :, None] & present[..., None, :]
    turn = ((difference.square() * both).sum((-2, -1)) / both.sum((-2, -1)).clamp(min=1)).sqrt()
    return shift.asinh(), spread, turn
