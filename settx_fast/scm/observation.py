"""What is seen of a dataset: which variables, which rows, and what is left of their values.

A `Prior` holds any number of these, each drawn anew for every dataset. Whatever their order they act in this one:
variables are hidden; rows are accepted or drawn again; errors are added; numbers become levels; values are lost. None
of them changes the causal model, and hidden variables keep their values. Where several of a kind fall on one variable
the last one holds. "sd" is the standard deviation of a variable over the pilot rows: a few hundred rows of the source
environments, drawn for this purpose alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from settx_fast.scm._fields import MAX_VARIABLES, as_range, as_variables, check
from settx_fast.scm.distributions import Constant, Parameter, Uniform, as_distribution

Variables = tuple[int | str, ...] | None
"""Numbers, names, or "target", "parents", "children" (of the target)."""

Side = Literal["source", "target", "all"]
Loss = Literal["mcar", "mar", "mnar"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
MOST_LEVELS = 256
MOST_LEVELS_BY_CHANCE = 112
"""The words that order more levels reach those that draw a probability."""

SLOPE = Uniform(1.0, 4.0, signed=True)


@dataclass(frozen=True)
class Hidden:
    """Variables that are not seen: latent confounders (Pearl 2009, section 3.3), as far as there are any.

    Give one of the two: `number` of them (int or range), or the `probability` of every variable. Variables with two or
    more children come first; the target is never hidden, and one feature stays. `variables` restricts the choice.

    Raises ValueError for both or none, and for a probability outside [0, 1].
    """

    number: int | tuple[int, int] | None = None
    probability: Parameter | None = None
    variables: Variables = None

    def __post_init__(self) -> None:
        check((self.number is None) != (self.probability is None), "Hidden", "number or probability", self)
        if self.number is not None:
            as_range(self.number, "Hidden.number", 0, MAX_VARIABLES)
        else:
            _store(self, "probability", 0, 1)
        _store_variables(self)

    def __str__(self) -> str:
        what = f"{self.number} variables" if self.number is not None else f"every variable with {self.probability}"
        return f"hidden {what}{_among(self.variables)}"


@dataclass(frozen=True)
class Selection:
    """Rows that are seen only with a probability that depends on one variable (Heckman 1979; Bareinboim et al. 2014).

    The probability of a row is 1 / (1 + exp(−slope · (x − t) / sd)), t the `quantile` of the variable x. A rejected
    row is drawn again, 1,024 times at most (`Batch.is_accepted`). A slope may be negative; a large one is a sharp
    threshold.
    The variable is drawn from `variables`; None: from all, hidden ones too, the target only with `on_target`.
    environments: where rows are selected, "source", "target" or "all".

    Raises ValueError for a slope beyond ±1e3, a quantile outside [0, 1] or other environments.
    """

    slope: Parameter = SLOPE
    quantile: Parameter = 0.5
    variables: Variables = None
    on_target: bool = True
    environments: Side = "source"

    def __post_init__(self) -> None:
        _store(self, "slope", -1e3, 1e3)
        _store(self, "quantile", 0, 1)
        _store_variables(self)
        check(self.environments in get_args(Side), "Selection.environments", f"one of {get_args(Side)}",
              self.environments)  # fmt: skip

    def __str__(self) -> str:
        where = "" if self.environments == "all" else f" in {self.environments} environments"
        return f"selection, slope {self.slope} at quantile {self.quantile}{_among(self.variables)}{where}"


@dataclass(frozen=True)
class MeasurementError:
    """Independent Gaussian errors on what is seen of a variable, `scale` sd wide (Fuller 1987).

    Every one of `variables` (None: all, the target only with `on_target`) has them with `probability`.

    Raises ValueError for a scale outside [0, 1e3] or a probability outside [0, 1].
    """

    scale: Parameter = (0.1, 0.5)
    probability: Parameter = 1.0
    variables: Variables = None
    on_target: bool = False

    def __post_init__(self) -> None:
        _store(self, "scale", 0, 1e3)
        _store(self, "probability", 0, 1)
        _store_variables(self)

    def __str__(self) -> str:
        return f"measurement error of {self.scale} sd{_on(self.probability, self.variables)}"


@dataclass(frozen=True)
class Levels:
    """Variables that are seen as one of `number` levels (int or range): 0, 1, … between thresholds on their scale.

    Thresholds as in McKelvey & Zavoina 1975. With `ordered` the levels are in order (ordinal), without they are
    permuted (categorical). imbalance: share of the most frequent level over that of the rarest, the others between them
    on a logarithmic scale, in random order; on the target it makes unbalanced classes: Levels(2, imbalance=(1, 20),
    probability=1, variables=("target",)). Shares are those of the pilot rows. `probability`, `variables` and
    `on_target` as in `MeasurementError`.

    Raises ValueError unless number lies in 2…256, imbalance in [1, 1e6] and the probability in [0, 1]; above 112 levels
    the probability is a number, not a distribution.
    """

    number: int | tuple[int, int] = (2, 5)
    ordered: bool = True
    imbalance: Parameter = 1.0
    probability: Parameter = 0.5
    variables: Variables = None
    on_target: bool = False

    def __post_init__(self) -> None:
        _, most = as_range(self.number, "Levels.number", 2, MOST_LEVELS)
        check(isinstance(self.ordered, bool), "Levels.ordered", "True or False", self.ordered)
        _store(self, "imbalance", 1, 1e6)
        _store(self, "probability", 0, 1)
        is_fixed = isinstance(self.probability, Constant) or most <= MOST_LEVELS_BY_CHANCE
        expected = f"a number where there may be more than {MOST_LEVELS_BY_CHANCE} levels"
        check(is_fixed, "Levels.probability", expected, self.probability)
        _store_variables(self)

    def __str__(self) -> str:
        kind = "ordinal" if self.ordered else "categorical"
        imbalance = "" if str(self.imbalance) == "1" else f", imbalance {self.imbalance}"
        return f"{self.number} {kind} levels{imbalance}{_on(self.probability, self.variables)}"


@dataclass(frozen=True)
class Missing:
    """Values that are lost (Rubin 1976): NaN in `Batch.values`, True in `Batch.is_missing`.

    kind   "mcar"  completely at random: with probability `rate`
           "mar"   at random: depending on a feature that is always seen, drawn once per dataset (where there is none:
                   completely at random)
           "mnar"  not at random: depending on the value itself
    rate   share of the values that are lost, over the pilot rows; drawn per variable
    slope  of the log odds of being lost per sd of what it depends on; drawn per variable

    `probability`, `variables`, `on_target` as in `MeasurementError`.

    Raises ValueError for another kind, a rate outside [0, 0.99] or a slope beyond ±1e3.
    """

    kind: Loss = "mcar"
    rate: Parameter = (0.05, 0.3)
    slope: Parameter = SLOPE
    probability: Parameter = 1.0
    variables: Variables = None
    on_target: bool = False

    def __post_init__(self) -> None:
        check(self.kind in LOSSES, "Missing.kind", f"one of {LOSSES}", self.kind)
        _store(self, "rate", 0, 0.99)
        _store(self, "slope", -1e3, 1e3)
        _store(self, "probability", 0, 1)
        _store_variables(self)

    def __str__(self) -> str:
        return f"missing {self.kind} at rate {self.rate}{_on(self.probability, self.variables)}"


Observation = Hidden | Selection | MeasurementError | Levels | Missing


def observation_record(observation: Observation) -> dict[str, object]:
    """`Observation` of csrc/scm/scm.h: kind, option, values, probability, number, variables, on_target."""
    o = observation
    record: dict[str, object] = {"option": 0, "values": (), "probability": 1.0, "number": 0, "on_target": False}
    match o:
        case Hidden():
            by_probability = o.probability is not None
            record |= {"kind": 0, "option": int(by_probability), "number": o.number or 0}
            record["probability"] = o.probability if by_probability else 1.0
        case Selection():
            sides = {"source": 1, "target": 2, "all": 3}
            record |= {"kind": 1, "option": sides[o.environments], "values": (o.slope, o.quantile)}
        case MeasurementError():
            record |= {"kind": 2, "values": (o.scale,)}
        case Levels():
            record |= {"kind": 3, "option": int(o.ordered), "values": (o.imbalance,), "number": o.number}
        case Missing():
            record |= {"kind": 4, "option": LOSSES.index(o.kind), "values": (o.rate, o.slope)}
    if not isinstance(o, Hidden):
        record["on_target"] = o.on_target
    if not isinstance(o, Hidden | Selection):
        record["probability"] = o.probability
    return record | {"variables": o.variables}


def _store(owner: Observation, name: str, low: float, high: float) -> None:
    value = as_distribution(getattr(owner, name), f"{type(owner).__name__}.{name}", low, high)
    object.__setattr__(owner, name, value)


def _store_variables(owner: Observation) -> None:
    name = type(owner).__name__
    object.__setattr__(owner, "variables", as_variables(owner.variables, f"{name}.variables"))
    if not isinstance(owner, Hidden):
        check(isinstance(owner.on_target, bool), f"{name}.on_target", "True or False", owner.on_target)


def _among(variables: Variables) -> str:
    return "" if variables is None else f" among {', '.join(map(str, variables))}"


def _on(probability: Parameter, variables: Variables) -> str:
    which = "every variable" if variables is None else ", ".join(map(str, variables))
    return f" on {which}" + ("" if str(probability) == "1" else f" with probability {probability}")
