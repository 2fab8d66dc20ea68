"""The loss study: every loss and penalty under one budget, and what the page says of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.decisions import loss_study
from settx_fast.predictor.decisions.loss_page import study_page, write_study
from settx_fast.predictor.decisions.loss_study import Budget, Run, Study, compare, confidence
from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.losses import LOSSES
from settx_fast.predictor.selector.examples import draw

BUDGET = Budget(steps=150, batch_size=64)


@pytest.fixture(scope="module")
def examples():
    return draw(scm.presets.recurring_linear(5, 3), 100, 200, seed=1, first_index=0)


@pytest.fixture
def given(monkeypatch, examples):
    """The same datasets to train on and to be held out, so that what is learned shows."""
    monkeypatch.setattr(loss_study, "drawn", lambda *args: examples)
    return examples


def test_every_loss_learns_what_it_has_seen(tmp_path, given):
    study = compare(tmp_path, list(LOSSES), ["none"], 1, budget=BUDGET, progress=lambda step: None)
    assert [run.loss for run in study.runs] == list(LOSSES)
    for run in study.runs:
        assert run.r2 > 0.3, run
        assert run.regret < study.best_fixed <= study.always_erm, run
        assert not run.is_constant


def test_a_strong_l1_penalty_makes_a_network_constant_and_chooses_one_framework(tmp_path, given):
    strong = replace(BUDGET, l1=1.0)
    (run,) = compare(tmp_path, ["mse"], ["l1"], 1, budget=strong, progress=lambda step: None).runs
    assert run.is_constant
    assert run.top == 1.0
    assert run.r2 < 0.05


def test_a_training_is_a_function_of_its_seed(tmp_path, given):
    once, again = (compare(tmp_path, ["huber"], ["l2"], 2, budget=BUDGET, progress=lambda step: None) for _ in range(2))
    assert once == again
    assert once.runs[0].regret != once.runs[1].regret or once.runs[0].r2 != once.runs[1].r2


def test_always_erm_and_the_best_fixed_framework_are_those_of_the_held_out_datasets(tmp_path, given):
    study = compare(tmp_path, ["mae"], ["none"], 1, budget=Budget(steps=1), progress=lambda step: None)
    over = (given.log_risk - given.log_risk.min(1, keepdim=True).values).double().mean(0).expm1()
    assert study.always_erm == pytest.approx(float(over[FRAMEWORKS.index("erm")]))
    assert study.best_fixed == pytest.approx(float(over.min()))


def test_confidence_is_students():
    mean, half = confidence([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(2.919986 / math.sqrt(3), rel=1e-5)  # 95 % quantile for two degrees of freedom
    assert confidence([5.0]) == (5.0, math.inf)


@pytest.mark.parametrize(
    ("losses", "penalties", "seeds", "message"),
    [
        (["huge"], ["none"], 1, "loss: expected one of mse, mae, .* got 'huge'"),
        (["mse"], ["l3"], 1, "penalty: expected one of none, l1, l2, elastic, got 'l3'"),
        (["mse"], ["none"], 0, "seeds: expected at least 1, got 0"),
    ],
)
def test_what_is_unknown_is_refused(tmp_path, losses, penalties, seeds, message):
    with pytest.raises(ValueError, match=message):
        compare(tmp_path, losses, penalties, seeds)


def test_the_page_names_the_closest_and_the_constant_and_has_a_figure(tmp_path):
    runs = [Run("mse", "none", seed, 0.10 + 0.01 * seed, 0.5, 0.6, 0.3) for seed in range(3)] + [
        Run("mae", "l1", seed, 0.30 + 0.01 * seed, 0.0, 0.01, 1.0) for seed in range(3)
    ]
    study = Study(tuple(runs), Budget(), 1000, 500, 0.4, 0.25)
    text = study_page(study, "settx-fast compare")
    assert "Closest to the objective: **mse, penalty none**, 11.0 %; intervals of 0 of the 1 others overlap" in text
    assert "spread: mae, penalty l1." in text
    assert "| mse | none | 11.0 ± 1.7 % | 0.50 | 0.60 | 30 % |" in text
    write_study(study, tmp_path / "losses.md", "settx-fast compare")
    first = (tmp_path / "images" / "losses.svg").read_bytes()
    write_study(study, tmp_path / "losses.md", "settx-fast compare")
    assert (tmp_path / "images" / "losses.svg").read_bytes() == first
    assert first.startswith(b"<?xml")


def test_spread_and_r2_are_those_of_the_predictions(examples):
    truth = loss_study.clipped_ratios(examples)
    exact = loss_study._measured(truth, examples, "mse", "none", 0)
    assert (exact.r2, exact.spread) == (1.0, pytest.approx(1.0))
    half = loss_study._measured(truth / 2, examples, "mse", "none", 0)
    assert half.spread == pytest.approx(0.5)
    assert exact.regret == pytest.approx(half.regret)
    assert np.isclose(exact.top, float(truth.argmin(1).bincount().max()) / len(truth))
    assert torch.equal(truth[:, FRAMEWORKS.index("erm")], torch.zeros(len(truth)))
