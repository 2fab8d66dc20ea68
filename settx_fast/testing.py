"""Named shapes, inputs and the comparison with the oracle: shared by tests and benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from settx_fast.attention.arguments import expected_shapes
from settx_fast.attention.block import NO_WEIGHTS, BlockSpec, BlockWeights

__all__ = [
    "CPU_SHAPES",
    "SHAPES",
    "TABULAR",
    "VARIANTS",
    "Inputs",
    "Shape",
    "assert_close_to_oracle",
    "assert_step_close_to_oracle",
    "make_inputs",
    "make_weights",
]

TABULAR: dict[str, Any] = {
    "norm": "layer",
    "norm_first": True,
    "residual": "input",
    "output_projection": True,
    "activation": "gelu",
    "ffn_dim": 256,
    "scale": "head",
}
"""Options of the block of today's tabular models."""

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "original": {"norm": "layer"},
    "pyg": {"norm": "layer", "residual": "input", "output_projection": True, "scale": "head"},
    "tabular": TABULAR,
    "rms": {**TABULAR, "norm": "rms", "activation": "relu", "ffn_dim": None},
    "prenorm-projected": {"norm": "layer", "norm_first": True, "activation": "gelu"},
    "postnorm-wide": {"norm": "rms", "output_projection": True, "activation": "gelu", "ffn_dim": 48},
}
"""Options of `BlockSpec` that together use every value of every field; residual="input" needs C = D."""


_MODERN: dict[str, Any] = {**TABULAR, "norm": "rms", "bias": False, "key_norm": True}
LOWERED: dict[str, dict[str, Any]] = {
    "no norm bias": {**TABULAR, "norm_bias": False},
    "no bias": {"norm": "layer", "bias": False},
    "norm of keys": {**TABULAR, "key_norm": True},
    "modern": _MODERN,
    "modern-projected": {"norm": "layer", "norm_first": True, "key_norm": True, "bias": False, "norm_bias": False},
}
"""Options that operators do not carry but whose equal they know."""
COMPOSED: dict[str, dict[str, Any]] = {
    "norm of heads": {**_MODERN, "qk_norm": "rms"},
    "layer norm of heads": {"qk_norm": "layer"},
    "no bias in norm of heads": {**TABULAR, "qk_norm": "layer", "norm_bias": False},
    "swiglu": {**_MODERN, "activation": "swiglu"},
    "geglu": {"activation": "geglu"},
    "reglu": {"norm": "layer", "activation": "reglu", "ffn_dim": 24, "bias": False},
    "liglu": {**TABULAR, "activation": "liglu"},
    "norm after": {**TABULAR, "post_norm": True},
    "rms norm after": {"norm": "rms", "post_norm": True, "output_projection": True},
}
"""Options that are done by library calls."""


@dataclass(frozen=True)
class Shape:
    """One named problem: B sets of N elements, C → D, H heads, M inducing points, block options.

    `batch` B, `elements` N, `dim_in` C, `dim` D, `heads` H, `inducing` M.
    """

    batch: int
    elements: int
    dim_in: int
    dim: int
    heads: int
    inducing: int
    options: dict[str, Any] = field(default_factory=lambda: {"norm": "layer"}, hash=False)
    ragged: bool = False

    @property
    def spec(self) -> BlockSpec:
        """The spec of both blocks."""
        return BlockSpec(self.heads, **self.options)


SHAPES: dict[str, Shape] = {
    "pointcloud": Shape(64, 1000, 3, 256, 4, 16),
    "mixture": Shape(10, 500, 2, 128, 4, 32),
    "dataset": Shape(64, 1000, 16, 128, 4, 32),
    "hidden": Shape(64, 16_384, 128, 128, 4, 32),
    "large": Shape(1, 1_000_000, 128, 128, 4, 32),
    "many-small": Shape(4096, 128, 64, 64, 4, 16),
    "tabular": Shape(100, 16_384, 128, 128, 8, 128, TABULAR),
    "ragged": Shape(64, 20_000, 128, 128, 4, 32, ragged=True),
}
"""Problems by name, at the size of a GPU."""

CPU_SHAPES: dict[str, Shape] = {
    "pointcloud": replace(SHAPES["pointcloud"], batch=16),
    "mixture": SHAPES["mixture"],
    "dataset": replace(SHAPES["dataset"], batch=32, dim=64, inducing=16),
    "hidden": replace(SHAPES["hidden"], batch=4),
    "large": replace(SHAPES["large"], elements=100_000),
    "many-small": replace(SHAPES["many-small"], batch=256),
    "tabular": replace(SHAPES["tabular"], batch=1),
    "ragged": replace(SHAPES["ragged"], batch=16),
}
"""The same problems at a size that a CPU runs in about a second."""


class Inputs(NamedTuple):
    """Arguments of `functional.induced_set_attention`, in its order, and the lengths of ragged shapes."""

    x: Tensor  # (B, N, C)
    inducing: Tensor  # (1, M, D)
    weights_a: BlockWeights
    spec_a: BlockSpec
    weights_b: BlockWeights
    spec_b: BlockSpec
    lengths: Tensor | None = None

    def to(self, target: Any) -> Inputs:
        """All floating tensors to a dtype, or all tensors to a device; copies that require grad where these do."""

        def move(t: Tensor) -> Tensor:
            return t.detach().to(target, copy=True).requires_grad_(t.requires_grad)

        lengths = self.lengths
        if lengths is not None and not isinstance(target, torch.dtype):
            lengths = lengths.to(target)
        return Inputs(
            move(self.x),
            move(self.inducing),
            self.weights_a.map(move),
            self.spec_a,
            self.weights_b.map(move),
            self.spec_b,
            lengths,
        )

    def parameters(self) -> dict[str, Tensor]:
        """Every differentiable tensor by name, x (B, N, C), inducing (1, M, D), and the weights a.w_q … b.b1."""
        named = {"x": self.x, "inducing": self.inducing}
        for prefix, weights in (("a", self.weights_a), ("b", self.weights_b)):
            named |= {f"{prefix}.{k}": v for k, v in weights._asdict().items() if v is not None}
        return named


def make_inputs(
    shape: Shape, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", seed: int = 0
) -> Inputs:
    """Random inputs whose attention is far from uniform (score standard deviation about 2), the same on every device.

    Values are drawn on the CPU and rounded to bfloat16, so that every dtype computes from the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape.batch, shape.elements, shape.dim_in, generator=generator)
    inducing = torch.randn(1, shape.inducing, shape.dim, generator=generator)
    weights_a = make_weights(shape.spec, shape.dim, shape.dim_in, shape.dim, generator)
    weights_b = make_weights(shape.spec, shape.dim_in, shape.dim, shape.dim, generator)
    lengths = _log_uniform_lengths(shape, generator) if shape.ragged else None
    inputs = Inputs(x, inducing, weights_a, shape.spec, weights_b, shape.spec, lengths).to(torch.bfloat16)
    inputs = inputs.to(dtype).to(torch.device(device))
    for tensor in inputs.parameters().values():
        tensor.requires_grad_()
    return inputs


def make_weights(
    spec: BlockSpec, dim_query: int, dim_key: int, dim: int, generator: torch.Generator, *, score_std: float = 2.0
) -> BlockWeights:
    """Random weights of one block whose scores have about the given standard deviation for unit-normal inputs."""
    tensors = {}
    for name, shape in expected_shapes(spec, dim_query, dim_key, dim).items():
        if shape is None:
            continue
        fan_in = shape[-1] if name.startswith("w") else 100
        tensors[name] = torch.randn(shape, generator=generator) / math.sqrt(fan_in) + name.startswith("g")
    # unit-normal q and k have scores of std √E · scale; w_k alone carries the sharpening, since q is a residual too
    tensors["w_k"] *= score_std / (math.sqrt(dim // spec.num_heads) * spec.score_scale(dim))
    return NO_WEIGHTS._replace(**tensors)


def _log_uniform_lengths(shape: Shape, generator: torch.Generator) -> Tensor:
    low, high = math.log(10), math.log(shape.elements)
    return (low + (high - low) * torch.rand(shape.batch, generator=generator)).exp().long()


def assert_close_to_oracle(actual: Tensor, reference: Tensor, oracle: Tensor, name: str = "result") -> None:
    """Raise AssertionError unless |actual − oracle| ≤ 2 × (|reference − oracle| + one rounding step).

    `oracle` is the fp64 reference, `reference` the reference in the dtype of `actual`; |·| is the root mean square (a
    maximum is decided by one unlucky element) and a rounding step is that dtype's epsilon times |oracle|.

    Tensors of any one shape (...), on any device.
    """
    _assert_within(2, name, *_error_and_allowance(actual, reference, oracle, name))


def assert_step_close_to_oracle(
    actual: Mapping[str, Tensor], reference: Mapping[str, Tensor], oracle: Mapping[str, Tensor]
) -> None:
    """The same for a training step: the output `out` and every gradient, by name.

    A gradient that sums over all rows errs by one draw of a random variable, and so does the reference's: by chance the
    one is three times the other. So a gradient alone is allowed four times, in root mean square over all of them two.

    Tensors of any shapes (...), alike by name; raises AssertionError that names the worst.
    """
    ratios = []
    for name, value in actual.items():
        error, allowed = _error_and_allowance(value, reference[name], oracle[name], name)
        _assert_within(2 if name == "out" else 4, name, error, allowed)
        ratios.append(error / allowed if error else 0.0)
    together = math.sqrt(sum(ratio**2 for ratio in ratios) / max(1, len(ratios)))
    assert together <= 2, f"all results together: {together:.2f} times the allowance, expected 2 at most"


def _error_and_allowance(actual: Tensor, reference: Tensor, oracle: Tensor, name: str) -> tuple[float, float]:
    assert actual.shape == oracle.shape, f"{name}: expected shape {tuple(oracle.shape)}, got {tuple(actual.shape)}"
    exact = oracle.detach().double().cpu()
    error, own = (_rms(t.detach().double().cpu() - exact) for t in (actual, reference))
    return error, own + torch.finfo(actual.dtype).eps * _rms(exact)


def _assert_within(times: int, name: str, error: float, allowed: float) -> None:
    assert error <= times * allowed, f"{name}: error {error:.3e} exceeds {times} × {allowed:.3e}, the reference's own"


def _rms(t: Tensor) -> float:
    return t.square().mean().sqrt().item() if t.numel() else 0.0
