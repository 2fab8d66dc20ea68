"""Frameworks that weigh the risks of the sources against each other, minimised by Newton's method on moments."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.predictor.frameworks.base import LinearFramework
from settx_fast.predictor.frameworks.linear import Linear, Point, Quadratics, descend
from settx_fast.predictor.frameworks.pooled import Erm
from settx_fast.predictor.frameworks.sources import Sources

SHARPNESS = (3.0, 30.0, 300.0)  # of the soft maximum, per mean risk


class Irm(LinearFramework):
    """Invariant risk minimisation, IRMv1: Arjovsky et al. 2019 (arXiv:1907.02893), for a linear representation.

    Mean risk of the environments + penalty / (ERM's risk) · mean of (∂ risk / ∂w at w = 1)², w a factor on predictions.
    """

    def __init__(self, penalty: float = 10.0, steps: int = 10) -> None:
        self.penalty = penalty
        self.steps = steps

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        start = Erm().solve(sources)
        risks = Quadratics.of(sources)
        weight = self.penalty / typical_risk(risks, start)
        share = risks.share

        def factor_gradient(risk: Tensor, linear: Tensor, constant: Tensor) -> Tensor:
            return 2 * (risk + linear - constant)  # 2 (θᵀAθ − bᵀθ)

        def value(risk: Tensor, linear: Tensor) -> Tensor:
            penalty = factor_gradient(risk, linear, risks.constant[:, None]).square()
            return (share[:, None] * (risk + weight[:, None, None] * penalty)).sum(-1)

        def slope(point: Point) -> tuple[Tensor, Tensor]:
            gradient = factor_gradient(point.risk, point.linear, risks.constant)
            change = 4 * point.gradient + 2 * risks.vector  # 4Aθ − 2b
            shares = share[..., None]
            first = (shares * 2 * point.gradient).sum(1)
            first = first + 2 * weight[:, None] * (shares * gradient[..., None] * change).sum(1)
            return first, 2 * risks.weighted(share) + 2 * weight[:, None, None] * (shares * change).mT @ change

        return descend(start, sources.present, risks, value, slope, self.steps)


class VRex(LinearFramework):
    """Risk extrapolation: Krueger et al. 2021 (arXiv:2003.00688), V-REx.

    Mean risk of the environments + penalty / (ERM's risk) · variance of their risks.
    """

    def __init__(self, penalty: float = 3.0, steps: int = 10) -> None:
        self.penalty = penalty
        self.steps = steps

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        start = Erm().solve(sources)
        risks = Quadratics.of(sources)
        weight = self.penalty / typical_risk(risks, start)
        share = risks.share

        def value(risk: Tensor, linear: Tensor) -> Tensor:
            mean = (share[:, None] * risk).sum(-1)
            return mean + weight[:, None] * (share[:, None] * (risk - mean[..., None]).square()).sum(-1)

        def slope(point: Point) -> tuple[Tensor, Tensor]:
            gradients = 2 * point.gradient
            offset = point.risk - (share * point.risk).sum(1, keepdim=True)
            factor = share * (1 + 2 * weight[:, None] * offset)
            spread = gradients - (share[..., None] * gradients).sum(1, keepdim=True)
            curvature = 2 * risks.weighted(factor.clamp(min=0.0))
            curvature = curvature + 2 * weight[:, None, None] * (share[..., None] * spread).mT @ spread
            return (factor[..., None] * gradients).sum(1), curvature

        return descend(start, sources.present, risks, value, slope, self.steps)


class GroupDro(LinearFramework):
    """Group distributionally robust optimisation: the least worst risk of an environment.

    Sagawa et al. 2020 (arXiv:1911.08731). Convex: the maximum is approached by soft maxima of growing sharpness (log of
    the mean of exponentials), whose error is at most log K / 300 of ERM's mean risk.
    """

    def __init__(self, steps: int = 4) -> None:
        self.steps = steps

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        found = Erm().solve(sources)
        risks = Quadratics.of(sources)
        unit = typical_risk(risks, found)
        absent = ~sources.is_there
        for sharpness in SHARPNESS:
            found = self._soft(found, risks, sharpness / unit, absent, sources.present)
        return found

    def _soft(self, start: Linear, risks: Quadratics, sharpness: Tensor, absent: Tensor, present: Tensor) -> Linear:
        def value(risk: Tensor, linear: Tensor) -> Tensor:
            logits = (sharpness[:, None, None] * risk).masked_fill(absent[:, None], -torch.inf)
            return logits.logsumexp(-1) / sharpness[:, None]

        def slope(point: Point) -> tuple[Tensor, Tensor]:
            share = (sharpness[:, None] * point.risk).masked_fill(absent, -torch.inf).softmax(-1)
            gradients = 2 * point.gradient
            mean = (share[..., None] * gradients).sum(1)
            spread = gradients - mean[:, None]
            curvature = sharpness[:, None, None] * (share[..., None] * spread).mT @ spread
            return mean, 2 * risks.weighted(share) + curvature

        return descend(start, present, risks, value, slope, self.steps)


def typical_risk(risks: Quadratics, linear: Linear) -> Tensor:
    """(B,): mean risk of a model over the environments, at least a millionth of the target's variance."""
    theta = torch.cat([linear.coefficients, linear.intercept[:, None]], -1)
    return (risks.share * risks.at(theta).risk).sum(1).clamp(min=1e-6)
