"""Ways to choose a framework, and the regret of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector.decision import ERM, interval, unlike
from settx_fast.predictor.selector.examples import Examples
from settx_fast.predictor.selector.measure import Trees, best_fixed, leave_one_out_choice, selector_choice
from settx_fast.predictor.selector.shipped import Selector
from settx_fast.predictor.selector.training import guesses

ORACLE, RANDOM = "oracle", "random"
SHIPPED = "shipped model"


@dataclass(frozen=True)
class Choosers:
    """What needs training: trees and the best fixed framework from examples of the training prior, and a selector."""

    trees: Trees
    fixed: int
    selector: Selector | None

    @classmethod
    def of(cls, training: Examples, selector: Selector | None, iterations: int = 200) -> Choosers:
        """Fitted to `training`, the trees in so many steps of boosting."""
        return cls(Trees(training, iterations), best_fixed(training), selector)

    def choose(self, examples: Examples) -> dict[str, Tensor]:
        """(B,) the number of the chosen framework, by the name of the way it was chosen."""
        given, every = examples.descriptors, torch.ones(len(examples), dtype=torch.int64)
        chosen = {
            "always ERM": ERM * every,
            "always causal ERM": FRAMEWORKS.index("causal") * every,
            f"always {FRAMEWORKS[self.fixed]} (best in training)": self.fixed * every,
            "leave-one-source-out": leave_one_out_choice(given),
            "trees on descriptors": self.trees.choose(given),
        }
        if self.selector is not None:
            guess = guesses(self.selector.network, examples)
            chosen[SHIPPED] = selector_choice(guess, given, self.selector.calibration)
            chosen[f"{SHIPPED} without caution"] = guess.log_risk.argmin(1)
        return chosen

    def regrets(self, examples: Examples) -> dict[str, Tensor]:
        """(B,) logarithm of the chosen risk over the least; "random" is the mean over all frameworks."""
        truth = examples.log_risk.double()
        over = truth - truth.min(1, keepdim=True).values
        chosen = {name: over.gather(1, choice[:, None]).squeeze(1) for name, choice in self.choose(examples).items()}
        return chosen | {RANDOM: over.mean(1), ORACLE: torch.zeros(len(truth), dtype=torch.float64)}

    def calibration(self, examples: Examples) -> dict[str, float]:
        """Of the selector: shares of abstentions, of true risks within their 90 % interval, and of those chosen."""
        assert self.selector is not None
        guess, calibration = guesses(self.selector.network, examples), self.selector.calibration
        low, high = interval(guess, calibration)
        inside = ((low <= examples.log_risk) & (examples.log_risk <= high)).double()
        chosen = selector_choice(guess, examples.descriptors, calibration)
        return {
            "abstained": sum(bool(unlike(row, calibration)) for row in examples.descriptors.dataset) / len(examples),
            "left ERM": float((chosen != ERM).double().mean()),
            "within interval": float(inside.mean()),
            "chosen within interval": float(inside.gather(1, chosen[:, None]).mean()),
        }


def geometric(regrets: Mapping[str, Tensor]) -> dict[str, float]:
    """Geometric-mean regret, by the name of the choice."""
    return {name: float(regret.mean().expm1()) for name, regret in regrets.items()}
