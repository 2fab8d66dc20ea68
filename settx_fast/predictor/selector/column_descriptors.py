"""Descriptors of columns: how each is related to the target, and what of that moves."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS, Sources
from settx_fast.predictor.frameworks.invariant import LeaveOneOutRisk
from settx_fast.predictor.frameworks.linear import masked_system, row_ridge
from settx_fast.predictor.frameworks.roles import predict_roles
from settx_fast.predictor.frameworks.sources import mixture
from settx_fast.predictor.selector.across import (
    FLOOR,
    blurred,
    centred,
    deployed,
    log,
    mean_over,
    regressions,
    spread_over,
)
from settx_fast.predictor.selector.fits import Fits


def of_columns(fits: Fits) -> Tensor:
    """(B, p, ·)."""
    sources = fits.sources
    roles = predict_roles(sources)
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    within = sources.within
    variance = within.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)
    deviation = variance.sqrt()
    each = sources.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)  # (B, K, p + 1)
    place = sources.mean[..., :-1] / deviation[:, None, :-1]
    target_place = (sources.mean[..., -1:] / deviation[:, None, -1:]).expand_as(place)
    there, seen = deployed(sources)
    shift = (there - mean[:, :-1]).abs() / deviation[:, :-1]
    between = spread_over(place, sources)
    slopes, error, unexplained = regressions(sources)
    own = log(unexplained / each)
    reverse = sources.covariance[..., :-1, -1] / each[..., -1:]
    erm, stable, apart, icp = (
        fits.whole.coefficients[:, FRAMEWORKS.index(n)] for n in ("erm", "stable", "within", "icp")
    )
    now, without = LeaveOneOutRisk(sources, 1.0).without_each(sources.present)
    several = (sources.is_there.sum(1) > 1)[:, None]
    return torch.stack(
        [
            covariance[:, :-1, -1].abs(),
            (within[:, :-1, -1] / (deviation[:, :-1] * deviation[:, -1:])).abs(),
            roles.statistic.log1p(),
            erm.abs(),
            apart.abs(),
            (erm - apart).abs(),
            (erm * apart).sign(),
            spread_over(slopes, sources),
            (spread_over(slopes, sources) / mean_over(error, sources).clamp(min=1e-6)).log1p(),
            between.asinh(),
            spread_over(each[..., :-1].log(), sources),
            shift.asinh(),
            log(shift) - log(between),
            log(seen.diagonal(dim1=-2, dim2=-1) / variance[:, :-1]),
            (stable != 0).double(),
            roles.cause.double(),
            roles.effect.double(),
            roles.blanket.double(),
            (icp != 0).double(),
            (erm.abs() * shift).asinh(),
            ((erm - apart).abs() * shift).asinh(),
            torch.where(several, log(without) - log(now)[:, None], 0.0),
            mean_over(centred(place, sources) * centred(target_place, sources), sources).abs().asinh(),
            spread_over(reverse, sources),
            (spread_over(reverse, sources) / mean_over(reverse, sources).abs().clamp(min=1e-3)).log1p(),
            mean_over(own, sources)[:, :-1],
            mean_over(own, sources)[:, :-1] - mean_over(own, sources)[:, -1:],
            spread_over(own, sources)[:, :-1],
            *_given_others(sources),
            *_on_the_guess(sources),
            *_coefficients(fits, covariance[:, :-1, -1].sign()).unbind(1),
        ],
        -1,
    )


def _given_others(sources: Sources) -> list[Tensor]:
    """(B, p) each: what of a column the others do not explain, how its mean and spread move: which mechanism does.

    Without the target, in deployment and between sources; then, with it, between sources.
    """
    within, there = sources.within, deployed(sources)
    alone = _unexplained(
        within[:, :-1, :-1], ~sources.present, sources.mean[..., :-1], sources.covariance[..., :-1, :-1]
    )
    seen = _unexplained(within[:, :-1, :-1], ~sources.present, there[0][:, None], there[1][:, None])
    absent = torch.cat([~sources.present, torch.zeros_like(sources.present[:, :1])], 1)
    beside = _unexplained(within, absent, sources.mean, sources.covariance)
    between, shift = spread_over(alone[0], sources), seen[0][:, 0].abs()
    return [
        shift.asinh(),
        between.asinh(),
        log(shift) - log(between),
        seen[1][:, 0],
        spread_over(alone[1], sources),
        spread_over(beside[0], sources)[:, :-1].asinh(),
        spread_over(beside[1], sources)[:, :-1],
    ]


def _on_the_guess(sources: Sources) -> list[Tensor]:
    """(B, p) each: how a column moves with what ERM on all others makes of the target, which needs no label.

    An effect of the target whose slope moves in deployment moves less, or more, with it there than in the sources.
    """
    _, covariance = mixture(sources.mean, sources.covariance, sources.share)
    gram, cross = masked_system(covariance, sources.present, row_ridge(sources, 1.0) + FLOOR)
    inverse = torch.linalg.inv(gram)
    every = (inverse @ cross[..., None]).squeeze(-1)
    step = every / inverse.diagonal(dim1=-2, dim2=-1)
    others = every[:, None] - step[..., None] * inverse  # (B, p, p): row j without column j
    there, seen = deployed(sources)
    slope = _slope_on(others, sources.covariance[..., :-1, :-1])
    moved, usual = _slope_on(others, seen[:, None])[:, 0], mean_over(slope, sources)
    level = sources.mean[..., :-1] - usual[:, None] * (sources.mean[..., :-1] @ others.mT)
    off = there - usual * (others @ there[..., None]).squeeze(-1)
    sign = cross.sign()
    return [
        (usual * sign).asinh(),
        (moved * sign).asinh(),
        (moved - usual).abs().asinh(),
        spread_over(slope, sources).asinh(),
        off.abs().asinh(),
        spread_over(level, sources).asinh(),
    ]


def _slope_on(guess: Tensor, covariance: Tensor) -> Tensor:
    """(B, K, p): of each column on a guess of its own, (B, p, p) a row each, under K covariances (B, K, p, p)."""
    with_columns = guess[:, None] @ covariance
    variance = (with_columns * guess[:, None]).sum(-1)
    return with_columns.diagonal(dim1=-2, dim2=-1) / variance.clamp(min=FLOOR)


def _unexplained(within: Tensor, absent: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Under K distributions, means (B, K, n) and log variances of each column's residual given all others.

    The regressions are those of `within` (B, n, n), the unit is the residual's deviation there.
    """
    precision = torch.linalg.inv(blurred(within, absent))[:, None]
    unit = precision.diagonal(dim1=-2, dim2=-1)
    level = (precision @ mean[..., None]).squeeze(-1) / unit.sqrt()
    return level, log((precision * (precision @ covariance)).sum(-1) / unit)


def _coefficients(fits: Fits, sign: Tensor) -> Tensor:
    """(B, F, p): every framework's, positive where they go with the correlation."""
    return (fits.whole.coefficients * sign[:, None]).asinh()
