"""The tables that are drawn: graphs, parameters, targets and interventions have the distributions that priors say."""

import numpy as np
import pytest
import torch
from priors import EVERYTHING
from scipy import stats

from settx_fast import scm
from settx_fast.scm import reference
from settx_fast.scm.noises import clipped_cauchy_sd

DATASETS = 4000


def draw(**fields) -> scm.Batch:
    return scm.sample(scm.Prior(**fields), DATASETS, 4, seed=21)


# ---- Graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [scm.ErdosRenyi(expected_in_degree=2), scm.ErdosRenyi(edge_probability=4 / 9)])
def test_erdos_renyi_edges_are_binomial(graph):
    batch = draw(num_variables=10, graph=graph)
    edges = batch.adjacency.sum((1, 2)).numpy()
    binomial = stats.binom(45, 4 / 9)
    observed = np.bincount(edges, minlength=46)[10:31]
    expected = binomial.pmf(np.arange(10, 31))
    assert stats.chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 1e-3


def test_erdos_renyi_hides_the_order_and_every_pair_is_equally_likely():
    adjacency = draw(num_variables=6, graph=scm.ErdosRenyi(edge_probability=0.5)).adjacency
    off_diagonal = adjacency.sum(0)[~torch.eye(6, dtype=torch.bool)].numpy()
    assert stats.chisquare(off_diagonal).pvalue > 1e-3  # 0.25 for every ordered pair


def test_orders_are_uniform_permutations():
    order = draw(num_variables=4).order.numpy()
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("graph", "expected"), [(scm.ErdosRenyi(edge_probability=1.0), 45), (scm.ErdosRenyi(0), 0)])
def test_certain_edges_are_there_and_impossible_ones_are_not(graph, expected):
    assert torch.all(draw(num_variables=10, graph=graph).adjacency.sum((1, 2)) == expected)


@pytest.mark.parametrize(("hubs", "axis"), [("out", 1), ("in", 2)])
def test_scale_free_hubs_are_causes_or_effects(hubs, axis):
    batch = draw(num_variables=10, graph=scm.ScaleFree(2, hubs=hubs))
    chosen = batch.adjacency.sum(axis).sort().values  # edges that every variable chose itself
    assert torch.equal(chosen[0], torch.tensor([0, 1, 2, 2, 2, 2, 2, 2, 2, 2]))
    assert torch.all(chosen == chosen[0])


def test_a_user_graph_is_taken_as_it_is():
    adjacency = [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    batch = draw(num_variables=3, graph=scm.UserGraph.from_adjacency(adjacency))
    assert torch.equal(batch.adjacency, torch.tensor(adjacency).bool().expand(DATASETS, 3, 3))
    assert torch.all(batch.order == torch.tensor([2, 1, 0]))


def test_every_given_graph_mechanism_and_noise_is_equally_likely():
    batch = scm.sample(EVERYTHING, DATASETS, 6, seed=1)
    present = batch.variable_mask
    assert stats.chisquare(torch.bincount(batch.noise_kind[present]).numpy()).pvalue > 1e-3
    linear = (batch.mechanism[present] == 0).double().mean()
    assert abs(linear - 1 / 8) < 5 * (1 / 8 * 7 / 8 / present.sum()) ** 0.5
    assert stats.chisquare(torch.bincount(batch.num_variables - 3).numpy()).pvalue > 1e-3


# ---- Parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "oracle"),
    [
        (scm.Uniform(0.5, 2.0), stats.uniform(0.5, 1.5)),
        (scm.LogUniform(0.1, 10.0), stats.loguniform(0.1, 10.0)),
        (scm.Normal(1.0, 0.5), stats.norm(1.0, 0.5)),
    ],
)
def test_weights_have_the_distribution_that_scipy_says(weight, oracle):
    batch = draw(num_variables=3, graph=scm.ErdosRenyi(edge_probability=1.0), weight=weight, target_environments=0)
    weights = batch.weights[batch.weights != 0].numpy()
    assert len(weights) == 3 * DATASETS
    assert stats.kstest(weights, oracle.cdf).pvalue > 1e-3


def test_signed_distributions_take_both_signs_equally():
    batch = draw(num_variables=2, graph=scm.ErdosRenyi(edge_probability=1.0), weight=scm.Uniform(1.0, 2.0, signed=True))
    weights = batch.weights[:, 0][batch.adjacency]
    assert stats.binomtest(int((weights > 0).sum()), DATASETS).pvalue > 1e-3
    assert stats.kstest(weights.abs().numpy() - 1, "uniform").pvalue > 1e-3


def test_edges_of_a_user_graph_may_have_weights_of_their_own():
    graph = scm.UserGraph(((0, 1, scm.Constant(3.0)), (0, 2)))
    batch = draw(num_variables=3, graph=graph, weight=scm.Uniform(-1, 0))
    assert torch.all(batch.weights[:, :, 0, 1] == 3)
    assert torch.all(batch.weights[:, :, 0, 2] <= 0)


def test_degrees_of_freedom_are_drawn_per_variable():
    batch = draw(num_variables=3, noise=scm.StudentT((3.0, 5.0)))
    assert stats.kstest((batch.noise_parameters[..., 0].flatten().numpy() - 3) / 2, "uniform").pvalue > 1e-3


def test_limits_of_clipped_cauchys_are_drawn_per_variable_and_scaled_to_variance_one():
    batch = draw(num_variables=3, noise=scm.ClippedCauchy(scm.LogUniform(0.01, 1000.0)))
    limit, scale, *unused = batch.noise_parameters.double().flatten(0, 1).T
    assert len(limit.unique()) > 0.99 * len(limit)
    assert stats.kstest(limit.numpy(), stats.loguniform(0.01, 1000.0).cdf).pvalue > 1e-3
    sd = torch.tensor([clipped_cauchy_sd(c) for c in limit.tolist()], dtype=torch.float64)
    assert (scale * sd - 1).abs().max() < 6 * 2**-24  # three roundings, and five or six under the square root
    assert not torch.stack(unused).any()


def test_clipped_cauchys_of_drawn_limits_have_mean_0_and_variance_1():
    prior = scm.Prior(1, target_environments=0, noise=scm.ClippedCauchy((0.2, 5.0)))
    noise = scm.sample(prior, 2000, 2000, seed=3).values.double().flatten()
    fourth = (noise**4).mean()
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5
    assert abs((noise**2).mean() - 1) < 5 * ((fourth - 1) / len(noise)) ** 0.5


def test_a_constant_limit_is_scaled_by_the_standard_deviation_in_double_precision():
    batch = draw(num_variables=1, noise=scm.ClippedCauchy(3.0))
    assert torch.all(batch.noise_parameters[..., 1] == np.float32(1 / clipped_cauchy_sd(3.0)))


def test_target_shares_are_drawn_per_dataset_apart_from_all_else():
    batch = draw(target_share=(0.2, 0.7))
    counters = np.zeros((DATASETS, 4), np.uint32)
    counters[:, 1], counters[:, 2] = 27 << 24, np.arange(DATASETS)  # the purpose that is a target share's alone
    share = (reference.philox(counters, 21)[:, 0] >> 8) / 2**24 * 0.5 + 0.2
    assert np.abs(batch.target_share.numpy() - share).max() < 2**-24
    assert stats.kstest(batch.target_share.numpy(), stats.uniform(0.2, 0.5).cdf).pvalue > 1e-3
    constant = draw(target_share=0.5)
    for name in ("adjacency", "weights", "target_index", "noise_scale"):
        assert torch.equal(getattr(batch, name), getattr(constant, name)), name


def test_mlp_parameters_are_standard_normal_by_fan_in():
    prior = scm.Prior(num_variables=2, graph=scm.ErdosRenyi(edge_probability=1.0), mechanism=scm.MLP(8, 2, "relu"))
    batch = scm.sample(prior, 2000, 2, seed=1)
    networks = batch.mechanism_parameters.reshape(2000, -1)
    header, W1, b1, W2, b2, c = networks.split([3, 8, 8, 64, 8, 8], dim=1)
    assert torch.all(header == torch.tensor([8.0, 2.0, scm.FUNCTIONS.index("relu")]))
    for part, sd in ((W1, 1), (b1, 1), (W2, 8**-0.5), (b2, 1), (c, 8**-0.5)):
        assert stats.kstest(part.flatten().numpy(), stats.norm(0, sd).cdf).pvalue > 1e-3


def of_a_collider(mechanism):
    """Parameters of a variable with three parents, (2000, numbers)."""
    prior = scm.Prior(4, scm.Pattern("collider"), mechanism, target_environments=0)
    return scm.sample(prior, 2000, 1, seed=3).mechanism_parameters.reshape(2000, -1)


def test_an_mlps_first_weights_are_scaled_by_the_number_of_parents():
    first = of_a_collider(scm.MLP(8, 1, "relu"))[:, 3 : 3 + 3 * 8]
    assert stats.kstest(first.flatten().numpy(), stats.norm(0, 3**-0.5).cdf).pvalue > 1e-3


def test_quadratic_coefficients_of_several_parents_share_their_strength():
    coefficients = of_a_collider(scm.Quadratic(0.4))
    assert coefficients.shape[1] == 6  # of three squares and three products
    assert stats.kstest(coefficients.flatten().numpy(), stats.norm(0, 0.4 / 6**0.5).cdf).pvalue > 1e-3


# ---- Targets and environments ----------------------------------------------------------------------------------------


def test_random_targets_are_uniform():
    assert stats.chisquare(torch.bincount(draw(num_variables=5).target_index).numpy()).pvalue > 1e-3


def test_inner_targets_have_a_parent_and_a_child_wherever_the_graph_has_such_a_variable():
    batch = draw(num_variables=(1, 5), graph=scm.ErdosRenyi(expected_in_degree=0.7), target="inner")
    has_parent, has_child = batch.adjacency.any(1), batch.adjacency.any(2)
    at_target = torch.nn.functional.one_hot(batch.target_index, 5).bool()
    for eligible in (has_parent & has_child, has_parent & ~(has_parent & has_child).any(1, keepdim=True)):
        possible = eligible.any(1)
        assert 0 < possible.sum() < DATASETS
        assert torch.all(eligible[at_target][possible])
    assert torch.all(batch.variable_mask[at_target])


ONE_EACH = {
    "shift": scm.Intervention("shift", (1.0, 2.0)),
    "scale": scm.Intervention("scale", (2.0, 3.0)),
    "noise": scm.Intervention("noise", (0.1, 0.2)),
    "hard": scm.Intervention("hard", (-2.0, -1.0)),
    "redraw": scm.Intervention("redraw"),
}


@pytest.mark.parametrize("kind", ONE_EACH)
def test_an_intervention_changes_one_variable_of_the_target_environment_as_documented(kind):
    batch = draw(
        num_variables=4,
        graph=scm.ErdosRenyi(edge_probability=1.0),
        bias=(0.0, 1.0),
        noise_scale=(0.5, 1.0),
        target_interventions=(ONE_EACH[kind],),
    )
    code = scm.INTERVENTIONS.index(kind)
    on = batch.intervention[:, 1] == code
    assert torch.all(on.sum(1) == 1)
    assert not batch.intervention[:, 0].any()
    assert stats.chisquare(on.sum(0).numpy()).pvalue > 1e-3  # any variable, the target too
    before, after = (
        {name: getattr(batch, name)[:, k] for name in ("weights", "bias", "noise_scale", "hard")} for k in (0, 1)
    )
    weights_changed = (before["weights"] != after["weights"]).any(1)
    differs = {
        "weights": weights_changed & on if kind in ("hard", "redraw") else weights_changed,
        "bias": before["bias"] != after["bias"],
        "noise_scale": before["noise_scale"] != after["noise_scale"],
        "hard": before["hard"] != after["hard"],
    }
    for name, changed in differs.items():
        assert not changed[~on].any(), name
    touched = {name for name, changed in differs.items() if changed.any()}
    assert (
        touched
        == {
            "shift": {"bias"},
            "scale": {"noise_scale"},
            "noise": {"noise_scale"},
            "hard": {"weights", "bias", "noise_scale", "hard"},
            "redraw": {"weights", "noise_scale"},
        }[kind]
    )
    value = {
        "shift": after["bias"] - before["bias"] - 1,
        "scale": after["noise_scale"] / before["noise_scale"] - 2,
        "noise": (after["noise_scale"] - 0.1) / 0.1,
        "hard": after["bias"] + 2,
        "redraw": (after["noise_scale"] - 0.5) / 0.5,
    }[kind][on]
    assert stats.kstest(value.numpy(), "uniform").pvalue > 1e-3


def test_interventions_can_spare_the_target_and_count_variables():
    spare = scm.Intervention("shift", 1.0, number=(0, 9), on_target=False)
    batch = draw(num_variables=4, target_interventions=(spare,))
    number = (batch.intervention[:, 1] != 0).sum(1)
    assert torch.equal(number.unique(), torch.arange(4))
    assert not batch.intervention[:, 1].gather(1, batch.target_index[:, None]).any()


def test_interventions_hit_a_variable_once():
    more_than_there_are = scm.Intervention("shift", 1.0, number=9)
    assert (draw(num_variables=4, target_interventions=(more_than_there_are,)).intervention[:, 1] != 0).all()


def test_biases_are_one_for_all_variables_or_one_for_each():
    assert torch.all(
        draw(num_variables=3, bias=scm.PerVariable((1.0, 2.0, 3.0))).bias[:, 0] == torch.tensor([1.0, 2.0, 3.0])
    )
    assert torch.all(draw(num_variables=3, bias=4.0).bias == 4.0)


def test_a_hard_intervention_is_final():
    hard_first = (scm.Intervention("hard", 5.0, variables=(0,)), scm.Intervention("shift", 1.0, variables=(0, 1)))
    batch = draw(num_variables=2, target_interventions=hard_first)
    assert torch.all(batch.bias[:, 1] == torch.tensor([5.0, 1.0]))


def test_cutting_removes_every_edge_with_its_probability_and_nothing_else():
    cut = scm.Intervention("cut", 0.3, number=2)
    batch = draw(num_variables=4, graph=scm.ErdosRenyi(edge_probability=1.0), target_interventions=(cut,))
    before, after = batch.weights[:, 0], batch.weights[:, 1]
    chosen = (batch.intervention[:, 1] == scm.INTERVENTIONS.index("cut"))[:, None, :] & batch.adjacency
    removed = (before != 0) & (after == 0)
    assert torch.all(chosen[removed])
    assert torch.equal(after[~removed], before[~removed])
    assert stats.binomtest(int(removed.sum()), int(chosen.sum()), 0.3).pvalue > 1e-3


def test_a_new_mechanism_has_new_parameters_of_the_same_law_for_one_variable_of_one_environment():
    new = scm.Intervention("mechanism")
    batch = draw(
        num_variables=2,
        graph=scm.UserGraph(((0, 1),)),
        mechanism=scm.MLP(2, 1, "relu"),
        noise_scale=(0.0, 1.0),
        source_environments=2,
        source_interventions=(new,),
        target_environments=0,
    )
    on = batch.intervention == scm.INTERVENTIONS.index("mechanism")
    assert torch.all(on.sum(2) == 1)
    size = 3 + 2 + 2 + 2
    place = batch.mechanism_offset[:, :, 1, None] + torch.arange(size)
    networks = batch.mechanism_parameters[place]
    renewed = on[:, :, 1]
    assert torch.all(networks[..., :3] == torch.tensor([2.0, 1.0, scm.FUNCTIONS.index("relu")]))
    for changed in (True, False):
        same = (networks[:, 0, 3:] == networks[:, 1, 3:]).all(1)[renewed.any(1) == changed]
        assert same.all() == (not changed)
        assert same.any() == (not changed)
    for part, sd in ((networks[..., 3:7], 1), (networks[..., 7:], 2**-0.5)):
        assert stats.kstest(part[renewed].flatten().numpy(), stats.norm(0, sd).cdf).pvalue > 1e-3
    assert torch.equal((batch.weights[:, 0] != batch.weights[:, 1])[:, 0, 1], renewed.any(1))


def test_drift_moves_all_environments_along_one_line():
    drift = scm.Intervention("drift", (1.0, 3.0))
    batch = draw(num_variables=3, source_environments=3, source_interventions=(drift,), target_interventions=(drift,))
    end = batch.bias[:, 3]
    assert torch.all((end != 0).sum(1) == 1)
    assert stats.kstest(end.sum(1).numpy(), stats.uniform(1, 2).cdf).pvalue > 1e-3
    for k in range(4):
        torch.testing.assert_close(batch.bias[:, k], end * (k / 3))


@pytest.mark.parametrize("role", ["target", "parents", "children"])
def test_interventions_can_be_aimed_at_the_target_its_parents_or_its_children(role):
    batch = draw(num_variables=5, target_interventions=(scm.Intervention("shift", 1.0, variables=(role,)),))
    at_target = torch.nn.functional.one_hot(batch.target_index, 5).bool()
    parents = batch.adjacency[torch.arange(DATASETS), :, batch.target_index]
    children = batch.adjacency[torch.arange(DATASETS), batch.target_index]
    expected = {"target": at_target, "parents": parents, "children": children}[role]
    assert torch.equal(batch.intervention[:, 1] != 0, expected)


def test_source_environments_are_drawn_independently():
    batch = draw(num_variables=2, source_environments=3, source_interventions=(ONE_EACH["shift"],))
    shift = batch.bias[:, :3].sum(2)
    correlation = torch.corrcoef(shift.T).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / DATASETS**0.5


# ---- Presets ---------------------------------------------------------------------------------------------------------


def test_chain_draws_its_parameters_as_documented():
    batch = scm.sample(scm.presets.chain(), DATASETS, 2, seed=3)
    drawn = {
        "alpha": (batch.weights[:, 0, 0, 1], 0, 1),
        "gamma": (batch.weights[:, 0, 1, 2], 0, 1),
        "epsilon": (batch.noise_scale[:, 0, 1], 0, 0.5),
        "eta source": (batch.noise_scale[:, 0, 2], 0, 0.5),
        "eta target": (batch.noise_scale[:, 1, 2], 0.01, 1.98),
        "sd of X in the target": (batch.noise_scale[:, 1, 0], 0, 1),
    }
    for name, (value, low, width) in drawn.items():
        assert stats.kstest(value.numpy(), stats.uniform(low, width).cdf).pvalue > 1e-3, name
    assert torch.all(batch.noise_scale[:, 0, 0] == 1)
    assert torch.equal(batch.noise_scale[:, 0, 1], batch.noise_scale[:, 1, 1])
    assert torch.equal(batch.weights[:, 0], batch.weights[:, 1])
    assert torch.all(batch.target_index == batch.names.index("Y"))
    correlation = np.corrcoef(np.stack([value.numpy() for value, _, _ in drawn.values()]))
    assert np.abs(correlation - np.eye(6)).max() < 5 / DATASETS**0.5


def test_lucas_has_the_published_graph_and_redraws_one_variable_per_environment():
    batch = scm.sample(scm.presets.lucas(), 500, 25, seed=3)
    parents = {
        name: {batch.names[p] for p in batch.adjacency[0, :, v].nonzero().flatten()}
        for v, name in enumerate(batch.names)
    }
    assert parents["Lung_Cancer"] == {"Smoking", "Genetics"}
    assert parents["Smoking"] == {"Anxiety", "Peer_Pressure"}
    assert parents["Fatigue"] == {"Lung_Cancer", "Coughing"}
    assert parents["Born_an_Even_Day"] == set()
    assert torch.all(batch.target_index == batch.names.index("Lung_Cancer"))
    assert torch.equal((batch.num_environments - 1).unique(), torch.arange(8, 25))
    redrawn = (batch.intervention == scm.INTERVENTIONS.index("redraw")).sum(2)
    assert torch.equal(redrawn == 1, batch.environment_mask)


def test_random_presets_stay_finite_and_moderate():
    batch = scm.sample(scm.presets.random(), 2000, 100, seed=3)
    assert torch.isfinite(batch.values).all()
    assert batch.values.abs().amax((1, 2)).quantile(0.99) < 1e3
