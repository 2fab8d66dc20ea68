"""Frameworks that use only columns whose relation to the target is the same in all environments."""

from __future__ import annotations

from copy import copy
from itertools import product

import numpy as np
import torch
from scipy import special
from sklearn.utils import Tags
from torch import Tensor

from settx_fast.predictor.frameworks.base import poor
from settx_fast.predictor.frameworks.linear import Linear, masked_system, ridge_regression, row_ridge
from settx_fast.predictor.frameworks.pooled import Erm
from settx_fast.predictor.frameworks.roles import predict_roles
from settx_fast.predictor.frameworks.sources import Sources, leave_one_out, mixture

LEAST_GAIN = 0.005  # a column is dropped if that lowers the risk by more


class StableSubset(Erm):
    """ERM without the columns whose relation to the target moves between sources, dropped one by one.

    Greedy backward elimination by the leave-one-source-out risk: the column whose loss lowers it most goes, until none
    lowers it by more than 0.5 %. After Rojas-Carulla et al. 2018 (arXiv:1507.05333, greedy subset search). With one
    source nothing is dropped.
    """

    def columns(self, sources: Sources) -> Tensor:
        """(B, p) bool: what is left."""
        used = sources.present.clone()
        fold = LeaveOneOutRisk(sources, self.penalty)
        active = torch.arange(len(used))
        for _ in range(used.shape[1]):
            now, without = fold.without_each(used[active])
            best, column = without.masked_fill(~used[active], torch.inf).min(1)
            drop = best < (1 - LEAST_GAIN) * now
            if not drop.any():
                break
            active, fold = active[drop], fold.part(drop)
            used[active, column[drop]] = False
        return used


class LeaveOneOutRisk:
    """The leave-one-source-out risk of ERM on some columns, and on these without each of them, by a downdate."""

    def __init__(self, sources: Sources, penalty: float) -> None:
        fold = leave_one_out(sources)
        self.share = sources.equal_share
        _, covariance = mixture(fold.sources.mean, fold.sources.covariance, fold.sources.share)
        second = fold.covariance + fold.mean[:, :, None] * fold.mean[:, None, :]  # around the rest's mean, which is 0
        each = (row_ridge(fold.sources, penalty), covariance, second, fold.unit.square(), fold.sources.present)
        self.ridge, self.covariance, self.second, self.unit, self.present = (
            tensor.unflatten(0, sources.rows.shape) for tensor in each
        )

    def part(self, index: Tensor) -> LeaveOneOutRisk:
        """Of the datasets at index."""
        chosen = copy(self)
        for name, tensor in vars(self).items():
            setattr(chosen, name, tensor[index])
        return chosen

    def without_each(self, used: Tensor) -> tuple[Tensor, Tensor]:
        """used (B, p) bool → risk of ERM on these (B,), and without each column (B, p), in the target's units."""
        now, without = self.by_source(used)
        several = (self.share > 0).sum(1) > 1
        now = (self.share * now).sum(1)
        without = (self.share[..., None] * without).sum(1)
        return now, torch.where(several[:, None], without, torch.inf)

    def by_source(self, used: Tensor) -> tuple[Tensor, Tensor]:
        """The same for every source left out: (B, K) and (B, K, p)."""
        used = used[:, None] & self.present
        gram, cross = masked_system(self.covariance, used, self.ridge)
        inverse = torch.linalg.inv(gram)
        coefficients = (inverse @ cross[..., None]).squeeze(-1)
        step = coefficients / inverse.diagonal(dim1=-2, dim2=-1)
        without = coefficients[..., None, :] - step[..., None] * inverse  # row j: column j dropped
        without = torch.where(used[..., None], without, coefficients[..., None, :])
        every = torch.cat([coefficients[..., None, :], without], -2)  # (B, K, 1 + p, p)
        features, cross, square = self.second[..., :-1, :-1], self.second[..., :-1, -1], self.second[..., -1, -1]
        risk = ((every @ features) * every).sum(-1) - 2 * (every @ cross[..., None]).squeeze(-1)
        risk = (risk + square[..., None]).clamp(min=0.0) * self.unit[..., None]
        return risk[..., 0], risk[..., 1:]


class InvariantCausalPrediction(Erm):
    """ERM on the columns that are in every set under which the target's residuals look alike in all environments.

    Peters, Bühlmann and Meinshausen 2016 (arXiv:1501.01332), method II: for every set, residuals of one regression on
    all rows; mean and variance in each environment against the rest by Welch's t and an F test, Bonferroni over
    environments and both tests. Sets are those of the `most` columns of greatest partial correlation with the target,
    as the authors preselect. Where no set is accepted, or the accepted ones have nothing in common, the mean.
    """

    def __init__(self, level: float = 0.05, most: int = 5, penalty: float = 1.0) -> None:
        self.level = level
        self.most = most
        self.penalty = penalty

    def __sklearn_tags__(self) -> Tags:
        return poor(super().__sklearn_tags__())

    def columns(self, sources: Sources) -> Tensor:
        """(B, p) bool: the intersection of all accepted sets."""
        strength = predict_roles(sources).statistic.masked_fill(~sources.present, -1.0)
        first = strength.topk(min(self.most, strength.shape[1]), 1).indices  # (B, m)
        member = torch.tensor(list(product((False, True), repeat=first.shape[1])))  # (S, m)
        sets = torch.zeros(len(first), len(member), strength.shape[1], dtype=torch.bool)
        index = first[:, None].expand(-1, len(member), -1)
        sets = sets.scatter(2, index, member.expand(len(first), -1, -1)) & sources.present[:, None]
        accepted = invariance(sources, sets, row_ridge(sources, self.penalty)) > self.level  # (B, S)
        common = (sets | ~accepted[..., None]).all(1)
        return common & accepted.any(1, keepdim=True)


def invariance(sources: Sources, sets: Tensor, ridge: Tensor) -> Tensor:
    """(B, S) p-values that residuals of the target given each of S column sets (B, S, p) are alike in all sources."""
    mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
    linear = ridge_regression(
        mean[:, None].expand(-1, sets.shape[1], -1), covariance[:, None], sets, ridge[:, None].expand(sets.shape[:2])
    )
    count = sources.rows[:, None]
    level, spread = residual_moments(linear, sources)
    size = sets.sum(-1, keepdim=True)
    total = sources.rows.sum(1)[:, None, None]
    rest = (total - count).clamp(min=1.0)
    rest_level = ((count * level).sum(-1, keepdim=True) - count * level) / rest
    second = count * (spread + level.square())
    rest_spread = ((second.sum(-1, keepdim=True) - second) / rest - rest_level.square()).clamp(min=0.0)
    p = torch.minimum(
        _welch(level, spread, count, rest_level, rest_spread, rest), _f_test(spread, count, rest_spread, rest, size)
    )
    there = (sources.is_there & (sources.is_there.sum(1, keepdim=True) > 1))[:, None]
    tests = 2 * sources.is_there.sum(1)[:, None]
    return (p.masked_fill(~there, 1.0).amin(-1) * tests).clamp(max=1.0)


def residual_moments(linear: Linear, sources: Sources) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, S, K) of the target less each of S predictions, in every source."""
    coefficients, mean, covariance = linear.coefficients, sources.mean, sources.covariance
    level = mean[:, None, :, -1] - torch.einsum("bsi,bki->bsk", coefficients, mean[..., :-1])
    residual = torch.cat([-coefficients, torch.ones_like(linear.intercept)[..., None]], -1)
    image = covariance @ residual.mT[:, None]  # (B, K, p + 1, S)
    spread = (image * residual.mT[:, None]).sum(2).mT
    return level - linear.intercept[..., None], spread.clamp(min=0.0)


def _welch(
    level: Tensor, spread: Tensor, count: Tensor, rest_level: Tensor, rest_spread: Tensor, rest: Tensor
) -> Tensor:
    own, other = spread / (count - 1).clamp(min=1.0), rest_spread / (rest - 1).clamp(min=1.0)
    error = (own + other).clamp(min=1e-300)
    freedom = error.square() / (
        own.square() / (count - 1).clamp(min=1.0) + other.square() / (rest - 1).clamp(min=1.0)
    ).clamp(min=1e-300)
    statistic = -(level - rest_level).abs() / error.sqrt()
    return 2 * _numpy(special.stdtr, freedom.clamp(min=1.0), statistic)


def _f_test(spread: Tensor, count: Tensor, rest_spread: Tensor, rest: Tensor, size: Tensor) -> Tensor:
    above, below = (count - 1 - size).clamp(min=1.0), (rest - 1 - size).clamp(min=1.0)
    ratio = (spread * count / above).clamp(min=1e-300) / (rest_spread * rest / below).clamp(min=1e-300)
    upper = _numpy(special.fdtrc, above, below, ratio)
    return 2 * torch.minimum(upper, 1 - upper)


def _numpy(function: np.ufunc, *arguments: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(function(*(a.numpy() for a in arguments))))
