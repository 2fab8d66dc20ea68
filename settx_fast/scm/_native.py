"""The native module, loaded when the first dataset is asked for, and priors in its terms."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

from settx_fast.scm._fields import as_range
from settx_fast.scm.distributions import Constant, Distribution, LogUniform, Normal, Uniform, as_distribution, as_size
from settx_fast.scm.graphs import (
    PATTERNS,
    Bipartite,
    ErdosRenyi,
    Geometric,
    Graph,
    Layered,
    Pattern,
    ScaleFree,
    StochasticBlock,
    Tree,
    UserGraph,
    WattsStrogatz,
    topological_order,
)
from settx_fast.scm.interventions import INTERVENTIONS, ODDS, ROLES, Intervention, Shifts
from settx_fast.scm.mechanisms import Mechanism, Product, as_factors, mechanism_record
from settx_fast.scm.noises import NOISE_EFFECTS, Noise, noise_code, noise_inputs
from settx_fast.scm.observation import Observation, observation_record
from settx_fast.scm.prior import PerVariable, Prior

_ZERO = (0, False, 0.0, 0.0)
_TARGETS = {"random": -1, "inner": -2}


def native() -> ModuleType:
    """settx_fast._native; ImportError with what to do where it is not built."""
    try:
        return import_module("settx_fast._native")
    except ImportError as error:
        raise ImportError(
            "the SCM sampler needs the native module settx_fast._native, which is not built here or does not load "
            f"({error}): run `pip install .` in the source tree (a C++17 compiler is all it takes)"
        ) from error


@lru_cache(maxsize=64)
def native_prior(prior: Prior) -> Any:
    """`prior` as the native module's own record."""
    per_variable = {
        name: [_distribution(d) for d in (value.values if isinstance(value, PerVariable) else (value,))]
        for name, value in (("bias", prior.bias), ("noise_scale", prior.noise_scale))
    }
    return native().Prior(
        {
            "num_variables": _size(prior.num_variables),
            "source_environments": _size(prior.source_environments),
            "target_environments": as_range(prior.target_environments, "target_environments", 0, 1 << 30),
            "target": _TARGETS.get(prior.target)
            if prior.target in _TARGETS
            else prior.variable(prior.target, "target"),
            "standardisation": int(prior.standardisation == "internal"),
            "weight": _distribution(prior.weight),
            "same_mechanism": prior.same_mechanism,
            "target_share": _distribution(prior.target_share or 0.0),
            "environment_imbalance": _distribution(prior.environment_imbalance or 0.0),
            "shifts": None if prior.shifts is None else _shifts(prior.shifts),
            "graphs": [_graph(prior, graph) for graph in prior.graphs],
            "mechanisms": [_mechanism(mechanism) for mechanism in prior.mechanisms],
            "noises": [_noise(noise) for noise in prior.noises],
            "noise_effects": [NOISE_EFFECTS.index(effect) for effect in prior.noise_effects],
            "source_interventions": [_intervention(prior, i) for i in prior.source_interventions],
            "target_interventions": [_intervention(prior, i) for i in prior.target_interventions],
            "observations": [_observation(prior, o) for o in prior.observation],
            "needs_pilot": prior.needs_pilot,
        }
        | per_variable
    )


def _distribution(value: object) -> tuple[int, bool, float, float]:
    d: Distribution = as_distribution(value, "distribution")
    match d:
        case Constant():
            return 0, False, d.value, d.value
        case Uniform():
            return 1, d.signed, d.low, d.high
        case LogUniform():
            return 2, d.signed, d.low, d.high
        case Normal():
            return 3, False, d.mean, d.sd


def _size(value: object) -> tuple[int, int, bool]:
    return *as_size(value, "size", 1, 1 << 30), isinstance(value, LogUniform)


def _shifts(shifts: Shifts) -> dict[str, object]:
    alone = ("target_severity", "strength", "target_strength", "intercept", "slope", "noise")
    return {
        "recurring": shifts.recurring,
        "odds": [_distribution(getattr(shifts, name)) for name in ODDS],
    } | {name: _distribution(getattr(shifts, name)) for name in alone}


def _graph(prior: Prior, graph: Graph) -> dict[str, object]:
    kind, parameters, count = _graph_parameters(graph)
    edges = prior.user_edges(graph) if isinstance(graph, UserGraph) else []
    weights = [e[2] if len(e) == 3 else prior.weight for e in graph.edges] if isinstance(graph, UserGraph) else []
    return {
        "kind": kind,
        "parameters": [_distribution(parameter) for parameter in (*parameters, 0.0, 0.0)[:2]],
        "count": as_range(count, "count", 0, 1 << 30),
        "hubs_in": isinstance(graph, ScaleFree) and graph.hubs == "in",
        "edges": [end for edge in edges for end in edge],
        "edge_weights": [_distribution(weight) for weight in weights],
        "order": topological_order(edges, prior.max_variables) if isinstance(graph, UserGraph) else [],
    }


def _graph_parameters(graph: Graph) -> tuple[int, tuple[object, ...], int | tuple[int, int]]:
    """GraphKind of csrc/scm/scm.h, its parameters and its count."""
    match graph:
        case ErdosRenyi(expected_in_degree=None):
            return 1, (graph.edge_probability,), 0
        case ErdosRenyi():
            return 0, (graph.expected_in_degree,), 0
        case ScaleFree():
            return 2, (), graph.edges_per_variable
        case UserGraph():
            return 3, (), 0
        case StochasticBlock():
            return 4, (graph.within, graph.between), graph.blocks
        case WattsStrogatz():
            return 5, (graph.rewiring,), graph.neighbours
        case Geometric():
            return 6, (graph.radius,), 0
        case Bipartite():
            return 7, (graph.probability, graph.causes), 0
        case Tree():
            return 8, (), 0
        case Pattern():
            return 9 + PATTERNS.index(graph.kind), (), 0
        case Layered():
            return 12, (graph.probability,), graph.layers


def _mechanism(mechanism: Mechanism) -> dict[str, object]:
    record = mechanism_record(mechanism)
    sizes = {name: as_range(record[name], name, 0, 1 << 30) for name in ("width", "depth")}
    factors = [_mechanism(factor) for factor in as_factors(mechanism)] if isinstance(mechanism, Product) else []
    return record | sizes | {"parameter": _distribution(record["parameter"]), "factors": factors}


def _noise(noise: Noise) -> tuple[int, list[tuple[int, bool, float, float]]]:
    return noise_code(noise), [_distribution(given) for given in noise_inputs(noise)]


def _variable(prior: Prior, which: int | str) -> int:
    if isinstance(which, str) and which in ROLES:
        return -1 - ROLES.index(which)
    return prior.variable(which, "Intervention.variables")


def _variables(prior: Prior, which: tuple[int | str, ...] | None) -> list[int] | None:
    return None if which is None else [_variable(prior, v) for v in which]


def _observation(prior: Prior, observation: Observation) -> dict[str, object]:
    record = observation_record(observation)
    values: Any = (*record["values"], 0.0, 0.0)[:2]  # type: ignore[misc]
    return record | {
        "values": [_distribution(value) for value in values],
        "probability": _distribution(record["probability"]),
        "number": as_range(record["number"], "number", 0, 1 << 30),
        "variables": _variables(prior, observation.variables),
    }


def _intervention(prior: Prior, i: Intervention) -> dict[str, object]:
    return {
        "kind": INTERVENTIONS.index(i.kind),
        "value": _ZERO if i.value is None else _distribution(i.value),
        "variables": _variables(prior, i.variables),
        "number": as_range(i.number, "Intervention.number", 0, 1 << 30),
        "on_target": i.on_target,
    }
