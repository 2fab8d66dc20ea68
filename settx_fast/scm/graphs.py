"""Random directed acyclic graphs: which variable may cause which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from settx_fast.scm._fields import as_range, check
from settx_fast.scm.distributions import Distribution, Parameter, as_distribution

Edge = tuple[int | str, int | str] | tuple[int | str, int | str, Distribution]


@dataclass(frozen=True)
class ErdosRenyi:
    """Every pair of variables is an edge with the same probability, along a random order (Erdős & Rényi 1959).

    Give one of the two, drawn per dataset: `edge_probability`, or `expected_in_degree` d, the mean number of parents,
    which means the probability min(1, 2d/(V − 1)).
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
    """

    edges_per_variable: int | tuple[int, int] = 2
    hubs: Literal["out", "in"] = "out"

    def __post_init__(self) -> None:
        as_range(self.edges_per_variable, "ScaleFree.edges_per_variable", 1, 4096)
        check(self.hubs in ("out", "in"), "ScaleFree.hubs", "'out' or 'in'", self.hubs)

    def __str__(self) -> str:
        return f"scale-free, {self.edges_per_variable} edges per variable, {self.hubs}-hubs"


@dataclass(frozen=True)
class UserGraph:
    """A given graph: edges (cause, effect) or (cause, effect, distribution of the weight), by number or name.

    Edges without a weight draw it from `Prior.weight`.
    """

    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        check(isinstance(self.edges, tuple | list), "UserGraph.edges", "a tuple of (cause, effect) pairs", self.edges)
        object.__setattr__(self, "edges", tuple(_as_edge(edge) for edge in self.edges))

    @staticmethod
    def from_adjacency(adjacency: Sequence[Sequence[int]]) -> UserGraph:
        """The graph with an edge i → j wherever adjacency[i][j] is true."""
        rows = [list(row) for row in adjacency]
        square = all(len(row) == len(rows) for row in rows)
        check(square, "adjacency", "a square matrix", f"rows of lengths {[len(row) for row in rows]}")
        return UserGraph(tuple((i, j) for i, row in enumerate(rows) for j, edge in enumerate(row) if edge))

    def __str__(self) -> str:
        return f"given, {len(self.edges)} edges"


Graph = ErdosRenyi | ScaleFree | UserGraph


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


def _as_edge(edge: object) -> Edge:
    check(isinstance(edge, tuple | list) and len(edge) in (2, 3), "UserGraph.edges", "(cause, effect[, weight])", edge)
    assert isinstance(edge, tuple | list)
    for end in edge[:2]:
        check(isinstance(end, int | str) and not isinstance(end, bool), "UserGraph.edges", "variables", edge)
    check(edge[0] != edge[1], "UserGraph.edges", "two different variables", edge)
    if len(edge) == 2:
        return edge[0], edge[1]
    return edge[0], edge[1], as_distribution(edge[2], f"UserGraph.edges {edge[0]} → {edge[1]}")
