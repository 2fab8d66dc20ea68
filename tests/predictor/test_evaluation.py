"""Metrics that fit their quantity, and an evaluation that is held out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import sklearn.metrics
import torch

from settx_fast import scm
from settx_fast.predictor import evaluation
from settx_fast.predictor.config import for_prior, preset
from settx_fast.predictor.data import draw
from settx_fast.predictor.evaluation import Compared, evaluate
from settx_fast.predictor.features import SetInputs
from settx_fast.predictor.metrics import METRICS, measure
from settx_fast.predictor.model import Estimate, ModelConfig, PropertyPredictor
from settx_fast.predictor.targets import BY_NAME, TARGETS
from settx_fast.predictor.training import train

TINY = {
    "model": ModelConfig(hidden=16, num_inds=4, num_heads=2),
    "epochs": 1,
    "epoch_steps": 2,
    "batch_size": 4,
    "min_rows": 30,
    "max_rows": 60,
    "validation_datasets": 4,
}


@pytest.fixture(scope="module")
def chain_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("chain")
    return train(replace(preset("chain"), **TINY), out, accelerator="cpu", progress=False)


def test_accuracy_of_a_number_is_an_error():
    estimate = Estimate(torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"accuracy: expected one of r2, mae, coverage for noise_to_signal \(number\)"):
        measure("accuracy", BY_NAME["noise_to_signal"], estimate, torch.tensor([0.1, 0.3]))


def test_r_squared_of_classes_is_an_error():
    with pytest.raises(ValueError, match=r"r2: expected one of auroc, accuracy, calibration for role \(classes\)"):
        measure("r2", BY_NAME["role"], Estimate(torch.eye(4)), torch.arange(4))


def test_metrics_of_numbers_agree_with_scikit_learn():
    generator = np.random.default_rng(0)
    truth = generator.standard_normal(200)
    said = truth + 0.3 * generator.standard_normal(200)
    estimate = Estimate(*map(torch.from_numpy, (said, said, said - 0.3, said + 0.2)))
    target = BY_NAME["edge_density"]
    got = {name: measure(name, target, estimate, torch.from_numpy(truth)) for name in METRICS["number"]}
    assert got["r2"] == pytest.approx(sklearn.metrics.r2_score(truth, said))
    assert got["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(truth, said))
    assert got["coverage"] == pytest.approx(np.mean((said - 0.3 <= truth) & (truth <= said + 0.2)))


def test_metrics_of_classes_agree_with_scikit_learn_where_a_class_is_missing():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 200)  # never "unrelated"
    said = generator.dirichlet(np.ones(4), 200) + 0.3 * np.eye(4)[truth]
    estimate = Estimate(torch.from_numpy(said / said.sum(1, keepdims=True)))
    got = {name: measure(name, BY_NAME["role"], estimate, torch.from_numpy(truth)) for name in ("auroc", "accuracy")}
    scores = [sklearn.metrics.roc_auc_score(truth == each, estimate.value[:, each]) for each in range(3)]
    assert got["auroc"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert got["accuracy"] == pytest.approx(np.mean(said.argmax(1) == truth))


def test_calibration_error_is_the_gap_between_confidence_and_frequency():
    said = torch.tensor([[0.8, 0.2, 0.0, 0.0]]).expand(1000, -1)
    truth = (torch.arange(1000) % 2).long()  # right half of the time
    assert measure("calibration", BY_NAME["role"], Estimate(said), truth) == pytest.approx(
        0.3, abs=1e-4
    )  # float32 sums


def test_an_evaluation_holds_every_predictor_beside_the_truth(chain_run):
    result = evaluate(chain_run, num_datasets=60, seed=3, num_rows=50)
    assert json.loads((chain_run / "evaluation.json").read_text()) == asdict(result)
    assert (result.seed, result.num_datasets, result.num_rows) == (3, 60, 50)
    assert set(result.metrics["risk/causal"]) == {"model", "mean", "classical"}
    assert result.metrics["role"]["classical"]["accuracy"] == 1.0  # the chain's graph is known
    assert {"direct_effect_on_target/0", "direct_effect_of_target/1"} <= result.metrics.keys()
    assert set(result.framework) == {"model", "majority", "classical"}
    arrays = np.load(chain_run / "evaluation.npz")
    for target in TARGETS:
        assert len(arrays[f"{target.name}/true"]) == len(arrays[f"{target.name}/classical"]) == 60
    alpha = arrays["direct_effect_on_target/true"][:, 0], arrays["direct_effect_on_target/classical"][:, 0]
    expected = sklearn.metrics.r2_score(*alpha)
    assert result.metrics["direct_effect_on_target/0"]["classical"]["r2"] == pytest.approx(expected, abs=1e-5)


def test_properties_that_never_vary_are_left_out(chain_run):
    result = evaluate(chain_run, num_datasets=20, num_rows=40)
    constant = {"num_parents", "num_children", "edge_density", "direct_effect_on_target/1", "direct_effect_of_target/0"}
    assert not constant & result.metrics.keys()


def test_the_same_seed_gives_the_same_evaluation_and_another_seed_another(chain_run):
    first, again, other = (evaluate(chain_run, num_datasets=10, seed=seed, num_rows=40) for seed in (1, 1, 2))
    assert first == again
    assert first.metrics != other.metrics


def test_held_out_datasets_are_not_those_of_training(chain_run):
    config = replace(preset("chain"), **TINY)
    evaluate(chain_run, num_datasets=8, seed=config.seed, num_rows=40)
    held_out = np.load(chain_run / "evaluation.npz")["direct_effect_on_target/true"]
    trained = draw(config, config.seed, 0, 8, 40).truth["direct_effect_on_target"].numpy()
    assert not np.isin(held_out[:, 0], trained[:, 0]).any()


def test_evaluation_in_chunks_is_evaluation_at_once(chain_run, monkeypatch):
    at_once = evaluate(chain_run, num_datasets=30, num_rows=40)
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    chunked = evaluate(chain_run, num_datasets=30, num_rows=40)
    assert chunked.framework == at_once.framework
    for name, by_metric in at_once.metrics["total_effect"].items():
        assert chunked.metrics["total_effect"][name]["r2"] == pytest.approx(by_metric["r2"], rel=1e-4)


def test_priors_with_random_graphs_are_evaluated_too(tmp_path):
    config = for_prior("random", scm.presets.random_linear(5), **TINY)
    result = evaluate(train(config, tmp_path, accelerator="cpu", progress=False), num_datasets=20, num_rows=60)
    assert 0 < result.framework_datasets <= 20
    assert "direct_effect_on_target/0" not in result.metrics
    assert {"edge_density", "num_parents", "role", "covariate_shift"} <= result.metrics.keys()
    assert list(result.framework) == ["model", "majority", "classical", "informed"]


def test_recommendations_cost_nothing_where_the_risks_are_known_and_the_ratio_of_risks_elsewhere():
    risk = torch.tensor([[1.0, 2.0, 4.0], [8.0, 2.0, 2.0]])
    inputs = SetInputs(*(torch.empty(0),) * 4, target_scale=torch.ones(2))
    said = {"model": risk, "mean": torch.tensor([[1.0, 2.0, 3.0]]).expand(2, 3)}
    compared = Compared(inputs, {"risk": risk}, {name: {"risk": Estimate(value)} for name, value in said.items()})
    found = evaluation._recommendation(compared)
    assert found["model"] == {"best": 1.0, "excess_risk": 0.0}
    assert found["mean"] == {"best": 0.5, "excess_risk": pytest.approx(1.0)}  # √(1 · 4) − 1


def test_effects_are_raw_under_a_fixed_graph_and_unit_free_elsewhere():
    effect, inputs = BY_NAME["total_effect"], SetInputs(*(torch.empty(0),) * 3, torch.tensor([[-2.0]]), torch.ones(1))
    said = Estimate(torch.tensor([[3.0]]), None, torch.tensor([[1.0]]), torch.tensor([[4.0]]))
    assert not effect.is_compared_unit_free(graph_is_fixed=True)
    assert effect.is_compared_unit_free(graph_is_fixed=False)
    unit_free = evaluation._unit_free(effect, said, inputs)
    assert (unit_free.lower.item(), unit_free.value.item(), unit_free.upper.item()) == (-8, -6, -2)


def test_who_is_told_the_graph_knows_the_parents():
    prior = scm.presets.random_linear(5)
    config = for_prior("random", prior, **TINY)
    model, mean = PropertyPredictor(config.features, config.model), evaluation.TrainingMean.of(config, 64)
    compared = evaluation.compare(config, model, mean, 6, 1, 50)
    assert torch.equal(compared.estimates["informed"]["num_parents"].value, compared.truth["num_parents"])
    assert not torch.equal(compared.estimates["classical"]["num_parents"].value, compared.truth["num_parents"])


def test_an_evaluation_of_nothing_is_refused(chain_run, tmp_path):
    with pytest.raises(ValueError, match="num_datasets: expected at least 2, got 1"):
        evaluate(chain_run, num_datasets=1)
    with pytest.raises(FileNotFoundError, match=r"no training run"):
        evaluate(tmp_path)
