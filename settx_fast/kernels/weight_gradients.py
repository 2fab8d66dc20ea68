"""Gradients of weights: sums over all rows, as partial sums that a fixed number of programs add up in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from settx_fast.kernels.launch import launch
from settx_fast.kernels.sets import elements_of_block, locate

SPLITS = 64  # programs that share the rows of one piece of a gradient


@triton.jit(do_not_specialize=["N", "num_sets", "first_run", "num_runs", "num_splits"])
def weight_gradient_kernel(
    grad_ptr, input_ptr, sums_ptr, stride, x, N, num_sets, first_run, num_runs, run_rows, num_splits, OUT, IN,
    BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add gradᵀ input (OUT, IN) and the column sums of grad (OUT,) over the runs of one split to its partial sums.

    grad (rows, OUT) and input (rows, IN) hold the runs of a chunk one after another. The first chunk finds no sums yet.
    """
    split, piece = tl.program_id(0) % num_splits, tl.program_id(0) // num_splits
    pieces = tl.cdiv(IN, BLOCK)
    outs = piece // pieces * BLOCK + tl.arange(0, BLOCK)
    ins = piece % pieces * BLOCK + tl.arange(0, BLOCK)
    out_ok, in_ok = outs < OUT, ins < IN
    sums_ptr += split.to(tl.int64) * stride
    weight_ptr = sums_ptr + outs[:, None] * IN + ins[None, :]
    weight_ok = out_ok[:, None] & in_ok[None, :]
    bias_ptr = sums_ptr + OUT * IN + outs
    bias_ok = outs < tl.where(piece % pieces == 0, OUT, 0)
    begun = outs < tl.where(first_run > 0, OUT, 0)
    # (BLOCK outs, BLOCK ins)
    weight = tl.load(weight_ptr, mask=weight_ok & begun[:, None], other=0.0)
    bias = tl.load(bias_ptr, mask=bias_ok & begun, other=0.0)
    for run in range(split, num_runs, num_splits):
        b, first = locate(first_run + run, x, N, num_sets, run_rows)
        elements = elements_of_block(x, N, b, first, run_rows)
        for start in range(0, elements, STEP):
            local = start + tl.arange(0, STEP)
            rows = (run * run_rows + local).to(tl.int64)[:, None]
            valid = (local < elements)[:, None]
            # (STEP, BLOCK)
            grad = tl.load(grad_ptr + rows * OUT + outs[None, :], mask=valid & out_ok[None, :], other=0.0)
            seen = tl.load(input_ptr + rows * IN + ins[None, :], mask=valid & in_ok[None, :], other=0.0)
            weight = tl.dot(tl.trans(grad), seen, weight, input_precision=PRECISION)
            bias += tl.sum(grad.to(tl.float32), 0)
    tl.store(weight_ptr, weight, mask=weight_ok)
    tl.store(bias_ptr, bias, mask=bias_ok)


@triton.jit(do_not_specialize=["num_rows"])
def sum_rows_kernel(sums_ptr, total_ptr, num_rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """total (width,) = the sum over rows of sums (num_rows, width), in the type of total."""
    columns = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, num_rows, ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
        total += tl.load(sums_ptr + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)
    tl.store(total_ptr + columns, tl.sum(total, 0).to(total_ptr.dtype.element_ty), mask=columns < width)


def sum_rows(sums: Tensor, total: Tensor) -> None:
    """Write the sum over the first axis of fp32 `sums` to the vector `total`."""
    width = total.numel()
    launch(sum_rows_kernel, triton.cdiv(width, 64), sums, total, sums.shape[0], width, ROWS=16, BLOCK=64, num_warps=4)


def split_copies(flat: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Consecutive parts of a vector as tensors of these shapes, each with storage of its own."""
    parts = [flat.new_empty(shape) for shape in shapes]
    sizes = [part.numel() for part in parts]
    torch.split_with_sizes_copy(flat, sizes, out=[part.view(-1) for part in parts])
    return parts
