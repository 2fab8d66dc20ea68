"""A model of one graph on tables that can be of that graph, and on tables that cannot."""

import numpy as np
import pytest

from settx_fast import scm
from settx_fast.predictor.data import observe
from settx_fast.predictor.features import FeatureConfig
from settx_fast.predictor.fixedgraph import contradiction, implied
from settx_fast.predictor.table import Table
from settx_fast.scm.presets import LUCAS_EDGES, LUCAS_NAMES


def table_of(features: np.ndarray, target: np.ndarray, names: tuple[str, ...] = ("x1", "x2")) -> Table:
    environment = np.arange(len(target)) % 3
    return Table("t", "y", names, features, target, environment, ("a", "b", "c"), 2)


def sampled(prior: scm.Prior, index: int, rows: int = 600) -> Table:
    """A dataset of the prior as a table, under its own names."""
    batch = scm.sample(prior, 1, rows, seed=1, first_index=index)
    seen, columns = observe(batch, FeatureConfig(prior.max_variables, prior.max_environments))
    names = tuple(prior.names[v] for v in columns[0].tolist())
    _, environment = np.unique(seen.environment[0].numpy(), return_inverse=True)
    deploy = int(environment[seen.is_target[0].numpy()][0])
    labels = tuple(str(each) for each in range(environment.max() + 1))
    features, target = seen.features[0].double().numpy(), seen.target[0].double().numpy()
    return Table("t", str(prior.target), names, features, target, environment, labels, deploy)


def test_two_independent_causes_are_no_chain() -> None:
    features = np.random.default_rng(0).normal(size=(900, 2))
    target = features.sum(1) + 0.5 * np.random.default_rng(1).normal(size=900)
    said = contradiction(table_of(features, target), scm.presets.chain())
    assert said.startswith("This table cannot come from the only graph that the model knows (X → Y, Y → Z): given y, ")
    assert "depend on each other (partial correlation -0." in said.replace("−", "-")


def test_shifts_of_environments_are_no_dependence() -> None:
    generator = np.random.default_rng(0)
    environment = np.arange(900) % 3
    x = generator.normal(size=900) + environment
    y = 0.7 * x + generator.normal(size=900)
    z = y + generator.normal(size=900) - 3 * environment
    assert contradiction(table_of(np.column_stack([z, x]), y), scm.presets.chain()) == ""


@pytest.mark.parametrize("preset", ["chain", "lucas"])
def test_datasets_of_the_graph_itself_are_not_refused(preset: str) -> None:
    prior = getattr(scm.presets, preset)()
    refused = [contradiction(sampled(prior, index), prior) for index in range(30)]
    assert sum(map(bool, refused)) <= 1  # each with a chance of one in a thousand


def test_a_table_of_another_width_is_told_so() -> None:
    features = np.random.default_rng(0).normal(size=(900, 3))
    said = contradiction(table_of(features, features.sum(1), ("a", "b", "c")), scm.presets.chain())
    assert "of 3 variables; the table has 3 columns beside the target" in said


def test_many_columns_that_are_not_named_as_the_graph_is_cannot_be_placed() -> None:
    prior = scm.presets.lucas()
    own = sampled(prior, 0)
    renamed = Table("t", "y", tuple(f"c{i}" for i in range(11)), own.features, own.target, own.environment,
                    own.environment_names, own.deploy)  # fmt: skip
    assert "name the columns as the graph does" in contradiction(renamed, prior)


def test_columns_are_placed_by_name() -> None:
    prior = scm.presets.lucas()
    own = sampled(prior, 1, rows=3000)
    swapped = tuple({"Smoking": "Born_an_Even_Day", "Born_an_Even_Day": "Smoking"}.get(n, n) for n in own.feature_names)
    wrong = Table("t", "y", swapped, own.features, own.target, own.environment, own.environment_names, own.deploy)
    assert "cannot come from the only graph" in contradiction(wrong, prior)


def test_models_of_several_graphs_have_nothing_to_refuse() -> None:
    features = np.random.default_rng(0).normal(size=(900, 2))
    assert contradiction(table_of(features, features.sum(1)), scm.presets.random_linear()) == ""


def test_labels_of_the_deployment_never_enter() -> None:
    features = np.random.default_rng(0).normal(size=(900, 2))
    x = features[:, 0]
    z = x + features[:, 1]
    y = np.where(np.arange(900) % 3 == 2, 1e6 * features[:, 1], x + 0.1 * np.random.default_rng(1).normal(size=900))
    assert contradiction(table_of(np.column_stack([x, z]), y), scm.presets.chain()) == ""


def test_implied_independences_are_those_of_the_graph() -> None:
    assert implied([(0, 1), (1, 2)], 3) == [(0, 2, (1,))]
    assert implied([(0, 2), (1, 2)], 3) in ([(0, 1, ())], [(1, 0, ())])
    edges = [(LUCAS_NAMES.index(cause), LUCAS_NAMES.index(effect)) for cause, effect in LUCAS_EDGES]
    assert len(implied(edges, 12)) == 12 * 11 // 2 - 12
