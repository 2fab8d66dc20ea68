"""The predictor: sets in, properties in their own units out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from settx_fast.predictor.config import TrainConfig, for_prior
from settx_fast.predictor.data import Example, draw
from settx_fast.predictor.features import SetInputs, encode
from settx_fast.predictor.losses import LOSSES
from settx_fast.predictor.model import ModelConfig, PropertyPredictor
from settx_fast.predictor.targets import BY_NAME, ROLES, TARGETS
from settx_fast.scm.presets import random_linear

SMALL = ModelConfig(hidden=16, num_inds=4, num_heads=2)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return for_prior("random", random_linear(6), model=SMALL)


@pytest.fixture(scope="module")
def example(config: TrainConfig) -> Example:
    return draw(config, 0, 0, 5, 80)


def predictor(config: TrainConfig, loss: str = "gaussian_nll") -> PropertyPredictor:
    torch.manual_seed(0)
    model = PropertyPredictor(config.features, replace(config.model, loss=loss))
    with torch.no_grad():  # sharper than initialised, lest attention is uniform and answers are all alike
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_property_is_answered_in_its_shape_with_ordered_intervals(config, example, loss):
    said = predictor(config, loss).predict(example.inputs)
    assert said.keys() == {target.name for target in TARGETS}
    for target in TARGETS:
        estimate, truth = said[target.name], example.truth[target.name]
        if target.kind == "classes":
            assert estimate.value.shape == (*truth.shape, len(ROLES))
            torch.testing.assert_close(estimate.value.sum(-1), torch.ones(truth.shape))
            continue
        assert estimate.value.shape == truth.shape
        known = example.observed.present if target.level == "variable" else torch.ones_like(truth, dtype=torch.bool)
        assert torch.equal(estimate.value.isfinite(), known)
        assert (estimate.lower <= estimate.value)[known].all()
        assert (estimate.value <= estimate.upper)[known].all()
        assert (estimate.standard_deviation >= 0)[known].all()


@torch.no_grad()
def test_the_order_of_rows_does_not_matter(config, example):
    model = predictor(config)
    elements = example.inputs.elements
    shuffled = elements[:, torch.randperm(elements.shape[1], generator=torch.Generator().manual_seed(0))]
    exact = model.double()(example.inputs._replace(elements=elements.double()))
    error = max(float((output - exact[name]).abs().max()) for name, output in model.float()(example.inputs).items())
    for name, output in model.float()(example.inputs._replace(elements=shuffled)).items():
        assert float((output - exact[name]).abs().max()) <= 2 * error + 1e-6


def test_datasets_of_a_batch_do_not_influence_each_other(config, example):
    model = predictor(config)
    alone = model(SetInputs._make(part[2:3] for part in example.inputs))
    for name, output in model(example.inputs).items():
        torch.testing.assert_close(output[2:3], alone[name], rtol=1e-4, atol=1e-4)


def test_answers_follow_their_columns(config, example):
    model, seen = predictor(config), example.observed
    flipped = seen._replace(features=-seen.features.flip(2), present=seen.present.flip(1))
    before, after = model.predict(example.inputs), model.predict(encode(flipped, config.features))
    there = flipped.present
    torch.testing.assert_close(after["role"].value[there], before["role"].value.flip(1)[there])
    for field, mirrored in (("value", "value"), ("lower", "upper"), ("upper", "lower")):
        for name in ("total_effect", "direct_effect_on_target", "direct_effect_of_target"):
            expected = -getattr(before[name], mirrored).flip(1)  # the effect of −x is minus that of x
            torch.testing.assert_close(getattr(after[name], field), expected, equal_nan=True)
    torch.testing.assert_close(after["risk"].value, before["risk"].value)


def test_effects_follow_the_units_of_the_table(config, example):
    model, inputs = predictor(config), example.inputs
    kilo = inputs._replace(feature_scale=inputs.feature_scale / 1000, target_scale=inputs.target_scale * 2)
    before, after = model.predict(inputs), model.predict(kilo)
    there = inputs.present
    for name, factor in (("total_effect", 2000), ("direct_effect_of_target", 1 / 2000)):
        torch.testing.assert_close(after[name].value[there], before[name].value[there] * factor)
    torch.testing.assert_close(after["risk"].upper, before["risk"].upper * 4)


@pytest.mark.parametrize("target", [each for each in TARGETS if each.kind == "number"], ids=lambda each: each.name)
def test_converting_to_the_model_s_scale_and_back_changes_nothing(example, target):
    truth = example.truth[target.name]
    model_truth = target.to_model(truth, example.inputs)
    assert model_truth[truth.isfinite()].isfinite().all()
    back = target.to_raw(model_truth, example.inputs)
    bounded = (truth < 500) if target.name == "noise_to_signal" else truth.isfinite()  # a root's ∞ is a share of 1
    torch.testing.assert_close(back[bounded], truth[bounded], rtol=1e-4, atol=1e-5)


def test_a_property_that_never_varies_is_predicted_exactly_and_costs_nothing(config, example):
    model = predictor(config)
    mean, deviation = model.standard(BY_NAME["num_parents"])
    mean.fill_(1.0)
    deviation.fill_(0.0)
    estimate = model.predict(example.inputs)["num_parents"]
    assert (estimate.value == 1).all()
    assert (estimate.upper == estimate.lower).all()
    assert model.costs(example.inputs, example.model_truth())["num_parents"] == 0


def test_undefined_properties_leave_gradients_finite(config, example):
    model = predictor(config)
    truth = example.model_truth()
    truth["total_effect"] = truth["total_effect"].fill_(torch.nan)
    cost = model.costs(example.inputs, truth)
    assert cost["total_effect"] == 0
    sum(cost.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_saved_model_answers_as_before(config, example, tmp_path):
    model = predictor(config)
    model.standard(BY_NAME["risk"])[0].fill_(-1.5)
    (tmp_path / "config.json").write_text(config.to_json())
    model.save(tmp_path)
    loaded = PropertyPredictor.load(tmp_path)
    for name, estimate in model.predict(example.inputs).items():
        assert torch.equal(estimate.value.nan_to_num(), loaded.predict(example.inputs)[name].value.nan_to_num())


def test_a_directory_without_a_model_is_refused_with_what_to_do(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing \(`settx-fast train` writes it\)"):
        PropertyPredictor.load(tmp_path)
    (tmp_path / "config.json").write_text(config.to_json())
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        PropertyPredictor.load(tmp_path)


def _damage_config(directory):
    (directory / "config.json").write_text('{"features": {"unknown": 1}, "model": {}}')


def _cut_weights(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _other_weights(directory):
    save_file({"unknown": torch.zeros(1)}, directory / "model.safetensors")


@pytest.mark.parametrize("damage", [_damage_config, _cut_weights, _other_weights])
def test_a_model_that_does_not_fit_is_refused_with_what_to_do(config, tmp_path, damage):
    (tmp_path / "config.json").write_text(config.to_json())
    predictor(config).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=r"expected a model of this version of settx_fast.*train it again"):
        PropertyPredictor.load(tmp_path)
