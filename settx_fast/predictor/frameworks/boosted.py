"""ERM for data that is not linear."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from settx_fast.predictor.frameworks.base import Framework


class BoostedErm(Framework):
    """Gradient-boosted trees on all source rows: Friedman 2001, in scikit-learn's histogram form.

    It is beside the linear frameworks, not among those that are solved in batches.
    """

    def __init__(self, trees: int = 100, learning_rate: float = 0.1, leaves: int = 15, seed: int = 0) -> None:
        self.trees = trees
        self.learning_rate = learning_rate
        self.leaves = leaves
        self.seed = seed

    def fit(self, X: Any, y: Any, environments: Any = None, X_deploy: Any = None) -> Self:
        """As `Framework.fit`; environments and deployment rows are checked (ValueError) and not used."""
        X, y, _ = self._checked(X, y, environments, X_deploy)
        self.model_ = HistGradientBoostingRegressor(
            max_iter=self.trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.leaves,
            early_stopping=False,
            random_state=self.seed,
        ).fit(X, y)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """X (R, p) → (R,).

        Raises NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return self.model_.predict(validate_data(self, X, dtype=np.float64, reset=False))
