"""What linear frameworks see of datasets: moments of the sources, and of unlabelled rows of the deployment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from settx_fast.predictor.features import Observed

CONSTANT = 1e-9  # a standard deviation below this share of |mean| is rounding


class Sources(NamedTuple):
    """B datasets of K sources and p columns, float64, the target last, in units of `centre` and `scale`.

    mean (B, K, p + 1), covariance (B, K, p + 1, p + 1) of the labelled rows of each source, rows (B, K) how many they
    are, 0 for a source that is not there; present (B, p) bool, the column exists and varies; deploy_mean (B, p),
    deploy_covariance (B, p, p), deploy_rows (B,) of the features in deployment, rows 0: none are known. A value in
    raw units is centre + scale · value, (B, p + 1) each; standardised, every column has mean 0 and variance 1 over all
    source rows.
    """

    mean: Tensor
    covariance: Tensor
    rows: Tensor
    present: Tensor
    deploy_mean: Tensor
    deploy_covariance: Tensor
    deploy_rows: Tensor
    centre: Tensor
    scale: Tensor

    @property
    def is_there(self) -> Tensor:
        """(B, K) bool: the source has rows."""
        return self.rows > 0

    @property
    def share(self) -> Tensor:
        """(B, K): every source's share of the rows."""
        return self.rows / self.rows.sum(1, keepdim=True).clamp(min=1.0)

    @property
    def equal_share(self) -> Tensor:
        """(B, K): the same for every source that is there."""
        there = self.is_there.double()
        return there / there.sum(1, keepdim=True).clamp(min=1.0)

    @property
    def within(self) -> Tensor:
        """(B, p + 1, p + 1): covariance within the sources, weighted by their rows."""
        return torch.einsum("bk,bkij->bij", self.share, self.covariance)

    @property
    def has_deployment(self) -> Tensor:
        """(B,) bool: rows of the deployment are known."""
        return self.deploy_rows > 0

    def part(self, index: Tensor) -> Sources:
        """The datasets at index."""
        return Sources(*(tensor[index] for tensor in self))

    def standardised(self) -> Sources:
        """The same with every column of mean 0 and variance 1 over all source rows; `present` without the constant."""
        mean, covariance = mixture(self.mean, self.covariance, self.share)
        deviation = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        size = (self.centre / self.scale + mean).abs()
        varies = deviation > CONSTANT * size.clamp(min=1.0)  # of what it varied by before, should its mean be 0
        scale = deviation.where(varies, 1.0)
        unit = varies / scale
        square = unit[:, :, None] * unit[:, None, :]
        last = unit[:, :-1]
        return Sources(
            (self.mean - mean[:, None]) * unit[:, None],
            self.covariance * square[:, None],
            self.rows,
            self.present & varies[:, :-1],
            (self.deploy_mean - mean[:, :-1]) * last,
            self.deploy_covariance * square[:, :-1, :-1],
            self.deploy_rows,
            self.centre + self.scale * mean,
            self.scale * scale,
        )

    def with_target_environment(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Moments (B, p + 1), (B, p + 1, p + 1) in raw units, in the units of these sources."""
        unit = self.scale.reciprocal()
        return (mean - self.centre) * unit, covariance * unit[:, :, None] * unit[:, None, :]


class Fold(NamedTuple):
    """Every source of B datasets left out in turn: a batch of B · K datasets, and moments of what was left out.

    mean (B · K, p + 1) and covariance are in the units of `sources`; unit (B · K,) is their unit of the target over
    that of the whole. Where a source is not there nothing is left out, and its numbers mean nothing.
    """

    sources: Sources
    mean: Tensor
    covariance: Tensor
    unit: Tensor


def mixture(mean: Tensor, covariance: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of mixtures: (..., K, n), (..., K, n, n), shares (..., K) that sum to one → (..., n), (..., n, n)."""
    centre = (share[..., None] * mean).sum(-2)
    offset = mean - centre[..., None, :]
    within = torch.einsum("...k,...kij->...ij", share, covariance)
    return centre, within + (share[..., None] * offset).mT @ offset


def sources_of(observed: Observed) -> Sources:
    """The moments of datasets as they are seen, standardised.

    Raises ValueError if a dataset has no labelled source row.
    """
    labelled = observed.labelled & ~observed.is_target
    if not labelled.any(1).all():
        raise ValueError("labelled: expected at least one labelled source row in every dataset, got none")
    features = observed.features.double().where(observed.present[:, None], 0.0)
    columns = torch.cat([features, observed.target.double().where(observed.labelled, 0.0)[..., None]], -1)
    centre, scale = _units(columns, labelled)
    columns = (columns - centre[:, None]) / scale[:, None]
    member = one_hot(observed.environment) * labelled[..., None]  # (B, R, K)
    count = member.sum(1)
    first = (count > 0).int().argsort(stable=True, dim=1, descending=True)[:, : int((count > 0).sum(1).max())]
    member = member.gather(2, first[:, None].expand(-1, member.shape[1], -1)).double()
    parts = [_moments(columns, member[..., k]) for k in range(member.shape[2])]
    deploy_mean, deploy_covariance = _moments(columns[..., :-1], observed.is_target.double())
    return Sources(
        torch.stack([mean for mean, _ in parts], 1),
        torch.stack([covariance for _, covariance in parts], 1),
        member.sum(1),
        observed.present,
        deploy_mean,
        deploy_covariance,
        observed.is_target.sum(1).double(),
        centre,
        scale,
    ).standardised()


def leave_one_out(sources: Sources) -> Fold:
    """Every source left out in turn, its features being the deployment: dataset b without source k is b · K + k."""
    sets, number = sources.rows.shape

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(number, 0)

    left_out = torch.eye(number, dtype=torch.bool, device=sources.rows.device).repeat(sets, 1)
    mean, covariance = sources.mean.flatten(0, 1), sources.covariance.flatten(0, 1)
    before = Sources(
        repeated(sources.mean),
        repeated(sources.covariance),
        repeated(sources.rows).masked_fill(left_out, 0.0),
        repeated(sources.present),
        mean[:, :-1],
        covariance[:, :-1, :-1],
        sources.rows.flatten(),
        repeated(sources.centre),
        repeated(sources.scale),
    )
    rest = before.standardised()
    raw_mean = before.centre + before.scale * mean
    raw_covariance = covariance * before.scale[:, :, None] * before.scale[:, None, :]
    seen = rest.with_target_environment(raw_mean, raw_covariance)
    return Fold(rest, *seen, rest.scale[:, -1] / before.scale[:, -1])


def _units(columns: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    weight = labelled[..., None].double()
    count = weight.sum(1)
    mean = (columns * weight).sum(1) / count
    deviation = (((columns - mean[:, None]) * weight).square().sum(1) / count).sqrt()
    return mean, deviation.where(deviation > CONSTANT * mean.abs(), 1.0)


def _moments(columns: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows (B, R, n) with weights (B, R): (B, n), (B, n, n); zero where no row has weight."""
    share = (weight / weight.sum(1, keepdim=True).clamp(min=1.0))[..., None]
    mean = (share * columns).sum(1)
    centred = columns - mean[:, None]
    return mean, (share * centred).mT @ centred
