"""The classical estimator and the training mean, against the SCMs they estimate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.baselines import TrainingMean, anticausal_wins, classical, tied
from settx_fast.predictor.config import for_prior
from settx_fast.predictor.data import Example, draw, view
from settx_fast.predictor.evaluation import known_graph
from settx_fast.predictor.features import FeatureConfig
from settx_fast.predictor.targets import TARGETS


def example(prior: scm.Prior, rows: int, sets: int = 20) -> tuple[Example, torch.Tensor]:
    batch = scm.sample(prior, sets, rows, seed=0)
    seen = view(batch, FeatureConfig(prior.max_variables, prior.max_environments))
    return seen, known_graph(batch, seen)


def linear() -> scm.Prior:
    """Environments that differ by noise scale and shift of the features alone: what the classical estimator assumes."""
    change = (
        scm.Intervention("scale", scm.Uniform(0.5, 2.0), number=(0, 2), on_target=False),
        scm.Intervention("shift", scm.Uniform(-1.0, 1.0), number=(0, 2), on_target=False),
    )
    return scm.Prior(
        num_variables=(3, 6),
        weight=scm.Uniform(0.5, 1.0, signed=True),
        noise_scale=(0.5, 1.0),
        source_environments=2,
        source_interventions=change,
        target_interventions=change,
    )


def test_with_the_graph_known_estimates_approach_the_truth():
    seen, graph = example(linear(), 20_000)
    said = classical(seen.observed, graph)
    for target in TARGETS:
        if target.kind == "classes" or target.name.endswith("sortability"):  # ties of nearly equal scores may flip
            continue
        truth, estimate = (target.to_model(x, seen.inputs) for x in (seen.truth[target.name], said[target.name].value))
        known = truth.isfinite()
        # A variance from the 6,667 rows of an environment is off by √(2/6667) = 1.7 % (one standard error).
        assert (estimate - truth)[known].abs().max() < 5 * (2 / 6667) ** 0.5, target.name


def test_with_the_graph_known_roles_are_exact():
    seen, graph = example(linear(), 500)
    role = classical(seen.observed, graph)["role"].value
    known = seen.truth["role"] >= 0
    assert torch.equal(role.argmax(-1)[known], seen.truth["role"][known])


def test_on_the_chain_the_plug_in_rule_names_the_better_framework():
    seen, graph = example(scm.presets.chain(), 10_000, sets=100)
    said, truth = classical(seen.observed, graph)["risk"].value, seen.truth["risk"]
    clear = (truth[:, 2] / truth[:, 1]).log().abs() > 0.05
    assert torch.equal(anticausal_wins(said)[clear], anticausal_wins(truth)[clear])


def test_without_a_graph_edges_follow_the_order_of_explained_variance():
    generator = np.random.default_rng(0)
    first, second, noise = generator.standard_normal((3, 1, 5000))
    target = first + second + 0.3 * noise  # the others explain 0.96 of the target, 0.92 of each cause
    columns = torch.from_numpy(np.stack([first, second], -1))
    seen, _ = example(scm.presets.chain(), 5000, sets=1)
    is_target = torch.arange(5000)[None] >= 2500
    observed = seen.observed._replace(
        features=columns, target=torch.from_numpy(target), is_target=is_target, labelled=~is_target
    )
    said = classical(observed)
    assert said["role"].value.argmax(-1).tolist() == [[0, 0]]
    assert said["num_parents"].value.tolist() == [2]
    assert said["edge_density"].value.tolist() == pytest.approx([2 / 3])


def test_labels_of_the_target_environment_are_never_read():
    seen, graph = example(scm.presets.chain(), 100)
    hidden = seen.observed._replace(target=seen.observed.target.where(seen.observed.labelled, torch.nan))
    for known in (graph, None):
        before, after = classical(seen.observed, known), classical(hidden, known)
        for name, estimate in before.items():
            assert torch.equal(estimate.value, after[name].value), name


def test_absent_columns_change_nothing():
    batch = scm.sample(scm.presets.chain(), 8, 300, seed=0)
    narrow, wide = (view(batch, FeatureConfig(width, 2)) for width in (3, 6))
    for get in (known_graph, lambda *_: None):
        before = classical(narrow.observed, get(batch, narrow))
        after = classical(wide.observed, get(batch, wide))
        for target in TARGETS:
            expected, value = before[target.name].value, after[target.name].value
            value = value[:, :2] if target.level == "variable" else value
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=target.name)


def test_the_training_mean_is_the_mean_of_the_training_stream():
    config = for_prior("chain", scm.presets.chain(), min_rows=50)
    mean, stream = TrainingMean.of(config, 300), draw(config, config.seed, 0, 300, 50)
    said = mean.predict(draw(config, 7, 0, 2, 40).inputs)
    expected = stream.truth["direct_effect_on_target"].mean(0)
    torch.testing.assert_close(said["direct_effect_on_target"].value, expected.expand(2, 2))
    assert said["role"].value[0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]  # of the columns X and Z of every chain
    assert said["risk"].value.shape == (2, 3)
    assert mean.anticausal_wins == bool(anticausal_wins(stream.truth["risk"]).double().mean() > 0.5)


def test_equal_risks_are_ties_in_any_unit():
    risk = torch.tensor([[1.0, 2.0, 2.0 + 1e-6], [1.0, 2.0, 2.1]])
    assert tied(risk).tolist() == tied(risk * 1e6).tolist() == [True, False]
