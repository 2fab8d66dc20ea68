"""What a careful analyst would compute of a table: risks of frameworks, invariance, distances to the deployment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS, Fold, Linear, Sources, fit_all, leave_one_out, risk, risks
from settx_fast.predictor.frameworks.invariant import LeaveOneOutRisk
from settx_fast.predictor.frameworks.roles import predict_roles
from settx_fast.predictor.frameworks.sources import mixture

FLOOR = 1e-4  # of risks and variances, relative to the target's or a column's variance
BEYOND = 12.0  # no descriptor is larger
LEFT_OUT = 3  # the descriptor of a framework that is the log of its leave-one-source-out risk
COMPARED = [
    FRAMEWORKS.index(name) for name in ("erm", "mean", "stable", "within", "anchor")
]  # whose predictions all others are compared with
TRAITS = (
    "sources",
    "columns",
    "labelled rows",
    "rows of the deployment",
    "rows of the smallest source",
    "mean squared shift of the columns in deployment",
    "greatest squared shift of a column in deployment",
    "mean change of the columns' spread in deployment (log)",
    "greatest change of a column's spread in deployment (log)",
    "mean squared shift of the columns between sources",
    "shift of the columns in deployment over that between sources",
    "share of the target's variance between sources",
    "ERM's error in sample, share of the target's variance",
    "ERM's error in a left-out source, share of the target's variance",
    "ERM's bias in a left-out source",
    "disagreement of the frameworks in deployment",
    "disagreement of the frameworks in the sources",
)


class Descriptors(NamedTuple):
    """Of B datasets, float32: frameworks (B, F, ·), columns (B, p, ·), sources (B, K, ·), dataset (B, len(TRAITS)).

    is_column (B, p) and is_source (B, K) bool say which there are. Nothing depends on units, signs, or, but for the
    order of rows of these tensors, on the order of columns and sources. Lengths are logarithms or inverse hyperbolic
    sines. unit (B,) float64 is the target's standard deviation over the source rows: risks are in its square.
    """

    frameworks: Tensor
    columns: Tensor
    sources: Tensor
    dataset: Tensor
    is_column: Tensor
    is_source: Tensor
    unit: Tensor


class Fits(NamedTuple):
    """All frameworks on B datasets and on these without each source; in_sample and left_out (B, K, F) are risks.

    Where there is one source nothing can be left out, and left_out is in_sample.
    """

    sources: Sources
    fold: Fold
    whole: Linear
    left: Linear
    in_sample: Tensor
    left_out: Tensor


def fits_of(sources: Sources) -> Fits:
    """Fit every framework on standardised `sources`, whole and leave-one-source-out."""
    fold = leave_one_out(sources)
    whole = fit_all(sources)
    several = sources.is_there.sum(1, keepdim=True) > 1
    left = _fit_some(fold.sources, torch.nonzero((sources.is_there & several).flatten()).flatten())
    each = Linear(whole.coefficients[:, None], whole.intercept[:, None])
    in_sample = risk(each, sources.mean[:, :, None], sources.covariance[:, :, None])
    left_out = risks(left, fold.mean, fold.covariance) * fold.unit.square()[:, None]
    left_out = torch.where(several[..., None], left_out.unflatten(0, sources.rows.shape), in_sample)
    return Fits(sources, fold, whole, left, in_sample, left_out)


def _fit_some(sources: Sources, index: Tensor) -> Linear:
    """All frameworks on the datasets at index; zero on the others."""
    sets, columns = sources.present.shape
    found = Linear(
        sources.mean.new_zeros(sets, len(FRAMEWORKS), columns), sources.mean.new_zeros(sets, len(FRAMEWORKS))
    )
    if len(index):
        for whole, part in zip(found, fit_all(sources.part(index)), strict=True):
            whole.index_copy_(0, index, part)
    return found


def describe(fits: Fits) -> Descriptors:
    """The descriptors of fitted datasets."""
    sources = fits.sources
    parts = (_of_frameworks(fits), _of_columns(fits), _of_sources(fits), _of_datasets(fits))
    frameworks, columns, each, dataset = (_tame(part) for part in parts)
    there, present = sources.is_there, sources.present
    columns, each = columns * present[..., None], each * there[..., None]
    return Descriptors(frameworks, columns, each, dataset, present, there, sources.scale[:, -1])


def _of_frameworks(fits: Fits) -> Tensor:
    sources, erm = fits.sources, FRAMEWORKS.index("erm")
    inside, outside = _log(fits.in_sample), _log(fits.left_out)
    against = outside - outside[..., erm : erm + 1]
    average_in, average_out = _log(_mean(fits.in_sample, sources)), _log(_mean(fits.left_out, sources))
    level = _levels(fits.whole, sources).square()  # (B, K, F)
    missed = (fits.left_out.clamp(min=FLOOR), _left_out_levels(fits).square())
    residual = fits.in_sample[..., erm : erm + 1].mean(1).clamp(min=FLOOR)
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    there, here = _gaps(fits.whole, *_deployed(sources)), _gaps(fits.whole, mean[:, :-1], covariance[:, :-1, :-1])
    return torch.stack(
        [
            average_in,
            _top(inside, sources),
            _spread(inside, sources),
            average_out,
            _top(outside, sources),
            _spread(outside, sources),
            _mean(outside, sources),
            average_out - average_in,
            average_out - average_out[:, erm : erm + 1],
            _mean(against, sources),
            _top(against, sources),
            -_top(-against, sources),
            _spread(against, sources),
            _log(_mean(level, sources)),
            _log(_mean(missed[1], sources)) - average_out,
            _log(_mean((missed[0] - missed[1]), sources)),
            _shift(fits, sources) / residual.sqrt(),
            _log(there.variance) - _log(here.variance),
            *(_log(there.between[..., g] / residual) for g in COMPARED),
            *(_log(here.between[..., g] / residual) for g in COMPARED),
            (fits.whole.coefficients != 0).sum(-1) / sources.present.sum(1, keepdim=True).clamp(min=1),
            fits.whole.coefficients.square().sum(-1).asinh(),
        ],
        -1,
    )


class _Gaps(NamedTuple):
    """Under one distribution of the features: variance (B, F) of predictions, mean squared differences (B, F, F)."""

    variance: Tensor
    between: Tensor


def _gaps(linear: Linear, mean: Tensor, covariance: Tensor) -> _Gaps:
    level = (linear.coefficients * mean[:, None]).sum(-1) + linear.intercept
    joint = linear.coefficients @ covariance @ linear.coefficients.mT
    variance = joint.diagonal(dim1=-2, dim2=-1)
    centred = variance[:, :, None] + variance[:, None, :] - 2 * joint
    return _Gaps(variance, (centred + (level[:, :, None] - level[:, None, :]).square()).clamp(min=0.0))


def _deployed(sources: Sources) -> tuple[Tensor, Tensor]:
    """The features' moments in deployment; those of the pooled sources where no row is known."""
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    known = sources.has_deployment
    return (
        torch.where(known[:, None], sources.deploy_mean, mean[:, :-1]),
        torch.where(known[:, None, None], sources.deploy_covariance, covariance[:, :-1, :-1]),
    )


def _shift(fits: Fits, sources: Sources) -> Tensor:
    mean, _ = _deployed(sources)
    return (fits.whole.coefficients * mean[:, None]).sum(-1).abs()


def _levels(linear: Linear, sources: Sources) -> Tensor:
    """Mean residual (B, K, F) in every source."""
    predicted = sources.mean[..., :-1] @ linear.coefficients.mT + linear.intercept[:, None]
    return sources.mean[..., -1:] - predicted


def _left_out_levels(fits: Fits) -> Tensor:
    fold, left = fits.fold, fits.left
    predicted = (left.coefficients * fold.mean[:, None, :-1]).sum(-1) + left.intercept
    return ((fold.mean[:, -1:] - predicted) * fold.unit[:, None]).unflatten(0, fits.sources.rows.shape)


def _of_columns(fits: Fits) -> Tensor:
    sources = fits.sources
    roles = predict_roles(sources)
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    within = sources.within
    variance = within.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)
    deviation = variance.sqrt()
    each = sources.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)  # (B, K, p + 1)
    place = sources.mean[..., :-1] / deviation[:, None, :-1]
    target_place = (sources.mean[..., -1:] / deviation[:, None, -1:]).expand_as(place)
    there, seen = _deployed(sources)
    shift = (there - mean[:, :-1]).abs() / deviation[:, :-1]
    between = _spread(place, sources)
    slopes, error, own = regressions(sources)
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
            _spread(slopes, sources),
            (_spread(slopes, sources) / _mean(error, sources).clamp(min=1e-6)).log1p(),
            between.asinh(),
            _spread(each[..., :-1].log(), sources),
            shift.asinh(),
            _log(shift) - _log(between),
            _log(seen.diagonal(dim1=-2, dim2=-1) / variance[:, :-1]),
            (stable != 0).double(),
            roles.cause.double(),
            roles.effect.double(),
            roles.blanket.double(),
            (icp != 0).double(),
            (erm.abs() * shift).asinh(),
            ((erm - apart).abs() * shift).asinh(),
            torch.where(several, _log(without) - _log(now)[:, None], 0.0),
            _mean(_centred(place, sources) * _centred(target_place, sources), sources).abs().asinh(),
            _spread(reverse, sources),
            (_spread(reverse, sources) / _mean(reverse, sources).abs().clamp(min=1e-3)).log1p(),
            _mean(own, sources)[:, :-1],
            _mean(own, sources)[:, :-1] - _mean(own, sources)[:, -1:],
            _spread(own, sources)[:, :-1],
        ],
        -1,
    )


def regressions(sources: Sources) -> tuple[Tensor, Tensor, Tensor]:
    """Of the target on all columns in every source, (B, K, p) slopes and standard errors.

    And (B, K, p + 1), for every column the log share of its variance that all others do not explain.
    """
    absent = torch.cat([~sources.present, torch.zeros_like(sources.present[:, :1])], 1).double()
    blur = 1e-3 + absent[:, None] + (~sources.is_there).double()[..., None]
    precision = torch.linalg.inv(sources.covariance + torch.diag_embed(blur))
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    slopes = -precision[..., :-1, -1] / diagonal[..., -1:]
    unexplained = diagonal.reciprocal()
    gram = torch.linalg.inv(sources.covariance[..., :-1, :-1] + torch.diag_embed(blur[..., :-1]))
    freedom = (sources.rows[..., None] - sources.present.sum(1)[:, None, None] - 1).clamp(min=1.0)
    error = (gram.diagonal(dim1=-2, dim2=-1) * unexplained[..., -1:] / freedom).clamp(min=0.0).sqrt()
    total = sources.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)
    return slopes, error, _log(unexplained / total)


def _of_sources(fits: Fits) -> Tensor:
    sources = fits.sources
    outside = _log(fits.left_out)
    against = outside - outside[..., :1]
    rest = fits.fold.sources
    shape = sources.rows.shape
    left = _distance(fits.fold.mean[:, :-1], fits.fold.covariance[:, :-1, :-1], *_pooled_features(rest), rest.present)
    there, seen = (tensor[:, None] for tensor in _deployed(sources))
    deployed = _distance(
        sources.mean[..., :-1], sources.covariance[..., :-1, :-1], there, seen, sources.present[:, None]
    )
    erm = FRAMEWORKS.index("erm")
    parts = [
        sources.share,
        sources.rows.clamp(min=1.0).log() / 3,
        _log(fits.in_sample[..., erm]),
        outside[..., erm],
        _levels(fits.whole, sources)[..., erm].abs(),
        _left_out_levels(fits)[..., erm].abs().asinh(),
        sources.mean[..., -1].abs(),
        _log(sources.covariance[..., -1, -1]),
        *(part.unflatten(0, shape) for part in left),
        *deployed,
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


def _of_datasets(fits: Fits) -> Tensor:
    sources, erm = fits.sources, FRAMEWORKS.index("erm")
    present, number = sources.present, sources.present.sum(1).clamp(min=1)
    there, seen = _deployed(sources)
    within = sources.within.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)
    shift = there.square() / within[:, :-1] * present
    spread = (seen.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR) / within[:, :-1]).log().abs() * present
    between = (_mean(sources.mean[..., :-1].square(), sources) / within[:, :-1] * present).sum(1) / number
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    residual = _log(_mean(fits.in_sample, sources))[:, erm]
    gaps = (_gaps(fits.whole, there, seen), _gaps(fits.whole, mean[:, :-1], covariance[:, :-1, :-1]))
    apart = [_log(gap.between.mean((1, 2))) - residual for gap in gaps]
    return torch.stack(
        [
            sources.is_there.sum(1).double().log(),
            number.double().log(),
            sources.rows.sum(1).log(),
            sources.deploy_rows.log1p(),
            sources.rows.masked_fill(~sources.is_there, torch.inf).amin(1).log(),
            (shift.sum(1) / number).asinh(),
            shift.amax(1).asinh(),
            spread.sum(1) / number,
            spread.amax(1),
            between.asinh(),
            _log(shift.sum(1) / number) - _log(between),
            _mean(sources.mean[..., -1].square(), sources),
            residual,
            _log(_mean(fits.left_out, sources))[:, erm],
            _log(_mean(_left_out_levels(fits).square(), sources))[:, erm],
            *apart,
        ],
        -1,
    )


def _log(value: Tensor) -> Tensor:
    return value.clamp(min=FLOOR).log()


def _weights(value: Tensor, sources: Sources) -> Tensor:
    """Equal weights of the sources, of the shape of `value` (B, K, ...)."""
    share = sources.equal_share
    return share.view(*share.shape, *[1] * (value.dim() - 2))


def _mean(value: Tensor, sources: Sources) -> Tensor:
    """(B, K, ...) → (B, ...): over the sources that are there."""
    weights = _weights(value, sources)
    return (value.where(weights > 0, 0.0) * weights).sum(1)


def _centred(value: Tensor, sources: Sources) -> Tensor:
    return value - _mean(value, sources)[:, None]


def _spread(value: Tensor, sources: Sources) -> Tensor:
    """Standard deviation over the sources."""
    return _mean(_centred(value, sources).square(), sources).sqrt()


def _top(value: Tensor, sources: Sources) -> Tensor:
    return value.where(_weights(value, sources) > 0, -torch.inf).amax(1)


def _tame(value: Tensor) -> Tensor:
    return value.nan_to_num(0.0, BEYOND, -BEYOND).clamp(-BEYOND, BEYOND).float()
