"""Learning frameworks that can be executed on a table, one by one and on thousands of datasets at once.

Each is a scikit-learn regressor, `fit(X, y, environments, X_deploy=None)` and `predict`. The linear ones need no more
than moments: `fit_all(sources_of(observed))` fits all of them on a batch, and `risks` says what they cost where.

    FRAMEWORKS                  names, in the order of every axis of frameworks
    LINEAR, estimator(name)     the frameworks by name; `estimator` also knows "boosted"
    sources_of, leave_one_out   moments of a batch; every source left out in turn
    fit_all, risks              (B, F, p), (B, F) coefficients and intercepts; (B, F) mean squared errors
"""

from __future__ import annotations

import torch
from sklearn.base import clone
from torch import Tensor

from settx_fast.predictor.frameworks.adaptation import Coral, ImportanceWeighting
from settx_fast.predictor.frameworks.base import Framework, LinearFramework
from settx_fast.predictor.frameworks.boosted import BoostedErm
from settx_fast.predictor.frameworks.invariant import InvariantCausalPrediction, StableSubset
from settx_fast.predictor.frameworks.linear import Linear, risk
from settx_fast.predictor.frameworks.measured import MeasuredRisk, best_of, features_of, fit, measure
from settx_fast.predictor.frameworks.pooled import (
    AnchorRegression,
    AnticausalErm,
    BlanketErm,
    CausalErm,
    EnvironmentAverage,
    Erm,
    Mean,
    WithinEnvironments,
)
from settx_fast.predictor.frameworks.robust import GroupDro, Irm, VRex
from settx_fast.predictor.frameworks.sources import Fold, Sources, leave_one_out, sources_of

LINEAR: dict[str, LinearFramework] = {
    "erm": Erm(),
    "mean": Mean(),
    "causal": CausalErm(),
    "anticausal": AnticausalErm(),
    "blanket": BlanketErm(),
    "stable": StableSubset(),
    "within": WithinEnvironments(),
    "icp": InvariantCausalPrediction(),
    "anchor": AnchorRegression(),
    "irm": Irm(),
    "vrex": VRex(),
    "groupdro": GroupDro(),
    "coral": Coral(),
    "importance": ImportanceWeighting(),
    "average": EnvironmentAverage(),
}
"""The frameworks whose predictions are linear in the columns, by name."""

FRAMEWORKS = tuple(LINEAR)
"""Names, in the order of every axis of frameworks."""

BOOSTED = "boosted"
"""The name of gradient-boosted ERM, the one framework that is not linear."""

TITLES = {
    "erm": "ERM on all columns",
    "mean": "the mean of the target",
    "causal": "causal ERM",
    "anticausal": "anticausal ERM",
    "blanket": "ERM on the Markov blanket",
    "stable": "ERM on a stable subset",
    "within": "slopes within environments",
    "icp": "invariant causal prediction",
    "anchor": "anchor regression",
    "irm": "IRMv1",
    "vrex": "V-REx",
    "groupdro": "GroupDRO",
    "coral": "CORAL alignment",
    "importance": "importance weighting",
    "average": "average over environments",
    BOOSTED: "gradient-boosted ERM",
}
"""What frameworks are called in sentences, by name."""


def estimator(name: str) -> Framework:
    """A fresh estimator of that name; ValueError with the known names for any other."""
    if name == BOOSTED:
        return BoostedErm()
    if name not in LINEAR:
        raise ValueError(f"framework: expected one of {', '.join((*FRAMEWORKS, BOOSTED))}, got {name!r}")
    return clone(LINEAR[name])


def fit_all(sources: Sources) -> Linear:
    """All of `FRAMEWORKS` on B datasets: coefficients (B, F, p) and intercepts (B, F) in the units of `sources`."""
    solved = [framework.solve(sources) for framework in LINEAR.values()]
    return Linear(torch.stack([s.coefficients for s in solved], 1), torch.stack([s.intercept for s in solved], 1))


def risks(linear: Linear, mean: Tensor, covariance: Tensor) -> Tensor:
    """(B, F) mean squared errors of `fit_all` under moments (B, p + 1), (B, p + 1, p + 1) in the same units."""
    return risk(linear, mean[:, None], covariance[:, None])


__all__ = [
    "BOOSTED",
    "FRAMEWORKS",
    "LINEAR",
    "TITLES",
    "AnchorRegression",
    "AnticausalErm",
    "BlanketErm",
    "BoostedErm",
    "CausalErm",
    "Coral",
    "EnvironmentAverage",
    "Erm",
    "Fold",
    "Framework",
    "GroupDro",
    "ImportanceWeighting",
    "InvariantCausalPrediction",
    "Irm",
    "Linear",
    "LinearFramework",
    "Mean",
    "MeasuredRisk",
    "Sources",
    "StableSubset",
    "VRex",
    "WithinEnvironments",
    "best_of",
    "estimator",
    "features_of",
    "fit",
    "fit_all",
    "leave_one_out",
    "measure",
    "risk",
    "risks",
    "sources_of",
]
