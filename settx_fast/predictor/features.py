"""A dataset's rows as the elements of a set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

SCALE_FLOOR = 1e-3  # of an environment's scale, relative to the pooled sources; log scales stay above -7
MANY_ROWS = 1000  # a larger dataset says no more about how far to trust its moments
ROUNDING = 1e-9  # of a moment in standard units, which float64 leaves 1e-13 at most
CLIP = 10.0  # standard deviations; an outlier beyond says no more than one at the limit


class Observed(NamedTuple):
    """What is seen of B datasets: R rows of at most F features and one target, from several environments.

    features (B, R, F) float, anything where not `present`; target (B, R) float, anything where not `labelled`;
    environment (B, R) int64, 0 … max_environments − 1; is_target (B, R) bool, the row is from the environment to deploy
    in; labelled (B, R) bool, its target is known; present (B, F) bool, the column exists.
    """

    features: Tensor
    target: Tensor
    environment: Tensor
    is_target: Tensor
    labelled: Tensor
    present: Tensor


class SetInputs(NamedTuple):
    """Elements of B sets, and what converts predictions back to the units of the data.

    elements (B, R, `FeatureConfig.element_dim`) float32; present (B, F) bool; slot (B, F) int64, the place of every
    column in the elements; feature_scale (B, F) and target_scale (B,) float32: the units in which the model answers,
    standard deviations over the source rows (1 for a constant or absent column), negative for a column that is negated
    in the elements.
    """

    elements: Tensor
    present: Tensor
    slot: Tensor
    feature_scale: Tensor
    target_scale: Tensor


@dataclass(frozen=True)
class FeatureConfig:
    """How rows become elements.

    max_variables: columns of the largest dataset, target included. max_environments: the target one included.
    units: columns' log standard deviations are part of the input (for priors whose units carry meaning); without,
    predictions follow when a column is shifted or rescaled. interactions: products of every two columns are part of an
    element: second moments become means over the set.
    """

    max_variables: int
    max_environments: int
    units: bool = False
    interactions: bool = True

    def __post_init__(self) -> None:
        for name, least in (("max_variables", 2), ("max_environments", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")

    @property
    def max_features(self) -> int:
        """F: columns without the target."""
        return self.max_variables - 1

    @property
    def element_dim(self) -> int:
        """C: width of an element."""
        columns = self.max_variables
        pairs = columns * (columns + 1) // 2
        flags = self.max_features + 2 + self.max_environments + 1
        return 3 * columns + flags + self.interactions * pairs + self.units * columns


def encode(observed: Observed, config: FeatureConfig) -> SetInputs:
    """Turn rows into set elements.

    An element holds the row's columns in standard deviations from the mean (of the pooled source rows; for a row of
    the target environment, of that environment), its environment's shift and log scale relative to the pooled
    sources, the environment's id, the flags present, labelled and target environment, the log of the dataset's number
    of rows relative to 1000 and at most 0, and what `config` adds.

    Columns are sorted by the absolute value of their correlation with the target in the sources, and negated where it
    is negative; the target is negated where it is skewed to the left: a model need not learn that neither order nor
    sign of columns means anything.

    Raises ValueError for shapes that do not fit together or the config, ids out of range, a dataset without a labelled
    source row, or values that are seen but not finite.
    """
    _check(observed, config)
    columns = torch.cat([observed.features, observed.target.unsqueeze(-1)], -1).double()  # (B, R, F + 1)
    present = observed.present.unsqueeze(1).expand(observed.features.shape)
    seen = torch.cat([present, observed.labelled.unsqueeze(-1)], -1)
    columns = columns.where(seen, 0.0)
    if not columns.isfinite().all():
        raise ValueError("features and target: expected finite values in present columns and labelled rows")

    source = (seen & ~observed.is_target.unsqueeze(-1)).double()
    mean, scale = _moments(columns, source)
    columns = ((columns - mean) / scale).where(seen, 0.0)
    sign, order = _canonical(columns, source, observed.present)
    columns, seen = ((columns * sign).gather(2, order.expand_as(columns)), seen.gather(2, order.expand_as(columns)))
    shift, ratio = _relative_moments(columns, seen, observed.environment, config.max_environments)
    within = ((columns - shift) / ratio).where(seen, 0.0)
    columns = within.where(observed.is_target.unsqueeze(-1), columns).clamp(-CLIP, CLIP)

    parts = [columns, shift.asinh(), ratio.log(), seen[..., :-1], observed.is_target.unsqueeze(-1)]
    parts += [observed.labelled.unsqueeze(-1), one_hot(observed.environment, config.max_environments)]
    rows = columns.shape[1]
    parts.append(columns.new_full((*columns.shape[:2], 1), math.log(min(rows, MANY_ROWS) / MANY_ROWS)))
    if config.interactions:
        left, right = torch.triu_indices(config.max_variables, config.max_variables, device=columns.device)
        single = columns.float()
        parts.append(single[..., left] * single[..., right])
    if config.units:
        parts.append(scale.log().gather(2, order).expand(columns.shape))
    elements = torch.cat([part.float() for part in parts], -1)
    unit = (sign * scale).squeeze(1).float()
    return SetInputs(elements, observed.present, order[:, 0, :-1].argsort(-1), unit[:, :-1], unit[:, -1])


def _moments(columns: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over rows, (B, 1, F + 1) each; a constant column has standard deviation 1."""
    count = weight.sum(1, keepdim=True).clamp(min=1.0)
    mean = (columns * weight).sum(1, keepdim=True) / count
    scale = (((columns - mean) * weight).square().sum(1, keepdim=True) / count).sqrt()
    constant = scale <= 1e-9 * mean.abs()
    return mean, scale.masked_fill(constant, 1.0)


def _canonical(columns: Tensor, source: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Sign of every column, and columns in the order of their slots, the target last; (B, 1, F + 1) each."""
    features, target = columns[..., :-1], columns[..., -1:] * source[..., -1:]
    correlation = (features * target).mean(1)  # (B, F)
    order = correlation.abs().masked_fill(~present, -1.0).argsort(dim=-1, descending=True, stable=True)
    last = order.new_full((len(order), 1), order.shape[1])
    upright = _target_sign(features, target, present)
    sign = torch.where(correlation * upright < 0, -1.0, 1.0)
    return torch.cat([sign, upright], 1)[:, None], torch.cat([order, last], 1)[:, None]


def _target_sign(features: Tensor, target: Tensor, present: Tensor) -> Tensor:
    """(B, 1): −1 where the target leans to the left, by the first of its odd moments that is more than rounding.

    A symmetric target leans where the rows lie that are far from the middle of the features.
    """
    reach = (features.square() * present.unsqueeze(1)).sum(-1, keepdim=True)
    odd = torch.stack([target.pow(3).mean((1, 2)), target.pow(5).mean((1, 2)), (target * reach).mean((1, 2))], -1)
    told = odd.abs() > ROUNDING * (1 + reach.mean((1, 2)).unsqueeze(-1))
    first = told.int().argmax(-1, keepdim=True)
    return torch.where(odd.gather(-1, first) < 0, -1.0, 1.0).where(told.any(-1, keepdim=True), 1.0).to(features)


def _relative_moments(columns: Tensor, seen: Tensor, environment: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each row's environment, (B, R, F + 1) each; 0 and 1 where unknown."""
    member = one_hot(environment, count).double()  # (B, R, K)
    rows = member.mT @ seen.double()  # (B, K, F + 1)
    mean = (member.mT @ columns) / rows.clamp(min=1.0)
    variance = (member.mT @ (columns - member @ mean).where(seen, 0.0).square()) / rows.clamp(min=1.0)
    scale = variance.sqrt().clamp(min=SCALE_FLOOR).where(rows > 1, 1.0)
    return member @ mean, member @ scale


def _check(observed: Observed, config: FeatureConfig) -> None:
    sets, rows, width = observed.features.shape
    shapes: dict[str, tuple[int, ...]] = {"present": (sets, width)}
    shapes |= dict.fromkeys(("target", "environment", "is_target", "labelled"), (sets, rows))
    for name, shape in shapes.items():
        if (got := tuple(getattr(observed, name).shape)) != shape:
            raise ValueError(
                f"{name}: expected shape {shape} to fit features {tuple(observed.features.shape)}, got {got}"
            )
    if width != config.max_features:
        raise ValueError(f"features: expected {config.max_features} columns (pad the absent ones), got {width}")
    low, high = int(observed.environment.min()), int(observed.environment.max())
    if low < 0 or high >= config.max_environments:
        raise ValueError(f"environment: expected ids 0 … {config.max_environments - 1}, got {low} … {high}")
    if not (observed.labelled & ~observed.is_target).any(1).all():
        raise ValueError("labelled: expected at least one labelled source row in every dataset, got none")
