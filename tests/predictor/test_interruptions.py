"""A training that is stopped at any moment, by anything, loses a minute at most and leaves nothing that misleads."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import TINY, fit

from settx_fast import scm
from settx_fast._files import InUseError, checksum
from settx_fast.predictor import checkpoints, run_directory
from settx_fast.predictor.checkpoints import CheckpointFiles, Keeper
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.model import PropertyPredictor
from settx_fast.predictor.training import train


class StoppedError(Exception):
    pass


@contextmanager
def stopped_before(step: int):
    """Training that fails where it asks for the batch of a step, counted over epochs."""

    def batch_or_stop(stream: scm.Stream, number: int) -> scm.Batch:
        if stream.first_index // stream.batch_size + number == step:
            raise StoppedError
        return batch(stream, number)

    batch = scm.Stream.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scm.Stream, "batch", batch_or_stop)
        with pytest.raises(StoppedError):
            yield


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("model.safetensors", "config.json", "metrics.csv")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    fit(TINY, out)
    return out


# ---- Stopped, and going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, TINY.steps))
def test_a_run_stopped_after_any_step_goes_on_from_there_to_the_same_files(
    whole: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    with stopped_before(step):
        fit(TINY, tmp_path)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] >= step - 1
    fit(TINY, tmp_path, resume=True)
    assert files(tmp_path) == files(whole)


def test_checkpoints_within_an_epoch_are_written_as_often_as_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saved = iter(range(0, 10_000, 20)), []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(Keeper, "_save", lambda keeper, trainer: saved.append(trainer.global_step))
    monkeypatch.setattr(checkpoints, "INTERVAL", 60.0)
    fit(replace(TINY, epochs=1, epoch_steps=8), tmp_path)
    assert saved == [3, 4, 5, 6, 7, 8]  # `saved` stands still here: overdue from the third step on


@pytest.mark.parametrize("method", ["_save", "on_train_epoch_end"])
def test_a_run_stopped_between_metrics_and_checkpoint_writes_no_row_twice(
    whole: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(keeper: Keeper, trainer: object, *rest: object) -> None:
        if trainer.global_step == TINY.steps:
            raise StoppedError
        do(keeper, trainer, *rest)

    do = getattr(Keeper, method)
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, method, stop)
        with pytest.raises(StoppedError):
            fit(TINY, tmp_path)
    fit(TINY, tmp_path, resume=True)
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize("damage", [b"", b"step,train/loss\n7,", b"\xff\xfe\x00"])
def test_damaged_metrics_do_not_stand_in_the_way(whole: Path, tmp_path: Path, damage: bytes) -> None:
    with stopped_before(TINY.epoch_steps + 1):
        fit(TINY, tmp_path)
    (tmp_path / "metrics.csv").write_bytes(damage)
    fit(TINY, tmp_path, resume=True)
    assert files(tmp_path) == files(whole)


def test_a_run_stopped_while_its_model_is_saved_saves_it_when_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(replace(TINY, epochs=1), tmp_path)
    save = PropertyPredictor.save

    def save_and_stop(model: PropertyPredictor, out: Path) -> None:
        save(model, out)
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(PropertyPredictor, "save", save_and_stop)
        with pytest.raises(StoppedError):
            fit(TINY, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"model.safetensors' is damaged, or not the model of its config.json"):
        PropertyPredictor.load(tmp_path)
    fit(TINY, tmp_path, resume=True)
    PropertyPredictor.load(tmp_path)
    assert TrainConfig.load(tmp_path) == TINY


def test_config_json_tells_of_the_model_that_is_there_until_another_is(tmp_path: Path) -> None:
    short = replace(TINY, epochs=1)
    fit(short, tmp_path)
    before = files(tmp_path)
    with stopped_before(short.steps + 1):
        fit(TINY, tmp_path, resume=True)
    assert TrainConfig.load(tmp_path) == short
    after = files(tmp_path)
    assert (before["config.json"], before["model.safetensors"]) == (after["config.json"], after["model.safetensors"])
    fit(TINY, tmp_path, resume=True)
    assert TrainConfig.load(tmp_path) == TINY


def test_a_directory_in_which_no_model_was_finished_holds_no_config(tmp_path: Path) -> None:
    with stopped_before(TINY.epoch_steps + 1):
        fit(TINY, tmp_path)
    with pytest.raises(FileNotFoundError, match="no training run"):
        TrainConfig.load(tmp_path)


# ---- Signals ---------------------------------------------------------------------------------------------------------

TRAIN = """
import sys
from settx_fast.predictor import checkpoints
from settx_fast.cli import main
checkpoints.INTERVAL = 0.0
sys.argv = ["settx-fast", "train", "chain", "--out", sys.argv[1], *"--steps 5000 --batch-size 2 --rows 20 20".split(),
            *"--validation-datasets 2 --quiet".split()]
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_the_code_that_shells_expect(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell's background jobs ignore SIGINT
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.strip().splitlines()[-1] == "Interrupted; the same command goes on with --resume."
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "train.lock").exists()


# ---- One at a time ---------------------------------------------------------------------------------------------------


def test_two_trainings_in_one_directory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def save_while_another_tries(keeper: Keeper, trainer: object) -> None:
        for options in ({}, {"resume": True}, {"force": True}):
            try:
                train(replace(TINY, seed=1), tmp_path, **options)
            except (InUseError, FileNotFoundError) as error:
                refused.append(error)
        save(keeper, trainer)

    save = Keeper._save
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_save", save_while_another_tries)
        fit(TINY, tmp_path)
    assert len(refused) == 6
    assert {type(error) for error in refused if "nothing to resume" not in str(error)} == {InUseError}
    assert TrainConfig.load(tmp_path) == TINY
    assert not (tmp_path / "train.lock").exists()


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def test_checkpoints_do_not_pass_through_the_directory_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    CheckpointFiles().save_checkpoint({"a": torch.ones(2)}, tmp_path / "run" / "last.ckpt")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


def test_the_checkpoint_before_the_last_is_kept_and_gone_on_from_where_the_last_is_lost(
    whole: Path, tmp_path: Path
) -> None:
    fit(TINY, tmp_path)
    steps = [
        torch.load(tmp_path / path, weights_only=True)["global_step"]
        for path in (checkpoints.PREVIOUS, checkpoints.LAST)
    ]
    assert steps == [TINY.epoch_steps, 2 * TINY.epoch_steps]
    (tmp_path / checkpoints.LAST).unlink()
    fit(TINY, tmp_path, resume=True)
    assert files(tmp_path) == files(whole)


def damaged_at(data: bytes, place: float, length: int) -> bytes:
    start = int(place * (len(data) - length))
    return data[:start] + bytes(255 - byte for byte in data[start : start + length]) + data[start + length :]


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75, 1.0, None])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path: Path, place: float | None) -> None:
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint({"a": torch.arange(20_000.0)}, path)
    data = path.read_bytes()
    path.write_bytes(b"" if place is None else damaged_at(data, place, 40))
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged \(.*\): start anew with --force"):
        CheckpointFiles().load_checkpoint(path)
    (tmp_path / "previous.ckpt").write_bytes(data)
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged \(.*\): remove it to go on from previous.ckpt"):
        CheckpointFiles().load_checkpoint(path)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged \(.*[Ww]eights.only"):
        CheckpointFiles().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)


# ---- What is refused, and what --force does --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.5}, r"learning_rate \(0.5, not 0.002\)"),
        ({"seed": 3, "l1": 1.0}, r"seed \(3, not 0\) and another l1 \(1.0, not 0.0\)"),
        ({"model": replace(TINY.model, hidden=32)}, r"model.hidden \(32, not 16\)"),
        ({"prior": replace(TINY.prior, target_share=0.25)}, r"prior.target_share \(.*0.25.*, not None\)"),
    ],
)
def test_a_run_is_not_resumed_with_another_field_and_the_field_is_named(
    whole: Path, change: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=rf"resume: expected the config of the run in '.*', got another {named}"):
        train(replace(TINY, **change), whole, resume=True)
    assert not (whole / "train.lock").exists()


def test_epochs_and_workers_may_change(whole: Path) -> None:
    run_directory._check_same(replace(TINY, epochs=7, workers=2), whole)


def test_force_removes_a_run_and_what_was_said_of_its_model_and_nothing_else(tmp_path: Path) -> None:
    fit(TINY, tmp_path)
    for name in ("evaluation.json", "evaluation.npz", "prediction-x.json", "report.html", "notes.txt"):
        (tmp_path / name).touch()
    other = replace(TINY, epochs=1, seed=1)
    with pytest.raises(FileExistsError, match=r"holds a training run \(config.json, model.safetensors, .*force"):
        train(other, tmp_path)
    with pytest.raises(ValueError, match="resume, force: expected one of them"):
        train(other, tmp_path, resume=True, force=True)
    fit(other, tmp_path, force=True)
    assert TrainConfig.load(tmp_path) == other
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoints", "config.json", "metrics.csv", "model.safetensors", "notes.txt", "tensorboard"
    }  # fmt: skip
    assert not (tmp_path / checkpoints.PREVIOUS).exists()


def test_force_helps_where_a_checkpoint_is_empty(tmp_path: Path) -> None:
    fit(TINY, tmp_path)
    (tmp_path / checkpoints.LAST).write_bytes(b"")
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged"):
        fit(TINY, tmp_path, resume=True)
    fit(TINY, tmp_path, force=True)


def test_metrics_of_something_else_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds a training run \(metrics.csv\)"):
        fit(TINY, tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "mine"


# ---- The model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_flipped_bytes_of_a_model_are_noticed(whole: Path, tmp_path: Path, place: float) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    assert PropertyPredictor.load(tmp_path)
    weights = tmp_path / "model.safetensors"
    assert f'"weights_sha256": "{checksum(weights)}"' in (tmp_path / "config.json").read_text()
    weights.write_bytes(damaged_at(weights.read_bytes(), place, 1))
    with pytest.raises(ValueError, match=r"model.safetensors' is damaged, .* train it again"):
        PropertyPredictor.load(tmp_path)


@pytest.mark.parametrize("text", ["", '{"features": ', "[]"])
def test_a_damaged_config_is_named_with_what_to_do(whole: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(text)
    for load in (TrainConfig.load, PropertyPredictor.load):
        with pytest.raises(ValueError, match=r"config.json' is damaged \(.*\): train it again"):
            load(tmp_path)


def test_the_weights_that_are_saved_are_those_that_are_loaded(whole: Path) -> None:
    loaded, saved = PropertyPredictor.load(whole).state_dict(), load_file(whole / "model.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
