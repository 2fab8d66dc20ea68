"""What holds for every framework, whatever it does."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from settx_fast.predictor.frameworks import BOOSTED, FRAMEWORKS, estimator, fit_all, leave_one_out, risks, sources_of
from settx_fast.predictor.frameworks.base import as_observed, environment_ids
from tests.predictor.frameworks.rows import Rows, by_environment, make_rows

EVERY = (*FRAMEWORKS, BOOSTED)


def fitted(name: str, rows: Rows):
    return estimator(name).fit(rows.X, rows.y, rows.environments, rows.X_deploy)


def sources(rows: Rows):
    return sources_of(as_observed(rows.X, rows.y, environment_ids(rows.environments, len(rows.y)), rows.X_deploy))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("name", EVERY)
def test_is_a_scikit_learn_estimator(name: str) -> None:
    check_estimator(estimator(name))


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_predictions_follow_units_signs_and_names_and_ignore_every_order(name: str) -> None:
    rows, random = make_rows(1), np.random.default_rng(0)
    expected = fitted(name, rows).predict(rows.X_deploy)
    unit, columns, order = np.array([-2.0, 0.1, 30.0, -1.0]), random.permutation(4), random.permutation(len(rows.y))
    renamed = np.array([{"place 0": 7, "place 1": 3, "place 2": 5}[label] for label in rows.environments])
    other = Rows(
        (rows.X * unit + 4)[order][:, columns],
        (-3 * rows.y + 1)[order],
        renamed[order],
        (rows.X_deploy * unit + 4)[:, columns],
    )
    got = fitted(name, other).predict(other.X_deploy)
    np.testing.assert_allclose((got - 1) / -3, expected, rtol=1e-6, atol=1e-6 * rows.y.std())


def test_a_batch_gives_what_each_dataset_gives_alone() -> None:
    several = [make_rows(seed, environments, 80, columns) for seed, (environments, columns) in enumerate(
        [(2, 3), (4, 5), (3, 4)]
    )]  # fmt: skip
    alone = [sources(rows) for rows in several]
    width, number = 5, 4
    padded = []
    for each in alone:
        p, k = width - each.present.shape[1], number - each.rows.shape[1]

        def grow(tensor: torch.Tensor, ends: int, environments: bool, p: int = p, k: int = k) -> torch.Tensor:
            """Absent columns go before the target."""
            for axis in range(1, ends + 1):
                features, last = tensor.split([tensor.shape[-axis] - 1, 1], -axis)
                shape = list(tensor.shape)
                shape[-axis] = p
                tensor = torch.cat([features, tensor.new_zeros(shape), last], -axis)
            if environments:
                tensor = torch.cat([tensor, tensor.new_zeros(1, k, *tensor.shape[2:])], 1)
            return tensor

        pad = torch.nn.functional.pad
        padded.append(
            type(each)(
                grow(each.mean, 1, True),
                grow(each.covariance, 2, True),
                pad(each.rows, (0, k)),
                pad(each.present, (0, p)),
                pad(each.deploy_mean, (0, p)),
                pad(each.deploy_covariance, (0, p, 0, p)),
                each.deploy_rows,
                grow(each.centre, 1, False),
                grow(each.scale, 1, False) + (grow(each.scale, 1, False) == 0),
            )
        )
    together = fit_all(type(alone[0])(*(torch.cat(parts) for parts in zip(*padded, strict=True))))
    for b, each in enumerate(alone):
        found, p = fit_all(each), each.present.shape[1]
        torch.testing.assert_close(together.coefficients[b, :, :p], found.coefficients[0], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(together.intercept[b], found.intercept[0], rtol=1e-6, atol=1e-8)
        assert not together.coefficients[b, :, p:].any()


@pytest.mark.parametrize("environments", [2, 3])
def test_leaving_a_source_out_is_fitting_the_others_with_its_features_as_deployment(environments: int) -> None:
    rows = make_rows(3, environments)
    fold = leave_one_out(sources(rows))
    got = risks(fit_all(fold.sources), fold.mean, fold.covariance) * (fold.unit[:, None] * rows.y.std()) ** 2
    for k, (X, y) in enumerate(by_environment(rows)):
        rest = rows.environments != f"place {k}"
        for f, name in enumerate(FRAMEWORKS):
            model = estimator(name).fit(rows.X[rest], rows.y[rest], rows.environments[rest], X)
            expected = np.mean((model.predict(X) - y) ** 2)
            assert float(got[k, f]) == pytest.approx(expected, rel=1e-5), name


def test_risks_are_mean_squared_errors_of_predictions() -> None:
    rows, others = make_rows(4), make_rows(5)
    of = sources(rows)
    columns = torch.from_numpy(np.column_stack([others.X, others.y]))
    mean, covariance = columns.mean(0), torch.cov(columns.T, correction=0)
    seen = of.with_target_environment(mean[None], covariance[None])
    got = risks(fit_all(of), *seen)[0] * rows.y.var()
    for f, name in enumerate(FRAMEWORKS):
        expected = np.mean((fitted(name, rows).predict(others.X) - others.y) ** 2)
        assert float(got[f]) == pytest.approx(expected, rel=1e-9), name


@pytest.mark.parametrize("name", EVERY)
def test_works_in_a_pipeline_on_a_data_frame(name: str) -> None:
    rows = make_rows(6)
    frame = pd.DataFrame(rows.X, columns=list("abcd"))
    pipeline = make_pipeline(StandardScaler(), estimator(name))
    step = pipeline.steps[-1][0]
    pipeline.fit(frame, rows.y, **{f"{step}__environments": rows.environments})
    direct = estimator(name).fit(rows.X, rows.y, rows.environments)
    np.testing.assert_allclose(pipeline.predict(frame), direct.predict(rows.X), rtol=1e-6)


def test_constant_and_repeated_columns_do_no_harm() -> None:
    rows = make_rows(7)
    X = np.column_stack([rows.X, np.full(len(rows.y), 3.0), rows.X[:, 0]])
    X_deploy = np.column_stack([rows.X_deploy, np.full(len(rows.X_deploy), 4.0), rows.X_deploy[:, 0]])
    for name in FRAMEWORKS:
        model = estimator(name).fit(X, rows.y, rows.environments, X_deploy)
        assert np.isfinite(model.predict(X_deploy)).all(), name
        assert model.coef_[4] == 0, name


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT])
def test_a_row_without_an_environment_is_refused(gap: object) -> None:
    rows = make_rows(8)
    labels = np.array([*rows.environments[:-2], gap, gap], dtype=object)
    with pytest.raises(
        ValueError, match=rf"environments: expected a label for every row, got none for 2 of {len(labels)}"
    ):
        estimator("erm").fit(rows.X, rows.y, labels)


def test_labels_of_any_kind_name_environments() -> None:
    rows = make_rows(8)
    names = np.unique(rows.environments)
    fitted = estimator("average").fit(rows.X, rows.y, rows.environments)
    for others in ([1, "b", 2.5], [True, "x", "y"], pd.to_datetime(["2020", "2021", "2022"])):
        labels = pd.Series(rows.environments).map(dict(zip(names, others, strict=True)))
        again = estimator("average").fit(rows.X, rows.y, labels)
        np.testing.assert_allclose(again.coef_, fitted.coef_, rtol=1e-9)


@pytest.mark.parametrize("name", ["X", "y", "X_deploy"])
def test_values_whose_squares_no_float_holds_are_refused_by_name(name: str) -> None:
    rows = make_rows(8)._asdict()
    rows[name] = 1e160 * rows[name]
    with pytest.raises(ValueError, match=rf"^{name}: expected values within ±1e\+150, got \d"):
        estimator("erm").fit(rows["X"], rows["y"], rows["environments"], rows["X_deploy"])


def test_bad_input_is_named() -> None:
    rows = make_rows(8)
    with pytest.raises(ValueError, match=r"framework: expected one of erm, .*, boosted, got 'best'"):
        estimator("best")
    with pytest.raises(ValueError, match=r"environments: expected shape \(\d+,\), got \(\d+,\)"):
        estimator("erm").fit(rows.X, rows.y, rows.environments[1:])
    with pytest.raises(ValueError, match=r"environments: expected shape"):
        estimator("erm").fit(rows.X, rows.y, np.zeros((len(rows.y), 2)))
    with pytest.raises(ValueError, match="features"):
        estimator("coral").fit(rows.X, rows.y, rows.environments, rows.X_deploy[:, 1:])
