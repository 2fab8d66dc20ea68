"""Frameworks that weigh the risks of the sources against each other, minimised by Newton's method on moments."""

from __future__ import annotations

import torch
from torch import Tensor

from settx_fast.predictor.frameworks.base import LinearFramework
from settx_fast.predictor.frameworks.linear import Linear, Quadratics, descend
from settx_fast.predictor.frameworks.pooled import Erm
from settx_fast.predictor.frameworks.sources import Sources

SHARPNESS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # of the soft maximum, per mean risk


class Irm(LinearFramework):
    """Invariant risk minimisation, IRMv1: Arjovsky et al. 2019 (arXiv:1907.02893), for a linear representation.

    Mean risk of the environments + penalty / (ERM's risk) · mean of (∂ risk / ∂w at w = 1)², w a factor on predictions.
    """

    def __init__(self, penalty: float = 10.0, steps: int = 15) -> None:
        self.penalty = penalty
        self.steps = steps

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        start = Erm().solve(sources)
        risks = Quadratics.of(sources)
        weight = self.penalty / typical_risk(risks, start)

        def dummy_gradient(theta: Tensor) -> Tensor:  # (B, S, p + 1) → (B, S, K)
            image = torch.einsum("bkij,bsj->bski", risks.matrix, theta) - risks.vector[:, None]
            return 2 * (image * theta[:, :, None]).sum(-1)

        def value(theta: Tensor) -> Tensor:
            cost = risks.risks(theta) + weight[:, None, None] * dummy_gradient(theta).square()
            return (risks.share[:, None] * cost).sum(-1)

        def slope(theta: Tensor) -> tuple[Tensor, Tensor]:
            gradient = dummy_gradient(theta[:, None]).squeeze(1)
            change = 2 * (2 * risks.gradients(theta) + risks.vector)  # of 2 (θᵀAθ − bᵀθ): 4Aθ − 2b
            share = risks.share[..., None]
            first = (share * 2 * risks.gradients(theta)).sum(1)
            first = first + 2 * weight[:, None] * (share * gradient[..., None] * change).sum(1)
            second = 2 * (share[..., None] * risks.matrix).sum(1)
            return first, second + 2 * weight[:, None, None] * (share * change).mT @ change

        return descend(start, sources.present, value, slope, self.steps)


class VRex(LinearFramework):
    """Risk extrapolation: Krueger et al. 2021 (arXiv:2003.00688), V-REx.

    Mean risk of the environments + penalty / (ERM's risk) · variance of their risks.
    """

    def __init__(self, penalty: float = 3.0, steps: int = 15) -> None:
        self.penalty = penalty
        self.steps = steps

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        start = Erm().solve(sources)
        risks = Quadratics.of(sources)
        weight = self.penalty / typical_risk(risks, start)
        share = risks.share

        def value(theta: Tensor) -> Tensor:
            each = risks.risks(theta)
            mean = (share[:, None] * each).sum(-1)
            return mean + weight[:, None] * (share[:, None] * (each - mean[..., None]).square()).sum(-1)

        def slope(theta: Tensor) -> tuple[Tensor, Tensor]:
            each, gradients = risks.risks(theta[:, None]).squeeze(1), 2 * risks.gradients(theta)
            offset = each - (share * each).sum(1, keepdim=True)
            factor = share * (1 + 2 * weight[:, None] * offset)
            spread = gradients - (share[..., None] * gradients).sum(1, keepdim=True)
            curvature = 2 * (factor.clamp(min=0.0)[..., None, None] * risks.matrix).sum(1)
            curvature = curvature + 2 * weight[:, None, None] * (share[..., None] * spread).mT @ spread
            return (factor[..., None] * gradients).sum(1), curvature

        return descend(start, sources.present, value, slope, self.steps)


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
        def logits(theta: Tensor) -> Tensor:
            scaled = sharpness[:, None, None] * risks.risks(theta)
            return scaled.masked_fill(absent[:, None], -torch.inf)

        def value(theta: Tensor) -> Tensor:
            return logits(theta).logsumexp(-1) / sharpness[:, None]

        def slope(theta: Tensor) -> tuple[Tensor, Tensor]:
            share = logits(theta[:, None]).squeeze(1).softmax(-1)
            gradients = 2 * risks.gradients(theta)
            mean = (share[..., None] * gradients).sum(1)
            spread = gradients - mean[:, None]
            curvature = 2 * (share[..., None, None] * risks.matrix).sum(1)
            return mean, curvature + sharpness[:, None, None] * (share[..., None] * spread).mT @ spread

        return descend(start, present, value, slope, self.steps)


def typical_risk(risks: Quadratics, linear: Linear) -> Tensor:
    """(B,): mean risk of a model over the environments, at least a millionth of the target's variance."""
    theta = torch.cat([linear.coefficients, linear.intercept[:, None]], -1)
    return (risks.share * risks.risks(theta[:, None]).squeeze(1)).sum(1).clamp(min=1e-6)
