"""Which rows a set holds and where they lie; sets cut into blocks of rows, with neither a table nor a sync.

Blocks are numbered set after set. Packed set b has the blocks from offsets[b] // size + b on: enough for its rows
wherever it begins.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from settx_fast.attention.sets import Sets

FAN_OUT: tl.constexpr = tl.constexpr(1024)


class Rows(NamedTuple):
    """`Sets` as a kernel argument. N goes beside it, since kernels are not compiled for a number of elements."""

    ptr: Tensor | None
    set_stride: int  # elements from one set to the next, of padded rows
    row_stride: int
    lengths: Tensor | None
    offsets: Tensor | None


NO_ROWS = Rows(None, 0, 0, None, None)


def rows_of(sets: Sets, rows: Tensor | None = None) -> Rows:
    """Sets as a kernel argument, or other rows of the same sets, such as the output's; the last axis is contiguous."""
    rows = sets.rows if rows is None else rows
    return Rows(rows, 0 if sets.packed else rows.stride(0), rows.stride(-2), sets.lengths, sets.offsets)


def num_blocks(sets: Sets, size: int) -> int:
    """Blocks of `size` rows that hold all sets; of packed sets a bound, at most one block a set too many."""
    if sets.packed:
        return sets.rows.shape[0] // size + sets.num_sets
    return sets.num_sets * triton.cdiv(sets.longest, size)


@triton.jit
def set_length(x, N, b):
    """Elements of set b (int64)."""
    if x.offsets is not None:
        length = (tl.load(x.offsets + b + 1) - tl.load(x.offsets + b)).to(tl.int64)
    elif x.lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(x.lengths + b), 0), N).to(tl.int64)
    else:
        length = (b * 0 + N).to(tl.int64)
    return length


@triton.jit
def first_row(x, b):
    """Where row 0 of set b (int64) begins, in elements of x.ptr, int64."""
    if x.offsets is not None:  # noqa: SIM108
        start = tl.load(x.offsets + b).to(tl.int64) * x.row_stride
    else:
        start = b * x.set_stride
    return start


@triton.jit
def row_offsets(x, b, rows):
    """Where rows (int64) of set b begin, in elements of x.ptr."""
    return first_row(x, b) + rows * x.row_stride


@triton.jit
def locate(block, x, N, num_sets, size):
    """Set (int64) of a block of `size` rows, and the row of that set (int64) where it begins."""
    if x.offsets is None:
        blocks = tl.cdiv(tl.cast(N, tl.int64), size)
        b = block // blocks
        row = block % blocks * size
    else:
        b = set_of_packed_block(block, x, num_sets, size)
        row = (block - tl.load(x.offsets + b) // size - b).to(tl.int64) * size
    return b, row


@triton.jit
def set_of_packed_block(block, x, num_sets, size):
    """The last set that begins at a block or before: searched among FAN_OUT sets at once, ever closer together."""
    b = tl.zeros((), tl.int64)
    stride = b + 1
    while stride * FAN_OUT < num_sets:
        stride *= FAN_OUT
    while stride > 0:
        sets = b + tl.arange(0, FAN_OUT) * stride
        offsets = tl.load(x.offsets + sets, mask=sets < num_sets, other=0)
        begun = (sets < num_sets) & (offsets // size + sets <= block)
        b += (tl.sum(begun.to(tl.int64)) - 1) * stride
        stride = stride // FAN_OUT
    return b


@triton.jit
def elements_of_block(x, N, b, first, size):
    """How many of the `size` rows from row `first` of set b on are elements."""
    return tl.minimum(tl.maximum(set_length(x, N, b) - first, 0), size).to(tl.int32)


@triton.jit
def blocks_of_set(x, N, b, size):
    """The first block of set b (int64) and the first of the next set."""
    if x.offsets is None:
        blocks = tl.cdiv(tl.cast(N, tl.int64), size)
        begin, end = b * blocks, (b + 1) * blocks
    else:
        begin = tl.load(x.offsets + b) // size + b
        end = tl.load(x.offsets + b + 1) // size + b + 1
    return begin, end
