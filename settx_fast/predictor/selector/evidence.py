"""What of a table speaks for one framework or another, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy import special

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector.across import regressions
from settx_fast.predictor.selector.fits import Fits

LEVEL = 0.001
SHOWN = 5


def evidence(fits: Fits, names: Sequence[str]) -> tuple[str, ...]:
    """Of one dataset: whose relation to the target moves, what was dropped for it, how far off deployment is.

    A slope moves if Cochran's Q (1954) over the sources is significant at 0.1 %, Bonferroni over columns.
    """
    sentences = []
    moving = moving_columns(fits)
    several = int(fits.sources.is_there.sum()) > 1
    if several:
        sentences.append(
            f"The slope of the target on {_listed(moving, names)} differs between the sources."
            if moving
            else "No column's slope differs clearly between the sources."
        )
    dropped = fits.whole.coefficients[0, FRAMEWORKS.index("stable")] == 0
    unstable = torch.nonzero(dropped & fits.sources.present[0]).flatten().tolist()
    if unstable:
        sentences.append(f"Without {_listed(unstable, names)} left-out sources are predicted better.")
    if several and (level := _intercepts(fits)) > 0.05:
        sentences.append(
            f"The target's own level moves between the sources: {level:.0%} of ERM's error in a left-out one is bias."
        )
    if bool(fits.sources.has_deployment):
        sentences.append(_on_deployment(fits, names))
    return tuple(sentences)


def moving_columns(fits: Fits) -> list[int]:
    """Columns whose slope differs between sources, the most certain first; of a batch of one dataset."""
    sources = fits.sources
    slopes, error, _ = regressions(sources)
    there = sources.is_there[0]
    weight = error[0][there].clamp(min=1e-9).square().reciprocal()
    slopes = slopes[0][there]
    mean = (weight * slopes).sum(0) / weight.sum(0)
    q = (weight * (slopes - mean).square()).sum(0)
    freedom = int(there.sum()) - 1
    if freedom < 1:
        return []
    p = torch.from_numpy(special.chdtrc(freedom, q.numpy())) * int(sources.present.sum())
    order = q.argsort(descending=True).tolist()
    return [column for column in order if p[column] < LEVEL and bool(sources.present[0, column])]


def _intercepts(fits: Fits) -> float:
    """Share of ERM's leave-one-source-out risk that is bias."""
    erm, fold = FRAMEWORKS.index("erm"), fits.fold
    there = fits.sources.is_there[0]
    guess = (fits.left.coefficients[:, erm] * fold.mean[:, :-1]).sum(-1) + fits.left.intercept[:, erm]
    bias = ((fold.mean[:, -1] - guess) * fold.unit).square()[there]
    return float(bias.mean() / fits.left_out[0, there, erm].mean())


def _on_deployment(fits: Fits, names: Sequence[str]) -> str:
    sources = fits.sources
    shift = sources.deploy_mean[0].abs() * sources.present[0]
    column = int(shift.argmax())
    return (
        f"In deployment '{names[column]}' has moved most: its mean by {float(shift[column]):.1f} standard deviations "
        "of the source rows."
    )


def _listed(columns: Sequence[int], names: Sequence[str]) -> str:
    shown = ", ".join(f"'{names[column]}'" for column in columns[:SHOWN])
    return shown if len(columns) <= SHOWN else f"{shown} and {len(columns) - SHOWN} more"
