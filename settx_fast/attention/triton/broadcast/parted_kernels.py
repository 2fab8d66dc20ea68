"""Stage B in two kernels of persistent programs, for blocks with an output projection: attention, then the rest.

The weights of both do not fit on a multiprocessor at once. Attended values lie in the output between them, the features
of each 32 in the order of a matrix product's columns (`own`), which the output projection's weight is read in.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.broadcast.pieces import (
    activate_pieces,
    add,
    add_own,
    keep_vector,
    load_pieces,
    normalise_pieces,
    own,
    standardise_pieces,
    store_pieces,
    whole,
)
from settx_fast.attention.triton.halving import pieces_of
from settx_fast.attention.triton.primitives import LOG2_E, load_vector, load_weight, reciprocal, standardise
from settx_fast.attention.triton.sets import first_row, locate
from settx_fast.attention.triton.walk import at_row, clear_rows, fold_norm, load_rows, part_of_set, prefetch_rows


@triton.jit(do_not_specialize=["N", "num_sets", "share"])
def attend_forward_kernel(x, out, N, num_sets, k_ptr, v_ptr, w, bias, share, block: tl.constexpr, tiles: tl.constexpr):
    """One program: attended values of `share` tiles of rows; of rows that are no elements, none."""
    ROWS: tl.constexpr = tiles.rows
    C: tl.constexpr = block.C
    D: tl.constexpr = block.D
    H: tl.constexpr = block.spec.num_heads
    tile = tl.program_id(0).to(tl.int64) * share
    stop = tile + share
    b, _ = locate(tile, x, N, num_sets, ROWS)
    w_q = load_queries(w, bias, block, tiles.inputs)
    while (tile < stop) & (b < num_sets):
        first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, ROWS)
        keys, values = (), ()
        for h in tl.static_range(H):
            keys = keys + (load_head(k_ptr + b * (block.M * D), h, block),)
            values = values + (load_head(v_ptr + b * (block.M * D), h, block),)
        x_ptr, out_ptr = x.ptr + first_row(x, b) + first * C, out.ptr + first_row(out, b) + first * D
        filled = tl.cdiv(elements, ROWS)
        for i in range(0, filled):
            ahead, here = tl.minimum(i + 1, filled - 1) * ROWS, i * ROWS
            prefetch_rows(x_ptr + at_row(ahead, C), elements - ahead, C, ROWS, tiles.inputs)
            attend_tile(
                x_ptr + at_row(here, C), out_ptr + at_row(here, D), elements - here, w_q, keys, values, bias,
                block, tiles,
            )  # fmt: skip
        tile = last
        b += 1


@triton.jit
def load_queries(w, bias, block: tl.constexpr, INPUTS: tl.constexpr):
    """The query projection (inputs, D) with the gain of the norm before it; its bias (D,) times the scale to memory."""
    C: tl.constexpr = block.C
    NORM: tl.constexpr = block.spec.norm if block.spec.norm_first else "none"
    SCALE: tl.constexpr = block.scale * LOG2_E
    inputs, features = tl.arange(0, INPUTS), tl.arange(0, block.D)
    inside, all_inside = inputs < C, features < block.D
    weight = load_weight(w.w_q, inputs, features, inside, all_inside, C)
    weight, shift = fold_norm(weight, inputs, inside, w.g0, w.b0, NORM)
    tl.store(bias + features, (load_vector(w.b_q, features, all_inside) + shift) * SCALE)
    tl.debug_barrier()
    return weight


@triton.jit
def load_head(ptr, h, block: tl.constexpr):
    """Keys or values (M, D) of a head: (keys, E)."""
    rows, features = tl.arange(0, block.keys), tl.arange(0, block.E)
    pointers = ptr + rows[:, None] * block.D + (h * block.E + features)[None, :]
    return tl.load(pointers, mask=(rows < block.M)[:, None], other=0.0)


@triton.jit
def attend_tile(x_ptr, out_ptr, count, w_q, keys, values, bias, block: tl.constexpr, tiles: tl.constexpr):
    """Attended values of `count` rows at x_ptr, head after head, 32 features at a time to memory."""
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    SCALE: tl.constexpr = block.scale * LOG2_E
    E: tl.constexpr = block.E
    PER: tl.constexpr = 32 // E
    D: tl.constexpr = block.D
    x = load_rows(x_ptr, count, block.C, tiles.rows, tiles.inputs)
    if block.norm_input:
        x = standardise(x.to(tl.float32), block.C, NORM, EPS)[0].to(x.dtype)
    wide = pieces_of(tl.dot(x, w_q), 32)
    q = ()
    for i in tl.static_range(D // 32):
        scaled = wide[i] * SCALE + tl.load(bias + 32 * i + tl.arange(0, 32))[None, :]
        q = q + pieces_of(scaled.to(x.dtype), E)
    for piece in tl.static_range(D // 32):
        heads = ()
        for i in tl.static_range(PER):
            heads = heads + (attend_head(q[piece * PER + i], keys[piece * PER + i], values[piece * PER + i], block),)
        store_pieces(out_ptr + 32 * piece, (whole(heads, x.dtype),), count, count, D, tiles.rows, False)


@triton.jit
def attend_head(q, k, v, block: tl.constexpr):
    """softmax(q kᵀ) v of one head: q (rows, E) in units of log₂, k and v (keys, E)."""
    s = tl.dot(q, tl.trans(k))
    if block.keys > block.M:
        s = tl.where((tl.arange(0, block.keys) < block.M)[None, :], s, float("-inf"))
    p = tl.exp2(s - tl.max(s, 1)[:, None])
    share = reciprocal(tl.sum(p, 1))
    return tl.dot(p.to(v.dtype), v) * share[:, None]


@triton.jit(do_not_specialize=["N", "num_sets", "share"])
def dense_forward_kernel(x, out, N, num_sets, w, vectors, share, block: tl.constexpr, tiles: tl.constexpr):
    """One program: what follows attention on `share` tiles of rows, attended values in their place in the output."""
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    tile = tl.program_id(0).to(tl.int64) * share
    stop = tile + share
    b, _ = locate(tile, x, N, num_sets, ROWS)
    features = own(tl.arange(0, D))
    w_p = tl.load(w.w_p + features[None, :] * D + features[:, None])
    first_layer, second_layer = load_layers(w, vectors, block, tiles)
    while (tile < stop) & (b < num_sets):
        first, last, num, elements, written = part_of_set(x, N, b, tile, stop, ROWS)
        x_ptr, out_ptr = x.ptr + first_row(x, b) + first * D, out.ptr + first_row(out, b) + first * D
        filled = tl.cdiv(elements, ROWS)
        for i in range(0, filled):
            ahead, here = tl.minimum(i + 1, filled - 1) * ROWS, i * ROWS
            prefetch_rows(x_ptr + at_row(ahead, D), elements - ahead, D, ROWS, D)
            prefetch_rows(out_ptr + at_row(ahead, D), elements - ahead, D, ROWS, D)
            o = load_pieces(x_ptr + at_row(here, D), D, elements - here, D, ROWS)
            a = load_rows(out_ptr + at_row(here, D), elements - here, D, ROWS, D)
            o = add_own(add(o, pieces_of(tl.dot(a, w_p), 32)), vectors)
            y = finish_pieces(o, first_layer, second_layer, vectors, block, tiles)
            store_pieces(out_ptr + at_row(here, D), y, written - here, elements - here, D, ROWS, x.lengths is not None)
        if x.lengths is not None:
            for i in range(filled, num):
                clear_rows(out_ptr + at_row(i * ROWS, D), written - i * ROWS, D, ROWS)
        tile = last
        b += 1


@triton.constexpr_function
def vector_width(block):
    """Columns of the vectors that a program reads again and again."""
    return max(block.D, block.spec.ffn_dim or block.D)


@triton.jit
def load_layers(w, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """Both layers, chunk of hidden features by chunk: tuples of (D, CHUNK) and (CHUNK, D); of one layer, none.

    What follows a norm has its gain. vectors (7, width) in fp32, for the whole program: b_p, b_o, b_o2, and g0, b0, g1
    and b1 where rows are normed that are more than read.
    """
    D: tl.constexpr = block.D
    W: tl.constexpr = vector_width(block)
    F: tl.constexpr = D if block.spec.ffn_dim is None else block.spec.ffn_dim
    CHUNK: tl.constexpr = D if block.spec.ffn_dim is None else tiles.hidden
    NORM: tl.constexpr = block.spec.norm if block.spec.norm_first else "none"
    features = own(tl.arange(0, D))
    first, second = (), ()
    for i in tl.static_range(F // CHUNK):
        hidden = i * CHUNK + own(tl.arange(0, CHUNK))
        weight = load_weight(w.w_o, features, hidden, features < D, hidden < F, D)
        weight, shift = fold_norm(weight, features, features < D, w.g1, w.b1, NORM)
        tl.store(vectors + W + hidden, load_vector(w.b_o, hidden, hidden < F) + shift)
        first = first + (weight,)
        if block.spec.ffn_dim is not None:
            second = second + (load_weight(w.w_o2, hidden, features, hidden < F, features < D, F),)
    keep_vector(vectors, w.b_p, D)
    keep_vector(vectors + 2 * W, w.b_o2, D)
    if not block.spec.norm_first:
        keep_vector(vectors + 3 * W, w.g0, D)
        keep_vector(vectors + 4 * W, w.b0, D)
        keep_vector(vectors + 5 * W, w.g1, D)
        keep_vector(vectors + 6 * W, w.b1, D)
    tl.debug_barrier()
    return first, second


@triton.jit
def finish_pieces(o, first_layer, second_layer, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """Norms and layers after the residual of attention, on permuted pieces."""
    W: tl.constexpr = vector_width(block)
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    if block.spec.norm_first:
        y = add_layers(o, standardise_pieces(o, NORM, EPS)[0], first_layer, second_layer, vectors, block, tiles)
    else:
        o = normalise_pieces(o, vectors + 3 * W, vectors + 4 * W, NORM, EPS)
        y = add_layers(o, o, first_layer, second_layer, vectors, block, tiles)
        y = normalise_pieces(y, vectors + 5 * W, vectors + 6 * W, NORM, EPS)
    return y


@triton.jit
def add_layers(o, h, first_layer, second_layer, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """o + feed-forward(h), the hidden features a chunk at a time."""
    W: tl.constexpr = vector_width(block)
    ACTIVATION: tl.constexpr = block.spec.activation
    h = whole(h, first_layer[0].dtype)
    if block.spec.ffn_dim is None:
        y = add(o, activate_pieces(add_own(pieces_of(tl.dot(h, first_layer[0]), 32), vectors + W), ACTIVATION))
    else:
        total = whole(add_own(o, vectors + 2 * W), tl.float32)
        CHUNK: tl.constexpr = tiles.hidden
        for i in tl.static_range(len(first_layer)):
            z = add_own(pieces_of(tl.dot(h, first_layer[i]), 32), vectors + W + i * CHUNK)
            total = tl.dot(whole(activate_pieces(z, ACTIVATION), h.dtype), second_layer[i], total)
        y = pieces_of(total, 32)
    return y
