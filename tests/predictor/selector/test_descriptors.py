import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks import FRAMEWORKS, estimator, sources_of
from settx_fast.predictor.frameworks.base import as_observed, environment_ids
from settx_fast.predictor.selector.descriptors import Descriptors, describe
from settx_fast.predictor.selector.fits import fits_of
from settx_fast.predictor.selector.framework_descriptors import LEFT_OUT
from tests.predictor.frameworks.rows import Rows, by_environment, make_rows

ON_THE_GUESS = 35  # descriptors of a column: its slope on the guess of the target, in sources and in deployment
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def observed(rows: Rows) -> Observed:
    return as_observed(rows.X, rows.y, environment_ids(rows.environments, len(rows.y)), rows.X_deploy)


def descriptors(rows: Rows) -> Descriptors:
    return describe(fits_of(sources_of(observed(rows))))


@pytest.mark.parametrize("seed", range(3))
def test_units_signs_and_orders_do_not_matter(seed: int) -> None:
    rows, random = make_rows(seed, 4), np.random.default_rng(seed)
    columns, order = random.permutation(4), random.permutation(len(rows.y))
    names = random.permutation(4)
    renamed = names[[int(label[-1]) for label in rows.environments]]
    unit = random.uniform(0.1, 10, 4) * random.choice([-1, 1], 4)
    other = Rows(
        (rows.X * unit + 7)[order][:, columns],
        (-5 * rows.y + 3)[order],
        renamed[order],
        (random.permutation(rows.X_deploy) * unit + 7)[:, columns],
    )
    before, after = descriptors(rows), descriptors(other)
    torch.testing.assert_close(after.frameworks, before.frameworks, **CLOSE)
    torch.testing.assert_close(after.dataset, before.dataset, **CLOSE)
    torch.testing.assert_close(after.columns, before.columns[:, columns], **CLOSE)
    torch.testing.assert_close(after.sources[:, names], before.sources, **CLOSE)
    torch.testing.assert_close(after.unit, 5 * before.unit)


@pytest.mark.parametrize("value", [None, 0.0, 3.0])
def test_left_out_risks_are_those_of_the_estimators(value: float | None) -> None:
    """With a value: of a column, too, that is the same everywhere but in one source."""
    rows = make_rows(1, 5)
    if value is not None:
        only = np.random.default_rng(1).random(len(rows.y)) < 0.5
        column = np.where((rows.environments == "place 1") & only, 1.0, value)
        extra = np.full(len(rows.X_deploy), value)
        rows = rows._replace(X=np.column_stack([rows.X, column]), X_deploy=np.column_stack([rows.X_deploy, extra]))
    found = descriptors(rows).frameworks[0, :, LEFT_OUT]
    for f, name in enumerate(FRAMEWORKS):
        errors = []
        for k, (X, y) in enumerate(by_environment(rows)):
            rest = rows.environments != f"place {k}"
            model = estimator(name).fit(rows.X[rest], rows.y[rest], rows.environments[rest], X)
            errors.append(np.mean((model.predict(X) - y) ** 2))
        assert float(found[f]) == pytest.approx(np.log(np.mean(errors) / rows.y.var()), abs=1e-4), name


def test_they_see_a_deployment_that_has_moved() -> None:
    rows = make_rows(1)
    near, far = descriptors(rows), descriptors(rows._replace(X_deploy=rows.X_deploy + 30 * rows.X.std(0)))
    assert (near.frameworks != far.frameworks).any()
    assert float(far.dataset[0, 5]) > float(near.dataset[0, 5]) + 1


@pytest.mark.parametrize("awkward", ["one source", "no deployment", "two rows", "constant", "twice the same"])
def test_awkward_tables_have_finite_descriptors(awkward: str) -> None:
    rows = make_rows(2, 1 if awkward == "one source" else 3)
    X, X_deploy = rows.X.copy(), rows.X_deploy.copy()
    if awkward == "no deployment":
        X_deploy = X_deploy[:0]
    if awkward == "constant":
        X[:, 0], X_deploy[:, 0] = 1.0, 2.0
    if awkward == "twice the same":
        X[:, 0], X_deploy[:, 0] = X[:, 1], X_deploy[:, 1]
    keep = np.ones(len(X), dtype=bool)
    if awkward == "two rows":
        keep = (rows.environments != "place 0") | (np.cumsum(rows.environments == "place 0") <= 2)
    found = descriptors(Rows(X[keep], rows.y[keep], rows.environments[keep], X_deploy))
    assert all(bool(part.isfinite().all()) for part in found)


def test_expected_risks_are_those_of_every_sources_own_relation() -> None:
    """If the target went with the columns in deployment as it does in one source: brute force on the rows."""
    rows = make_rows(3, 3)
    found = descriptors(rows).frameworks[0, :, -3:]
    for f, name in enumerate(FRAMEWORKS):
        model = estimator(name).fit(rows.X, rows.y, rows.environments, rows.X_deploy)
        risks = []
        for X, y in by_environment(rows):
            own = LinearRegression().fit(X, y)
            noise = np.mean((own.predict(X) - y) ** 2)
            risks.append(noise + np.mean((own.predict(rows.X_deploy) - model.predict(rows.X_deploy)) ** 2))
        expected = np.log(np.array(risks) / rows.y.var())
        close = {"abs": 0.05, "rel": 0.02}  # the descriptors' regressions are ridged
        assert float(found[f, 0]) == pytest.approx(expected.mean(), **close), name
        assert float(found[f, 1]) == pytest.approx(expected.max(), **close), name
        assert float(found[f, 2]) == pytest.approx(expected.min(), **close), name


def test_a_column_whose_own_mechanism_moves_in_deployment_stands_out() -> None:
    """The first causes the second, of which a third is made: the second's relation to the first turns around."""
    random = np.random.default_rng(0)

    def draw(number: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
        cause = random.normal(size=number)
        y = cause + 0.5 * random.normal(size=number)
        effect = slope * y + 0.5 * random.normal(size=number)
        return np.column_stack([cause, effect, random.normal(size=number)]), y

    X, y = draw(2000, 1.0)
    environments = np.repeat(["a", "b"], 1000)
    still, moved = (descriptors(Rows(X, y, environments, draw(2000, slope)[0])).columns[0] for slope in (1.0, -1.0))
    usual, there, change = moved[:, ON_THE_GUESS : ON_THE_GUESS + 3].unbind(-1)
    assert float(there[1]) < -0.5 < 0.5 < float(usual[1])
    assert change.argmax() == 1
    assert float(still[:, ON_THE_GUESS + 2].max()) < 0.1 < float(change[1])


def test_coefficients_go_with_the_correlation() -> None:
    rows = make_rows(4)
    X = (rows.X - rows.X.mean(0)) / rows.X.std(0)
    within = estimator("within").fit(X, rows.y / rows.y.std(), rows.environments)
    sign = np.sign([np.corrcoef(column, rows.y)[0, 1] for column in X.T])
    found = descriptors(rows).columns[0, :, FRAMEWORKS.index("within") - len(FRAMEWORKS)]
    np.testing.assert_allclose(np.sinh(found.numpy()), within.coef_ * sign, rtol=1e-3, atol=1e-4)
