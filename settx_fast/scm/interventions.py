"""How environments differ: what is done to which variables."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from settx_fast.scm._fields import MAX_VARIABLES, as_range, as_variables, check
from settx_fast.scm.distributions import LogUniform, Normal, Parameter, as_distribution

Kind = Literal["shift", "scale", "noise", "hard", "redraw", "cut", "mechanism", "drift", "label"]
KINDS: tuple[Kind, ...] = get_args(Kind)
INTERVENTIONS = ("none", *KINDS, "moved")
"""Names of the codes in `Batch.intervention`."""

ROLES = ("target", "parents", "children")


@dataclass(frozen=True)
class Intervention:
    """How an environment differs: what is done to some variables, chosen and drawn anew in every environment.

    kind       what is done to a variable v (see `Batch` for the model)
               "shift"   adds value to its bias (Rothenhäusler et al. 2015)
               "scale"   multiplies its noise scale by value
               "noise"   replaces its noise scale by value
               "hard"    do(v = value): parents and noise have no say (Pearl 2009)
               "redraw"  weights into v and its noise scale are drawn anew from the prior; takes no value
               "cut"     every edge into v is removed with probability value
               "mechanism"  as redraw, and the parameters of its mechanism too (a soft intervention, Eberhardt &
                         Scheines 2007); takes no value
               "label"   changes the distribution of the target y and keeps that of all others given y (label shift,
                         Saerens et al. 2002): rows are drawn until accepted, with the probability
                         1 / (1 + exp(−value · (y − m) / sd)), m and sd of y over pilot rows of the sources
               "drift"   adds value · k / (K − 1) to its bias in environment k (Huang et al. 2020): variables and value
                         are drawn once for all environments, which lie at equal steps along a continuous change; put
                         it at the same place of `source_interventions` and `target_interventions`
    value      number, (low, high) or distribution, drawn per variable and environment
    variables  numbers, names, or "target", "parents", "children" (of the target); None: `number` of them (int or
               range) at random
    on_target  whether a random choice may hit the target variable

    Raises ValueError for another kind, a value that the kind does not take, and variables that are none.
    """

    kind: Kind
    value: Parameter | None = None
    variables: tuple[int | str, ...] | None = None
    number: int | tuple[int, int] = 1
    on_target: bool = True

    def __post_init__(self) -> None:
        check(self.kind in KINDS, "Intervention.kind", f"one of {KINDS}", self.kind)
        if self.kind in ("redraw", "mechanism"):
            check(self.value is None, "Intervention.value", f"None for {self.kind!r}", self.value)
        else:
            low = 0.0 if self.kind in ("scale", "noise", "cut") else -1e30
            value = as_distribution(self.value, "Intervention.value", low, 1.0 if self.kind == "cut" else 1e30)
            object.__setattr__(self, "value", value)
        as_range(self.number, "Intervention.number", 0, MAX_VARIABLES)
        variables = as_variables(self.variables, "Intervention.variables")
        object.__setattr__(self, "variables", variables)
        if self.kind == "label":
            check(variables in (None, ("target",)), "Intervention.variables", "None for 'label'", self.variables)
            object.__setattr__(self, "variables", ("target",))
        check(isinstance(self.on_target, bool), "Intervention.on_target", "True or False", self.on_target)

    def __str__(self) -> str:
        on = f"{self.number} random" if self.variables is None else ", ".join(map(str, self.variables))
        value = "" if self.value is None else f" {self.value}"
        return f"{self.kind}{value} on {on}{'' if self.on_target else ' (never the target)'}"


MOST_MOVE = 1e6
"""Of a strength, a severity or a move."""

DEFAULT_STRENGTH = LogUniform(0.2, 2.5)
STANDARD_NORMAL, SMALLER_NORMAL = Normal(0.0, 1.0), Normal(0.0, 0.4)


@dataclass(frozen=True)
class Shifts:
    """Mechanisms that move: a dataset draws once which and how strongly, and every environment draws where to.

    What varied between the sources then varies in the target environment too, by more or less (invariant and mutable
    mechanisms: Schölkopf et al. 2012, arXiv:1206.6471; Heinze-Deml et al. 2018, arXiv:1706.08576). Probabilities are
    drawn per dataset. Of each part of a mutable variable, s is its strength, in target environments times the severity.

    mutable           probability that a variable other than the target is mutable
    moves_intercept, moves_slopes, moves_noise   probabilities that these parts of a mutable variable move
    target_moves_intercept, target_moves_slopes, target_moves_noise   the same of the target variable
    strength, target_strength   of every part of a mutable variable; of the target variable
    target_severity   factor of all strengths in target environments; drawn per dataset
    intercept         per environment, intercept · s is added to the bias
    slope             per environment and edge, slope · s is added to the weight into a variable whose slopes move
    noise             per environment, the noise scale is multiplied by exp(noise · s), within e⁻² … e²
    redrawn           probability, in each environment, that slopes are drawn anew from the prior instead
    hard              probability, in each environment, that a variable other than the target whose intercept moves is
                      set, do(v = the moved bias)
    recurring         False: all of it is drawn anew for every environment, but for probabilities and severity; then the
                      sources say nothing about what moves in the target environment

    Raises ValueError for a probability outside [0, 1] and for strengths or moves beyond 1e6.
    """

    mutable: Parameter = (0.15, 0.7)
    moves_intercept: Parameter = 1.0
    moves_slopes: Parameter = 1.0
    moves_noise: Parameter = 1.0
    target_moves_intercept: Parameter = 0.0
    target_moves_slopes: Parameter = 0.0
    target_moves_noise: Parameter = 0.0
    strength: Parameter = DEFAULT_STRENGTH
    target_strength: Parameter = DEFAULT_STRENGTH
    target_severity: Parameter = 1.0
    intercept: Parameter = STANDARD_NORMAL
    slope: Parameter = SMALLER_NORMAL
    noise: Parameter = SMALLER_NORMAL
    redrawn: Parameter = 0.0
    hard: Parameter = 0.0
    recurring: bool = True

    def __post_init__(self) -> None:
        for name in ODDS:
            self._keep(name, 0.0, 1.0)
        for name in ("strength", "target_strength", "target_severity"):
            self._keep(name, 0.0, MOST_MOVE)
        for name in ("intercept", "slope", "noise"):
            self._keep(name, -MOST_MOVE, MOST_MOVE)
        check(isinstance(self.recurring, bool), "Shifts.recurring", "True or False", self.recurring)

    def _keep(self, name: str, low: float, high: float) -> None:
        object.__setattr__(self, name, as_distribution(getattr(self, name), f"Shifts.{name}", low, high))

    def __str__(self) -> str:
        parts = ", ".join(f"{f.name} {getattr(self, f.name)}" for f in fields(self) if f.name != "recurring")
        return f"{'recurring' if self.recurring else 'fresh in every environment'}: {parts}"


ODDS = (
    "mutable", "moves_intercept", "moves_slopes", "moves_noise", "target_moves_intercept", "target_moves_slopes",
    "target_moves_noise", "redrawn", "hard",
)  # fmt: skip
"""The probabilities of `Shifts`, in the order of csrc/scm/scm.h."""
