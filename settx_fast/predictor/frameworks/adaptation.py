"""Frameworks that look at the unlabelled rows of the deployment; without any they are ERM."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.predictor.frameworks.base import LinearFramework
from settx_fast.predictor.frameworks.linear import Linear, choose, masked_system, ridge_regression, row_ridge, through
from settx_fast.predictor.frameworks.pooled import Erm
from settx_fast.predictor.frameworks.sources import Sources, mixture

BLUR = 1e-9  # sources that are alike have weights all the same
ROUNDING = 1e-12  # of weights and slopes
TOGETHER, EXCHANGES = 12, 200  # rounds in which all that is infeasible changes sides, and all rounds


class Coral(LinearFramework):
    """Correlation alignment: source features are given the deployment's mean and covariance, then ERM.

    Sun, Feng and Saenko 2016 (arXiv:1511.05547, algorithm 1), `blur` being the identity that is added to both
    covariances of standardised columns.
    """

    def __init__(self, blur: float = 1.0, penalty: float = 1.0) -> None:
        self.blur = blur
        self.penalty = penalty

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
        ridge = row_ridge(sources, self.penalty)
        gram, cross = masked_system(covariance, sources.present, torch.zeros_like(ridge))
        there, _ = masked_system(_as_covariance(sources.deploy_covariance), sources.present, torch.zeros_like(ridge))
        blur = self.blur * torch.diag_embed(sources.present.double())
        align = _power(gram + blur, -0.5) @ _power(there + blur, 0.5)
        system = align.mT @ gram @ align + torch.diag_embed(ridge[:, None].expand(sources.present.shape))
        coefficients = torch.linalg.solve(system, align.mT @ cross[..., None]).squeeze(-1)
        point = torch.cat([sources.deploy_mean, mean[:, -1:]], 1)
        aligned = through(point, coefficients * sources.present)
        return choose(sources.has_deployment, aligned, Erm(self.penalty).solve(sources))


class ImportanceWeighting(LinearFramework):
    """Least squares on sources weighted so that their features look like the deployment's.

    Importance weighting under covariate shift (Shimodaira 2000) with weights by kernel mean matching (Huang et al.
    2006) for the kernel of degree two, one weight per source: the mixture of sources whose means and second moments of
    the features are closest to the deployment's, with a penalty on the squared distance of weights from equal ones.
    """

    def __init__(self, shrinkage: float = 0.01, penalty: float = 1.0) -> None:
        self.shrinkage = shrinkage
        self.penalty = penalty

    def weights(self, sources: Sources) -> Tensor:
        """(B, K): of every source, adding up to one."""
        return simplex_least_squares(*self._problem(sources), sources.is_there)

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        mean, covariance = mixture(sources.mean, sources.covariance, self.weights(sources))
        found = ridge_regression(mean, covariance, sources.present, row_ridge(sources, self.penalty))
        return choose(sources.has_deployment, found, Erm(self.penalty).solve(sources))

    def _problem(self, sources: Sources) -> tuple[Tensor, Tensor]:
        """The quadratic ½wᵀGw − gᵀw of the weights."""
        here = _signature(sources.mean[..., :-1], sources.covariance[..., :-1, :-1])
        there = _signature(sources.deploy_mean, sources.deploy_covariance)
        size = sources.present.sum(1).clamp(min=1).double()[:, None]
        gram = here @ here.mT / size[..., None]
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype)
        gradient = (here @ there[..., None]).squeeze(-1) / size + self.shrinkage * sources.equal_share
        return gram + (self.shrinkage + BLUR) * identity, gradient


def simplex_least_squares(gram: Tensor, gradient: Tensor, allowed: Tensor) -> Tensor:
    """argmin ½wᵀGw − gᵀw over w ≥ 0 that sum to one, w = 0 where not allowed: (B, K, K), (B, K), (B, K) → (B, K).

    G is positive definite where allowed. A primal-dual active set (Hintermüller, Ito and Kunisch 2002): what is
    infeasible changes sides, all at once; only the last of it where that goes round in circles (Júdice and Pires 1994).
    """
    gram = gram.where(allowed[:, :, None] & allowed[:, None], 0.0)  # the rest may be anything
    gradient = gradient.where(allowed, 0.0)
    free = allowed.clone()
    found = torch.zeros_like(gradient)
    moving = torch.arange(len(found))
    for exchange in range(EXCHANGES):
        weights, price = _with_sum_one(gram, gradient, free)
        found[moving] = weights
        wrong = (torch.where(free, weights, price) < -ROUNDING) & allowed
        if exchange >= TOGETHER:
            wrong &= wrong.flip(1).cumsum(1).flip(1) == 1
        rest = wrong.any(1)
        if not rest.any():
            break
        free ^= wrong
        moving, gram, gradient, allowed, free = (t[rest] for t in (moving, gram, gradient, allowed, free))
    return found.clamp(min=0.0)


def _with_sum_one(gram: Tensor, gradient: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The minimum over w that sum to one, 0 where not free; the slope (B, K) left along each, in the problem's unit."""
    inside = free.double()
    system = torch.cat([gram * inside[:, :, None] * inside[:, None], inside[:, None]], 1)
    system = torch.cat([system, torch.nn.functional.pad(inside, (0, 1))[..., None]], 2)
    system = system + torch.diag_embed(torch.nn.functional.pad(1 - inside, (0, 1)))
    given = torch.nn.functional.pad(gradient * inside, (0, 1), value=1.0)
    solved = torch.linalg.solve(system, given[..., None]).squeeze(-1)
    weights = solved[:, :-1] * inside
    price = (gram @ weights[..., None]).squeeze(-1) - gradient + solved[:, -1:]
    return weights, price / (gram.abs().amax((1, 2)) + gradient.abs().amax(1))[:, None]


def _signature(mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean and second moments (..., p + p²) of features."""
    second = covariance + mean[..., :, None] * mean[..., None, :]
    return torch.cat([mean, second.flatten(-2)], -1)


def _as_covariance(features: Tensor) -> Tensor:
    return torch.nn.functional.pad(features, (0, 1, 0, 1))


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of symmetric positive definite matrices."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=1e-12).pow(exponent)[..., None, :]) @ vectors.mT
