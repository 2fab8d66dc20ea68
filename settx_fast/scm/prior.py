"""What datasets to draw: a frozen description of a distribution over structural causal models."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from settx_fast.scm import distributions, graphs, mechanisms, noises, observation
from settx_fast.scm._fields import (
    MAX_VARIABLES,
    as_range,
    check,
    decode,
    encode,
    is_int,
    is_number,
    parse_json,
    parse_yaml,
)
from settx_fast.scm.distributions import MOST_WEIGHT, LogUniform, Parameter, Uniform, as_distribution, as_size
from settx_fast.scm.graphs import ErdosRenyi, Graph, UserGraph, topological_order
from settx_fast.scm.interventions import ROLES, Intervention, Shifts
from settx_fast.scm.mechanisms import Linear, Mechanism
from settx_fast.scm.noises import NOISE_EFFECTS, Noise, as_noise
from settx_fast.scm.observation import Hidden, Levels, Missing, Observation, Selection

MAX_ENVIRONMENTS = 1024
MAX_INTERVENTIONS = 64
MAX_OBSERVATIONS = 64
MOST_IMBALANCE = 1e6

Standardisation = Literal["none", "internal", "sample"]
STANDARDISATIONS: tuple[Standardisation, ...] = get_args(Standardisation)

TARGETS = ("random", "inner")

DEFAULT_GRAPH = ErdosRenyi(expected_in_degree=2)
DEFAULT_MECHANISM = Linear()
DEFAULT_WEIGHT = Uniform(0.5, 2.0, signed=True)


@dataclass(frozen=True)
class PerVariable:
    """One distribution for every variable, in the order of the variables.

    Raises ValueError where an entry is no number, (low, high) or distribution.
    """

    values: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        check(isinstance(self.values, tuple | list), "PerVariable.values", "a tuple", self.values)
        entries = tuple(as_distribution(value, f"PerVariable.values[{v}]") for v, value in enumerate(self.values))
        object.__setattr__(self, "values", entries)

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.values))})"


@dataclass(frozen=True)
class Prior:
    """A distribution over SCMs; every dataset of a stream is drawn from an SCM of its own.

    Numbers may be a constant, a range (low, high) or a distribution; they are drawn per dataset, weights per edge,
    bias and noise scale per variable. Where several graphs are given, each dataset takes one of them at random;
    where several mechanisms, noises or noise effects, each variable.

    num_variables         int, range or LogUniform of whole numbers; smaller datasets are padded
    graph                 ErdosRenyi, ScaleFree, StochasticBlock, WattsStrogatz, Geometric, Bipartite, Tree, Pattern,
                          Layered, UserGraph
    mechanism             Linear, MLP, Fourier, Elementwise, Quadratic, Trees, PostNonlinear, Categories, Clusters,
                          Product
    same_mechanism        probability that all variables of a dataset have the same of several mechanisms
    weight                of an edge
    bias, noise_scale     of a variable, or one each: PerVariable((…, …)); the scale is the standard deviation
    noise                 "gaussian", "laplace", "uniform", "student_t", "exponential", "gumbel", "logistic",
                          "clipped_cauchy", "mixture" or their classes
    noise_effect          "additive", "multiplicative" or "heteroscedastic"
    source_environments   int, range or LogUniform of whole numbers
    target_environments   int or range; 0: none
    source_interventions  what happens in every source environment, in this order
    target_interventions  the same for target environments
    shifts                Shifts: mechanisms that move between environments; before any intervention
    observation           Hidden, Selection, MeasurementError, Levels, Missing: what is seen of the rows
    target_share          share of the rows in target environments; None: equal shares for all environments
    environment_imbalance  numbers of rows of environments are in proportion to imbalance^(−u), u uniform on
                          (0, 1): largest over least at most; None: equal numbers
    standardisation       "none"; "internal": every variable is centred and scaled before its children see it (iSCM,
                          Ormaniec et al. 2024, arXiv:2406.11601), by the mean and standard deviation of a few hundred
                          pilot rows of the source environments, so that neither variances nor the order of sizes betray
                          the causal order; a hard intervention sets the standardised value; "sample": the finished
                          columns have mean 0 and variance 1 over the source rows of every dataset
    target                the variable to predict: number, name, "random", or "inner": at random among variables with a
                          parent and a child, for lack of these a parent, for lack of these any
    names                 of the variables

    Raises ValueError (field, expected, got) for anything that is not a prior.
    """

    num_variables: int | tuple[int, int] | LogUniform = 10
    graph: Graph | tuple[Graph, ...] = DEFAULT_GRAPH
    mechanism: Mechanism | tuple[Mechanism, ...] = DEFAULT_MECHANISM
    weight: Parameter = DEFAULT_WEIGHT
    bias: Parameter | PerVariable = 0.0
    noise: str | Noise | tuple[str | Noise, ...] = "gaussian"
    noise_scale: Parameter | PerVariable = 1.0
    noise_effect: str | tuple[str, ...] = "additive"
    same_mechanism: float = 0.0
    source_environments: int | tuple[int, int] | LogUniform = 1
    target_environments: int | tuple[int, int] = 1
    source_interventions: tuple[Intervention, ...] = ()
    target_interventions: tuple[Intervention, ...] = ()
    shifts: Shifts | None = None
    observation: tuple[Observation, ...] = ()
    target_share: Parameter | None = None
    environment_imbalance: Parameter | None = None
    standardisation: Standardisation = "none"
    target: int | str = "random"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        as_size(self.num_variables, "num_variables", 1, MAX_VARIABLES)
        as_size(self.source_environments, "source_environments", 1, MAX_ENVIRONMENTS)
        as_range(self.target_environments, "target_environments", 0, MAX_ENVIRONMENTS)
        self._check_names()
        self._normalise()
        self._check_graphs()
        self._check_interventions()
        self._check_observation()
        self._check_target()
        given = self.standardisation
        check(given in STANDARDISATIONS, "standardisation", f"one of {STANDARDISATIONS}", given)

    # Sizes that padding follows -------------------------------------------------------------------------------------

    @cached_property
    def max_variables(self) -> int:
        """V, the width of a batch."""
        return as_size(self.num_variables, "num_variables", 1, MAX_VARIABLES)[1]

    @cached_property
    def min_variables(self) -> int:
        """Variables of the smallest dataset."""
        return as_size(self.num_variables, "num_variables", 1, MAX_VARIABLES)[0]

    @cached_property
    def max_environments(self) -> int:
        """K, source and target environments together."""
        sources = as_size(self.source_environments, "source_environments", 1, MAX_ENVIRONMENTS)[1]
        return sources + as_range(self.target_environments, "target_environments", 0, MAX_ENVIRONMENTS)[1]

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The graphs a dataset may have."""
        return self.graph if isinstance(self.graph, tuple) else (self.graph,)

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """The mechanisms a variable may have."""
        return self.mechanism if isinstance(self.mechanism, tuple) else (self.mechanism,)

    @property
    def noises(self) -> tuple[Noise, ...]:
        """The noises a variable may have."""
        noises = self.noise if isinstance(self.noise, tuple) else (self.noise,)
        return tuple(as_noise(noise, "noise") for noise in noises)

    @property
    def noise_effects(self) -> tuple[str, ...]:
        """What the noise of a variable may do to it."""
        return self.noise_effect if isinstance(self.noise_effect, tuple) else (self.noise_effect,)

    @property
    def max_levels(self) -> int:
        """L, levels that a variable may have; 0 where all are numbers."""
        levels = [as_range(o.number, "number", 0, 1 << 30)[1] for o in self.observation if isinstance(o, Levels)]
        return max(levels, default=0)

    @property
    def is_observed(self) -> bool:
        """Whether what is seen differs from what the SCM gives, but for units."""
        return bool(self.observation) or self.rejects_rows

    @property
    def has_parameters(self) -> bool:
        """Whether mechanisms have parameters beside the weights."""
        return any(not isinstance(mechanism, Linear) for mechanism in self.mechanisms)

    @property
    def needs_pilot(self) -> bool:
        """Whether something rests on pilot rows."""
        return self.is_observed or self.standardisation == "internal"

    @property
    def loses_values(self) -> bool:
        """Whether values may be missing."""
        return any(isinstance(o, Missing) for o in self.observation)

    @property
    def rejects_rows(self) -> bool:
        """Whether rows are drawn until they are accepted: by a selection or a label shift."""
        interventions = (*self.source_interventions, *self.target_interventions)
        return any(isinstance(o, Selection) for o in self.observation) or any(i.kind == "label" for i in interventions)

    def variable(self, which: int | str, field: str) -> int:
        """The number of a variable given by number or name."""
        if isinstance(which, str):
            check(which in self.names, field, f"one of the names {self.names}", which)
            return self.names.index(which)
        check(is_int(which) and 0 <= which < self.min_variables, field, f"0…{self.min_variables - 1}", which)
        return which

    # Files and text -------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The prior as JSON text."""
        return json.dumps(encode(self), indent=2, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Prior:
        """The inverse of `to_json`; ValueError if the text is not a prior."""
        return _as_prior(parse_json(text, "prior"), "JSON")

    def to_yaml(self) -> str:
        """The prior as YAML text."""
        import yaml

        printable = all(name.isprintable() for name in self.names)  # PyYAML does not read all others that it writes
        return yaml.safe_dump(encode(self), sort_keys=False, allow_unicode=printable)

    @staticmethod
    def from_yaml(text: str) -> Prior:
        """The inverse of `to_yaml`; ValueError if the text is not a prior."""
        return _as_prior(parse_yaml(text, "prior"), "YAML")

    def write(self, path: str | Path) -> None:
        """Write a .json, .yaml or .yml file."""
        as_text = self.to_json if _suffix(path) == ".json" else self.to_yaml
        Path(path).write_text(as_text(), encoding="utf-8")

    @staticmethod
    def read(path: str | Path) -> Prior:
        """The prior in a .json, .yaml or .yml file; ValueError if it holds none."""
        from_text = Prior.from_json if _suffix(path) == ".json" else Prior.from_yaml
        return from_text(Path(path).read_text(encoding="utf-8"))

    def __str__(self) -> str:
        lines = [f"  {f.name:<22}{_text(getattr(self, f.name))}" for f in fields(self)]
        return "\n".join(["Prior", *lines])

    # Checks ---------------------------------------------------------------------------------------------------------

    def _normalise(self) -> None:
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        keep("weight", as_distribution(self.weight, "weight", -MOST_WEIGHT, MOST_WEIGHT))
        for name, low in (("bias", -1e30), ("noise_scale", 0.0)):
            value = getattr(self, name)
            if isinstance(value, PerVariable):
                check(
                    len(value.values) == self.min_variables == self.max_variables,
                    name,
                    f"one distribution for each of {self.num_variables} variables",
                    len(value.values),
                )
                for v, entry in enumerate(value.values):
                    as_distribution(entry, f"{name}[{v}]", low, 1e30)
            else:
                keep(name, as_distribution(value, name, low, 1e30))
        check(len(self.noises) > 0, "noise", "at least one noise", self.noise)
        keep("noise", self.noises if isinstance(self.noise, tuple) else self.noises[0])
        known = len(self.noise_effects) > 0 and all(effect in NOISE_EFFECTS for effect in self.noise_effects)
        check(known, "noise_effect", f"one or several of {NOISE_EFFECTS}", self.noise_effect)
        check(len(self.mechanisms) > 0, "mechanism", "at least one mechanism", self.mechanism)
        for mechanism in self.mechanisms:
            check(isinstance(mechanism, Mechanism), "mechanism", "one of the mechanisms of settx_fast.scm", mechanism)
        share = self.same_mechanism
        check(is_number(share) and 0 <= float(share) <= 1, "same_mechanism", "a number within [0, 1]", share)
        keep("same_mechanism", float(share) + 0.0)

    def _check_names(self) -> None:
        names = self.names
        check(isinstance(names, tuple) and all(isinstance(n, str) for n in names), "names", "a tuple of str", names)
        check(len(set(names)) == len(names), "names", "different names", names)
        check(not names or len(names) == self.max_variables, "names", f"{self.max_variables} of them", names)
        check(not set(names) & {*TARGETS, *ROLES}, "names", f"none of the words {(*TARGETS, *ROLES)}", names)

    def _check_graphs(self) -> None:
        check(len(self.graphs) > 0, "graph", "at least one graph", self.graph)
        for graph in self.graphs:
            check(isinstance(graph, Graph), "graph", "one of the graphs of settx_fast.scm", graph)
            if isinstance(graph, UserGraph):
                topological_order(self.user_edges(graph), self.max_variables)

    def user_edges(self, graph: UserGraph) -> list[tuple[int, int]]:
        """The edges of a given graph by variable number."""
        edges = [(self.variable(e[0], "graph"), self.variable(e[1], "graph")) for e in graph.edges]
        check(len(set(edges)) == len(edges), "graph", "every edge once", edges)
        return edges

    def _check_interventions(self) -> None:
        for field in ("source_interventions", "target_interventions"):
            value = getattr(self, field)
            expected = f"a tuple of up to {MAX_INTERVENTIONS} Intervention"
            fits = isinstance(value, tuple) and all(isinstance(i, Intervention) for i in value)
            check(fits and len(value) <= MAX_INTERVENTIONS, field, expected, value)
            for intervention in value:
                for which in intervention.variables or ():
                    if which not in ROLES:
                        self.variable(which, f"{field}.variables")
        known = self.shifts is None or isinstance(self.shifts, Shifts)
        check(known, "shifts", "None or scm.Shifts", self.shifts)

    def _check_observation(self) -> None:
        given = self.observation
        fits = isinstance(given, tuple) and all(isinstance(o, Observation) for o in given)
        check(fits and len(given) <= MAX_OBSERVATIONS, "observation", f"a tuple of up to {MAX_OBSERVATIONS} of Hidden, "
              "Selection, MeasurementError, Levels and Missing", given)  # fmt: skip
        check(sum(isinstance(o, Selection) for o in given) <= 1, "observation", "at most one Selection", given)
        for entry in given:
            variables = entry.variables or ()
            for which in variables:
                if which not in ROLES:
                    self.variable(which, f"{type(entry).__name__}.variables")
            spared = not (isinstance(entry, Hidden) and "target" in variables)
            check(spared, "Hidden.variables", "variables other than the target", variables)

    def _check_target(self) -> None:
        if self.target not in TARGETS:
            self.variable(self.target, "target")
        share = self.target_share
        if share is not None:
            has_target = as_range(self.target_environments, "target_environments", 0, MAX_ENVIRONMENTS)[0] > 0
            check(has_target, "target_share", "None where there may be no target environment", share)
            share = as_distribution(share, "target_share", 0, 1, positive=True, below=True)
            object.__setattr__(self, "target_share", share)
        if self.environment_imbalance is not None:
            imbalance = as_distribution(self.environment_imbalance, "environment_imbalance", 1, MOST_IMBALANCE)
            object.__setattr__(self, "environment_imbalance", imbalance)


def _as_prior(data: Any, language: str) -> Prior:
    try:
        prior = decode(data, _CLASSES, "prior")
    except RecursionError as error:  # a YAML list may hold itself
        raise ValueError(f"prior: expected {language} of a Prior, got something nested too deep") from error
    check(isinstance(prior, Prior), "prior", f"{language} of a Prior", type(prior).__name__)
    assert isinstance(prior, Prior)
    return prior


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    check(suffix in (".json", ".yaml", ".yml"), "path", "a file that ends in .json, .yaml or .yml", str(path))
    return suffix


def _text(value: object) -> str:
    if isinstance(value, tuple) and not any(map(is_int, value)):
        return " | ".join(map(str, value)) or "none"
    return str(value)


_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Prior,
        Intervention,
        Shifts,
        PerVariable,
        *get_args(distributions.Distribution),
        *get_args(graphs.Graph),
        *get_args(mechanisms.Mechanism),
        *get_args(noises.Noise),
        *get_args(observation.Observation),
    )
}
