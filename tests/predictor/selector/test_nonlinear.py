import re

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from settx_fast.predictor.selector.nonlinear import beyond_lines
from tests.predictor.frameworks.rows import make_rows


def curved(seed: int, sources: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    X = random.normal(size=(sources * rows, 3))
    y = np.cos(2 * X[:, 0]) * X[:, 1] + 0.1 * random.normal(size=len(X))
    return X, y, np.repeat(np.arange(sources), rows)


def test_trees_that_predict_left_out_sources_better_are_told_of_with_how_much() -> None:
    X, y, sources = curved(0, 4)
    gains = []
    for left_out in range(4):  # as many groups as sources
        rest, own = sources != left_out, sources == left_out
        trees = HistGradientBoostingRegressor(max_iter=100, max_leaf_nodes=15, early_stopping=False, random_state=0)
        errors = [m.fit(X[rest], y[rest]).predict(X[own]) - y[own] for m in (trees, LinearRegression())]
        gains.append(np.log(np.mean(errors[0] ** 2) / np.mean(errors[1] ** 2)))
    less = 1 - np.exp(np.mean(gains))
    said = beyond_lines(X, y, sources)
    assert said is not None
    assert said.startswith("Gradient-boosted ERM, which is not ranked, has ")
    assert said.endswith("less risk than ERM in left-out sources (geometric mean of 4).")
    assert float(said.split(" has ")[1].split("%")[0]) / 100 == pytest.approx(less, abs=0.02)


def test_trees_that_predict_worse_are_told_of_too() -> None:
    rows = make_rows(0, environments=6)
    said = beyond_lines(rows.X, rows.y, rows.environments)
    assert said is not None
    assert " more risk than ERM in left-out sources (geometric mean of 6)." in said


def test_what_could_be_chance_is_not_told() -> None:
    random = np.random.default_rng(2)
    X, sources = random.normal(size=(900, 3)), np.repeat(np.arange(6), 150)
    curve = np.cos(2 * X[:, 0]) * X[:, 1]
    rest = X[:, 2] + 0.5 * random.normal(size=900)
    assert beyond_lines(X, 0.35 * curve + rest, sources) is None  # trees gain as much as they lose
    assert beyond_lines(X, curve + rest, sources) is not None
    assert beyond_lines(X[:300], curve[:300], sources[:300]) is None  # of two sources nobody can say


def test_many_times_the_risk_is_not_told_in_percent() -> None:
    X, _, sources = curved(3, 4)
    said = beyond_lines(X, X @ [3.0, 2.0, 1.0] + 0.01 * np.random.default_rng(0).normal(size=len(X)), sources)
    assert said is not None
    times = re.fullmatch(r".* has ([\d,.]+) times the risk of ERM in left-out sources \(geometric mean of 4\)\.", said)
    assert times is not None
    assert float(times[1].replace(",", "")) > 100


def test_risks_without_a_logarithm_say_nothing() -> None:
    X, _, sources = curved(0, 4, rows=50)
    assert beyond_lines(X, np.zeros(len(X)), sources) is None
