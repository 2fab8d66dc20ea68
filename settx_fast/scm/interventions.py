"""How environments differ: what is done to which variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from settx_fast.scm._fields import MAX_VARIABLES, as_range, as_variables, check
from settx_fast.scm.distributions import Parameter, as_distribution

Kind = Literal["shift", "scale", "noise", "hard", "redraw", "cut", "mechanism", "drift", "label"]
INTERVENTIONS = ("none", *get_args(Kind))
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
    """

    kind: Kind
    value: Parameter | None = None
    variables: tuple[int | str, ...] | None = None
    number: int | tuple[int, int] = 1
    on_target: bool = True

    def __post_init__(self) -> None:
        check(self.kind in INTERVENTIONS[1:], "Intervention.kind", f"one of {INTERVENTIONS[1:]}", self.kind)
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
