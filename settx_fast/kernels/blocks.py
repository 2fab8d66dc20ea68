"""Which rows a program owns: sets cut into blocks of rows, numbered set after set, with neither a table nor a sync."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from settx_fast.kernels.sets import SetView, first_row, set_length


class Rows(NamedTuple):
    """A SetView as a kernel argument: `Rows(*view.arguments)`."""

    ptr: Tensor
    set_stride: int
    row_stride: int
    N: int
    offsets: Tensor | None
    lengths: Tensor | None


def num_blocks(view: SetView, size: int) -> int:
    """Blocks of `size` rows that hold all sets; of packed sets a bound, at most one block a set too many."""
    if view.packed:
        return view.x.shape[0] // size + view.num_sets
    return view.num_sets * triton.cdiv(view.longest, size)


@triton.jit
def locate(block, x, num_sets, size):
    """Set (int64) of a block of `size` rows, and the row of that set (int64) where it begins.

    Packed set b has the blocks from offsets[b] // size + b on: enough for its rows wherever it begins, so the set of a
    block is one less than the number of sets that begin at it or before.
    """
    if x.offsets is None:
        blocks = tl.cdiv(x.N, size)
        b = (block // blocks).to(tl.int64)
        row = (block % blocks).to(tl.int64) * size
    else:
        begun = tl.zeros((), tl.int64)
        for start in range(0, num_sets, 1024):
            sets = start + tl.arange(0, 1024)
            offsets = tl.load(x.offsets + sets, mask=sets < num_sets, other=0)
            begun += tl.sum(((sets < num_sets) & (offsets // size + sets <= block)).to(tl.int64))
        b = begun - 1
        row = (block - tl.load(x.offsets + b) // size - b).to(tl.int64) * size
    return b, row


@triton.jit
def length_of(x, b):
    """Elements of set b (int64)."""
    return set_length(b, x.N, x.offsets, x.lengths)


@triton.jit
def row_offsets(x, b, rows):
    """Where rows (int64) of set b begin, in elements of x.ptr."""
    return first_row(b, x.set_stride, x.row_stride, x.offsets) + rows * x.row_stride


@triton.jit
def elements_of_block(x, b, first, size):
    """How many of the `size` rows from row `first` of set b on are elements."""
    return tl.minimum(tl.maximum(length_of(x, b) - first, 0), size).to(tl.int32)


@triton.jit
def blocks_of_set(b, x, size):
    """The first block of set b and the first of the next set."""
    if x.offsets is None:
        blocks = tl.cdiv(x.N, size)
        begin, end = b * blocks, (b + 1) * blocks
    else:
        begin = tl.load(x.offsets + b) // size + b
        end = tl.load(x.offsets + b + 1) // size + b + 1
    return begin, end
