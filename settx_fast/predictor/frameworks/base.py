"""What every framework is: a scikit-learn regressor that is told which environment a row comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks.linear import Linear
from settx_fast.predictor.frameworks.sources import Sources, sources_of

LARGEST = 1e150  # its square is a float64


class Framework(RegressorMixin, BaseEstimator, ABC):
    """A learning framework: fitted on labelled rows of several environments, told unlabelled deployment rows if any."""

    @abstractmethod
    def fit(self, X: Any, y: Any, environments: Any = None, X_deploy: Any = None) -> Self:
        """X (R, p), y (R,), environments (R,) labels of any kind (None: all rows are one environment), X_deploy (D, p).

        Raises ValueError for shapes that do not fit together and values that are not finite.
        """

    @abstractmethod
    def predict(self, X: Any) -> np.ndarray:
        """X (R, p) → (R,)."""

    def _checked(self, X: Any, y: Any, environments: Any, X_deploy: Any) -> tuple[np.ndarray, np.ndarray, Observed]:
        """X and y as float64, and with the rest as a batch of one dataset."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        y = y.astype(np.float64)
        deploy = np.empty((0, X.shape[1]))
        if X_deploy is not None:
            deploy = validate_data(self, X_deploy, dtype=np.float64, reset=False)
        for name, values in (("X", X), ("y", y), ("X_deploy", deploy)):
            _check_size(name, values)
        return X, y, as_observed(X, y, environment_ids(environments, len(y)), deploy)


class LinearFramework(Framework):
    """A framework whose predictions are linear in the columns and which needs no more than moments.

    `solve` is the framework, for any number of datasets at once; the estimator is the batch of one. Fitted: `coef_`
    (p,) and `intercept_` in the units of the data.
    """

    @abstractmethod
    def solve(self, sources: Sources) -> Linear:
        """Standardised moments of B datasets → coefficients (B, p) and intercepts (B,) in the same units."""

    def fit(self, X: Any, y: Any, environments: Any = None, X_deploy: Any = None) -> Self:
        """As `Framework.fit`; ValueError for shapes that do not fit together and values that are not finite."""
        *_, observed = self._checked(X, y, environments, X_deploy)
        sources = sources_of(observed)
        linear = self.solve(sources)
        scale, centre = sources.scale[0], sources.centre[0]
        coefficients = linear.coefficients[0] * scale[-1] / scale[:-1]
        self.coef_ = coefficients.numpy()
        self.intercept_ = float(centre[-1] + scale[-1] * linear.intercept[0] - coefficients @ centre[:-1])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """X (R, p) → (R,).

        Raises NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False) @ self.coef_ + self.intercept_


def poor(tags: Tags) -> Tags:
    """The tags of a framework that may rightly end up with hardly a column."""
    tags.regressor_tags.poor_score = True
    return tags


def environment_ids(environments: Any, rows: int) -> np.ndarray:
    """(R,) int64 from labels of any kind; ValueError unless there is one for each of `rows` rows."""
    if environments is None:
        return np.zeros(rows, dtype=np.int64)
    labels = np.asarray(environments)
    if labels.shape != (rows,):
        raise ValueError(f"environments: expected shape ({rows},), got {labels.shape}")
    codes, _ = pd.factorize(labels, sort=True)
    if (codes < 0).any():
        raise ValueError(f"environments: expected a label for every row, got none for {(codes < 0).sum()} of {rows}")
    return codes.astype(np.int64)


def _check_size(name: str, values: np.ndarray) -> None:
    """ValueError for values whose squares float64 does not hold."""
    size = np.abs(values).max(initial=0.0)
    if size > LARGEST:
        raise ValueError(f"{name}: expected values within ±{LARGEST:g}, got {size:.2g}: choose another unit")


def as_observed(X: np.ndarray, y: np.ndarray, environments: np.ndarray, X_deploy: np.ndarray) -> Observed:
    """A batch of one dataset: labelled rows of sources, then unlabelled rows of the deployment."""
    rows, deploy = len(X), len(X_deploy)
    ids = np.concatenate([environments, np.full(deploy, environments.max() + 1)])
    is_target = torch.arange(rows + deploy)[None] >= rows
    return Observed(
        features=torch.from_numpy(np.concatenate([X, X_deploy]))[None],
        target=torch.from_numpy(np.concatenate([y, np.zeros(deploy)]))[None],
        environment=torch.from_numpy(ids)[None],
        is_target=is_target,
        labelled=~is_target,
        present=torch.ones(1, X.shape[1], dtype=torch.bool),
    )
