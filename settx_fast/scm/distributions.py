"""Distributions over one number, from which a prior draws its parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from settx_fast.scm._fields import as_range, check, is_number

SMALLEST, LARGEST = 1e-30, 1e30
"""Sizes that float32, in which everything is drawn, holds with room to spare."""

MOST_WEIGHT = 1e6
"""Of an edge."""


@dataclass(frozen=True)
class Constant:
    """Always `value`.

    Raises ValueError unless it is a finite number below 1e30 in size.
    """

    value: float

    def __post_init__(self) -> None:
        _store_finite(self, "value")

    @property
    def support(self) -> tuple[float, float]:
        """Least and greatest value."""
        return self.value, self.value

    def __str__(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high]; with `signed` times a fair random sign.

    Raises ValueError unless both are finite numbers below 1e30 in size and low ≤ high.
    """

    low: float
    high: float
    signed: bool = False

    def __post_init__(self) -> None:
        _store_finite(self, "low", "high")
        check(self.low <= self.high, "Uniform.high", f"at least low = {self.low:g}", self.high)
        check(isinstance(self.signed, bool), "Uniform.signed", "True or False", self.signed)

    @property
    def support(self) -> tuple[float, float]:
        """Least and greatest value."""
        return _signed_support(self.low, self.high, self.signed)

    def __str__(self) -> str:
        return f"{'±' if self.signed else ''}U({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class LogUniform:
    """exp of a uniform number on [log low, log high], 0 < low; with `signed` times a fair random sign.

    Raises ValueError unless 1e-30 ≤ low ≤ high < 1e30.
    """

    low: float
    high: float
    signed: bool = False

    def __post_init__(self) -> None:
        _store_finite(self, "low", "high")
        check(self.low >= SMALLEST, "LogUniform.low", f"at least {SMALLEST:g}", self.low)
        check(self.low <= self.high, "LogUniform.high", f"at least low = {self.low:g}", self.high)
        check(isinstance(self.signed, bool), "LogUniform.signed", "True or False", self.signed)

    @property
    def support(self) -> tuple[float, float]:
        """Least and greatest value."""
        return _signed_support(self.low, self.high, self.signed)

    def __str__(self) -> str:
        return f"{'±' if self.signed else ''}LogU({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class Normal:
    """Normal with `mean` and standard deviation `sd`; a draw never lies further than 7 sd away.

    Raises ValueError for sd < 0 and for numbers that are not finite.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        _store_finite(self, "mean", "sd")
        check(self.sd >= 0, "Normal.sd", "a number ≥ 0", self.sd)

    @property
    def support(self) -> tuple[float, float]:
        """Least and greatest value."""
        return self.mean - 7 * self.sd, self.mean + 7 * self.sd

    def __str__(self) -> str:
        return f"N({self.mean:g}, {self.sd:g}²)"


Distribution = Constant | Uniform | LogUniform | Normal
Parameter = float | tuple[float, float] | Distribution
"""What a user may write: a number is a constant, (low, high) uniform."""


def as_distribution(
    value: object,
    field: str,
    low: float = -math.inf,
    high: float = math.inf,
    positive: bool = False,
    below: bool = False,
) -> Distribution:
    """`value` as a distribution whose support lies in [low, high]; above low if `positive`, below high if `below`."""
    if is_number(value):
        value = _named(Constant, field, value)
    elif isinstance(value, tuple) and len(value) == 2:
        value = _named(Uniform, field, *value)
    expected = "a number, (low, high) or a distribution"
    check(isinstance(value, Distribution), field, expected, value)
    assert isinstance(value, Distribution)
    least, most = value.support
    inside = low <= least and most <= high and not (positive and least <= low) and not (below and most >= high)
    bounds = f"{'(' if positive else '['}{low:g}, {high:g}{')' if below else ']'}"
    check(inside, field, f"values within {bounds}", value)
    return value


def as_size(value: object, field: str, low: int, high: int) -> tuple[int, int]:
    """As `as_range`; a LogUniform too, as its ends."""
    if not isinstance(value, LogUniform):
        return as_range(value, field, low, high)
    whole = value.low.is_integer() and value.high.is_integer() and not value.signed
    check(whole, field, "a LogUniform of whole numbers, not signed", value)
    return as_range((int(value.low), int(value.high)), field, low, high)


def _named(distribution: type[Constant | Uniform], field: str, *values: Any) -> Distribution:
    """A distribution that the user wrote as plain numbers, and knows by the field that it stands in."""
    try:
        return distribution(*values)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


def _store_finite(owner: object, *fields: str) -> None:
    for name in fields:
        value = getattr(owner, name)
        within = is_number(value) and abs(float(value)) < LARGEST
        check(within, f"{type(owner).__name__}.{name}", f"a finite number below {LARGEST:g} in size", value)
        object.__setattr__(owner, name, float(value) + 0.0)  # −0 equals 0, so it must be 0


def _signed_support(low: float, high: float, signed: bool) -> tuple[float, float]:
    if not signed:
        return low, high
    reach = max(abs(low), abs(high))
    return -reach, reach
