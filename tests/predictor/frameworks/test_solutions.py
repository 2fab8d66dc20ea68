"""Every framework against another implementation of it, on rows, or a solution that is known."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import linalg, optimize, stats
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from settx_fast.predictor.frameworks import (
    AnchorRegression,
    BoostedErm,
    Coral,
    EnvironmentAverage,
    Erm,
    GroupDro,
    ImportanceWeighting,
    InvariantCausalPrediction,
    Irm,
    Mean,
    Sources,
    StableSubset,
    VRex,
    WithinEnvironments,
    estimator,
    sources_of,
)
from settx_fast.predictor.frameworks.adaptation import simplex_least_squares
from settx_fast.predictor.frameworks.base import as_observed, environment_ids
from settx_fast.predictor.frameworks.roles import predict_roles
from tests.predictor.frameworks.rows import Rows, by_environment, make_rows, standardised

SEEDS = pytest.mark.parametrize("seed", range(3))


def sources(rows: Rows):
    return sources_of(as_observed(rows.X, rows.y, environment_ids(rows.environments, len(rows.y)), rows.X_deploy))


def predictions(model, rows: Rows) -> np.ndarray:
    return model.fit(rows.X, rows.y, rows.environments, rows.X_deploy).predict(rows.X_deploy)


def test_mean_is_the_mean() -> None:
    rows = make_rows(0)
    expected = DummyRegressor().fit(rows.X, rows.y).predict(rows.X_deploy)
    np.testing.assert_allclose(predictions(Mean(), rows), expected, rtol=1e-12)


@SEEDS
def test_erm_is_ridge_regression_of_standardised_columns(seed: int) -> None:
    rows = standardised(make_rows(seed))
    expected = Ridge(2.5).fit(rows.X, rows.y).predict(rows.X_deploy)
    np.testing.assert_allclose(predictions(Erm(penalty=2.5), rows), expected, rtol=1e-9)


@SEEDS
@pytest.mark.parametrize("name", ["causal", "anticausal", "blanket"])
def test_erm_on_roles_is_ridge_on_the_columns_of_these_roles(name: str, seed: int) -> None:
    rows = standardised(make_rows(seed, columns=6))
    roles = predict_roles(sources(rows))
    used = {"causal": roles.cause, "anticausal": roles.cause | roles.effect, "blanket": roles.blanket}[name][0].numpy()
    model = Ridge(1.0).fit(rows.X[:, used], rows.y) if used.any() else DummyRegressor().fit(rows.X, rows.y)
    expected = model.predict(rows.X_deploy[:, used] if used.any() else rows.X_deploy)
    np.testing.assert_allclose(predictions(estimator(name), rows), expected, rtol=1e-9)


def test_roles_of_a_sortable_graph_are_found() -> None:
    random, size = np.random.default_rng(0), 20_000
    a, b, u, s = random.normal(size=(4, size))
    y = a + b + 0.6 * random.normal(size=size)
    z = y + s + 0.5 * random.normal(size=size)
    w = 2 * z + 0.3 * random.normal(size=size)  # of the effect alone
    roles = predict_roles(
        sources(Rows(np.stack([a, b, z, s, u, w], 1), y, np.repeat([0, 1], size // 2), np.ones((1, 6))))
    )
    assert roles.cause[0].tolist() == [True, True, False, False, False, False]
    assert roles.effect[0].tolist() == [False, False, True, False, False, False]
    assert roles.blanket[0].tolist() == [True, True, True, True, False, False]


@SEEDS
def test_slopes_within_environments_are_those_of_a_regression_with_a_dummy_for_each(seed: int) -> None:
    rows = make_rows(seed)
    names = np.unique(rows.environments)
    dummies = (rows.environments[:, None] == names).astype(float)
    model = LinearRegression(fit_intercept=False).fit(np.column_stack([rows.X, dummies]), rows.y)
    slopes, levels = np.split(model.coef_, [4])
    expected = rows.X_deploy @ slopes + levels.mean()
    np.testing.assert_allclose(predictions(WithinEnvironments(penalty=0.0), rows), expected, rtol=1e-8)


@SEEDS
@pytest.mark.parametrize("gamma", [0.0, 1.0, 10.0])
def test_anchor_regression_is_least_squares_on_transformed_rows(gamma: float, seed: int) -> None:
    rows = make_rows(seed)
    centre, level = rows.X.mean(0), rows.y.mean()
    X, y = rows.X - centre, rows.y - level
    for name in np.unique(rows.environments):
        inside = rows.environments == name
        X[inside] += (gamma**0.5 - 1) * X[inside].mean(0)
        y[inside] += (gamma**0.5 - 1) * y[inside].mean()
    slopes = np.linalg.lstsq(X, y, rcond=None)[0]
    expected = (rows.X_deploy - centre) @ slopes + level
    np.testing.assert_allclose(predictions(AnchorRegression(gamma, penalty=0.0), rows), expected, rtol=1e-8)


@SEEDS
def test_average_is_the_mean_of_a_ridge_in_each_environment(seed: int) -> None:
    rows = standardised(make_rows(seed))
    each = [Ridge(1.0).fit(X, y).predict(rows.X_deploy) for X, y in by_environment(rows)]
    np.testing.assert_allclose(predictions(EnvironmentAverage(), rows), np.mean(each, 0), rtol=1e-9)


def losses(theta: np.ndarray, rows: Rows) -> np.ndarray:
    return np.array([np.mean((X @ theta[:-1] + theta[-1] - y) ** 2) for X, y in by_environment(rows)])


def typical(rows: Rows) -> float:
    erm = Ridge(1.0).fit(rows.X, rows.y)
    return float(losses(np.append(erm.coef_, erm.intercept_), rows).mean())


def start(rows: Rows) -> np.ndarray:
    erm = Ridge(1.0).fit(rows.X, rows.y)
    return np.append(erm.coef_, erm.intercept_)


def reached(model, rows: Rows) -> np.ndarray:
    model.fit(rows.X, rows.y, rows.environments)
    return np.append(model.coef_, model.intercept_)


@SEEDS
def test_vrex_reaches_the_minimum_that_bfgs_finds_from_the_same_start(seed: int) -> None:
    rows = standardised(make_rows(seed))
    unit = typical(rows)

    def cost(theta: np.ndarray) -> float:
        each = losses(theta, rows)
        return each.mean() + 3 / unit * each.var()

    least = optimize.minimize(cost, start(rows), tol=1e-12).fun
    assert cost(reached(VRex(penalty=3.0), rows)) == pytest.approx(least, rel=1e-5)
    assert cost(start(rows)) > 1.001 * least


@SEEDS
def test_irm_reaches_a_minimum_no_higher_than_bfgs_does(seed: int) -> None:
    rows = standardised(make_rows(seed))
    unit = typical(rows)

    def cost(theta: np.ndarray) -> float:
        total = 0.0
        for X, y in by_environment(rows):
            f = X @ theta[:-1] + theta[-1]
            total += np.mean((f - y) ** 2) + 10 / unit * (2 * np.mean((f - y) * f)) ** 2
        return total / len(by_environment(rows))

    least = optimize.minimize(cost, start(rows), tol=1e-12).fun
    assert cost(reached(Irm(), rows)) <= least * (1 + 1e-5)
    assert cost(start(rows)) > 1.001 * least


@SEEDS
def test_groupdro_has_the_least_worst_risk(seed: int) -> None:
    rows = standardised(make_rows(seed))
    found = optimize.minimize(
        lambda t: t[-1],
        np.append(start(rows), losses(start(rows), rows).max()),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda t: t[-1] - losses(t[:-1], rows)},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    worst = losses(reached(GroupDro(), rows), rows).max()
    assert found.success
    assert found.fun * (1 - 1e-6) <= worst <= found.fun + typical(rows) * np.log(3) / 300


@SEEDS
def test_coral_is_ridge_on_recoloured_rows(seed: int) -> None:
    rows = standardised(make_rows(seed))
    identity = np.eye(4)
    here, there = (np.cov(part.T, bias=True) + identity for part in (rows.X, rows.X_deploy))
    aligned = rows.X @ linalg.fractional_matrix_power(here, -0.5) @ linalg.sqrtm(there)
    model = Ridge(1.0).fit(aligned, rows.y)
    expected = model.predict(rows.X_deploy - rows.X_deploy.mean(0))
    np.testing.assert_allclose(predictions(Coral(), rows), expected, rtol=1e-8)


@SEEDS
def test_importance_weights_solve_the_quadratic_programme_of_moment_matching(seed: int) -> None:
    rows = standardised(make_rows(seed, environments=5))
    model = ImportanceWeighting()

    def signature(X: np.ndarray) -> np.ndarray:
        return np.concatenate([X.mean(0), (X.T @ X / len(X)).ravel()])

    here = np.stack([signature(X) for X, _ in by_environment(rows)])
    there = signature(rows.X_deploy)

    def cost(weights: np.ndarray) -> float:
        return np.sum((weights @ here - there) ** 2) / 4 + model.shrinkage * np.sum((weights - 0.2) ** 2)

    options = {"maxiter": 500, "ftol": 1e-14}
    total = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = optimize.minimize(cost, np.full(5, 0.2), bounds=[(0, 1)] * 5, constraints=total, options=options)
    got = model.weights(sources(rows))[0].numpy()
    assert got.sum() == pytest.approx(1.0)
    assert cost(got) <= cost(best.x) + 1e-9
    sample_weight = np.array([got[int(name[-1])] / np.mean(rows.environments == name) for name in rows.environments])
    expected = Ridge(1.0).fit(rows.X, rows.y, sample_weight=sample_weight).predict(rows.X_deploy)
    np.testing.assert_allclose(predictions(model, rows), expected, rtol=1e-6, atol=1e-6)


@SEEDS
@pytest.mark.parametrize("sources", [1, 2, 5, 20])
@pytest.mark.parametrize("directions", [1, 2, 20])
def test_weights_on_the_simplex_satisfy_the_conditions_of_optimality(seed: int, sources: int, directions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(100, sources, directions, generator=generator, dtype=torch.float64)
    gram = maps @ maps.mT + 1e-4 * torch.eye(sources)
    gradient = 3 * (maps @ torch.randn(100, directions, 1, generator=generator, dtype=torch.float64)).squeeze(-1)
    allowed = torch.rand(100, sources, generator=generator) < 0.8
    allowed[:, 0] = True
    gram = gram.where(allowed[:, :, None] & allowed[:, None], torch.inf)  # of what is not allowed nothing is read
    gradient = gradient.where(allowed, torch.nan)
    weights = simplex_least_squares(gram, gradient, allowed)
    gram, gradient = gram.nan_to_num(0.0, posinf=0.0), gradient.nan_to_num(0.0)
    slope = (gram @ weights[..., None]).squeeze(-1) - gradient
    level = (weights * slope).sum(1, keepdim=True)  # the same along all that have weight
    torch.testing.assert_close(weights.sum(1), torch.ones(100, dtype=torch.float64))
    assert (weights >= 0).all()
    assert (weights[~allowed] == 0).all()
    assert ((slope - level)[allowed] > -1e-9).all()
    assert ((slope - level).abs()[weights > 0] < 1e-9).all()


def test_sources_that_are_alike_share_their_weight_without_a_penalty() -> None:
    rows = make_rows(0, environments=2)
    names = np.concatenate([rows.environments, np.char.add(rows.environments, " again")])
    twice = Rows(*(np.concatenate([part, part]) for part in rows))._replace(environments=names)
    weights = ImportanceWeighting(shrinkage=0.0).weights(sources(twice))[0].tolist()
    assert weights[::2] == pytest.approx(weights[1::2], abs=1e-3)
    assert sum(weights) == pytest.approx(1)


def test_sources_like_the_deployment_get_the_weight() -> None:
    rows = make_rows(0)
    like = rows._replace(X_deploy=rows.X[rows.environments == "place 1"])
    weights = ImportanceWeighting(shrinkage=0.0).weights(sources(like))[0]
    assert weights.tolist() == pytest.approx([0, 1, 0], abs=1e-3)


def left_out_risk(rows: Rows, columns: list[int]) -> float:
    """With Ridge(1) on columns standardised by the rows it is fitted on."""
    each = []
    for name in np.unique(rows.environments):
        inside = rows.environments == name
        rest = standardised(rows._replace(X=rows.X[~inside], y=rows.y[~inside], X_deploy=rows.X[inside]))
        level, scale = rows.y[~inside].mean(), rows.y[~inside].std()
        model = Ridge(1.0).fit(rest.X[:, columns], rest.y) if columns else DummyRegressor().fit(rest.X, rest.y)
        guess = model.predict(rest.X_deploy[:, columns] if columns else rest.X_deploy) * scale + level
        each.append(np.mean((guess - rows.y[inside]) ** 2))
    return float(np.mean(each))


@pytest.mark.parametrize("seed", range(6))
def test_stable_subset_is_greedy_elimination_by_leave_one_source_out_risk(seed: int) -> None:
    rows = make_rows(seed, columns=5)
    kept, now = list(range(5)), left_out_risk(rows, list(range(5)))
    while kept:
        without = {c: left_out_risk(rows, [o for o in kept if o != c]) for c in kept}
        column = min(without, key=without.__getitem__)
        if without[column] >= 0.995 * now:
            break
        now = without[column]
        kept.remove(column)
    model = StableSubset().fit(rows.X, rows.y, rows.environments)
    assert np.flatnonzero(model.coef_).tolist() == kept


def test_stable_subset_of_a_batch_is_that_of_each_dataset() -> None:
    every = [sources(make_rows(seed, 4, columns=6)) for seed in range(8)]
    alone = [StableSubset().columns(each) for each in every]
    assert len({int(columns.sum()) for columns in alone}) > 2  # datasets are done at different times
    batch = Sources(*(torch.cat(tensors) for tensors in zip(*every, strict=True)))
    assert torch.equal(StableSubset().columns(batch), torch.cat(alone))


def test_stable_subset_drops_an_effect_whose_mechanism_moves_and_keeps_the_cause() -> None:
    random, size = np.random.default_rng(0), 3000
    labels = np.repeat([0, 1, 2], size)
    cause = random.normal(size=3 * size)
    y = cause + random.normal(size=3 * size)
    effect = y * np.array([1.0, -1.0, 3.0])[labels] + 0.1 * random.normal(size=3 * size)
    model = StableSubset().fit(np.stack([cause, effect], 1), y, labels)
    assert model.coef_ == pytest.approx([1.0, 0.0], abs=0.05)


def brute_force_sets(rows: Rows, level: float) -> list[tuple[int, ...]]:
    """Sets accepted by method II of Peters et al. 2016, with scipy's tests; the rows being standardised."""
    accepted = []
    names = np.unique(rows.environments)
    for size in range(rows.X.shape[1] + 1):
        for columns in combinations(range(rows.X.shape[1]), size):
            chosen = rows.X[:, list(columns)]
            residual = rows.y - (Ridge(1.0).fit(chosen, rows.y).predict(chosen) if columns else rows.y.mean())
            least = 1.0
            for name in names:
                a, b = residual[rows.environments == name], residual[rows.environments != name]
                above, below = len(a) - 1 - size, len(b) - 1 - size
                ratio = (a.var() * len(a) / above) / (b.var() * len(b) / below)
                tail = stats.f(above, below)
                least = min(
                    least, stats.ttest_ind(a, b, equal_var=False).pvalue, 2 * min(tail.sf(ratio), tail.cdf(ratio))
                )
            if least * 2 * len(names) > level:
                accepted.append(columns)
    return accepted


@pytest.mark.parametrize("seed", range(8))
def test_icp_uses_the_intersection_of_the_sets_that_scipy_accepts(seed: int) -> None:
    random, size = np.random.default_rng(seed), 150
    labels = np.repeat([0, 1, 2], size)
    a = random.normal(size=3 * size) * np.array([1, 2, 1])[labels]
    b = random.normal(size=3 * size) + np.array([0, 0, seed])[labels]
    y = a + b + random.normal(size=3 * size)
    moves = np.array([0.5, 1, 2])[labels]
    z = y + random.normal(size=3 * size) * (moves if seed % 2 else 1) + (0 if seed % 2 else moves)
    rows = standardised(Rows(np.stack([z, a, b], 1), y, labels, np.empty((0, 3))))
    sets = brute_force_sets(rows, 0.05)
    expected = sorted(set.intersection(*map(set, sets))) if sets else []
    model = InvariantCausalPrediction().fit(rows.X, rows.y, labels)
    assert np.flatnonzero(model.coef_).tolist() == expected
    if seed >= 2:
        assert expected == [1, 2]  # the causes


def test_boosted_erm_follows_what_no_line_can() -> None:
    random = np.random.default_rng(0)
    X = random.uniform(-2, 2, (1500, 2))
    y = X[:, 0] ** 2 + 0.1 * random.normal(size=1500)
    scores = {m: r2_score(y[1000:], m.fit(X[:1000], y[:1000]).predict(X[1000:])) for m in (BoostedErm(), Erm())}
    boosted, linear = scores.values()
    assert boosted > 0.95
    assert linear < 0.1


def test_with_one_environment_and_no_deployment_most_frameworks_are_erm() -> None:
    rows = make_rows(2)
    expected = Erm().fit(rows.X, rows.y).predict(rows.X_deploy)
    for model in (StableSubset(), WithinEnvironments(), AnchorRegression(), Coral(), ImportanceWeighting()):
        np.testing.assert_allclose(model.fit(rows.X, rows.y).predict(rows.X_deploy), expected, rtol=1e-9)
    without_ridge = Erm(penalty=0.0).fit(rows.X, rows.y).predict(rows.X_deploy)
    for model in (VRex(), GroupDro()):
        np.testing.assert_allclose(model.fit(rows.X, rows.y).predict(rows.X_deploy), without_ridge, rtol=1e-6)
    assert not InvariantCausalPrediction().fit(rows.X, rows.y).coef_.any()  # no evidence: every set is accepted


def test_soft_maxima_ignore_sources_that_are_not_there() -> None:
    rows = make_rows(0)
    two = sources(rows._replace(environments=np.where(rows.environments == "place 2", "place 1", rows.environments)))
    absent = two._replace(
        mean=torch.nn.functional.pad(two.mean, (0, 0, 0, 1)),
        covariance=torch.nn.functional.pad(two.covariance, (0, 0, 0, 0, 0, 1)),
        rows=torch.nn.functional.pad(two.rows, (0, 1)),
    )
    torch.testing.assert_close(GroupDro().solve(absent), GroupDro().solve(two))
