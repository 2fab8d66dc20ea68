"""What is said of a table, piece by piece: intervals, columns, frameworks; which of these are alike or apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from sys import float_info

from settx_fast.predictor.frameworks import MeasuredRisk


@dataclass(frozen=True)
class Interval:
    """A number and its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Column:
    """What the model says of one feature: its role, the probability of every role, and effects by property name."""

    name: str
    role: str
    probability: dict[str, float]
    effects: dict[str, Interval]


@dataclass(frozen=True)
class Framework:
    """One learning framework on this table: the features it uses and its risk in units of the target, squared."""

    name: str
    title: str
    features: tuple[str, ...]
    risk: Interval
    measured: MeasuredRisk | None


def same_columns(compared: Sequence[Framework], name: str) -> tuple[Framework, ...]:
    """The frameworks other than `name` that use the same columns: the same thing on this table."""
    own = _named(compared, name)
    return tuple(each for each in compared if each is not own and set(each.features) == set(own.features))


def with_ties(compared: Sequence[Framework]) -> tuple[Framework, ...]:
    """Frameworks that use the same columns have the same risk: the geometric mean of what is predicted for them."""
    return tuple(
        replace(each, risk=_mean([each.risk, *(other.risk for other in same_columns(compared, each.name))]))
        for each in compared
    )


def is_decisive(compared: Sequence[Framework], recommended: str) -> bool:
    """Whether the interval of the recommended framework lies below all others, save those with the same columns."""
    best, ties = _named(compared, recommended), same_columns(compared, recommended)
    rivals = [each for each in compared if each is not best and each not in ties]
    return bool(rivals) and all(best.risk.high < other.risk.low for other in rivals)


def _named(compared: Sequence[Framework], name: str) -> Framework:
    return next(each for each in compared if each.name == name)


def _mean(risks: Sequence[Interval]) -> Interval:
    if len(risks) == 1:
        return risks[0]

    def mean(*values: float) -> float:
        return exp(sum(log(max(value, float_info.min)) for value in sorted(values)) / len(values))

    return Interval(*(mean(*each) for each in zip(*((r.value, r.low, r.high) for r in risks), strict=True)))
