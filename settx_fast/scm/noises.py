"""Noises: what is added to a variable that its parents do not explain. All have mean 0 and variance 1.

Where nothing else is said they are drawn by inversion of the distribution function (Devroye 1986, section II.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from settx_fast.scm._fields import check
from settx_fast.scm.distributions import SMALLEST, Constant, Parameter, as_distribution

NOISES = (
    "gaussian", "laplace", "uniform", "student_t", "exponential", "gumbel", "logistic", "clipped_cauchy", "mixture",
)  # fmt: skip
"""Names of the codes in `Batch.noise_kind`, and their entries in `Batch.noise_parameters`.

student_t: degrees of freedom. clipped_cauchy: limit, 1 / standard deviation. mixture: share of the second component,
mean and scale of the first, mean and scale of the second. The others have none.
"""

NOISE_EFFECTS = ("additive", "multiplicative", "heteroscedastic")
"""Names of the codes in `Batch.noise_effect`: what noise n of scale s does to x = bias + f(parents).

additive: x + s·n. multiplicative: x·(1 + s·n). heteroscedastic: x + 2·sigmoid(Σ z)·s·n over the weighted parents z, a
location-scale noise model (Immer et al. 2023, arXiv:2210.09054). Variables without parents have additive noise.
"""


@dataclass(frozen=True)
class Gaussian:
    """Standard normal (Box & Muller 1958)."""

    def __str__(self) -> str:
        return "gaussian"


@dataclass(frozen=True)
class Laplace:
    """Laplace with scale √½."""

    def __str__(self) -> str:
        return "laplace"


@dataclass(frozen=True)
class UniformNoise:
    """Uniform on ±√3."""

    def __str__(self) -> str:
        return "uniform"


@dataclass(frozen=True)
class StudentT:
    """Student's t with `degrees` of freedom (> 2, drawn per variable), over its standard deviation (Bailey 1994).

    Raises ValueError unless degrees lies in (2, 1e6].
    """

    degrees: Parameter = (3.0, 10.0)

    def __post_init__(self) -> None:
        degrees = as_distribution(self.degrees, "StudentT.degrees", 2, 1e6, positive=True)
        object.__setattr__(self, "degrees", degrees)

    def __str__(self) -> str:
        return f"student_t, {self.degrees} degrees of freedom"


@dataclass(frozen=True)
class Exponential:
    """Exponential with rate 1, minus 1."""

    def __str__(self) -> str:
        return "exponential"


@dataclass(frozen=True)
class Gumbel:
    """Gumbel (largest extreme value), minus Euler's constant, times √6/π."""

    def __str__(self) -> str:
        return "gumbel"


@dataclass(frozen=True)
class Logistic:
    """Logistic with scale √3/π."""

    def __str__(self) -> str:
        return "logistic"


@dataclass(frozen=True)
class ClippedCauchy:
    """Cauchy, clipped at ±`limit` (drawn per variable), over its standard deviation.

    Raises ValueError unless the limit lies in [1e-30, 1e6].
    """

    limit: Parameter = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", as_distribution(self.limit, "ClippedCauchy.limit", SMALLEST, 1e6))

    def __str__(self) -> str:
        return f"Cauchy clipped at ±{self.limit}"


def clipped_cauchy_sd(limit: float) -> float:
    """Standard deviation of a clipped Cauchy: E[min(x², c²)] = (2/π)(c − atan c) + c²(1 − (2/π) atan c)."""
    c, angle = limit, 2 / math.pi * math.atan(limit)
    return math.sqrt(2 / math.pi * c - angle + c * c * (1 - angle))


@dataclass(frozen=True)
class Mixture:
    """Two normals (Pearson 1894): the second has `share`, lies `distance` away and is `ratio` as wide.

    Then mean 0 and variance 1. distance 0 and a large ratio give outliers, ratio 1 and a distance above 2 two modes.
    All drawn per variable.

    Raises ValueError unless share lies in [0, 1], distance in ±1e3 and ratio in [0, 1e3].
    """

    share: Parameter = 0.5
    distance: Parameter = 4.0
    ratio: Parameter = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (("share", 0, 1), ("distance", -1e3, 1e3), ("ratio", 0, 1e3)):
            object.__setattr__(self, name, as_distribution(getattr(self, name), f"Mixture.{name}", low, high))

    def __str__(self) -> str:
        return f"mixture of normals, share {self.share}, distance {self.distance}, ratio {self.ratio}"


Noise = Gaussian | Laplace | UniformNoise | StudentT | Exponential | Gumbel | Logistic | ClippedCauchy | Mixture
_CLASSES: tuple[type[Noise], ...] = (
    Gaussian, Laplace, UniformNoise, StudentT, Exponential, Gumbel, Logistic, ClippedCauchy, Mixture,
)  # fmt: skip


def as_noise(value: object, field: str) -> Noise:
    """A noise, or one by its name in `NOISES` with default parameters."""
    if isinstance(value, str):
        check(value in NOISES, field, f"one of {NOISES}", value)
        return _CLASSES[NOISES.index(value)]()
    check(isinstance(value, Noise), field, f"a noise or one of {NOISES}", value)
    assert isinstance(value, Noise)
    return value


def noise_code(noise: Noise) -> int:
    """The place of a noise in `NOISES`."""
    return _CLASSES.index(type(noise))


def noise_inputs(noise: Noise) -> tuple[Parameter, Parameter, Parameter]:
    """What the native module draws for every variable: see `prepare_noise` in csrc/scm/noise.h."""
    match noise:
        case StudentT():
            return noise.degrees, 0.0, 0.0
        case ClippedCauchy(limit=Constant(value=limit)):
            return limit, 1 / clipped_cauchy_sd(limit), 0.0
        case ClippedCauchy():
            return noise.limit, 0.0, 0.0
        case Mixture():
            return noise.share, noise.distance, noise.ratio
    return 0.0, 0.0, 0.0
