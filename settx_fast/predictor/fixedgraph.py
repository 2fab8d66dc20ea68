"""Whether a table can come from the one graph that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
from scipy.stats import chi2

from settx_fast import scm
from settx_fast.predictor.table import Table
from settx_fast.scm.graphs import UserGraph, topological_order

SIGNIFICANCE = 1e-3  # of a whole table, shared among its tests
LEAST = 0.1  # a partial correlation below this is no reason to refuse a graph, however many rows there are
MOST_PERMUTED = 6  # columns whose places in the graph are tried in every order

Independence = tuple[int, int, tuple[int, ...]]
"""Variables i and j are independent given the third."""


def contradiction(table: Table, prior: scm.Prior) -> str:
    """The sentence that says why a table cannot be of the prior's only graph; "" where it can, or there are several.

    Tested are the independences that a graph implies of linear SCMs (Pearl 2009, theorem 1.2.4), by partial
    correlations within the source environments. Columns are placed by their names where these are the graph's, else
    in every way.
    """
    graph = prior.graph
    if not isinstance(graph, UserGraph):
        return ""
    shown = _shown(graph, prior)
    variables = prior.max_variables
    if len(table.feature_names) != variables - 1:
        return (
            f"This model knows one graph only ({shown}), of {variables} variables; the table has "
            f"{len(table.feature_names)} columns beside the target, so what the model says of it means nothing."
        )
    if prior.has_parameters:
        return ""  # partial correlations test linear SCMs only
    places = list(_places(table, prior))
    if not places:
        return (
            f"This model knows one graph only ({shown}), and which column stands for which variable cannot be told: "
            "name the columns as the graph does."
        )
    correlations = _correlations(table)
    found = [_refuted(place, implied(prior.user_edges(graph), variables), correlations) for place in places]
    if any(each is None for each in found):
        return ""
    first, second, given, correlation = next(each for each in found if each is not None)
    names = (*table.feature_names, table.target_name)
    known = f"given {', '.join(names[index] for index in given)}, " if given else ""
    return (
        f"This table cannot come from the only graph that the model knows ({shown}): {known}{names[first]} and "
        f"{names[second]} depend on each other (partial correlation {correlation:.2f}). Use a model of several graphs."
    )


def implied(edges: list[tuple[int, int]], variables: int) -> list[Independence]:
    """Every pair without an edge is independent given the causes of the later one."""
    order = topological_order(edges, variables)
    parents = {v: tuple(sorted(cause for cause, effect in edges if effect == v)) for v in range(variables)}
    return [
        (earlier, later, parents[later])
        for place, later in enumerate(order)
        for earlier in order[:place]
        if earlier not in parents[later]
    ]


def _shown(graph: UserGraph, prior: scm.Prior) -> str:
    names = prior.names or tuple(f"x{v}" for v in range(prior.max_variables))
    edges = [f"{names[cause]} → {names[effect]}" for cause, effect in prior.user_edges(graph)]
    return ", ".join(edges[:4]) + (" …" if len(edges) > 4 else "")


def _places(table: Table, prior: scm.Prior) -> Iterator[tuple[int, ...]]:
    """Every way to place the table's columns (target last) on the variables of the graph."""
    if prior.target in ("random", "inner"):
        return
    target = prior.variable(prior.target, "target")
    others = [v for v in range(prior.max_variables) if v != target]
    columns = len(table.feature_names)
    if {prior.names[v] for v in others if prior.names} == set(table.feature_names):
        place = {v: table.feature_names.index(prior.names[v]) for v in others}
        yield tuple(columns if v == target else place[v] for v in range(prior.max_variables))
        return
    for order in permutations(range(columns)) if columns <= MOST_PERMUTED else ():
        place = dict(zip(others, order, strict=True))
        yield tuple(columns if v == target else place[v] for v in range(prior.max_variables))


def _correlations(table: Table) -> list[tuple[int, np.ndarray]]:
    """Rows and correlation matrix, target last, of every source environment that is large enough to tell."""
    known = table.is_labelled & ~table.is_deploy
    found = []
    for environment in np.unique(table.environment[known]):
        rows = known & (table.environment == environment)
        columns = np.column_stack([table.features[rows], table.target[rows]])
        if len(columns) > 2 * columns.shape[1] + 3 and (columns.std(0) > 0).all():
            found.append((len(columns), np.corrcoef(columns.T)))
    return found


def _refuted(
    place: tuple[int, ...], independences: list[Independence], correlations: list[tuple[int, np.ndarray]]
) -> tuple[int, int, tuple[int, ...], float] | None:
    """The independence that the table refutes most clearly, by columns, with its partial correlation; else None."""
    worst: tuple[float, tuple[int, int, tuple[int, ...], float]] | None = None
    for first, second, given in independences:
        columns = (place[first], place[second], tuple(place[v] for v in given))
        chance, correlation = _test(*columns, correlations)
        if (
            chance < SIGNIFICANCE / len(independences)
            and abs(correlation) >= LEAST
            and (worst is None or chance < worst[0])
        ):
            worst = chance, (*columns, correlation)
    return worst and worst[1]


def _test(
    first: int, second: int, given: tuple[int, ...], correlations: list[tuple[int, np.ndarray]]
) -> tuple[float, float]:
    """p-value that the partial correlation is 0 in every environment (Fisher 1924), and its mean over rows."""
    chosen = [first, second, *given]
    statistic, weighted, total = 0.0, 0.0, 0
    for rows, matrix in correlations:
        inverse = np.linalg.pinv(matrix[np.ix_(chosen, chosen)], hermitian=True)
        partial = float(np.clip(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]), -0.999999, 0.999999))
        statistic += (rows - len(given) - 3) * np.arctanh(partial) ** 2
        weighted, total = weighted + rows * partial, total + rows
    if not total:
        return 1.0, 0.0
    return float(chi2.sf(statistic, len(correlations))), weighted / total
