"""Mechanisms: how a variable depends on its parents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from settx_fast.scm._fields import as_range, check

MECHANISMS = ("linear", "mlp")
"""Names of the codes in `Batch.mechanism`, and the layout of their parameters.

linear: no parameters. mlp: [hidden, layers, activation code], then W₁ (hidden, parents in the order of
`Batch.order`), b₁ (hidden), for every further layer W (hidden, hidden) and b (hidden), and last c (hidden).
"""

Activation = Literal["tanh", "relu", "leaky_relu", "sigmoid", "sine"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


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
