"""What a model must beat: the mean of the training distribution, and the classical estimator from the sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from settx_fast import scm
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.data import draw
from settx_fast.predictor.features import Observed, SetInputs
from settx_fast.predictor.model import Estimate
from settx_fast.predictor.targets import FRAMEWORKS, ROLES, TARGETS
from settx_fast.scm import properties
from settx_fast.scm.properties.moments import Moments, total_effects
from settx_fast.scm.properties.risk import least_squares
from settx_fast.scm.properties.sortability import r_squared

SIGNIFICANT = 3.0  # standard errors from zero that make a coefficient an edge
CAUSAL, ANTICAUSAL = FRAMEWORKS.index("causal"), FRAMEWORKS.index("anticausal")


@dataclass(frozen=True)
class TrainingMean:
    """Predicts what the training distribution holds on average, whatever the dataset.

    constants: per property its mean on the scale on which it is compared; for classes their frequencies. Under a prior
    with a fixed graph (`graph_is_fixed`) every column has a mean of its own.
    anticausal_wins: the better of causal and anticausal ERM in most training datasets is the anticausal one.
    """

    constants: dict[str, Tensor]
    graph_is_fixed: bool
    anticausal_wins: bool

    @classmethod
    def of(cls, config: TrainConfig, datasets: int = 2048) -> TrainingMean:
        """From the first datasets of the training stream."""
        example = draw(config, config.seed, 0, datasets, config.min_rows)
        learned, constants, fixed = example.model_truth(), {}, has_fixed_graph(config.prior)
        for target in TARGETS:
            values = (learned if target.is_compared_unit_free(fixed) else example.truth)[target.name]
            if target.kind == "classes":
                values = one_hot(values.clamp(min=0), target.width).where((values >= 0)[..., None], torch.nan)
            if target.level == "variable" and not fixed:
                values = values.flatten(0, 1)
            constants[target.name] = values.where(values.isfinite(), torch.nan).nanmean(0)
        wins = anticausal_wins(example.truth["risk"])
        return cls(constants, fixed, bool(wins[~tied(example.truth["risk"])].float().mean() > 0.5))

    def predict(self, inputs: SetInputs) -> dict[str, Estimate]:
        """Every property in its own units."""
        estimates = {}
        for target in TARGETS:
            leading = inputs.present.shape if target.level == "variable" else inputs.present.shape[:1]
            trailing = (target.width,) if target.kind == "classes" else target.shape
            value = self.constants[target.name].expand(*leading, *trailing)
            unit_free = target.is_compared_unit_free(self.graph_is_fixed)
            estimates[target.name] = Estimate(target.to_raw(value, inputs) if unit_free else value)
        return estimates


def has_fixed_graph(prior: scm.Prior) -> bool:
    """Every dataset of the prior has the same graph, which a classical estimator may then know."""
    return isinstance(prior.graph, scm.UserGraph)


def tied(risk: Tensor, tolerance: float = 1e-5) -> Tensor:
    """(B, 3) risks → (B,) bool: causal and anticausal ERM are the same, up to rounding."""
    return (risk[:, CAUSAL] - risk[:, ANTICAUSAL]).abs() <= tolerance * risk[:, CAUSAL]


def anticausal_wins(risk: Tensor) -> Tensor:
    """(B, 3) risks → (B,) bool: anticausal ERM has a lower risk than causal ERM."""
    return risk[:, ANTICAUSAL] < risk[:, CAUSAL]


def classical(observed: Observed, graph: Tensor | None = None) -> dict[str, Estimate]:
    """Fit a linear SCM to the sample by least squares and read every property off it.

    graph (B, F + 1, F + 1) bool, the target last: the true graph where the prior fixes it. Otherwise it is estimated by
    R²-SortnRegress (Reisach et al. 2023, arXiv:2303.18211): variables sorted by how well the others explain them, each
    regressed on those before it; coefficients more than 3 standard errors from zero are edges. Regressions are within
    environments, lest two variables that both shift between environments seem related. In the target environment the
    weights and the target's own noise are taken to be those of the sources; biases and noise of the features are
    matched to the moments of its unlabelled rows. Classes come as probabilities 0 and 1.
    """
    source, within, count = _source_moments(observed)
    adjacency = _sort_and_regress(source, within, count) if graph is None else graph
    weights = _regress(within, adjacency)
    residual = torch.eye(weights.shape[-1], dtype=weights.dtype) - weights  # noise = residualᵀ x
    bias = (residual.mT @ source.mean[..., None]).squeeze(-1)
    noise = (residual * (within.covariance @ residual)).sum(1).clamp(min=0.0)
    target = _target_moments(observed, weights, bias, noise)
    return _read(observed, adjacency, weights, noise, source, target)


def _read(
    observed: Observed, adjacency: Tensor, weights: Tensor, noise: Tensor, source: Moments, target: Moments
) -> dict[str, Estimate]:
    sets, width = noise.shape
    last = torch.full((sets,), width - 1)
    everything = torch.full((sets,), width)  # absent columns are constants that nothing depends on
    environments, share = weights[:, None], torch.ones(sets, 1, dtype=weights.dtype)
    parents = properties.num_parents(adjacency, last)
    covariate, mechanism = properties.shift_decomposition(source, target, last)
    role = properties.role(adjacency, last, everything)[:, :-1]
    values = {
        "edge_density": properties.edge_density(adjacency, observed.present.sum(1) + 1),
        "num_parents": parents,
        "num_children": properties.num_children(adjacency, last),
        "noise_to_signal": properties.noise_to_signal(noise[:, -1], source.variance[:, -1] - noise[:, -1], parents),
        "varsortability": properties.varsortability(adjacency, source),
        "r2_sortability": properties.r2_sortability(adjacency, source),
        "covariate_shift": covariate,
        "mechanism_shift": mechanism,
        "risk": properties.risk(source, target, adjacency, last, everything),
        "role": one_hot(role, len(ROLES)),
        "direct_effect_on_target": properties.direct_effect_on_target(environments, share, last)[:, :-1],
        "direct_effect_of_target": properties.direct_effect_of_target(environments, share, last)[:, :-1],
        "total_effect": properties.total_effect(environments, share, last)[:, :-1],
    }
    return {name: Estimate(value.float()) for name, value in values.items()}


def _source_moments(observed: Observed) -> tuple[Moments, Moments, Tensor]:
    """Moments (B, F + 1) of labelled source rows, target last, pooled and within environments; number of rows (B,)."""
    weight = (observed.labelled & ~observed.is_target).double()
    columns = torch.cat([_features(observed), observed.target[..., None].double()], -1)
    columns = columns.where(weight[..., None] > 0, 0.0)
    member = one_hot(observed.environment).double() * weight[..., None]  # (B, R, K)
    mean = (member.mT @ columns) / member.sum(1)[..., None].clamp(min=1.0)
    return _moments(columns, weight), _moments(columns - member @ mean, weight), weight.sum(1)


def _features(observed: Observed) -> Tensor:
    return observed.features.double().where(observed.present[:, None], 0.0)


def _moments(columns: Tensor, weight: Tensor) -> Moments:
    """Of rows (B, R, n) with weights (B, R)."""
    share = weight[..., None] / weight.sum(1)[:, None, None]
    mean = (share * columns).sum(1)
    centred = columns - mean[:, None]
    return Moments(mean, centred.mT @ (share * centred))


def _sort_and_regress(source: Moments, within: Moments, count: Tensor) -> Tensor:
    """(B, V, V) bool: R²-SortnRegress, with a t-test in place of the lasso."""
    rank = r_squared(source).argsort(1).argsort(1)
    before = rank[:, :, None] < rank[:, None, :]
    known = source.variance > 0
    before &= known[:, :, None] & known[:, None, :]
    weights = _regress(within, before)
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype)
    residual = identity - weights
    noise = (residual * (within.covariance @ residual)).sum(1)  # (B, V)
    gram = within.covariance[:, None] * before.mT[..., None] * before.mT[:, :, None]  # (B, V, V, V), one per child
    variance = (
        torch.linalg.pinv(gram, hermitian=True).diagonal(dim1=2, dim2=3).mT * noise[:, None] / count[:, None, None]
    )
    return before & (weights.square() > SIGNIFICANT**2 * variance)


def _regress(moments: Moments, adjacency: Tensor) -> Tensor:
    """(B, V, V): least squares of every variable on its parents."""
    sets, width, _ = adjacency.shape
    columns = [
        least_squares(moments, torch.full((sets,), child), adjacency[:, None, :, child]).squeeze(1)
        for child in range(width)
    ]
    return torch.stack(columns, -1)


def _target_moments(observed: Observed, weights: Tensor, bias: Tensor, noise: Tensor) -> Moments:
    """Moments of the target environment: the target variable's bias and noise kept, the features' fitted.

    A feature less what its parents among the features explain is a residual: noise of its own and, through the target,
    of others. The features' noise is fitted to the residuals' covariance by least squares, in units of the residuals.
    """
    seen = _moments(_features(observed), observed.is_target.double())
    among = torch.eye(seen.mean.shape[1], dtype=weights.dtype) - weights[:, :-1, :-1]
    residual = Moments((among.mT @ seen.mean[..., None]).squeeze(-1), among.mT @ seen.covariance @ among)
    reach = total_effects(weights)[:, :, :-1] @ among  # (B, V, F), of every noise on the residuals
    of_features, of_target = reach[:, :-1], reach[:, -1]
    rest = residual.mean - bias[:, -1:] * of_target
    fitted_bias = torch.linalg.solve(of_features.mT, rest[..., None]).squeeze(-1)

    scale = torch.where(residual.variance > 0, residual.variance.rsqrt(), 0.0)
    unit = scale[:, :, None] * scale[:, None, :]
    basis = of_features[..., :, None] * of_features[..., None, :] * unit[:, None]  # (B, F, F, F)
    explained = noise[:, -1, None, None] * of_target[:, :, None] * of_target[:, None, :]
    rest = unit * (residual.covariance - explained)
    fitted_noise = (torch.linalg.pinv(basis.flatten(2).mT) @ rest.flatten(1)[..., None]).squeeze(-1).clamp(min=0.0)
    bias, noise = (torch.cat([fitted, own[:, -1:]], 1) for fitted, own in ((fitted_bias, bias), (fitted_noise, noise)))
    return properties.linear_moments(weights, bias, noise)
