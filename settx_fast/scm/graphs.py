"""Random directed acyclic graphs: which variable may cause which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from settx_fast.scm._fields import as_range, check, is_int
from settx_fast.scm.distributions import MOST_WEIGHT, Constant, Distribution, Parameter, as_distribution

PATTERNS = ("chain", "fork", "collider")

Edge = tuple[int | str, int | str] | tuple[int | str, int | str, Distribution]


@dataclass(frozen=True)
class ErdosRenyi:
    """Every pair of variables is an edge with the same probability, along a random order (Erdős & Rényi 1959).

    Give one of the two, drawn per dataset: `edge_probability`, or `expected_in_degree` d, the mean number of parents,
    which means the probability min(1, 2d/(V − 1)).

    Raises ValueError for both or none, a degree outside [0, 1e6] or a probability outside [0, 1].
    """

    expected_in_degree: Parameter | None = None
    edge_probability: Parameter | None = None

    def __post_init__(self) -> None:
        degree, probability = self.expected_in_degree, self.edge_probability
        check((degree is None) != (probability is None), "ErdosRenyi", "expected_in_degree or edge_probability", self)
        for name, most in (("expected_in_degree", 1e6), ("edge_probability", 1.0)):
            if getattr(self, name) is not None:
                value = as_distribution(getattr(self, name), f"ErdosRenyi.{name}", 0, most)
                object.__setattr__(self, name, value)

    def __str__(self) -> str:
        if self.edge_probability is not None:
            return f"Erdős–Rényi, edge probability {self.edge_probability}"
        return f"Erdős–Rényi, expected in-degree {self.expected_in_degree}"


@dataclass(frozen=True)
class ScaleFree:
    """Preferential attachment (Barabási & Albert 1999): every variable joins `edges_per_variable` earlier ones.

    An earlier variable is chosen with probability proportional to 1 + its number of edges. With `hubs="out"` hubs are
    causes (edges point to the newer variable), with `"in"` they are effects.

    Raises ValueError unless edges_per_variable lies in 1…4096 and hubs is one of the two.
    """

    edges_per_variable: int | tuple[int, int] = 2
    hubs: Literal["out", "in"] = "out"

    def __post_init__(self) -> None:
        as_range(self.edges_per_variable, "ScaleFree.edges_per_variable", 1, 4096)
        check(self.hubs in ("out", "in"), "ScaleFree.hubs", "'out' or 'in'", self.hubs)

    def __str__(self) -> str:
        return f"scale-free, {self.edges_per_variable} edges per variable, {self.hubs}-hubs"


@dataclass(frozen=True)
class StochasticBlock:
    """Variables fall into `blocks` at random; edges are likelier `within` a block (Holland et al. 1983).

    Raises ValueError unless blocks lies in 1…4096 and both probabilities in [0, 1].
    """

    blocks: int | tuple[int, int] = 3
    within: Parameter = 0.5
    between: Parameter = 0.05

    def __post_init__(self) -> None:
        as_range(self.blocks, "StochasticBlock.blocks", 1, 4096)
        _store_probabilities(self, "within", "between")

    def __str__(self) -> str:
        return f"stochastic block, {self.blocks} blocks, {self.within} within, {self.between} between"


@dataclass(frozen=True)
class WattsStrogatz:
    """A small world (Watts & Strogatz 1998): a ring with `neighbours` on either side, edges rewired at random.

    Every edge moves one end with probability `rewiring`. The ring is independent of the causal order.

    Raises ValueError unless neighbours lies in 1…4096 and rewiring in [0, 1].
    """

    neighbours: int | tuple[int, int] = 1
    rewiring: Parameter = 0.3

    def __post_init__(self) -> None:
        as_range(self.neighbours, "WattsStrogatz.neighbours", 1, 4096)
        _store_probabilities(self, "rewiring")

    def __str__(self) -> str:
        return f"small world, {self.neighbours} neighbours on either side, rewiring {self.rewiring}"


@dataclass(frozen=True)
class Geometric:
    """Variables are random points of the unit square, joined where closer than `radius` (Penrose 2003).

    Raises ValueError unless the radius lies in [0, 2].
    """

    radius: Parameter = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", as_distribution(self.radius, "Geometric.radius", 0, 2))

    def __str__(self) -> str:
        return f"geometric, radius {self.radius}"


@dataclass(frozen=True)
class Bipartite:
    """Causes and effects: an edge from every cause to every effect with `probability` (Newman et al. 2001).

    The share `causes` of the variables, rounded, are causes.

    Raises ValueError unless both lie in [0, 1].
    """

    probability: Parameter = 0.5
    causes: Parameter = 0.5

    def __post_init__(self) -> None:
        _store_probabilities(self, "probability", "causes")

    def __str__(self) -> str:
        return f"bipartite, {self.causes} causes, edge probability {self.probability}"


@dataclass(frozen=True)
class Tree:
    """A random recursive tree: every variable but the first has one cause, any earlier one (Na & Rapoport 1970)."""

    def __str__(self) -> str:
        return "tree"


@dataclass(frozen=True)
class Pattern:
    """The three ways that variables can be related: "chain" 0 → 1 → 2 …, "fork" 0 → all, "collider" all → last.

    (Pearl 2009, section 1.2.3.) The order is hidden by a permutation; a `UserGraph` has a fixed one.

    Raises ValueError for another kind.
    """

    kind: Literal["chain", "fork", "collider"]

    def __post_init__(self) -> None:
        check(self.kind in PATTERNS, "Pattern.kind", f"one of {PATTERNS}", self.kind)

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class Layered:
    """Shaped like a multilayer perceptron (the prior of TabPFN, Hollmann et al. 2023, arXiv:2207.01848).

    Variables fall into `layers` of equal size; every pair of neighbouring layers is joined with `probability`.

    Raises ValueError unless layers lies in 1…4096 and the probability in [0, 1].
    """

    layers: int | tuple[int, int] = 3
    probability: Parameter = 1.0

    def __post_init__(self) -> None:
        as_range(self.layers, "Layered.layers", 1, 4096)
        _store_probabilities(self, "probability")

    def __str__(self) -> str:
        return f"{self.layers} layers, edge probability {self.probability}"


@dataclass(frozen=True)
class UserGraph:
    """A given graph: edges (cause, effect) or (cause, effect, distribution of the weight), by number or name.

    Edges without a weight draw it from `Prior.weight`. An array is taken as in `from_adjacency` if it holds 0 and 1
    only, else as in `from_weights`; a networkx graph as in `from_networkx`.

    Raises ValueError unless every edge joins two different variables; a `Prior` refuses cycles.
    """

    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        given: Any = self.edges
        if isinstance(given, np.ndarray) or hasattr(given, "iloc"):
            has_weights = not np.isin(np.asarray(given), (0, 1)).all()
            from_matrix = UserGraph.from_weights if has_weights else UserGraph.from_adjacency
            object.__setattr__(self, "edges", from_matrix(given).edges)
        elif hasattr(given, "is_directed"):
            object.__setattr__(self, "edges", UserGraph.from_networkx(given).edges)
        check(isinstance(self.edges, tuple | list), "UserGraph.edges", "a tuple of (cause, effect) pairs", self.edges)
        object.__setattr__(self, "edges", tuple(_as_edge(edge) for edge in self.edges))

    @staticmethod
    def from_adjacency(adjacency: ArrayLike) -> UserGraph:
        """The graph with an edge i → j wherever adjacency[i, j] is 1: a square matrix of 0 and 1, or bool.

        Of a data frame that names rows and columns alike, variables have these names.

        Raises ValueError for another shape than (V, V) or other entries.
        """
        matrix, names = _as_square(adjacency, "adjacency"), _names_of(adjacency, "adjacency")
        check(bool(np.isin(matrix, (0, 1)).all()), "adjacency", "entries 0 and 1", adjacency)
        return UserGraph(tuple((names[i], names[j]) for i, j in np.argwhere(matrix).tolist()))

    @staticmethod
    def from_weights(weights: ArrayLike) -> UserGraph:
        """The graph with an edge i → j of weight weights[i, j] wherever that is not 0; a square matrix.

        Of a data frame that names rows and columns alike, variables have these names.

        Raises ValueError for another shape than (V, V) or entries that are not finite.
        """
        matrix, names = _as_square(weights, "weights"), _names_of(weights, "weights")
        check(bool(np.isfinite(matrix).all()), "weights", "finite numbers", weights)
        edges = ((names[i], names[j], Constant(float(matrix[i, j]))) for i, j in np.argwhere(matrix).tolist())
        return UserGraph(tuple(edges))

    @staticmethod
    def from_networkx(graph: Any, weight: str | None = "weight") -> UserGraph:
        """The edges of a networkx DiGraph, by its nodes; an edge with the attribute `weight` has that weight.

        Raises ValueError for what is no directed graph.
        """
        is_graph = hasattr(graph, "edges") and hasattr(graph, "is_directed")
        check(is_graph and graph.is_directed(), "graph", "a directed networkx graph", type(graph).__name__)
        found = graph.edges(data=weight if weight is not None else "")
        return UserGraph(tuple((i, j) if each is None else (i, j, each) for i, j, each in found))

    def __str__(self) -> str:
        return f"given, {len(self.edges)} edges"


Graph = (
    ErdosRenyi
    | ScaleFree
    | StochasticBlock
    | WattsStrogatz
    | Geometric
    | Bipartite
    | Tree
    | Pattern
    | Layered
    | UserGraph
)


def topological_order(edges: Sequence[tuple[int, int]], num_variables: int) -> list[int]:
    """Variables with causes first; ValueError naming the cycle if there is one."""
    sorter: TopologicalSorter[int] = TopologicalSorter({v: [] for v in range(num_variables)})
    for cause, effect in edges:
        sorter.add(effect, cause)
    try:
        return list(sorter.static_order())
    except CycleError as error:
        cycle = " → ".join(map(str, error.args[1]))
        raise ValueError(f"UserGraph.edges: expected an acyclic graph, got the cycle {cycle}") from error


def _store_probabilities(graph: object, *names: str) -> None:
    for name in names:
        value = as_distribution(getattr(graph, name), f"{type(graph).__name__}.{name}", 0, 1)
        object.__setattr__(graph, name, value)


def _as_edge(edge: object) -> Edge:
    check(isinstance(edge, tuple | list) and len(edge) in (2, 3), "UserGraph.edges", "(cause, effect[, weight])", edge)
    assert isinstance(edge, tuple | list)
    for end in edge[:2]:
        check(is_int(end) or isinstance(end, str), "UserGraph.edges", "variables", edge)
    check(edge[0] != edge[1], "UserGraph.edges", "two different variables", edge)
    edge = tuple(int(end) if is_int(end) else end for end in edge[:2]) + tuple(edge[2:])
    if len(edge) == 2:
        return edge[0], edge[1]
    field = f"UserGraph.edges {edge[0]} → {edge[1]}"
    return edge[0], edge[1], as_distribution(edge[2], field, -MOST_WEIGHT, MOST_WEIGHT)


def _names_of(given: Any, field: str) -> list[int | str]:
    """Of the variables of a matrix: numbers, or the names of a data frame's columns."""
    if not hasattr(given, "columns") or not hasattr(given, "index"):
        return list(range(len(np.asarray(given))))
    rows, columns = list(given.index), list(given.columns)
    check(rows == columns, field, "rows named as the columns", rows)
    return columns


def _as_square(given: ArrayLike, field: str) -> NDArray[np.float64]:
    try:
        matrix = np.asarray(given).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:  # ragged, or not real numbers
        raise ValueError(f"{field}: expected a square matrix of numbers, got {given!r}") from error
    check(matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1], field, "a square matrix", f"shape {matrix.shape}")
    return matrix
