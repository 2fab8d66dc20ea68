"""Every property against an implementation that is slow and obvious, on rows with exactly the population's moments."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from handmade import evaluate, exact_rows, make_batch, pooled_rows
from sklearn.linear_model import LinearRegression

from settx_fast.scm import NOISES, properties
from settx_fast.scm.noises import clipped_cauchy_sd
from settx_fast.scm.properties import Role

SEEDS = (1, 2, 3, 4)
CLOSE = 2e-5  # float32 results of float64 work, times a condition number of about 100


def graph_of(batch, b) -> nx.DiGraph:
    n = int(batch.num_variables[b])
    return nx.from_numpy_array(batch.adjacency[b, :n, :n].numpy(), create_using=nx.DiGraph)


def size_and_target(batch, b) -> tuple[int, int]:
    return int(batch.num_variables[b]), int(batch.target_index[b])


def weighted_moments(rows, share):
    return share @ rows, np.atleast_2d(np.cov(rows.T, aweights=share, ddof=0))


def source_average(batch, b, per_environment) -> np.ndarray:
    """Mean over source environments, weighted by their rows."""
    member = ~batch.is_target_environment[b] & batch.environment_mask[b]
    counts = np.bincount(batch.environment[b].numpy(), minlength=len(member)) * member.numpy()
    return np.tensordot(counts / counts.sum(), per_environment, 1)


@pytest.fixture(params=SEEDS)
def batch(request):
    return make_batch(request.param)


@pytest.fixture
def computed(batch):
    return properties.compute(batch)


# The graph ----------------------------------------------------------------------------------------------------------


def test_roles_and_counts_are_those_networkx_finds(batch, computed):
    for b in range(len(batch)):
        n, target = size_and_target(batch, b)
        graph = graph_of(batch, b)
        parents, children = set(graph.predecessors(target)), set(graph.successors(target))
        spouses = {p for child in children for p in graph.predecessors(child)}
        expected = [Role.UNRELATED] * n + [Role.NONE] * (batch.adjacency.shape[1] - n)
        for v in range(n):
            for member, name in ((spouses, Role.SPOUSE), (children, Role.EFFECT), (parents, Role.CAUSE)):
                expected[v] = name if v in member else expected[v]
        expected[target] = Role.NONE
        assert computed.role[b].tolist() == expected
        assert (int(computed.num_parents[b]), int(computed.num_children[b])) == (len(parents), len(children))
        assert float(computed.edge_density[b]) == pytest.approx(nx.density(graph.to_undirected()))


def test_ancestors_are_those_networkx_finds(batch):
    found = properties.graph.ancestors(batch.adjacency, batch.target_index)
    for b in range(len(batch)):
        assert set(torch.nonzero(found[b]).flatten().tolist()) == nx.ancestors(
            graph_of(batch, b), int(batch.target_index[b])
        )


def test_ancestors_of_the_end_of_a_chain_are_all_others():
    chain = torch.diag(torch.ones(6, dtype=torch.bool), 1)[None]
    found = properties.graph.ancestors(chain, torch.tensor([6]))
    assert found.tolist() == [[True] * 6 + [False]]


# Effects ------------------------------------------------------------------------------------------------------------


def test_direct_effects_are_edge_weights_averaged_over_the_sources(batch, computed):
    for b in range(len(batch)):
        mean = source_average(batch, b, batch.weights[b].double().numpy())
        target = int(batch.target_index[b])
        np.testing.assert_allclose(computed.direct_effect_on_target[b], mean[:, target], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(computed.direct_effect_of_target[b], mean[target], rtol=1e-6, atol=1e-7)


def test_total_effect_is_the_sum_over_directed_paths_of_products_of_weights(batch, computed):
    for b in range(len(batch)):
        n, target = size_and_target(batch, b)
        graph, weights = graph_of(batch, b), batch.weights[b].double().numpy()
        for v in set(range(n)) - {target}:
            paths = list(nx.all_simple_edge_paths(graph, v, target))
            each = [sum(np.prod([w[edge] for edge in path]) for path in paths) for w in weights]
            expected = source_average(batch, b, np.array(each))
            assert float(computed.total_effect[b, v]) == pytest.approx(expected, rel=CLOSE, abs=1e-6)
        assert computed.total_effect[b, target] == 1
        assert (computed.total_effect[b, n:] == 0).all()


def test_noise_to_signal_compares_the_noise_with_the_target_whose_noise_is_off(batch, computed):
    for b in range(len(batch)):
        target = int(batch.target_index[b])
        rows, share = pooled_rows(batch, b, target=False)
        silent, _ = pooled_rows(batch, b, target=False, silence_target=True)
        signal = weighted_moments(silent[:, [target]], share)[1].item()
        noise = weighted_moments((rows - silent)[:, [target]], share)[1].item()
        if computed.num_parents[b] == 0:
            assert torch.isinf(computed.noise_to_signal[b])
        else:
            assert float(computed.noise_to_signal[b]) == pytest.approx(noise / signal, rel=CLOSE)


# Sortability --------------------------------------------------------------------------------------------------------


def aligned_share(graph: nx.DiGraph, score: np.ndarray) -> float:
    """One vote for every pair of variables and every length of path between them."""
    votes = []
    for start in graph:
        for end in set(graph) - {start}:
            for _ in {len(path) for path in nx.all_simple_edge_paths(graph, start, end)}:
                tie = np.isclose(score[start], score[end], rtol=1e-9, atol=0)
                votes.append(0.5 if tie else float(score[start] < score[end]))
    return float(np.mean(votes)) if votes else 0.5


def explained_variance(rows, share, v) -> float:
    others = np.delete(rows, v, axis=1)
    if not others.shape[1]:
        return 0.0
    return float(LinearRegression().fit(others, rows[:, v], share).score(others, rows[:, v], share))


def test_sortabilities_are_those_of_a_loop_over_paths(batch, computed):
    for b in range(len(batch)):
        graph, (rows, share) = graph_of(batch, b), pooled_rows(batch, b, target=False)
        variance = weighted_moments(rows, share)[1].diagonal()
        explained = np.array([explained_variance(rows, share, v) for v in graph])
        assert float(computed.varsortability[b]) == pytest.approx(aligned_share(graph, variance), abs=1e-6)
        assert float(computed.r2_sortability[b]) == pytest.approx(aligned_share(graph, explained), abs=1e-6)


def test_equal_variances_count_one_half():
    adjacency = torch.tensor([[[0, 1, 1], [0, 0, 1], [0, 0, 0]]], dtype=torch.bool)
    # paths: 0→1, 0→2 and 1→2 of length one, 0→2 of length two; 0→1 is tied, 1→2 rises, 0→2 rises twice
    score = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64)
    assert properties.order_alignment(adjacency, score).item() == pytest.approx(3.5 / 4)
    assert properties.order_alignment(adjacency, -score + 3).item() == pytest.approx(0.5 / 4)


# Shift and risk -----------------------------------------------------------------------------------------------------


def gaussian_kl(p, q) -> float:
    (mean_p, cov_p), (mean_q, cov_q) = p, q
    if not len(mean_p):
        return 0.0
    gap, precision = mean_q - mean_p, np.linalg.inv(cov_q)
    log_ratio = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    return 0.5 * (np.trace(precision @ cov_p) + gap @ precision @ gap - len(gap) + log_ratio)


def test_shifts_are_textbook_divergences_of_moment_matched_gaussians(batch, computed):
    for b in range(len(batch)):
        n, target = size_and_target(batch, b)
        source, deployed = (pooled_rows(batch, b, target=which) for which in (False, True))
        joint = gaussian_kl(weighted_moments(*deployed), weighted_moments(*source))
        features = np.arange(n) != target
        without = [(rows[:, features], share) for rows, share in (deployed, source)]
        covariate = gaussian_kl(*(weighted_moments(*each) for each in without)) if n > 1 else 0.0
        assert float(computed.covariate_shift[b]) == pytest.approx(covariate, rel=1e-4, abs=1e-5)
        assert float(computed.mechanism_shift[b]) == pytest.approx(joint - covariate, rel=1e-4, abs=1e-5)


def fitted_risk(batch, b, features) -> float:
    target = int(batch.target_index[b])
    (source, source_share), (deployed, share) = (pooled_rows(batch, b, target=which) for which in (False, True))
    if not len(features):
        predicted = np.full(len(deployed), source_share @ source[:, target])
    else:
        model = LinearRegression().fit(source[:, features], source[:, target], source_share)
        predicted = model.predict(deployed[:, features])
    return float(share @ (deployed[:, target] - predicted) ** 2)


def test_risks_are_those_of_regressions_fitted_on_the_sources(batch, computed):
    for b in range(len(batch)):
        n, target = size_and_target(batch, b)
        graph = graph_of(batch, b)
        causes, effects = sorted(graph.predecessors(target)), sorted(graph.successors(target))
        everything = [v for v in range(n) if v != target]
        for name, features in zip(properties.FRAMEWORKS, (everything, causes, causes + effects), strict=True):
            got = float(computed.risk[b, properties.FRAMEWORKS.index(name)])
            assert got == pytest.approx(fitted_risk(batch, b, features), rel=CLOSE), name


def test_target_variance_is_that_of_the_pooled_sources(batch, computed):
    for b in range(len(batch)):
        rows, share = pooled_rows(batch, b, target=False)
        target = int(batch.target_index[b])
        expected = weighted_moments(rows, share)[1][target, target]
        assert float(computed.target_variance[b]) == pytest.approx(expected, rel=CLOSE)


# Moments ------------------------------------------------------------------------------------------------------------


def standardised_noise(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    draw = {
        "gaussian": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(0, np.sqrt(0.5), shape),
        "uniform": lambda: rng.uniform(-np.sqrt(3), np.sqrt(3), shape),
        "student_t": lambda: rng.standard_t(12, shape) / np.sqrt(12 / 10),
        "exponential": lambda: rng.exponential(1, shape) - 1,
        "gumbel": lambda: (rng.gumbel(0, 1, shape) - np.euler_gamma) * np.sqrt(6) / np.pi,
        "logistic": lambda: rng.logistic(0, np.sqrt(3) / np.pi, shape),
        "clipped_cauchy": lambda: np.clip(rng.standard_cauchy(shape), -10, 10) / clipped_cauchy_sd(10),
        "mixture": lambda: (rng.choice([-2.0, 2.0], shape) + rng.standard_normal(shape)) / np.sqrt(5),
    }
    return draw[kind]()


@pytest.mark.parametrize("kind", NOISES)
def test_closed_form_moments_are_those_of_simulated_rows_for_every_noise(kind):
    rng, rows = np.random.default_rng(5), 100_000
    batch = make_batch(9, num_datasets=2, num_variables=(5, 5))
    moments = properties.linear_moments(batch.weights.double(), batch.bias.double(), batch.noise_scale.double() ** 2)
    for b in range(len(batch)):
        values = evaluate(batch, b, 0, standardised_noise(kind, rng, (rows, 5)))
        centred = values - values.mean(0)
        products = centred[:, :, None] * centred[:, None, :]
        for got, each in ((moments.mean[b, 0], values), (moments.covariance[b, 0], products)):
            standard_error = each.std(0) / np.sqrt(rows)
            assert (np.abs(got.numpy() - each.mean(0)) < 5 * standard_error).all()


def test_rows_built_to_have_the_exact_moments_have_them(batch):
    moments = properties.linear_moments(batch.weights.double(), batch.bias.double(), batch.noise_scale.double() ** 2)
    for b in range(len(batch)):
        n = int(batch.num_variables[b])
        rows = exact_rows(batch, b, 0)
        np.testing.assert_allclose(moments.mean[b, 0, :n], rows.mean(0), atol=1e-12)
        np.testing.assert_allclose(moments.covariance[b, 0, :n, :n], np.cov(rows.T, ddof=0).reshape(n, n), atol=1e-10)
