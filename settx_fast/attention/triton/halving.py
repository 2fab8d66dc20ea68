"""Tiles cut into pieces by columns, half by half, and put together again: no element changes its thread."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def halves(t):
    """The left and the right half of (rows, columns)."""
    return tl.split(tl.permute(tl.reshape(t, (t.shape[0], 2, t.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def beside(left, right):
    """The inverse of `halves`."""
    return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), (left.shape[0], 2 * left.shape[1]))


@triton.constexpr_function
def halvings(width, part):
    """How often a width is halved until it is `part` wide."""
    return (width // part).bit_length() - 1


@triton.jit
def pieces_of(t, WIDTH: tl.constexpr):
    """(rows, columns) as pieces WIDTH wide."""
    LEVELS: tl.constexpr = halvings(t.shape[1], WIDTH)
    pieces = (t,)
    for _ in tl.static_range(LEVELS):
        finer = ()
        for i in tl.static_range(len(pieces)):
            left, right = halves(pieces[i])
            finer = finer + (left, right)
        pieces = finer
    return pieces
