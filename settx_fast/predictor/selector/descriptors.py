"""What a careful analyst would compute of a table: risks of frameworks, invariance, distances to the deployment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.frameworks.sources import mixture
from settx_fast.predictor.selector.across import FLOOR, deployed, log, mean_over
from settx_fast.predictor.selector.column_descriptors import of_columns
from settx_fast.predictor.selector.fits import Fits
from settx_fast.predictor.selector.framework_descriptors import gaps, of_frameworks
from settx_fast.predictor.selector.source_descriptors import of_sources

BEYOND = 12.0  # no descriptor is larger
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


def describe(fits: Fits) -> Descriptors:
    """The descriptors of fitted datasets."""
    sources = fits.sources
    parts = (of_frameworks(fits), of_columns(fits), of_sources(fits), _of_datasets(fits))
    frameworks, columns, each, dataset = (_tame(part) for part in parts)
    there, present = sources.is_there, sources.present
    columns, each = columns * present[..., None], each * there[..., None]
    return Descriptors(frameworks, columns, each, dataset, present, there, sources.scale[:, -1])


def flat(descriptors: Descriptors) -> Tensor:
    """(B, ·): one row of numbers for each dataset, of columns and sources their means and maxima."""
    parts = [descriptors.frameworks.flatten(1), descriptors.dataset]
    for values, mask in ((descriptors.columns, descriptors.is_column), (descriptors.sources, descriptors.is_source)):
        there = mask[..., None]
        parts.append((values * there).sum(1) / there.sum(1).clamp(min=1))
        parts.append(values.masked_fill(~there, -torch.inf).amax(1).clamp(min=-BEYOND))
    return torch.cat(parts, 1)


def _of_datasets(fits: Fits) -> Tensor:
    sources, erm = fits.sources, FRAMEWORKS.index("erm")
    present, number = sources.present, sources.present.sum(1).clamp(min=1)
    there, seen = deployed(sources)
    within = sources.within.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR)
    shift = there.square() / within[:, :-1] * present
    spread = (seen.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR) / within[:, :-1]).log().abs() * present
    between = (mean_over(sources.mean[..., :-1].square(), sources) / within[:, :-1] * present).sum(1) / number
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    residual = log(mean_over(fits.in_sample, sources))[:, erm]
    where = ((there, seen), (mean[:, :-1], covariance[:, :-1, :-1]))
    apart = [log(gaps(fits.whole, *moments).between.mean((1, 2))) - residual for moments in where]
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
            log(shift.sum(1) / number) - log(between),
            mean_over(sources.mean[..., -1].square(), sources),
            residual,
            log(mean_over(fits.left_out, sources))[:, erm],
            log(mean_over(fits.left_out_levels.square(), sources))[:, erm],
            *apart,
        ],
        -1,
    )


def _tame(value: Tensor) -> Tensor:
    return value.nan_to_num(0.0, BEYOND, -BEYOND).clamp(-BEYOND, BEYOND).float()
