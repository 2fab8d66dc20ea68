"""Add up what programs of the backward found, in an order that the shapes fix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.broadcast.backward_kernels import merge_keys_kernel
from settx_fast.attention.triton.broadcast.weight_kernels import sum_rows_kernel
from settx_fast.attention.triton.launch import launch
from settx_fast.attention.triton.sets import num_blocks, rows_of


def merge_keys(sets: Sets, sums: Tensor, dk: Tensor, dv: Tensor, first_run: int, num_runs: int, run_rows: int) -> None:
    """Add the shares (runs, 2, M · D) of runs first_run … first_run + num_runs to dk and dv (B, M, D)."""
    size = sums.shape[-1]
    runs_of_set = num_blocks(sets, run_rows) // sets.num_sets
    first_set, num_sets = 0, sets.num_sets
    if not sets.packed:
        first_set = first_run // runs_of_set
        num_sets = (first_run + num_runs - 1) // runs_of_set + 1 - first_set
    launch(
        merge_keys_kernel, num_sets * triton.cdiv(size, 256),
        sums, dk, dv, rows_of(sets), sets.longest, first_run, num_runs, run_rows, first_set,
        SIZE=size, BLOCK=256, num_warps=4,
    )  # fmt: skip


def sum_rows(sums: Tensor, total: Tensor) -> None:
    """Write the sum over the first axis of fp32 `sums` to the vector `total`."""
    width = total.numel()
    launch(sum_rows_kernel, triton.cdiv(width, 64), sums, total, sums.shape[0], width, ROWS=16, BLOCK=64, num_warps=4)


def parts_of(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Consecutive parts of a vector as tensors of these shapes."""
    parts = flat.split([torch.Size(shape).numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
