"""Training: the stream, the run directory, resuming, several processes, and that something is learned."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from settx_fast import scm
from settx_fast.predictor import evaluation
from settx_fast.predictor.config import MAX_SEED, PRESETS, TrainConfig, for_prior, preset
from settx_fast.predictor.data import Example, Stream, draw
from settx_fast.predictor.losses import penalty
from settx_fast.predictor.model import ModelConfig, PropertyPredictor
from settx_fast.predictor.targets import BY_NAME
from settx_fast.predictor.training import VALIDATION_SEED, Training, standardise, train, validation_set

TINY = replace(
    preset("chain"),
    model=ModelConfig(hidden=16, num_inds=4, num_heads=2),
    epochs=2,
    epoch_steps=3,
    batch_size=4,
    min_rows=30,
    max_rows=60,
    validation_datasets=6,
)


def same(left: Example, right: Example) -> bool:
    return torch.equal(left.inputs.elements, right.inputs.elements) and torch.equal(left.columns, right.columns)


def fit(config: TrainConfig, out: Path, **options: object) -> dict[str, torch.Tensor]:
    train(config, out, accelerator="cpu", devices=options.pop("devices", 1), progress=False, **options)
    return load_file(out / "model.safetensors")


def history(out: Path, column: str) -> list[tuple[int, float]]:
    with (out / "metrics.csv").open() as file:
        return [(int(float(row["step"])), float(row[column])) for row in csv.DictReader(file) if row[column]]


def test_a_batch_is_a_function_of_step_and_rank_alone():
    assert same(Stream(TINY, rank=1, ranks=2).batch(5), Stream(TINY, first_step=3, rank=1, ranks=2).batch(2))


def test_loader_workers_do_not_change_the_stream():
    alone = iter(Stream(TINY, first_step=2))
    shared = iter(DataLoader(Stream(TINY, first_step=2), batch_size=None, num_workers=2))
    assert all(same(next(alone), next(shared)) for _ in range(4))


def test_ranks_share_out_the_batches_of_a_single_process():
    alone = Stream(TINY)
    for step in range(2):
        for rank in range(3):
            assert same(Stream(TINY, rank=rank, ranks=3).batch(step), alone.batch(3 * step + rank))


def test_batches_of_a_stream_differ_in_datasets_and_row_counts():
    batches = [Stream(TINY).batch(step) for step in range(8)]
    assert len({batch.inputs.elements.shape[1] for batch in batches}) > 1
    assert len({float(batch.truth["risk"][0, 0]) for batch in batches}) == 8


def test_every_batch_has_its_own_order_of_columns_and_environments():
    orders = {tuple(Stream(TINY).batch(step).columns.flatten().tolist()) for step in range(8)}
    assert len(orders) > 4
    plain = Stream(replace(TINY, permute=False))
    assert len({tuple(plain.batch(step).columns.flatten().tolist()) for step in range(8)}) == 1


def test_held_out_datasets_are_none_of_the_training_stream():
    held_out = torch.cat([example.truth["risk"] for example in validation_set(TINY)])
    seen = draw(TINY, TINY.seed, 0, len(held_out), TINY.max_rows).truth["risk"]
    assert len(held_out) == TINY.validation_datasets
    assert not torch.isclose(held_out, seen).any()
    training, validation = range(MAX_SEED), range(VALIDATION_SEED, VALIDATION_SEED + MAX_SEED)
    assert training.stop <= validation.start
    assert validation.stop <= evaluation.SEED_OFFSET


def test_what_never_varies_has_the_scale_0_and_all_else_its_own():
    training = Training(TINY)
    standardise(training.model, TINY, datasets=200)
    truth = draw(TINY, TINY.seed, 0, 200, TINY.min_rows).model_truth()
    assert float(training.model.get_buffer("deviation_edge_density")) == 0
    deviation = training.model.get_buffer("deviation_risk")
    torch.testing.assert_close(deviation, truth["risk"].double().std(0, correction=0).float())


def test_penalties_are_part_of_the_training_loss_and_of_no_log():
    example = Stream(TINY).batch(0)
    plain, penalised = Training(TINY), Training(replace(TINY, l1=0.1, l2=0.2))
    difference = penalised.training_step(example, 0) - plain.training_step(example, 0)
    expected = penalty(plain.model.parameters(), 0.1, 0.2)
    assert expected.item() > 1
    torch.testing.assert_close(difference, expected)
    assert torch.equal(penalised.sums["loss"], plain.sums["loss"])


@pytest.mark.parametrize("name", PRESETS)
def test_preset_configs_survive_their_json_and_fit_their_datasets(name, tmp_path):
    config = preset(name)
    (tmp_path / "config.json").write_text(config.to_json())
    assert TrainConfig.load(tmp_path) == config
    example = draw(config, 0, 0, 2, 200)
    assert example.inputs.elements.shape[-1] == config.features.element_dim


def test_a_run_directory_holds_config_weights_checkpoint_and_logs(tmp_path):
    fit(TINY, tmp_path)
    assert TrainConfig.load(tmp_path) == TINY
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert [step for step, _ in history(tmp_path, "valid/loss")] == [2, 5]
    assert len(history(tmp_path, "train/loss")) == 2
    model = PropertyPredictor.load(tmp_path)
    assert float(model.get_buffer("deviation_noise_to_signal")) > 0


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    whole = fit(TINY, tmp_path / "whole")

    class InterruptedRunError(Exception):
        pass

    def interrupt(stream: scm.Stream, step: int) -> scm.Batch:
        if stream.first_index // stream.batch_size + step == TINY.epoch_steps + 1:  # in the second epoch
            raise InterruptedRunError
        return batch(stream, step)

    batch = scm.Stream.batch
    with monkeypatch.context() as patch:
        patch.setattr(scm.Stream, "batch", interrupt)
        with pytest.raises(InterruptedRunError):
            fit(TINY, tmp_path / "resumed")
    resumed = fit(TINY, tmp_path / "resumed", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for column in ("train/loss", "valid/loss"):
        assert history(tmp_path / "whole", column) == history(tmp_path / "resumed", column)


def test_a_finished_run_is_not_overwritten_and_another_is_not_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(TINY, tmp_path, resume=True)
    fit(TINY, tmp_path)
    with pytest.raises(FileExistsError, match="holds a training run"):
        train(TINY, tmp_path)
    with pytest.raises(ValueError, match="expected the config of the run"):
        train(replace(TINY, learning_rate=0.5), tmp_path, resume=True)


def test_a_run_that_never_came_to_a_checkpoint_can_be_started_anew(tmp_path):
    with pytest.raises(ValueError, match="accelerator, devices, strategy: expected what this machine has"):
        train(TINY, tmp_path, accelerator="cpu", devices="x", progress=False)
    (tmp_path / "metrics.csv").write_text("step,train/loss\n7,1.0\n")
    fit(TINY, tmp_path)
    assert [step for step, _ in history(tmp_path, "train/loss")] == [2, 5]


def test_two_processes_train_one_model(tmp_path):
    alone = fit(replace(TINY, epochs=1), tmp_path / "alone")
    together = fit(replace(TINY, epochs=1), tmp_path / "together", devices=2, strategy="ddp_fork")
    assert all(value.isfinite().all() for value in together.values())
    assert any(not torch.equal(alone[name], together[name]) for name in alone)
    assert [step for step, _ in history(tmp_path / "together", "valid/loss")] == [2]


def test_point_losses_store_the_spread_of_held_out_residuals(tmp_path):
    config = replace(TINY, epochs=1, model=replace(TINY.model, loss="huber"), l1=1e-4, l2=1e-4)
    spread = fit(config, tmp_path)["spread_risk"]
    assert spread.shape == (3,)
    model, examples = PropertyPredictor.load(tmp_path), validation_set(config)
    error = [
        model.band(BY_NAME["risk"], model(each.inputs)["risk"]).centre - each.model_truth()["risk"] for each in examples
    ]
    mean_square = torch.cat(error).square().mean(0)
    torch.testing.assert_close(spread * model.get_buffer("deviation_risk"), mean_square.sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("l1", -1.0), ("learning_rate", 0.0), ("max_rows", 10), ("seed", 2**31)],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"{field}: expected"):
        replace(TINY, **{field: value})


def test_a_few_steps_on_the_chain_beat_the_mean(tmp_path):
    config = for_prior(
        "chain",
        scm.presets.chain(),
        units=True,
        model=ModelConfig(hidden=32, num_inds=8),
        permute=False,
        epochs=1,
        epoch_steps=150,
        min_rows=100,
        max_rows=100,
        learning_rate=3e-3,
        validation_datasets=32,
    )
    fit(config, tmp_path)
    example = draw(config, 2**33, 0, 200, 200)
    said = PropertyPredictor.load(tmp_path).predict(example.inputs)["direct_effect_on_target"].value[:, 0]
    alpha = example.truth["direct_effect_on_target"][:, 0]
    assert (said - alpha).square().mean() < 0.5 * alpha.var()
