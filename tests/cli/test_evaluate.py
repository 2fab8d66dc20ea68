"""`settx-fast evaluate` without a run directory, and `settx-fast compare`."""

import json
from pathlib import Path
from typing import Any

import pytest
from command import run, sentence

from settx_fast.predictor.decisions import evaluation, loss_study
from settx_fast.predictor.decisions.choices import ORACLE
from settx_fast.predictor.decisions.evaluation import Evaluation
from settx_fast.predictor.decisions.loss_study import Budget, Run, Study

NUMBERS = {"always ERM": 0.3, ORACLE: 0.0}
FOUND = Evaluation(
    settings={
        "datasets": 7,
        "datasets of each shifted prior": 3,
        "datasets that the trees were fitted to": 100,
        "rows": 1000,
        "model": False,
    },
    held_out={"all": NUMBERS, "2": NUMBERS},
    shifted={"fresh shifts": NUMBERS},
    tables={"penguins": NUMBERS},
    pairs={"penguins": 3},
    pooled={"geometric": NUMBERS, "mean": NUMBERS},
    ratio_to_erm={"always ERM": (1.0, 1.0, 1.0), ORACLE: (0.8, 0.7, 0.9)},
    calibration={},
    speed=None,
)
STUDY = Study((Run("mse", "none", 0, 0.1, 0.5, 0.6, 0.3),), Budget(), 3072, 768, 0.3, 0.2)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the evaluation of choices is called with, in place of it."""
    calls = []

    def evaluate(work: Path, **options: Any) -> Evaluation:
        options.pop("progress")("working …")
        calls.append({"work": work} | options)
        return FOUND

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return calls


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the loss study is called with, in place of it."""
    calls = []

    def compare(*arguments: Any, **options: Any) -> Study:
        calls.append((*arguments, options["budget"]))
        return STUDY

    monkeypatch.setattr(loss_study, "compare", compare)
    return calls


def test_without_a_run_directory_the_choice_is_evaluated_and_written(evaluated: list, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "evaluation.md"
    options = ("--num-datasets", "7", "--num-training", "100", "--work", tmp_path)
    result = run("evaluate", "--out", out, *options)
    assert result.exit_code == 0
    assert evaluated == [{"work": tmp_path, "num_datasets": 7, "num_training": 100, "model": None}]
    assert "| always ERM | 30.0 % | 30.0 % |" in out.read_text()
    assert "| oracle | 0.0 % | 0.0 % | 0.800 (0.700 … 0.900) |" in out.read_text()
    assert "Wrote" in result.stderr


def test_json_of_the_choice_is_the_evaluation(evaluated: list) -> None:
    found = json.loads(run("evaluate", "--json").stdout)
    assert found["held_out"]["2"]["always ERM"] == 0.3
    assert evaluated[0]["num_datasets"] == 1000


@pytest.mark.parametrize("option", [("--num-rows", "50"), ("--seed", "3")])
def test_options_of_a_run_are_refused_without_one(evaluated: list, option: tuple[str, str]) -> None:
    result = run("evaluate", *option)
    assert result.exit_code == 2
    assert f"{option[0]}: expected a run directory beside it" in sentence(result)


def test_options_of_the_choice_are_refused_beside_a_run(tmp_path: Path) -> None:
    result = run("evaluate", tmp_path, "--num-training", "200")
    assert result.exit_code == 2
    assert "--num-training: expected no run directory beside it" in sentence(result)


def test_a_comparison_is_written_with_its_figure(compared: list, tmp_path: Path) -> None:
    out = tmp_path / "losses.md"
    result = run("compare", "--losses", "mse, mae", "--penalties", "none,l1", "--steps", "50", "--out", out)
    assert result.exit_code == 0
    ((work, losses, penalties, seeds, budget),) = compared
    assert (work, losses, penalties, seeds) == (Path("build/evaluation"), ["mse", "mae"], ["none", "l1"], 3)
    assert budget.steps == 50
    assert "settx-fast compare --losses mse, mae --penalties none,l1 --seeds 3 --steps 50 --out" in out.read_text()
    assert (tmp_path / "images" / "losses.svg").exists()


def test_an_unknown_loss_is_refused_in_a_sentence() -> None:
    result = run("compare", "--losses", "huge")
    assert result.exit_code == 2
    assert "loss: expected one of mse, mae, huber, gaussian_nll, pinball, got 'huge'" in sentence(result)
