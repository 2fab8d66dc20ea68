"""`FrameworkSelector`: chooses a framework for a table, fits it, and predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from settx_fast.predictor.frameworks import Framework, estimator
from settx_fast.predictor.selector.recommendation import Ranked, Recommendation, recommend
from settx_fast.predictor.selector.shipped import Selector


class FrameworkSelector(Framework):
    """A regressor that uses the framework with the least predicted risk, ERM unless another gains, doubt deducted.

    model: file of a trained selector, by default the one that travels with the package. Fitted: `recommendation_`,
    `recommended_` (a name), `ranking_` (by predicted risk), `estimator_` (the framework, fitted on all sources).
    With one environment, and wherever a table is unlike the training datasets, that is ERM, and
    `recommendation_.abstained` says so.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        self.model = model

    def fit(self, X: Any, y: Any, environments: Any = None, X_deploy: Any = None) -> Self:
        """Choose and fit; arguments as `Framework.fit`. Raises FileNotFoundError if there is no trained model.

        ValueError for shapes that do not fit together and values that are not finite.
        """
        X, y, observed = self._checked(X, y, environments, X_deploy)
        names = getattr(self, "feature_names_in_", [f"x{column}" for column in range(X.shape[1])])
        self.recommendation_: Recommendation = recommend(observed, list(names), Selector.load(self.model))
        self.recommended_: str = self.recommendation_.recommended
        self.ranking_: tuple[Ranked, ...] = self.recommendation_.ranking
        deploy = None if X_deploy is None else observed.features[0, len(y) :].numpy()
        self.estimator_ = estimator(self.recommended_).fit(X, y, environments, deploy)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """X (R, p) → (R,), by the chosen framework.

        Raises NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return self.estimator_.predict(validate_data(self, X, dtype=np.float64, reset=False))

    def explain(self) -> str:
        """What speaks for the choice, a sentence a line.

        Raises NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return "\n".join(self.recommendation_.reasons)
