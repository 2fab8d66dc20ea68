"""What a selector is worth on held-out datasets, beside everything that needs no network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector.decision import ERM, Calibration, decide, interval, mean_regret, over_erm, unlike
from settx_fast.predictor.selector.descriptors import Descriptors, flat
from settx_fast.predictor.selector.examples import Examples
from settx_fast.predictor.selector.framework_descriptors import LEFT_OUT
from settx_fast.predictor.selector.network import Guess
from settx_fast.predictor.targets import ROLES

WORST = 3.0  # log ratios of risks that regressions are fitted to are clipped here


def leave_one_out_choice(descriptors: Descriptors) -> Tensor:
    """(B,): the framework of the least mean risk in left-out sources."""
    return descriptors.frameworks[..., LEFT_OUT].argmin(1)


def best_fixed(examples: Examples) -> int:
    """The framework that is best if it is used on all of these datasets."""
    return int(examples.log_risk.double().mean(0).argmin())


def selector_choice(guess: Guess, descriptors: Descriptors, calibration: Calibration) -> Tensor:
    """(B,): what `recommend` names, abstentions being ERM."""
    strange = [bool(unlike(row, calibration)) for row in descriptors.dataset]
    return decide(guess, calibration.caution).masked_fill(torch.tensor(strange), ERM)


def clipped_ratios(examples: Examples) -> Tensor:
    """(B, F) log risks over ERM's, as regressions are fitted to them."""
    return over_erm(examples.log_risk).clamp(-WORST, WORST)


class Trees:
    """Gradient-boosted trees on the same descriptors: the selector of OOD-Chameleon (Jiang et al. 2024) in our terms.

    A regression of every framework's log risk over ERM's on the descriptors of all frameworks and of the dataset, and
    means and maxima of those of columns and sources. The least prediction is chosen.
    """

    def __init__(self, examples: Examples, iterations: int = 100, seed: int = 0) -> None:
        inputs = flat(examples.descriptors).numpy()
        ratios = clipped_ratios(examples).numpy()
        options: dict[str, Any] = {"max_iter": iterations, "learning_rate": 0.08, "min_samples_leaf": 20}
        self.models = [
            HistGradientBoostingRegressor(**options, random_state=seed).fit(inputs, ratios[:, f])
            for f in range(len(FRAMEWORKS))
            if f != ERM
        ]

    def choose(self, descriptors: Descriptors) -> Tensor:
        """(B,): the framework of least predicted risk."""
        inputs = flat(descriptors).numpy()
        others = [model.predict(inputs) for model in self.models]
        others.insert(ERM, np.zeros(len(inputs)))
        return torch.from_numpy(np.stack(others, 1).argmin(1))


def record(
    examples: Examples, guess: Guess, calibration: Calibration, fixed: int, trees: Trees | None = None
) -> dict[str, Any]:
    """Regrets (geometric mean of the chosen risk over the least, less 1) and what else was measured, plain numbers."""
    given, truth = examples.descriptors, examples.log_risk
    chosen = {
        "selector": selector_choice(guess, given, calibration),
        "selector without caution": guess.log_risk.argmin(1),
        "erm": torch.full((len(truth),), ERM),
        "leave-one-source-out": leave_one_out_choice(given),
        f"always {FRAMEWORKS[fixed]}": torch.full((len(truth),), fixed),
    }
    if trees is not None:
        chosen["trees"] = trees.choose(given)
    sources = given.is_source.sum(1)
    low, high = interval(guess, calibration)
    strange = torch.tensor([bool(unlike(row, calibration)) for row in given.dataset])
    return {
        "datasets": len(truth),
        "regret": _regrets(truth, chosen),
        "regret by sources": {
            str(int(k)): _regrets(truth[sources == k], {name: choice[sources == k] for name, choice in chosen.items()})
            for k in sources.unique()
        },
        "chosen": {name: float((chosen["selector"] == f).double().mean()) for f, name in enumerate(FRAMEWORKS)},
        "abstained": float(strange.double().mean()),
        "interval coverage": float(((truth >= low) & (truth <= high)).double().mean()),
        "roles AUROC": _auroc(guess, examples),
    }


def roles_record(
    guess: Guess, examples: Examples, guess_of_independent: Guess, independent: Examples
) -> dict[str, float | None]:
    """Macro AUROC of roles on `examples`; how often and how surely what is unrelated in `independent` is named so."""
    unrelated = ROLES.index("unrelated")
    roles = guess_of_independent.roles[independent.role == unrelated]
    return {
        "roles AUROC, linear": _auroc(guess, examples),
        "independent named unrelated": float((roles.argmax(-1) == unrelated).double().mean()),
        "unrelated, independent": float(roles.softmax(-1)[:, unrelated].mean()),
    }


def _regrets(truth: Tensor, chosen: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(mean_regret(truth, choice)) for name, choice in chosen.items()}


def _auroc(guess: Guess, examples: Examples) -> float | None:
    known = examples.role >= 0
    role, probability = examples.role[known], guess.roles[known].softmax(-1)
    if len(role.unique()) < len(ROLES):
        return None
    return float(roc_auc_score(role.numpy(), probability.double().numpy(), multi_class="ovr", average="macro"))
