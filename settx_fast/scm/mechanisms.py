"""Mechanisms (how a variable depends on its parents) and noises (what is added to it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from settx_fast.scm._fields import as_range, check
from settx_fast.scm.distributions import Parameter, as_distribution

MECHANISMS = ("linear", "mlp")
"""Names of the codes in `Batch.mechanism`, and the layout of their parameters.

linear: no parameters. mlp: [hidden, layers, activation code], then W₁ (hidden, parents in the order of
`Batch.order`), b₁ (hidden), for every further layer W (hidden, hidden) and b (hidden), and last c (hidden).
"""

Activation = Literal["tanh", "relu", "leaky_relu", "sigmoid", "sine"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)

NOISES = ("gaussian", "laplace", "uniform", "student_t")
"""Names of the codes in `Batch.noise_kind`."""


@dataclass(frozen=True)
class Linear:
    """f(z) = Σ z_p over the weighted parents z_p = w_p·x_p."""

    def __str__(self) -> str:
        return "linear"


@dataclass(frozen=True)
class MLP:
    """A random network of the weighted parents: f(z) = c · a(W z + b), layer by layer.

    Entries of W are N(0, 1/fan_in), of b N(0, 1), of c N(0, 1/hidden).
    `hidden` units (int or range) in each of `layers` hidden layers (int or range, at most 3), both drawn per variable.
    """

    hidden: int | tuple[int, int] = 16
    layers: int | tuple[int, int] = 1
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        as_range(self.hidden, "MLP.hidden", 1, 4096)
        as_range(self.layers, "MLP.layers", 1, 3)
        check(self.activation in ACTIVATIONS, "MLP.activation", f"one of {ACTIVATIONS}", self.activation)

    def __str__(self) -> str:
        return f"MLP, {self.layers} × {self.hidden} {self.activation}"


Mechanism = Linear | MLP


@dataclass(frozen=True)
class Gaussian:
    """Standard normal."""

    def __str__(self) -> str:
        return "gaussian"


@dataclass(frozen=True)
class Laplace:
    """Laplace with variance 1."""

    def __str__(self) -> str:
        return "laplace"


@dataclass(frozen=True)
class UniformNoise:
    """Uniform on ±√3: variance 1."""

    def __str__(self) -> str:
        return "uniform"


@dataclass(frozen=True)
class StudentT:
    """Student's t with `degrees` of freedom (> 2, drawn per variable), divided by its standard deviation."""

    degrees: Parameter = (3.0, 10.0)

    def __post_init__(self) -> None:
        degrees = as_distribution(self.degrees, "StudentT.degrees", 2, 1e6, positive=True)
        object.__setattr__(self, "degrees", degrees)

    def __str__(self) -> str:
        return f"student_t, {self.degrees} degrees of freedom"


Noise = Gaussian | Laplace | UniformNoise | StudentT
_BY_NAME: dict[str, type[Noise]] = dict(zip(NOISES, (Gaussian, Laplace, UniformNoise, StudentT), strict=True))


def as_noise(value: object, field: str) -> Noise:
    """A noise, or one by its name in `NOISES` with default parameters."""
    if isinstance(value, str):
        check(value in _BY_NAME, field, f"one of {NOISES}", value)
        return _BY_NAME[value]()
    check(isinstance(value, Noise), field, f"a noise or one of {NOISES}", value)
    assert isinstance(value, Noise)
    return value


def noise_name(noise: Noise) -> str:
    """The name of a noise in `NOISES`."""
    return next(name for name, cls in _BY_NAME.items() if isinstance(noise, cls))
