import numpy as np
import pytest
import torch

from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks import FRAMEWORKS, estimator, sources_of
from settx_fast.predictor.frameworks.base import as_observed, environment_ids
from settx_fast.predictor.selector.descriptors import LEFT_OUT, Descriptors, describe, fits_of
from tests.predictor.frameworks.rows import Rows, by_environment, make_rows

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
