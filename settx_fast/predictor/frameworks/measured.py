"""Learning frameworks as linear models fitted on the pooled source environments, and the risk they really have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from settx_fast.predictor.table import Table
from settx_fast.predictor.targets import FRAMEWORKS

_ROLES = {"causal": ("cause",), "anticausal": ("cause", "effect")}


@dataclass(frozen=True)
class MeasuredRisk:
    """Mean squared error on `rows` labelled rows, target units squared, with a 90 % interval of the mean."""

    value: float
    low: float
    high: float
    rows: int


def features_of(framework: str, roles: Sequence[str]) -> list[int]:
    """Indices of the features that a framework uses, given the role of each feature.

    Roles are "cause", "effect", "spouse" or "unrelated". Raises ValueError for an unknown framework.
    """
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework: expected one of {FRAMEWORKS}, got {framework!r}")
    if framework == "erm":
        return list(range(len(roles)))
    return [index for index, role in enumerate(roles) if role in _ROLES[framework]]


def fit(table: Table, columns: Sequence[int], rows: np.ndarray) -> RegressorMixin:
    """Least squares with intercept on `columns` of the labelled `rows`; without columns, their mean.

    rows is (R,) bool. The result is a scikit-learn regressor of the whole feature matrix's `columns`.
    """
    rows = rows & table.is_labelled
    model = make_pipeline(StandardScaler(), LinearRegression()) if columns else DummyRegressor()
    return model.fit(_block(table, rows, columns), table.target[rows])


def measure(table: Table, roles: Sequence[str]) -> dict[str, MeasuredRisk]:
    """The risk that each framework really has on this table, as far as labels allow.

    With a deployment: fitted on all sources, measured on its labelled rows; {} if none is labelled. Without: every
    environment is left out in turn (Arjovsky et al. 2019 call it leave-one-environment-out). A table of one
    environment has nothing to leave out: {}.
    """
    risks = {name: _squared_errors(table, features_of(name, roles)) for name in FRAMEWORKS}
    return {name: _summarise(errors) for name, errors in risks.items() if len(errors)}


def best_of(risks: Mapping[str, float]) -> str:
    """The framework of least risk; of equals, the one that comes first in `FRAMEWORKS`."""
    return min((name for name in FRAMEWORKS if name in risks), key=risks.__getitem__)


def _squared_errors(table: Table, columns: Sequence[int]) -> np.ndarray:
    held_out = [table.deploy] if table.deploy is not None else range(len(table.environment_names))
    if len(table.environment_names) == 1:
        return np.empty(0)
    return np.concatenate([_errors_in(table, columns, environment) for environment in held_out])


def _errors_in(table: Table, columns: Sequence[int], environment: int) -> np.ndarray:
    inside = table.environment == environment
    rows = inside & table.is_labelled
    if not rows.any():
        return np.empty(0)
    model = fit(table, columns, ~inside)
    return (model.predict(_block(table, rows, columns)) - table.target[rows]) ** 2


def _block(table: Table, rows: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    return table.features[rows][:, np.asarray(columns, dtype=np.int64)]


def _summarise(errors: np.ndarray) -> MeasuredRisk:
    mean = float(errors.mean())
    half = 1.645 * float(errors.std(ddof=1)) / len(errors) ** 0.5 if len(errors) > 1 else float("inf")
    return MeasuredRisk(mean, max(mean - half, 0.0), mean + half, len(errors))
