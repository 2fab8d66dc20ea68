"""Add up what programs of the backward found, in an order that the shapes fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import triton
from torch import Tensor

from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.broadcast.backward_kernels import merge_keys_kernel
from settx_fast.attention.triton.broadcast.weight_kernels import sum_rows_kernel
from settx_fast.attention.triton.launch import cast, launch
from settx_fast.attention.triton.sets import rows_of


@dataclass(frozen=True)
class KeySums:
    """Gradients of keys and values (B, M, D), to which chunks of up to `chunk_runs` of all `num_runs` runs add."""

    k: Tensor
    num_runs: int
    chunk_runs: int

    @cached_property
    def dk(self) -> Tensor:
        """Gradient of the keys, in fp32 while chunks add to it."""
        return torch.empty_like(self.k, dtype=self.k.dtype if self.chunk_runs == self.num_runs else torch.float32)

    @cached_property
    def dv(self) -> Tensor:
        """Gradient of the values."""
        return torch.empty_like(self.dk)

    @cached_property
    def shares(self) -> Tensor:
        """What every run of a chunk finds for its set: (runs, 2, M · D)."""
        return self.k.new_empty((self.chunk_runs, 2, self.k[0].numel()), dtype=torch.float32)

    def merge(self, sets: Sets, first_run: int, num_runs: int, run_rows: int) -> None:
        """Add the shares of runs first_run … first_run + num_runs."""
        size = self.shares.shape[-1]
        runs_of_set = self.num_runs // sets.num_sets
        first_set, num_sets = 0, sets.num_sets
        if not sets.packed:
            first_set = first_run // runs_of_set
            num_sets = (first_run + num_runs - 1) // runs_of_set + 1 - first_set
        launch(
            merge_keys_kernel, num_sets * triton.cdiv(size, 256),
            self.shares, self.dk, self.dv, rows_of(sets), sets.longest, first_run, num_runs, run_rows, first_set,
            SIZE=size, BLOCK=256, num_warps=4,
        )  # fmt: skip

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Both, in the type of the keys."""
        return cast(self.dk, self.k.dtype), cast(self.dv, self.k.dtype)


def sum_rows(sums: Tensor, total: Tensor) -> None:
    """Write the sum over the first axis of fp32 `sums` to the vector `total`."""
    width = total.numel()
    launch(sum_rows_kernel, triton.cdiv(width, 64), sums, total, sums.shape[0], width, ROWS=16, BLOCK=64, num_warps=4)


def parts_of(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Consecutive parts of a vector as tensors of these shapes."""
    parts = flat.split([torch.Size(shape).numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
