"""Frameworks in closed form: regressions on the mixture of the sources, on some columns of it, or on its parts."""

from __future__ import annotations

import torch
from sklearn.utils import Tags
from torch import Tensor

from settx_fast.predictor.frameworks.base import LinearFramework, poor
from settx_fast.predictor.frameworks.linear import Linear, ridge_regression, row_ridge
from settx_fast.predictor.frameworks.roles import predict_roles
from settx_fast.predictor.frameworks.sources import Sources, mixture


class Mean(LinearFramework):
    """The mean of the target over all source rows: what a column has to improve on."""

    def __sklearn_tags__(self) -> Tags:
        return poor(super().__sklearn_tags__())

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        mean, _ = mixture(sources.mean, sources.covariance, sources.share)
        return Linear(torch.zeros_like(mean[:, :-1]), mean[:, -1])


class Erm(LinearFramework):
    """Empirical risk minimisation: ridge regression on all source rows (Vapnik 1992; Hoerl and Kennard 1970).

    penalty: of squared coefficients of standardised columns, as in scikit-learn's `Ridge`.
    """

    def __init__(self, penalty: float = 1.0) -> None:
        self.penalty = penalty

    def columns(self, sources: Sources) -> Tensor:
        """(B, p) bool: the columns that are used."""
        return sources.present

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
        return ridge_regression(mean, covariance, self.columns(sources), row_ridge(sources, self.penalty))


class CausalErm(Erm):
    """ERM on predicted causes: a regression on the parents carries over wherever the target's own mechanism stays.

    Peters, Bühlmann and Meinshausen 2016 (arXiv:1501.01332); the roles are those of `predict_roles`.
    """

    def __sklearn_tags__(self) -> Tags:
        return poor(super().__sklearn_tags__())

    def columns(self, sources: Sources) -> Tensor:
        """(B, p) bool: predicted causes."""
        return predict_roles(sources).cause


class AnticausalErm(Erm):
    """ERM on predicted causes and effects (Schölkopf et al. 2012, arXiv:1206.6471), roles by `predict_roles`."""

    def columns(self, sources: Sources) -> Tensor:
        """(B, p) bool: predicted causes and effects."""
        roles = predict_roles(sources)
        return roles.cause | roles.effect


class BlanketErm(Erm):
    """ERM on the predicted Markov blanket, outside which no column says more (Koller and Sahami 1996)."""

    def columns(self, sources: Sources) -> Tensor:
        """(B, p) bool: columns whose partial correlation with the target is significant."""
        return predict_roles(sources).blanket


class AnchorRegression(Erm):
    """Least squares that is good under shifts up to √gamma times those between the sources.

    Rothenhäusler et al. 2021 (arXiv:1801.06229), equation 5, the anchors being the environments' indicators: what lies
    between environments counts gamma times. gamma = 1 is ERM, gamma = 0 least squares within environments.
    """

    def __init__(self, gamma: float = 10.0, penalty: float = 1.0) -> None:
        self.gamma = gamma
        self.penalty = penalty

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        mean, covariance = mixture(sources.mean, sources.covariance, sources.share)
        within = sources.within
        weighted = within + self.gamma * (covariance - within)
        return ridge_regression(mean, weighted, sources.present, row_ridge(sources, self.penalty))


class WithinEnvironments(Erm):
    """Slopes within environments, and the average of the environments' intercepts.

    The fixed-effects regression of econometrics (Mundlak 1978): what moves a whole environment, the target's own
    intercept included, has no say in the slopes.
    """

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        mean, _ = mixture(sources.mean, sources.covariance, sources.equal_share)
        ridge = row_ridge(sources, self.penalty)
        return ridge_regression(mean, sources.within, sources.present, ridge)


class EnvironmentAverage(Erm):
    """A ridge regression in every environment, and the average of their predictions.

    Aggregation over groups as in Bühlmann and Meinshausen 2016 (arXiv:1410.2389, magging), with equal weights.
    """

    def solve(self, sources: Sources) -> Linear:
        """As `LinearFramework.solve`."""
        ridge = self.penalty / sources.rows.clamp(min=1.0)
        used = sources.present[:, None].expand(-1, sources.rows.shape[1], -1)
        each = ridge_regression(sources.mean, sources.covariance, used, ridge)
        share = sources.equal_share
        return Linear((share[..., None] * each.coefficients).sum(1), (share * each.intercept).sum(1))
