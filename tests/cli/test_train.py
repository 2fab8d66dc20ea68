"""`settx-fast train`."""

import sys
from pathlib import Path
from typing import Any

import pytest
from command import run, sentence

from settx_fast import scm
from settx_fast.cli.train import DEFAULTS, configure
from settx_fast.predictor import training
from settx_fast.predictor.checkpoints import LAST
from settx_fast.predictor.config import TrainConfig, preset


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, Path, dict[str, Any]]]:
    """What `train` is called with, in place of training."""
    calls = []

    def train(config: TrainConfig, out: Path, **options: Any) -> Path:
        calls.append((config, out, options))
        return out

    monkeypatch.setattr(training, "train", train)
    return calls


def test_every_option_of_train_arrives(trained: list, tmp_path: Path) -> None:
    options = "--resume --batch-size 8 --loss pinball --learning-rate 0.01 --l1 1e-5 --l2 1e-4 --seed 3 --devices 2 -q"
    options += " --rows 64 200 --workers 1"
    assert run("train", "chain", "--out", tmp_path / "run", *options.split()).exit_code == 0
    ((config, out, given),) = trained
    assert (config.name, config.batch_size, config.model.loss, config.learning_rate) == ("chain", 8, "pinball", 0.01)
    assert (config.l1, config.l2, config.seed) == (1e-5, 1e-4, 3)
    assert (config.min_rows, config.max_rows, config.workers) == (64, 200, 1)
    assert out == tmp_path / "run"
    assert given == {"resume": True, "force": False, "accelerator": "auto", "devices": 2, "progress": False}
    run("train", "chain", "--out", tmp_path / "run", "--force")
    assert trained[1][2]["force"]


@pytest.mark.parametrize(
    ("checkpoint", "options", "what"),
    [
        (True, (), "goes on with --resume"),
        (True, ("--force",), "goes on with --resume instead of --force"),
        (False, (), "starts anew"),
    ],
)
def test_an_interrupted_training_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: bool, options: tuple[str, ...], what: str
) -> None:
    def interrupted(config: TrainConfig, out: Path, **options: Any) -> None:
        if checkpoint:
            (out / LAST).parent.mkdir(parents=True)
            (out / LAST).touch()
        sys.exit(143)

    monkeypatch.setattr(training, "train", interrupted)
    result = run("train", "chain", "--out", tmp_path / "run", *options)
    assert result.exit_code == 143
    assert sentence(result) == f"Interrupted; the same command {what}."


def test_without_options_train_runs_the_preset(trained: list, tmp_path: Path) -> None:
    run("train", "random_linear", "--out", tmp_path / "run")
    assert trained[0][0] == preset("random_linear")
    assert not trained[0][2]["resume"]


def test_help_shows_every_default_as_it_is_and_how_long_it_takes(tmp_path: Path) -> None:
    shown = " ".join(run("train", "--help").stdout.replace("│", " ").split())
    assert "two minutes for 1,000 steps" in shown
    assert "settx-fast train my.yaml --out my_model" in shown
    for text in DEFAULTS.values():
        assert f"[default: ({text})]" in shown or f"[default: {text}]" in shown
    (tmp_path / "my.yaml").write_text(scm.presets.random_linear().to_yaml())
    names = {
        **{name: name for name in ("random_linear", "recurring_linear", "chain", "lucas")},
        "a file": str(tmp_path / "my.yaml"),
    }
    configs = {name: configure(prior, None, None, {}) for name, prior in names.items()}
    assert DEFAULTS["steps"] == ", ".join(f"{config.steps} for {name}" for name, config in configs.items())
    for config in configs.values():
        found = {name: str(getattr(config, name)) for name in DEFAULTS if name not in ("steps", "rows", "loss")}
        found |= {"rows": f"{config.min_rows} {config.max_rows}", "loss": config.model.loss}
        assert found == {name: text for name, text in DEFAULTS.items() if name != "steps"}


@pytest.mark.parametrize("steps", [1, 150, 401])
def test_steps_are_rounded_up_to_whole_epochs(trained: list, tmp_path: Path, steps: int) -> None:
    run("train", "chain", "--out", tmp_path / "run", "--steps", str(steps))
    config = trained[0][0]
    assert steps <= config.steps < steps + config.epoch_steps


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_prior_file_is_trained_on(trained: list, tmp_path: Path, suffix: str) -> None:
    prior = scm.presets.lucas()
    (tmp_path / f"mine.{suffix}").write_text(prior.to_json() if suffix == "json" else prior.to_yaml())
    assert run("train", tmp_path / f"mine.{suffix}", "--out", tmp_path / "run").exit_code == 0
    assert trained[0][0].name == "mine"
    assert trained[0][0].prior == scm.presets.lucas()


@pytest.mark.parametrize("arguments", [("nope",), ("chain", "--loss", "nope"), ("chain", "--learning-rate", "0")])
def test_bad_training_options_exit_with_2(trained: list, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run("train", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert sentence(result)
    assert trained == []


def test_an_existing_run_is_never_overwritten(model: Path) -> None:
    before = (model / "config.json").read_text()
    result = run("train", "chain", "--out", model, "--steps", "1")
    assert result.exit_code == 2
    assert "resume" in sentence(result)
    assert (model / "config.json").read_text() == before
