"""Frameworks that look at the unlabelled rows of the deployment; without any they are ERM."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.predictor.frameworks.base import LinearFramework
from settx_fast.predictor.frameworks.linear import Linear, choose, masked_system, ridge_regression, row_ridge, through
from settx_fast.predictor.frameworks.pooled import Erm
from settx_fast.predictor.frameworks.sources import Sources, mixture

STANDSTILL = 1e-12  # of weights in one step


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

    def __init__(self, shrinkage: float = 0.01, penalty: float = 1.0, steps: int = 100) -> None:
        self.shrinkage = shrinkage
        self.penalty = penalty
        self.steps = steps

    def weights(self, sources: Sources) -> Tensor:
        """(B, K): of every source, adding up to one."""
        return simplex_least_squares(*self._problem(sources), sources.is_there, self.steps)

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
        return gram + self.shrinkage * identity, gradient


def simplex_least_squares(gram: Tensor, gradient: Tensor, allowed: Tensor, steps: int) -> Tensor:
    """argmin ½wᵀGw − gᵀw over w ≥ 0 that sum to one, w = 0 where not allowed: (B, K, K), (B, K), (B, K) → (B, K).

    Accelerated projected gradients (Beck and Teboulle 2009) with restarts where the momentum points uphill.
    """
    length = 1 / torch.linalg.matrix_norm(gram, ord=2).clamp(min=1e-12)[:, None]
    found = project_to_simplex(torch.zeros_like(gradient), allowed)
    moving = torch.arange(len(found))
    now, ahead, inertia = found, found, torch.ones_like(length)
    for _ in range(steps):
        slope = (gram @ ahead[..., None]).squeeze(-1) - gradient
        after = project_to_simplex(ahead - length * slope, allowed)
        restart = ((ahead - after) * (after - now)).sum(1, keepdim=True) > 0
        grown = (1 + (1 + 4 * inertia.square()).sqrt()) / 2
        momentum = torch.where(restart, 0.0, (inertia - 1) / grown)
        inertia = torch.where(restart, 1.0, grown)
        change, now, ahead = (after - now).abs().amax(1), after, after + momentum * (after - now)
        found[moving] = now
        rest = change > STANDSTILL
        if not rest.any():
            break
        if not rest.all():
            state = (moving, gram, gradient, allowed, length, now, ahead, inertia)
            moving, gram, gradient, allowed, length, now, ahead, inertia = (tensor[rest] for tensor in state)
    return found


def project_to_simplex(point: Tensor, allowed: Tensor) -> Tensor:
    """The nearest point with entries ≥ 0 that sum to one, 0 where not allowed (Duchi et al. 2008): (B, K) → (B, K)."""
    ordered = point.masked_fill(~allowed, -1e30).sort(1, descending=True).values
    excess = ordered.cumsum(1) - 1
    rank = torch.arange(1, point.shape[1] + 1, dtype=point.dtype)
    active = (ordered - excess / rank > 0).sum(1, keepdim=True).clamp(min=1)
    threshold = excess.gather(1, active - 1) / active
    return (point - threshold).clamp(min=0.0).masked_fill(~allowed, 0.0)


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
