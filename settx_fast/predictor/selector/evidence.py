"""What of a table speaks for one framework or another, in sentences; what could be chance is not told."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy import special, stats
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.frameworks.sources import mixture
from settx_fast.predictor.selector.across import blurred, regressions
from settx_fast.predictor.selector.decision import ERM
from settx_fast.predictor.selector.fits import Fits

STABLE = FRAMEWORKS.index("stable")
LEVEL = 0.001
LEAST_FREEDOM = 4  # of a source's own regression: with fewer its error is hardly known
LEAST_BIAS = 0.05  # share of a risk
LEAST_SHIFT = 0.05  # standard deviations
SHOWN = 5


def evidence(fits: Fits, names: Sequence[str]) -> tuple[str, ...]:
    """Of one dataset: whose relation to the target moves, what was dropped for it, how far off deployment is.

    Every test is at 0.1 %, Bonferroni over columns.
    """
    sentences = []
    several = int(fits.sources.is_there.sum()) > 1
    if several:
        moving = moving_columns(fits)
        sentences.append(
            f"The slope of the target on {_listed(moving, names)} differs between the sources."
            if moving
            else "No column's slope differs clearly between the sources."
        )
    dropped = (fits.whole.coefficients[0, STABLE] == 0) & fits.sources.present[0]
    unstable = torch.nonzero(dropped).flatten().tolist()
    if unstable and _stable_is_better(fits):
        sentences.append(f"Without {_listed(unstable, names)} left-out sources are predicted better.")
    if several and (bias := _bias(fits)) > LEAST_BIAS and _levels_differ(fits):
        sentences.append(
            f"The target's own level moves between the sources: {bias:.0%} of ERM's error in a left-out one is bias."
        )
    if bool(fits.sources.has_deployment):
        sentences.append(_on_deployment(fits, names))
    return tuple(sentences)


def moving_columns(fits: Fits) -> list[int]:
    """Columns whose slope differs between sources, the most certain first; of a batch of one dataset.

    Welch's test (1951, Biometrika 38), the slopes in place of means, over sources that have rows enough.
    """
    sources = fits.sources
    freedom = sources.rows[0] - sources.present.sum() - 1
    used = freedom >= LEAST_FREEDOM
    number = int(used.sum())
    if number < 2:
        return []
    slopes, error, _ = regressions(sources)
    slopes, weight = slopes[0][used], error[0][used].clamp(min=1e-9).square().reciprocal()
    share = weight / weight.sum(0)
    spread = (weight * (slopes - (share * slopes).sum(0)).square()).sum(0) / (number - 1)
    unsure = ((1 - share).square() / freedom[used][:, None]).sum(0)
    ratio = spread / (1 + 2 * (number - 2) / (number**2 - 1) * unsure)
    p = torch.from_numpy(special.fdtrc(number - 1, ((number**2 - 1) / (3 * unsure)).numpy(), ratio.numpy()))
    p = p * int(sources.present.sum())
    order = ratio.argsort(descending=True).tolist()
    return [column for column in order if p[column] < LEVEL and bool(sources.present[0, column])]


def _stable_is_better(fits: Fits) -> bool:
    """Whether ERM on a stable subset surely has less risk than ERM in sources that are left out.

    By the differences of squared residuals in each, whose variance is that of a product of normal variables.
    """
    fold, left, there = fits.fold, fits.left, fits.sources.is_there[0]
    residual = torch.cat([-left.coefficients[:, [ERM, STABLE]], torch.ones_like(left.intercept[:, :2, None])], -1)
    mean = (residual * fold.mean[:, None]).sum(-1) - left.intercept[:, [ERM, STABLE]]
    covariance = residual @ fold.covariance @ residual.mT
    mix = mean.new_tensor([[1.0, -1.0], [1.0, 1.0]])  # a² − b² = (a − b)(a + b)
    (less, more), ((a, both), (_, b)) = (mean @ mix.T).T, (mix @ covariance @ mix.T).permute(1, 2, 0)
    variance = a * b + both.square() + less.square() * b + more.square() * a + 2 * less * more * both
    unit = fold.unit.square()
    gain = (unit * (less * more + both))[there].sum()
    error = (unit.square() * variance / fits.sources.rows[0].clamp(min=1.0))[there].sum().sqrt()
    columns = int(fits.sources.present.sum())
    return bool(columns * special.ndtr(float(-gain / error.clamp(min=1e-300))) < LEVEL)


def _bias(fits: Fits) -> float:
    """Share of ERM's leave-one-source-out risk that is bias."""
    there = fits.sources.is_there[0]
    return float(fits.left_out_levels[0, there, ERM].square().mean() / fits.left_out[0, there, ERM].mean())


def _levels_differ(fits: Fits) -> bool:
    """The F test of an intercept for every source beside one for all, the slopes being the same in all."""
    sources = fits.sources
    _, pooled = mixture(sources.mean, sources.covariance, sources.share)
    alike, apart = (_unexplained(covariance, sources.present) for covariance in (pooled, sources.within))
    groups, rows = int(sources.is_there.sum()), int(sources.rows.sum())
    freedom = rows - groups - int(sources.present.sum())
    if freedom < LEAST_FREEDOM:
        return False
    ratio = (alike / apart - 1) * freedom / (groups - 1)
    return bool(special.fdtrc(groups - 1, freedom, ratio) < LEVEL)


def _unexplained(covariance: Tensor, present: Tensor) -> float:
    """The variance of the target that all columns do not explain; of a batch of one."""
    gram = blurred(covariance[..., :-1, :-1], ~present)
    cross = covariance[..., :-1, -1:]
    return float(covariance[..., -1, -1] - (cross.mT @ torch.linalg.solve(gram, cross)).squeeze())


def _on_deployment(fits: Fits, names: Sequence[str]) -> str:
    """Means of the deployment beside those of all source rows, by Welch's t test."""
    sources = fits.sources
    shift = sources.deploy_mean[0].abs() * sources.present[0]
    rows, deployed = int(sources.rows.sum()), int(sources.deploy_rows)
    nothing = "No column's mean is clearly another in deployment."
    if deployed < 2:
        return nothing
    spread = (sources.deploy_covariance[0].diagonal() * deployed / (deployed - 1)).sqrt().numpy()
    of_sources = 0.0, (rows / (rows - 1)) ** 0.5, rows  # their own mean and deviation are the unit
    p = stats.ttest_ind_from_stats(*of_sources, shift.numpy(), spread, deployed, equal_var=False).pvalue
    clear = (torch.from_numpy(p) * int(sources.present.sum()) < LEVEL) & (shift > LEAST_SHIFT)
    if not clear.any():
        return nothing
    column = int(shift.where(clear, 0.0).argmax())
    return (
        f"In deployment '{names[column]}' has moved most: its mean by {float(shift[column]):.1f} standard deviations "
        "of the source rows."
    )


def _listed(columns: Sequence[int], names: Sequence[str]) -> str:
    shown = ", ".join(f"'{names[column]}'" for column in columns[:SHOWN])
    return shown if len(columns) <= SHOWN else f"{shown} and {len(columns) - SHOWN} more"
