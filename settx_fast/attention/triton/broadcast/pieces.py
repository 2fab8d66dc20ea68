"""Tiles of rows as pieces of 32 columns, laid out so that what is done to them moves nothing between threads.

The features of a piece are permuted (`own`, its own inverse): a thread of a matrix product then holds eight neighbours
and reads or writes 16 bytes of a row at once (`straight`). Weights and vectors are read in that order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.halving import beside, halvings
from settx_fast.attention.triton.primitives import fast_gelu


@triton.jit
def own(c):
    """The feature that column c of permuted pieces holds."""
    return c // 32 * 32 + c % 8 // 2 * 8 + c % 32 // 8 * 2 + c % 2


@triton.jit
def own_rows(ROWS: tl.constexpr):
    """The rows of a tile in the order of a `straight` piece."""
    r = tl.arange(0, ROWS)
    return r % (ROWS // 2) // 8 * 16 + r // (ROWS // 2) * 8 + r % 8


@triton.jit
def straight(piece):
    """A permuted piece (rows, 32) with its features in order and its rows in that of `own_rows`."""
    ROWS: tl.constexpr = piece.shape[0]
    piece = tl.reshape(piece, (ROWS // 16, 2, 8, 4, 4, 2))
    return tl.reshape(tl.permute(piece, (1, 0, 2, 4, 3, 5)), (ROWS, 32))


@triton.jit
def permuted(piece):
    """The inverse of `straight`."""
    ROWS: tl.constexpr = piece.shape[0]
    piece = tl.reshape(piece, (2, ROWS // 16, 8, 4, 4, 2))
    return tl.reshape(tl.permute(piece, (1, 0, 2, 4, 3, 5)), (ROWS, 32))


@triton.jit
def whole(pieces, dtype: tl.constexpr):
    """The inverse of `pieces_of`, for pieces of a power of two, in a type."""
    LEVELS: tl.constexpr = halvings(len(pieces), 1)
    parts = ()
    for i in tl.static_range(len(pieces)):
        parts = parts + (pieces[i].to(dtype),)
    for _ in tl.static_range(LEVELS):
        coarser = ()
        for i in tl.static_range(0, len(parts), 2):
            coarser = coarser + (beside(parts[i], parts[i + 1]),)
        parts = coarser
    return parts[0]


@triton.jit
def add(left, right):
    """Sums of the pieces of two tiles."""
    out = ()
    for i in tl.static_range(len(left)):
        out = out + (left[i] + right[i],)
    return out


@triton.jit
def multiply_pieces(left, right):
    """Products of the pieces of two tiles."""
    out = ()
    for i in tl.static_range(len(left)):
        out = out + (left[i] * right[i],)
    return out


@triton.jit
def add_own(pieces, ptr):
    """The pieces plus a vector in fp32 at ptr."""
    out = ()
    for i in tl.static_range(len(pieces)):
        out = out + (pieces[i] + load_own(ptr + 32 * i),)
    return out


@triton.jit
def scale_own(pieces, ptr):
    """The pieces times a vector in fp32 at ptr."""
    out = ()
    for i in tl.static_range(len(pieces)):
        out = out + (pieces[i] * load_own(ptr + 32 * i),)
    return out


@triton.jit
def load_own(ptr):
    """Numbers ptr[0 … 31] in the order of a permuted piece's columns: (1, 32)."""
    vector = tl.load(ptr + tl.arange(0, 32))
    return tl.reshape(tl.permute(tl.reshape(vector, (4, 4, 2)), (1, 0, 2)), (32,))[None, :]


@triton.jit
def activate_pieces(pieces, ACTIVATION: tl.constexpr):
    """relu or GELU of every piece, GELU to 5e-5, which half precision does not see."""
    out = ()
    for i in tl.static_range(len(pieces)):
        out = out + (tl.maximum(pieces[i], 0.0) if ACTIVATION == "relu" else fast_gelu(pieces[i]),)
    return out


@triton.jit
def keep_vector(to_ptr, ptr, WIDTH: tl.constexpr):
    """Write a vector in fp32 where a program reads it again and again; nothing where ptr is None.

    Every program writes the same numbers to the same place, and sees its own after a barrier.
    """
    if ptr is not None:
        columns = tl.arange(0, WIDTH)
        tl.store(to_ptr + columns, tl.load(ptr + columns).to(tl.float32))


@triton.jit
def row_sum(pieces):
    """Sum of every row over all pieces: added piece by piece first, then across threads."""
    total = pieces[0]
    for i in tl.static_range(1, len(pieces)):
        total += pieces[i]
    return tl.sum(total, 1)


@triton.jit
def standardise_pieces(pieces, NORM: tl.constexpr, EPS: tl.constexpr):
    """Rows held as pieces without mean (layer) at unit mean square (layer, rms), and the factor (rows, 1) that did it.

    Under "none" the pieces themselves.
    """
    WIDTH: tl.constexpr = 32 * len(pieces)
    if NORM == "none":
        out, factor = pieces, tl.zeros((pieces[0].shape[0], 1), tl.float32)
    else:
        centred = pieces
        if NORM == "layer":
            mean = row_sum(pieces)[:, None] * (1.0 / WIDTH)
            centred = ()
            for i in tl.static_range(len(pieces)):
                centred = centred + (pieces[i] - mean,)
        squares = row_sum(multiply_pieces(centred, centred))
        factor = tl.rsqrt(squares * (1.0 / WIDTH) + EPS)[:, None]
        out = ()
        for i in tl.static_range(len(pieces)):
            out = out + (centred[i] * factor,)
    return out, factor


@triton.jit
def norm_back_pieces(grad, standard, factor, NORM: tl.constexpr):
    """As norm_back, on pieces; factor (rows, 1)."""
    WIDTH: tl.constexpr = 32 * len(grad)
    along = row_sum(multiply_pieces(grad, standard))[:, None] * (-1.0 / WIDTH) * factor
    shift = tl.zeros_like(along)
    if NORM == "layer":
        shift = row_sum(grad)[:, None] * (-1.0 / WIDTH) * factor
    out = ()
    for i in tl.static_range(len(grad)):
        out = out + (grad[i] * factor + (standard[i] * along + shift),)
    return out


@triton.jit
def normalise_pieces(pieces, gain_ptr, bias_ptr, NORM: tl.constexpr, EPS: tl.constexpr):
    """Layer or RMS norm of rows held as pieces, gain and bias in fp32; the pieces themselves under "none"."""
    out, _ = standardise_pieces(pieces, NORM, EPS)
    if NORM != "none":
        out = scale_own(out, gain_ptr)
        if NORM == "layer":
            out = add_own(out, bias_ptr)
    return out


@triton.jit
def load_pieces(ptr, stride, count, D: tl.constexpr, ROWS: tl.constexpr):
    """As load_rows, each row `stride` after the one before, in permuted pieces and fp32."""
    rows = own_rows(ROWS)
    pointers = ptr + rows[:, None] * stride + tl.arange(0, 32)[None, :]
    pieces = ()
    for i in tl.static_range(D // 32):
        piece = tl.load(pointers + 32 * i, mask=(rows < count)[:, None], other=0.0)
        pieces = pieces + (permuted(piece).to(tl.float32),)
    return pieces


@triton.jit
def store_pieces(ptr, pieces, count, filled, D: tl.constexpr, ROWS: tl.constexpr, CLEAR: tl.constexpr):
    """Write permuted pieces to the first `count` rows (D) of ptr; if CLEAR, zeros from row `filled` on."""
    rows = own_rows(ROWS)
    pointers = ptr + rows[:, None] * D + tl.arange(0, 32)[None, :]
    for i in tl.static_range(len(pieces)):
        piece = straight(pieces[i].to(ptr.dtype.element_ty))
        if CLEAR:
            piece = tl.where((rows < filled)[:, None], piece, 0.0)
        tl.store(pointers + 32 * i, piece, mask=(rows < count)[:, None])
