"""Linear models on moments: ridge regression, descent on sums of quadratics, and the risk of what was fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast.predictor.frameworks.sources import Sources

STEPS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)  # lengths that are tried
STANDSTILL = 1e-13  # of what is minimised, relative, in one step


class Linear(NamedTuple):
    """Predictions x · coefficients + intercept: (..., p) and (...,) float64."""

    coefficients: Tensor
    intercept: Tensor


def ridge_regression(
    mean: Tensor, covariance: Tensor, used: Tensor, ridge: Tensor, centre: Tensor | None = None
) -> Linear:
    """Ridge on the columns that are `used`: moments (..., p + 1), (..., p + 1, p + 1), used (..., p) bool, ridge (...).

    ridge is added to the variances; with α / n it is Hoerl and Kennard's (1970) ridge regression with penalty α on n
    rows. `centre` (..., p + 1) is a point that the regression passes through, by default the mean.
    """
    gram, cross = masked_system(covariance, used, ridge)
    coefficients = torch.cholesky_solve(cross[..., None], torch.linalg.cholesky(gram)).squeeze(-1)
    return through(mean if centre is None else centre, coefficients)


def masked_system(covariance: Tensor, used: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """The normal equations (..., p, p), (..., p) in which the coefficient of a column that is not used is 0."""
    weight = used.double()
    gram = covariance[..., :-1, :-1] * weight[..., :, None] * weight[..., None, :]
    diagonal = torch.where(used, ridge[..., None], 1.0)
    return gram + torch.diag_embed(diagonal), covariance[..., :-1, -1] * weight


def through(point: Tensor, coefficients: Tensor) -> Linear:
    """The linear function with these coefficients (..., p) that passes through a point (..., p + 1), target last."""
    return Linear(coefficients, point[..., -1] - (point[..., :-1] * coefficients).sum(-1))


def risk(linear: Linear, mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean squared error (...) under moments (..., p + 1), (..., p + 1, p + 1); shapes broadcast."""
    residual = torch.cat([-linear.coefficients, torch.ones_like(linear.intercept)[..., None]], -1)
    bias = (residual * mean).sum(-1) - linear.intercept
    variance = (residual * (covariance @ residual[..., None]).squeeze(-1)).sum(-1)
    return variance.clamp(min=0.0) + bias.square()


def row_ridge(sources: Sources, penalty: float) -> Tensor:
    """(B,): what a ridge penalty is per row of the sources."""
    return penalty / sources.rows.sum(1).clamp(min=1.0)


def choose(condition: Tensor, first: Linear, second: Linear) -> Linear:
    """`first` where condition (B,), else `second`."""
    return Linear(
        torch.where(condition[:, None], first.coefficients, second.coefficients),
        torch.where(condition, first.intercept, second.intercept),
    )


class Quadratics(NamedTuple):
    """Risks of every source as functions of θ = (coefficients, intercept): θᵀAθ − 2bᵀθ + c, and their shares.

    matrix (B, K, p + 1, p + 1), vector (B, K, p + 1), constant (B, K), share (B, K), equal for all that are there.
    """

    matrix: Tensor
    vector: Tensor
    constant: Tensor
    share: Tensor

    @classmethod
    def of(cls, sources: Sources) -> Quadratics:
        """Of the sources' moments."""
        second = sources.covariance + sources.mean[..., :, None] * sources.mean[..., None, :]
        mean = sources.mean
        top = torch.cat([second[..., :-1, :-1], mean[..., :-1, None]], -1)
        bottom = torch.cat([mean[..., :-1], torch.ones_like(mean[..., :1])], -1)
        vector = torch.cat([second[..., :-1, -1], mean[..., -1:]], -1)
        return cls(torch.cat([top, bottom[..., None, :]], -2), vector, second[..., -1, -1], sources.equal_share)

    def at(self, theta: Tensor) -> Point:
        """At θ (B, p + 1)."""
        gradient = (self.matrix @ theta[:, None, :, None]).squeeze(-1) - self.vector
        linear = (self.vector * theta[:, None]).sum(-1)
        return Point(theta, ((gradient * theta[:, None]).sum(-1) - linear) + self.constant, linear, gradient)

    def weighted(self, weights: Tensor) -> Tensor:
        """Σ weight · A: weights (B, K) → (B, p + 1, p + 1)."""
        return torch.einsum("bk,bkij->bij", weights, self.matrix)


class Point(NamedTuple):
    """Where a descent stands: θ (B, p + 1), risks (B, K), bᵀθ (B, K), half the risks' gradients (B, K, p + 1)."""

    theta: Tensor
    risk: Tensor
    linear: Tensor
    gradient: Tensor


def descend(
    start: Linear,
    present: Tensor,
    risks: Quadratics,
    value: Callable[[Tensor, Tensor], Tensor],
    slope: Callable[[Point], tuple[Tensor, Tensor]],
    steps: int,
) -> Linear:
    """Newton's method with the best of several step lengths, for all datasets at once; never goes uphill.

    value: risks (B, S, K) and bᵀθ (B, S, K) → (B, S); slope: gradient (B, p + 1), positive semi-definite curvature.
    Along a line a risk is a parabola, so that step lengths cost next to nothing. Coefficients of absent columns
    (present (B, p) False) stay as they are.
    """
    free = torch.cat([present, torch.ones_like(present[:, :1])], -1).double()
    both = free[:, :, None] * free[:, None, :]
    length = start.intercept.new_tensor((0.0, *STEPS))[None, :, None]
    point = risks.at(torch.cat([start.coefficients, start.intercept[:, None]], -1))
    for _ in range(steps):
        gradient, curvature = slope(point)
        curvature = curvature * both
        size = curvature.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp(min=1e-9)
        curvature = curvature + torch.diag_embed(1e-9 * size + (1 - free))
        direction = -torch.linalg.solve(curvature, (gradient * free)[..., None]).squeeze(-1)
        first = 2 * (point.gradient * direction[:, None]).sum(-1)
        image = (risks.matrix @ direction[:, None, :, None]).squeeze(-1)
        second = (image * direction[:, None]).sum(-1)
        along = (risks.vector * direction[:, None]).sum(-1)
        candidates = point.risk[:, None] + length * first[:, None] + length.square() * second[:, None]
        values = value(candidates, point.linear[:, None] + length * along[:, None]).nan_to_num(nan=torch.inf)
        least, best = values.min(1)
        goes_on = values[:, 0] - least > STANDSTILL * values[:, 0].abs()
        point = risks.at(point.theta + length[0, best] * direction)
        if not goes_on.any():
            break
    return Linear(point.theta[:, :-1], point.theta[:, -1])
