"""Gradients of weights: sums over all rows, as partial sums that a fixed number of programs add up in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.primitives import multiply_add
from settx_fast.attention.triton.sets import elements_of_block, locate


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
            weight = multiply_add(tl.trans(grad), seen, weight, PRECISION)
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
