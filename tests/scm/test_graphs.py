"""Every random graph has the law of an independent simulation in NumPy or networkx."""

from collections.abc import Callable

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from settx_fast import scm

SIZE, RUNS = 9, 3000
Rng = np.random.Generator


def upper(probability: np.ndarray, rng: Rng) -> np.ndarray:
    """An independent edge with its own probability for every pair of positions."""
    return np.triu(rng.random((SIZE, SIZE)) < probability, 1)


def oriented(graph: nx.Graph, rng: Rng) -> np.ndarray:
    """An undirected graph's edges from the lower to the higher position of a random order."""
    order = rng.permutation(SIZE)
    return np.triu(nx.to_numpy_array(graph, nodelist=list(range(SIZE)))[np.ix_(order, order)] > 0, 1)


def stochastic_block(rng: Rng) -> np.ndarray:
    block = rng.integers(3, size=SIZE)
    return upper(np.where(block[:, None] == block, 0.7, 0.1), rng)


def watts_strogatz(rng: Rng) -> np.ndarray:
    return oriented(nx.watts_strogatz_graph(SIZE, 4, 0.4, seed=int(rng.integers(1 << 30))), rng)


def geometric(rng: Rng) -> np.ndarray:
    return oriented(nx.random_geometric_graph(SIZE, 0.4, seed=int(rng.integers(1 << 30))), rng)


def bipartite(rng: Rng) -> np.ndarray:
    cause = np.arange(SIZE) < 4  # 0.4 · 9 rounded
    return upper(0.6 * (cause[:, None] & ~cause), rng)


def layered(rng: Rng) -> np.ndarray:
    layer = np.repeat(range(3), 3)
    return upper(0.5 * (layer[:, None] + 1 == layer), rng)


def tree(rng: Rng) -> np.ndarray:
    adjacency = np.zeros((SIZE, SIZE), bool)
    for position in range(1, SIZE):
        adjacency[rng.integers(position), position] = True
    return adjacency


def scale_free(rng: Rng) -> np.ndarray:
    """Preferential attachment by NumPy's own weighted choice; edges from older to newer."""
    adjacency, degree = np.zeros((SIZE, SIZE), bool), np.zeros(SIZE)
    for newer in range(1, SIZE):
        weight = 1 + degree[:newer]
        chosen = rng.choice(newer, size=min(2, newer), replace=False, p=weight / weight.sum())
        adjacency[chosen, newer] = True
        degree[chosen] += 1
        degree[newer] = len(chosen)
    return adjacency


def pattern(edges: Callable[[int, int], bool]) -> Callable[[Rng], np.ndarray]:
    return lambda rng: np.array([[i < j and edges(i, j) for j in range(SIZE)] for i in range(SIZE)])


LAWS = {
    "erdos_renyi": (scm.ErdosRenyi(expected_in_degree=1.5), lambda rng: upper(np.full((SIZE, SIZE), 0.375), rng)),
    "erdos_renyi_probability": (
        scm.ErdosRenyi(edge_probability=0.3),
        lambda rng: upper(np.full((SIZE, SIZE), 0.3), rng),
    ),
    "scale_free_out": (scm.ScaleFree(2), scale_free),
    "scale_free_in": (scm.ScaleFree(2, hubs="in"), lambda rng: scale_free(rng)[::-1, ::-1].T),
    "stochastic_block": (scm.StochasticBlock(3, 0.7, 0.1), stochastic_block),
    "watts_strogatz": (scm.WattsStrogatz(2, 0.4), watts_strogatz),
    "geometric": (scm.Geometric(0.4), geometric),
    "bipartite": (scm.Bipartite(0.6, 0.4), bipartite),
    "layered": (scm.Layered(3, 0.5), layered),
    "tree": (scm.Tree(), tree),
    "chain": (scm.Pattern("chain"), pattern(lambda i, j: j == i + 1)),
    "fork": (scm.Pattern("fork"), pattern(lambda i, j: i == 0)),
    "collider": (scm.Pattern("collider"), pattern(lambda i, j: j == SIZE - 1)),
}


def features(by_position: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers per graph that tell laws apart; `by_position` (RUNS, SIZE, SIZE)."""
    a = by_position.astype(int)
    both = a + a.swapaxes(1, 2)
    return {
        "edges": a.sum((1, 2)),
        "triangles": np.trace(both @ both @ both, axis1=1, axis2=2) // 6,
        "largest degree": both.sum(2).max(1),
        "largest in-degree": a.sum(1).max(1),
        "degree of the first": both[:, 0].sum(1),
        "degree of the last": both[:, -1].sum(1),
    }


def by_position(batch: scm.Batch) -> np.ndarray:
    rows = batch.adjacency.gather(1, batch.order[:, :, None].expand(-1, -1, SIZE))
    return rows.gather(2, batch.order[:, None, :].expand(-1, SIZE, -1)).numpy()


@pytest.mark.parametrize("name", LAWS)
def test_graph_has_the_law_of_an_independent_simulation(name):
    graph, simulate = LAWS[name]
    batch = scm.sample(scm.Prior(num_variables=SIZE, graph=graph, target_environments=0), RUNS, 1, seed=31)
    rng = np.random.default_rng(32)
    expected = features(np.stack([simulate(rng) for _ in range(RUNS)]))
    for feature, ours in features(by_position(batch)).items():
        top = max(ours.max(), expected[feature].max()) + 1
        counts = np.stack([np.bincount(x, minlength=top) for x in (ours, expected[feature])])
        common = counts[:, counts.sum(0) > 20]
        assert np.all(counts[:, counts.sum(0) > 50] > 0), feature
        assert common.shape[1] == 1 or stats.chi2_contingency(common).pvalue > 1e-4, feature


@pytest.mark.parametrize("name", LAWS)
def test_numbers_of_variables_hide_the_order(name):
    batch = scm.sample(scm.Prior(num_variables=SIZE, graph=LAWS[name][0], target_environments=0), RUNS, 1, seed=33)
    first = torch.bincount(batch.order[:, 0], minlength=SIZE).numpy()
    degree = (batch.adjacency.sum(1) + batch.adjacency.sum(2)).double()
    assert stats.chisquare(first).pvalue > 1e-4
    standard_error = degree.std() / RUNS**0.5
    assert (degree.mean(0) - degree.mean()).abs().max() < 5 * standard_error


@pytest.mark.parametrize("name", LAWS)
def test_graphs_of_one_and_two_variables_exist(name):
    for size in (1, 2):
        batch = scm.sample(scm.Prior(num_variables=size, graph=LAWS[name][0]), 50, 2, seed=34)
        assert batch.adjacency.sum((1, 2)).max() <= size - 1


WEIGHTS = np.array([[0, 0.5, -2.0], [0, 0, 1.5], [0, 0, 0]])


@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_a_user_graph_is_taken_from_a_matrix_a_data_frame_or_networkx(names: list[str] | None) -> None:
    nodes = names or [0, 1, 2]
    arrows = [(0, 1), (0, 2), (1, 2)]
    expected = scm.UserGraph(tuple((nodes[i], nodes[j]) for i, j in arrows))
    weighted = scm.UserGraph(tuple((nodes[i], nodes[j], float(WEIGHTS[i, j])) for i, j in arrows))
    graph = nx.DiGraph([(nodes[i], nodes[j], {"weight": WEIGHTS[i, j]}) for i, j in arrows])
    bare = nx.DiGraph([(nodes[i], nodes[j]) for i, j in arrows])
    assert scm.UserGraph(graph) == scm.UserGraph.from_networkx(graph) == weighted
    assert scm.UserGraph(bare) == scm.UserGraph.from_networkx(graph, weight=None) == expected
    matrix = WEIGHTS if names is None else pd.DataFrame(WEIGHTS, names, names)
    assert scm.UserGraph(matrix) == scm.UserGraph.from_weights(matrix) == weighted
    assert scm.UserGraph(matrix != 0) == scm.UserGraph.from_adjacency(matrix != 0) == expected


def test_networkx_graphs_and_frames_that_are_no_graph_are_refused() -> None:
    with pytest.raises(ValueError, match="graph: expected a directed networkx graph, got 'Graph'"):
        scm.UserGraph(nx.Graph([(0, 1)]))
    with pytest.raises(ValueError, match="weights: expected rows named as the columns"):
        scm.UserGraph(pd.DataFrame(WEIGHTS, list("abc"), list("abd")))
    with pytest.raises(ValueError, match="a square matrix"):
        scm.UserGraph(np.ones((2, 3)))


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    three = np.int64(3)
    prior = scm.Prior(num_variables=three, source_environments=(np.int32(1), np.int64(2)), graph=scm.UserGraph(
        ((np.int64(0), np.int64(1)),)), noise_scale=np.float64(0.5))  # fmt: skip
    assert scm.Prior.from_json(prior.to_json()) == scm.Prior.from_yaml(prior.to_yaml()) == prior
    ours = scm.sample(prior, np.int16(2), np.uint8(50), seed=np.int64(3), first_index=np.uint8(254))
    assert torch.equal(ours.values, scm.sample(prior, 2, 50, seed=3, first_index=254).values)
    stream = scm.stream(prior, np.int64(2), np.int64(3), num_rows=np.int64(50))
    assert torch.equal(stream.batch(0).values, scm.sample(prior, 2, 50, seed=3).values)
    with pytest.raises(ValueError, match="seed: expected an int"):
        scm.sample(prior, 2, 50, seed=np.bool_(True))
