"""A training step of the named shapes on tensors without storage, to see which kernels it launches and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from settx_fast._block import BlockWeights
from settx_fast.kernels.aggregate import Stage, aggregate_forward
from settx_fast.kernels.aggregate_grad import aggregate_backward
from settx_fast.kernels.broadcast_forward import broadcast_forward
from settx_fast.kernels.broadcast_grad import broadcast_backward
from settx_fast.kernels.sets import SetView
from settx_fast.testing import SHAPES, Shape, make_weights


@dataclass(frozen=True)
class Problem:
    """A named shape in a type, and what PyTorch's switch says about the products of fp32."""

    shape: Shape
    dtype: torch.dtype = torch.bfloat16
    precision: str = "highest"


# "mixture" compiles to what "dataset" does but for its width, "large" to what "hidden" does
PROBLEMS = {name: Problem(shape) for name, shape in SHAPES.items() if name not in ("mixture", "large")} | {
    f"{name} {label}": Problem(SHAPES[name], torch.float32, precision)
    for name in ("hidden", "tabular", "pointcloud")
    for label, precision in (("fp32", "highest"), ("tf32", "high"))
}


def train_step(problem: Problem) -> None:
    """Launch what forward and backward of ISAB launch."""
    shape, spec = problem.shape, problem.shape.spec
    empty = partial(torch.empty, dtype=problem.dtype, device="meta")

    def weights(dim_query: int, dim_key: int) -> BlockWeights:
        drawn = make_weights(spec, dim_query, dim_key, shape.dim, torch.Generator())
        return BlockWeights(*(None if w is None else w.to("meta", problem.dtype) for w in drawn))  # type: ignore[arg-type]

    x = empty(shape.batch, shape.elements, shape.dim_in)
    view = SetView(x, lengths=torch.empty(shape.batch, dtype=torch.int64, device="meta") if shape.ragged else None)
    inducing = empty(1, shape.inducing, shape.dim)
    stage = Stage(spec, weights(shape.dim, shape.dim_in), spec, weights(shape.dim_in, shape.dim))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(problem.precision)
    try:
        kept = aggregate_forward(view, inducing, stage)
        keys, values = kept.latents.next_keys, kept.latents.next_values
        assert keys is not None
        assert values is not None
        out = broadcast_forward(view, keys, values, stage.next_weights, spec)
        dx = torch.empty_like(x)
        dk, dv, _ = broadcast_backward(view, keys, values, stage.next_weights, spec, out, dx)
        aggregate_backward(view, inducing, stage, kept, (dk, dv), dx, add=True)
    finally:
        torch.set_float32_matmul_precision(before)
