"""Statistics over the sources of a dataset, of whatever is known of each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import Sources
from settx_fast.predictor.frameworks.sources import mixture

FLOOR = 1e-4  # of risks and variances, relative to the target's or a column's variance


def log(value: Tensor) -> Tensor:
    """The logarithm of what is positive, not below that of `FLOOR`."""
    return value.clamp(min=FLOOR).log()


def _shares(value: Tensor, sources: Sources) -> Tensor:
    """Equal weights of the sources, of the shape of `value` (B, K, ...)."""
    share = sources.equal_share
    return share.view(*share.shape, *[1] * (value.dim() - 2))


def mean_over(value: Tensor, sources: Sources) -> Tensor:
    """(B, K, ...) → (B, ...): over the sources that are there."""
    shares = _shares(value, sources)
    return (value.where(shares > 0, 0.0) * shares).sum(1)


def centred(value: Tensor, sources: Sources) -> Tensor:
    """Less the mean over the sources."""
    return value - mean_over(value, sources)[:, None]


def spread_over(value: Tensor, sources: Sources) -> Tensor:
    """Standard deviation over the sources."""
    return mean_over(centred(value, sources).square(), sources).sqrt()


def top(value: Tensor, sources: Sources) -> Tensor:
    """The greatest of the sources."""
    return value.where(_shares(value, sources) > 0, -torch.inf).amax(1)


def deployed(sources: Sources) -> tuple[Tensor, Tensor]:
    """The features' moments in deployment; those of the pooled sources where no row is known."""
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    known = sources.has_deployment
    return (
        torch.where(known[:, None], sources.deploy_mean, mean[:, :-1]),
        torch.where(known[:, None, None], sources.deploy_covariance, covariance[:, :-1, :-1]),
    )


class Regressions(NamedTuple):
    """In every source, of the target on all columns: slopes and their standard errors (B, K, p).

    unexplained (B, K, p + 1): of every column and the target, the variance that all others do not explain.
    """

    slopes: Tensor
    error: Tensor
    unexplained: Tensor


def regressions(sources: Sources) -> Regressions:
    """Of every source by itself."""
    precision = torch.linalg.inv(blurred(sources.covariance, _absent(sources)[:, None]))
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    unexplained = diagonal.reciprocal()
    gram = torch.linalg.inv(blurred(sources.covariance[..., :-1, :-1], ~sources.present[:, None]))
    freedom = (sources.rows[..., None] - sources.present.sum(1)[:, None, None] - 1).clamp(min=1.0)
    error = (gram.diagonal(dim1=-2, dim2=-1) * unexplained[..., -1:] / freedom).clamp(min=0.0).sqrt()
    return Regressions(-precision[..., :-1, -1] / diagonal[..., -1:], error, unexplained)


def blurred(covariance: Tensor, absent: Tensor) -> Tensor:
    """With an inverse, whatever is collinear or absent (..., n)."""
    return covariance + torch.diag_embed(1e-3 + absent.double())


def _absent(sources: Sources) -> Tensor:
    return torch.cat([~sources.present, torch.zeros_like(sources.present[:, :1])], 1)
