"""Mechanisms: how a variable depends on its parents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from settx_fast.scm._fields import as_range, check
from settx_fast.scm.distributions import Parameter, as_distribution

MECHANISMS = (
    "linear", "mlp", "fourier", "sum", "product", "quadratic", "trees", "post_nonlinear", "categories", "clusters",
    "factors",
)  # fmt: skip
"""Names of the codes in `Batch.mechanism`, and the layout of their parameters.

linear: none. mlp, fourier: hidden, layers, function; W₁ (hidden, parents in the order of `Batch.order`), b₁ (hidden);
for every further layer W (hidden, hidden), b (hidden); c (hidden). sum, product, post_nonlinear: function. quadratic:
the upper triangle of c, row by row. trees: trees, depth; for every tree parent and threshold of every level, then
2^depth leaves, the first level's answer the highest bit. categories: levels; a threshold for all but one, in any order;
the value of every level, by how many thresholds lie below. clusters: clusters; log s, 1/(2s²) and v of every one;
centres (clusters, parents). factors: of every one its code, how many parameters it has, −1 for the last, and these.
Functions are places in `FUNCTIONS`, with a fraction where numbers were drawn: p = 4^(2u − 1), u the fraction; of a warp
u are its first 8 bits, and for q the next 8. Without parents only categories have parameters.
"""

FunctionName = Literal["tanh", "relu", "leaky_relu", "sigmoid", "sine", "identity", "square", "abs", "bump",
                       "log", "sign", "step", "sawtooth", "power", "warp"]  # fmt: skip
FUNCTIONS: tuple[str, ...] = get_args(FunctionName)
"""relu max(x, 0), leaky_relu max(x, x/100), sigmoid 1/(1 + e⁻ˣ), bump e^(−x²), log ±log(1 + |x|), step 1 where x > 0,
sawtooth x less the nearest whole number, power ±|x|^p, warp 1 − (1 − sᵖ)^q of s = sigmoid x, the distribution function
of Kumaraswamy (1980); ± has the sign of x; the others are what they say. p and q are log-uniform on [¼, 4), drawn with
the function.

Beyond |x| = 10⁴ a sine stays as it is there.
"""


@dataclass(frozen=True)
class Linear:
    """f(z) = Σ z_p over the weighted parents z_p = w_p·x_p (Wright 1921)."""

    def __str__(self) -> str:
        return "linear"


@dataclass(frozen=True)
class MLP:
    """A random network of the weighted parents: f(z) = c · g(W z + b), layer by layer.

    Entries of W are N(0, 1/fan_in), of b N(0, 1), of c N(0, 1/hidden). Networks as mechanisms: Hollmann et al. 2023,
    arXiv:2207.01848.
    `hidden` units (int or range) in each of `layers` hidden layers (int or range, at most 3), both drawn per variable;
    activation: one of `FUNCTIONS`, or several, one of them drawn per variable.

    Raises ValueError unless hidden lies in 1…4096, layers in 1…3, and the activation is known.
    """

    hidden: int | tuple[int, int] = 16
    layers: int | tuple[int, int] = 1
    activation: FunctionName | tuple[FunctionName, ...] = "tanh"

    def __post_init__(self) -> None:
        as_range(self.hidden, "MLP.hidden", 1, 4096)
        as_range(self.layers, "MLP.layers", 1, 3)
        function_codes(self.activation, "MLP.activation")

    def __str__(self) -> str:
        return f"MLP, {self.layers} × {self.hidden} {self.activation}"


@dataclass(frozen=True)
class Fourier:
    """Random Fourier features: f(z) = √(2/features) Σ_j a_j sin(ω_j · z + φ_j) (Rahimi & Recht 2007).

    With many features a draw of a Gaussian process with the kernel exp(−|z − z'|² / (2·length_scale²)).

    Raises ValueError unless features lies in 1…4096 and the length scale in (0, 1e6].
    """

    features: int | tuple[int, int] = 100
    length_scale: Parameter = 1.0

    def __post_init__(self) -> None:
        as_range(self.features, "Fourier.features", 1, 4096)
        length_scale = as_distribution(self.length_scale, "Fourier.length_scale", 0, 1e6, positive=True)
        object.__setattr__(self, "length_scale", length_scale)

    def __str__(self) -> str:
        return f"Gaussian process of {self.features} Fourier features, length scale {self.length_scale}"


@dataclass(frozen=True)
class Elementwise:
    """f(z) = Σ g(z_p), a causal additive model (Bühlmann et al. 2014, arXiv:1310.1533), or Π g(z_p).

    function: one of `FUNCTIONS`, or several, one of them drawn per variable.

    Raises ValueError for another function or combination.
    """

    function: FunctionName | tuple[FunctionName, ...] = "tanh"
    combine: Literal["sum", "product"] = "sum"

    def __post_init__(self) -> None:
        function_codes(self.function, "Elementwise.function")
        check(self.combine in ("sum", "product"), "Elementwise.combine", "'sum' or 'product'", self.combine)

    def __str__(self) -> str:
        return f"{self.combine} of {self.function}"


@dataclass(frozen=True)
class Quadratic:
    """f(z) = Σ z_p + Σ_{p ≤ q} c_pq z_p z_q: squares and interactions, a response surface (Box & Wilson 1951).

    c_pq ~ N(0, strength² / number of them).

    Raises ValueError unless the strength lies in [0, 1e6].
    """

    strength: Parameter = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", as_distribution(self.strength, "Quadratic.strength", 0, 1e6))

    def __str__(self) -> str:
        return f"quadratic, strength {self.strength}"


@dataclass(frozen=True)
class Trees:
    """Piecewise constant: the sum of `number` oblivious trees of `depth` levels (ints or ranges, depth at most 8).

    A level asks whether one random parent z_p lies above a N(0, 1) threshold; the 2^depth leaves are N(0, 1/number).
    Oblivious trees: Prokhorenkova et al. 2018, arXiv:1706.09516. Trees as mechanisms: Qu et al. 2025, arXiv:2502.05564.

    Raises ValueError unless number lies in 1…4096 and depth in 1…8.
    """

    number: int | tuple[int, int] = 4
    depth: int | tuple[int, int] = (1, 4)

    def __post_init__(self) -> None:
        as_range(self.number, "Trees.number", 1, 4096)
        as_range(self.depth, "Trees.depth", 1, 8)

    def __str__(self) -> str:
        return f"{self.number} trees of depth {self.depth}"


@dataclass(frozen=True)
class PostNonlinear:
    """x = g(bias + Σ z_p + noise), noise included (Zhang & Hyvärinen 2009, arXiv:1205.2599).

    A variable without parents stays bias + noise. function: one of `FUNCTIONS`, or several, one drawn per variable.

    Raises ValueError for another function.
    """

    function: FunctionName | tuple[FunctionName, ...] = "tanh"

    def __post_init__(self) -> None:
        function_codes(self.function, "PostNonlinear.function")

    def __str__(self) -> str:
        return f"post-nonlinear {self.function}"


@dataclass(frozen=True)
class Categories:
    """x is the value of the level that bias + Σ z_p + noise falls into: what is seen of it, and all that children see.

    `levels` (int or range, 2 to 256) part the line at N(0, spread²) thresholds; their values are N(0, 1), in no order.
    A variable without parents has levels too, one under do() the value that it is set to.

    Raises ValueError unless levels lies in 2…256 and the spread in (0, 1e6].
    """

    levels: int | tuple[int, int] = (2, 8)
    spread: Parameter = 1.0

    def __post_init__(self) -> None:
        as_range(self.levels, "Categories.levels", 2, 256)
        spread = as_distribution(self.spread, "Categories.spread", 0, 1e6, positive=True)
        object.__setattr__(self, "spread", spread)

    def __str__(self) -> str:
        return f"{self.levels} categories, spread {self.spread}"


@dataclass(frozen=True)
class Clusters:
    """Soft clusters: f(z) = Σ_k r_k(z)·v_k, r_k how likely z is of cluster k, as the E-step of EM has it.

    r is a softmax of −log s_k − |z − m_k|²/(2s_k²): of `number` clusters (int or range) with centres m_k ~ N(0, 1) in
    every coordinate, widths s_k = e^(spread·N(0, 1)) and values v_k ~ N(0, 1). Random functions of TabICLv2's prior
    (Qu et al. 2026, arXiv:2602.11139); EM: Dempster, Laird & Rubin 1977.

    Raises ValueError unless number lies in 2…64 and the spread in [0, 10].
    """

    number: int | tuple[int, int] = (2, 8)
    spread: Parameter = (0.0, 1.0)

    def __post_init__(self) -> None:
        as_range(self.number, "Clusters.number", 2, 64)
        object.__setattr__(self, "spread", as_distribution(self.spread, "Clusters.spread", 0, 10))

    def __str__(self) -> str:
        return f"{self.number} soft clusters, spread {self.spread}"


Factor = Linear | MLP | Fourier | Elementwise | Quadratic | Trees | Clusters


@dataclass(frozen=True)
class Product:
    """f(z) = Π f_i(z): `number` random functions (int or range, 2 to 4), each of one of the mechanisms in `factors`.

    Which one is drawn for every variable and factor, with its sizes and parameters. Products of random functions are
    in TabICLv2's prior (Qu et al. 2026, arXiv:2602.11139).

    Raises ValueError unless factors are Linear, MLP, Fourier, Elementwise, Quadratic, Trees or Clusters, networks of
    one layer and at most 1024 units, and number lies in 2…4.
    """

    factors: Factor | tuple[Factor, ...] = (Linear(), Quadratic(), Trees(), Fourier())
    number: int | tuple[int, int] = 2

    def __post_init__(self) -> None:
        given = self.factors if isinstance(self.factors, tuple) else (self.factors,)
        fits = len(given) > 0 and all(_is_factor(factor) for factor in given)
        expected = (
            "one or several of Linear, MLP, Fourier, Elementwise, Quadratic, Trees, Clusters; networks of one layer"
        )
        check(fits, "Product.factors", f"{expected} and at most {MOST_UNITS} units", self.factors)
        as_range(self.number, "Product.number", 2, 4)
        object.__setattr__(self, "factors", given)

    def __str__(self) -> str:
        return f"product of {self.number} of ({', '.join(map(str, as_factors(self)))})"


MOST_UNITS = 1024
"""Of a network that is a factor, so that a float holds how many parameters it has."""

Mechanism = Linear | MLP | Fourier | Elementwise | Quadratic | Trees | PostNonlinear | Categories | Clusters | Product


def as_factors(product: Product) -> tuple[Factor, ...]:
    """Of which each is one."""
    return product.factors if isinstance(product.factors, tuple) else (product.factors,)


def _is_factor(given: object) -> bool:
    match given:
        case MLP():
            layers, units = as_range(given.layers, "layers", 1, 3), as_range(given.hidden, "hidden", 1, 4096)
            return layers[1] == 1 and units[1] <= MOST_UNITS
        case Fourier():
            return as_range(given.features, "features", 1, 4096)[1] <= MOST_UNITS
    return isinstance(given, Factor)


def function_codes(names: str | tuple[str, ...], field: str) -> list[int]:
    """Places in `FUNCTIONS`."""
    given = names if isinstance(names, tuple) else (names,)
    known = len(given) > 0 and all(name in FUNCTIONS for name in given)
    check(known, field, f"one or several of {FUNCTIONS}", names)
    return [FUNCTIONS.index(name) for name in given]


def mechanism_record(mechanism: Mechanism) -> dict[str, object]:
    """`Mechanism` of csrc/scm/scm.h but for factors: kind, width, depth, parameter, functions."""
    record: dict[str, object] = {"width": 0, "depth": 0, "parameter": 0.0, "functions": []}
    match mechanism:
        case Linear():
            kind = "linear"
        case MLP():
            kind = "mlp"
            record |= {"width": mechanism.hidden, "depth": mechanism.layers}
            record["functions"] = function_codes(mechanism.activation, "MLP.activation")
        case Fourier():
            kind = "fourier"
            record |= {"width": mechanism.features, "depth": 1, "parameter": mechanism.length_scale}
            record["functions"] = [FUNCTIONS.index("sine")]
        case Elementwise():
            kind = mechanism.combine
            record["functions"] = function_codes(mechanism.function, "Elementwise.function")
        case Quadratic():
            kind = "quadratic"
            record["parameter"] = mechanism.strength
        case Trees():
            kind = "trees"
            record |= {"width": mechanism.number, "depth": mechanism.depth}
        case PostNonlinear():
            kind = "post_nonlinear"
            record["functions"] = function_codes(mechanism.function, "PostNonlinear.function")
        case Categories():
            kind = "categories"
            record |= {"width": mechanism.levels, "parameter": mechanism.spread}
        case Clusters():
            kind = "clusters"
            record |= {"width": mechanism.number, "parameter": mechanism.spread}
        case Product():
            kind = "factors"
            record["width"] = mechanism.number
    return record | {"kind": MECHANISMS.index(kind)}
