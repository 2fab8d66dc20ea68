"""One problem of stage B, its kernels as a differentiable function, and the fp64 oracle's answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention import reference
from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.layers import first_norm
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.broadcast.backward import broadcast_backward
from settx_fast.attention.triton.broadcast.forward import broadcast_forward
from settx_fast.attention.triton.broadcast.tiles import Block, backward_tiles, forward_tiles
from settx_fast.testing import assert_close_to_oracle, assert_step_close_to_oracle, make_weights


@dataclass(frozen=True)
class Case:
    """A stage B problem: lengths of the sets (None: all N), how they are laid out, and the block's options."""

    batch: int = 2
    elements: int = 63
    dim_in: int = 16
    dim: int = 32
    heads: int = 2
    keys: int = 8
    options: dict[str, Any] = field(default_factory=lambda: {"norm": "layer"}, hash=False)
    lengths: tuple[int, ...] | None = None
    packed: bool = False
    dtype: torch.dtype = torch.float32
    tiles_of: torch.dtype = torch.bfloat16  # the type whose tiles are used: large ones, which the interpreter likes

    @property
    def spec(self) -> BlockSpec:
        return BlockSpec(self.heads, **self.options)


class Problem(NamedTuple):
    """Tensors of a case: elements, the rows that keys are made of, weights, and the gradient of the output."""

    x: Sets
    h: Tensor  # (B, M, ·)
    weights: BlockWeights
    grad: Tensor

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Problem:
        """Copies; floating tensors in a dtype, requiring grad."""

        def move(t: Tensor | None) -> Tensor | None:
            if t is None or not t.is_floating_point():
                return None if t is None else t.to(device)
            return t.detach().to(device, dtype, copy=True).requires_grad_()

        return Problem(Sets(*map(move, self.x)), move(self.h), BlockWeights(*map(move, self.weights)), move(self.grad))

    def named(self) -> dict[str, Tensor]:
        """Every differentiable input by name."""
        return {"x": self.x.rows, "h": self.h} | {n: w for n, w in self.weights._asdict().items() if w is not None}


def make_problem(case: Case, seed: int = 0, junk: float = float("nan")) -> Problem:
    """Random inputs with peaked attention, rounded to bfloat16; rows outside their set hold `junk`."""
    generator = torch.Generator().manual_seed(seed)
    spec, lengths = case.spec, None if case.lengths is None else torch.tensor(case.lengths)
    dim_key = case.dim_in if spec.norm_first and spec.norm != "none" else case.dim
    x = Sets(torch.randn(case.batch, case.elements, case.dim_in, generator=generator), lengths)
    grad = torch.randn(case.batch, case.elements, case.dim, generator=generator)
    h = torch.randn(case.batch, case.keys, dim_key, generator=generator)
    weights = make_weights(spec, case.dim_in, dim_key, case.dim, generator)
    if lengths is not None:
        outside = ~x.valid()[..., None]
        x, grad = Sets(x.rows.masked_fill(outside, junk), lengths), grad.masked_fill(outside, junk)
    if case.packed:
        offsets = F.pad(torch.full((case.batch,), case.elements) if lengths is None else lengths, (1, 0)).cumsum(0)
        packed = Sets(x.rows, offsets=offsets)
        x, grad = Sets(packed.packed_like(x.rows), offsets=offsets), packed.packed_like(grad)
    return Problem(x, h, weights, grad).to(torch.bfloat16)


def keys_values(problem: Problem, spec: BlockSpec) -> tuple[Tensor, Tensor]:
    """The keys' and values' projections (B, M, D) of a problem."""
    w = problem.weights
    source = first_norm(problem.h, w, spec)
    return F.linear(source, w.w_k, w.b_k), F.linear(source, w.w_v, w.b_v)


def block_of(case: Case) -> Block:
    """What the case's tiles are chosen by: on a GPU its own type, whose tiles fit the memory."""
    dtype = case.dtype if torch.cuda.is_available() else case.tiles_of
    return Block.of(case.spec, case.dim_in, case.dim, case.keys, dtype)


def forward(problem: Problem, case: Case, tiles: Any = None) -> Tensor:
    """The kernels' output, by the tiles of one program a tile where no others are given."""
    with torch.no_grad():
        return broadcast_forward(
            problem.x, *keys_values(problem, case.spec), problem.weights, case.spec,
            tiles or forward_tiles(block_of(case)),
        )  # fmt: skip


class Broadcast(torch.autograd.Function):
    """The kernels as a differentiable function of x, k, v and the weights."""

    @staticmethod
    def forward(ctx: Any, spec: BlockSpec, x: Sets, options: dict[str, Any], rows: Tensor, *tensors: Tensor) -> Tensor:
        k, v, *weights = tensors
        ctx.save_for_backward(rows, *tensors)
        ctx.spec, ctx.x, ctx.options = spec, x, options
        return broadcast_forward(x._replace(rows=rows), k, v, BlockWeights(*weights), spec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, k, v, *weights = ctx.saved_tensors
        sets, dx = ctx.x._replace(rows=rows), torch.full_like(rows, float("nan"))
        dk, dv, dw = broadcast_backward(sets, k, v, BlockWeights(*weights), ctx.spec, grad, dx, **ctx.options)
        return None, None, None, dx, dk, dv, *dw


def gradients(problem: Problem, out: Tensor) -> dict[str, Tensor]:
    """Gradient of every input by name; zero where the output does not depend on it."""
    inputs = problem.named()
    found = torch.autograd.grad(out, list(inputs.values()), problem.grad, allow_unused=True)
    return {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(inputs.items(), found, strict=True)}


def kernel_gradients(problem: Problem, case: Case, **options: Any) -> dict[str, Tensor]:
    """The kernels' gradients; keys and values go back to h in library calls."""
    k, v = keys_values(problem, case.spec)
    options = {"tiles": backward_tiles(block_of(case)), **options}
    out = Broadcast.apply(case.spec, problem.x, options, problem.x.rows, k, v, *problem.weights)
    return gradients(problem, out)


def oracle(problem: Problem, spec: BlockSpec) -> Tensor:
    """The reference's output."""
    return reference.attention_block(problem.x, Sets(problem.h), problem.weights, spec)


def check_forward(case: Case, device: torch.device, tiles: Any = None) -> None:
    """The kernels are as close to the fp64 oracle as the reference in the case's dtype."""
    problem = make_problem(case)
    actual = forward(problem.to(case.dtype, device), case, tiles)
    expected = [oracle(problem.to(dtype), case.spec) for dtype in (case.dtype, torch.float64)]
    assert_close_to_oracle(actual, *expected)


def check_backward(case: Case, device: torch.device, **options: Any) -> None:
    """Every gradient is as close to the fp64 oracle as the reference's in the case's dtype."""
    problem = make_problem(case)
    actual = kernel_gradients(problem.to(case.dtype, device), case, **options)
    expected = []
    for dtype in (case.dtype, torch.float64):
        copy = problem.to(dtype)
        # the reference sees zeros where the kernels see NaN: it multiplies by what it masks
        expected.append(gradients(copy._replace(grad=copy.grad.nan_to_num()), oracle(copy, case.spec)))
    assert_step_close_to_oracle(actual, *expected)
