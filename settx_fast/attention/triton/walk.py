"""Persistent programs walk over tiles of a set, then of the next: which are whose, and the rows of a tile.

Rows follow one another. A norm that only a product reads goes into that product's weight: rows are standardised alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.primitives import load_vector, prefetch
from settx_fast.attention.triton.sets import blocks_of_set, locate, set_length


@triton.jit
def tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, program, ROWS: tl.constexpr, per=1):
    """The first of a program's `share` among tiles first_tile … first_tile + num_tiles, the one after its last (int64),

    and the set of the first.
    """
    tile = first_tile + tl.cast(program, tl.int64) * share
    stop = tl.minimum(tile + share, first_tile + num_tiles)
    b, _ = locate(tile // per, x, N, num_sets, per * ROWS)
    return tile, stop, b


@triton.jit
def part_of_set(x, N, b, tile, stop, ROWS: tl.constexpr, per=1):
    """The part of set b in tiles `tile` … `stop`: the set's row where it begins, the tile after its last (int64),

    and its tiles, its elements and the rows of it that are written, which follow one another (int32). `per` tiles are a
    run, and every set has whole runs.
    """
    begin, end = blocks_of_set(x, N, b, per * ROWS)
    length, first = set_length(x, N, b), (tile - begin * per) * ROWS
    last = tl.minimum(stop, end * per)
    rows = (last - tile) * ROWS
    elements = tl.minimum(tl.maximum(length - first, 0), rows).to(tl.int32)
    if x.offsets is not None:  # noqa: SIM108
        written = elements
    else:
        written = tl.minimum(tl.maximum(N - first, 0), rows).to(tl.int32)
    return first, last, (last - tile).to(tl.int32), elements, written


@triton.jit
def at_row(row, WIDTH: tl.constexpr):
    """Where a row (int32) begins."""
    return tl.cast(row, tl.int64) * WIDTH


@triton.jit
def load_rows(ptr, count, C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The first `count` rows (C) of ptr as (ROWS, WIDTH), zero elsewhere."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    ok = (rows < count)[:, None] & (columns < C)[None, :]
    return tl.load(ptr + rows[:, None] * C + columns[None, :], mask=ok, other=0.0)


@triton.jit
def load_strided_rows(ptr, stride, count, D: tl.constexpr, ROWS: tl.constexpr):
    """The first `count` of ROWS rows (D), each `stride` after the one before, zero elsewhere."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, D)
    pointers = ptr + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(pointers, mask=(rows < count)[:, None], other=0.0)


@triton.jit
def store_rows(ptr, tile, count):
    """Write the first `count` rows of a tile (ROWS, D) to ptr."""
    rows, columns = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    pointers = ptr + rows[:, None] * tile.shape[1] + columns[None, :]
    tl.store(pointers, tile.to(ptr.dtype.element_ty), mask=(rows < count)[:, None])


@triton.jit
def clear_rows(ptr, count, D: tl.constexpr, ROWS: tl.constexpr):
    """Zeros in the first `count` of ROWS rows (D) at ptr."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, D)
    zeros = tl.zeros((ROWS, D), ptr.dtype.element_ty)
    tl.store(ptr + rows[:, None] * D + columns[None, :], zeros, mask=(rows < count)[:, None])


@triton.jit
def prefetch_rows(ptr, count, C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Bring up to ROWS of `count` rows (C) to the L2 cache."""
    LINE: tl.constexpr = 64  # elements of half precision
    LINES: tl.constexpr = ROWS * WIDTH // LINE
    prefetch(ptr + tl.minimum(tl.arange(0, LINES) * LINE, count * C - 1))


@triton.jit
def add_to(pointers, found):
    """Add to what a program found in earlier chunks."""
    tl.store(pointers, tl.load(pointers) + found)


@triton.jit
def fold_norm(weight, inputs, valid, gain_ptr, bias_ptr, NORM: tl.constexpr):
    """A weight (inputs, outputs) that reads standardised rows where it read normed ones, and what its bias gains."""
    shift = tl.zeros((weight.shape[1],), tl.float32)
    if NORM != "none":
        exact = weight.to(tl.float32)
        if NORM == "layer":
            shift = tl.sum(exact * load_vector(bias_ptr, inputs, valid)[:, None], 0)
        weight = (exact * load_vector(gain_ptr, inputs, valid)[:, None]).to(weight.dtype)
    return weight, shift


@triton.jit
def norm_back(grad, standard, factor, NORM: tl.constexpr):
    """Gradient of the rows that were standardised by `factor`, from that of the standardised."""
    WIDTH: tl.constexpr = grad.shape[1]
    along = tl.sum(grad * standard, 1) * (-1.0 / WIDTH) * factor
    out = grad * factor[:, None] + standard * along[:, None]
    if NORM == "layer":
        out += (tl.sum(grad, 1) * (-1.0 / WIDTH) * factor)[:, None]
    return out
