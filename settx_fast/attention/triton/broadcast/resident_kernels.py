"""Stage B by persistent programs: each walks over many tiles, while its weights and a set's keys stay on chip.

For blocks whose only layers are the query projection and one feed-forward layer: both, and the keys and values of a
set, then fit beside a tile twice on a multiprocessor. Heads go in groups whose keys are the diagonal blocks of one
matrix; see `pieces` for the order of features.
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
def resident_forward_kernel(
    x, out, N, num_sets, k_ptr, v_ptr, w, vectors, share, block: tl.constexpr, tiles: tl.constexpr
):
    """One program: `share` tiles of rows, one after another, of one set and then of the next."""
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    tile = tl.program_id(0).to(tl.int64) * share
    stop = tile + share
    b, _ = locate(tile, x, N, num_sets, ROWS)
    w_q, w_o = load_weights(w, vectors, block, tiles)
    while (tile < stop) & (b < num_sets):
        first, last, num, elements, written = part_of_set(x, N, b, tile, stop, ROWS)
        keys = load_groups(k_ptr + b * (block.M * D), block, tiles)
        values = load_groups(v_ptr + b * (block.M * D), block, tiles)
        x_ptr, out_ptr = x.ptr + first_row(x, b) + first * block.C, out.ptr + first_row(out, b) + first * D
        filled = tl.cdiv(elements, ROWS)
        for i in range(0, filled):
            ahead, here = tl.minimum(i + 1, filled - 1) * ROWS, i * ROWS
            prefetch_rows(x_ptr + at_row(ahead, block.C), elements - ahead, block.C, ROWS, tiles.inputs)
            o = attended(x_ptr + at_row(here, block.C), elements - here, w_q, keys, values, vectors, block, tiles)
            y = run_layers(o, w_o, vectors, block)
            store_pieces(out_ptr + at_row(here, D), y, written - here, elements - here, D, ROWS, x.lengths is not None)
        if x.lengths is not None:
            for i in range(filled, num):
                clear_rows(out_ptr + at_row(i * ROWS, D), written - i * ROWS, D, ROWS)
        tile = last
        b += 1


@triton.jit
def load_groups(ptr, block: tl.constexpr, tiles: tl.constexpr):
    """Keys or values (M, D) of a set, those of every group of heads: see `load_group`."""
    groups = ()
    for group in tl.static_range(block.spec.num_heads // tiles.group):
        groups = groups + (load_group(ptr, group, block, tiles),)
    return groups


@triton.jit
def load_group(ptr, group, block: tl.constexpr, tiles: tl.constexpr):
    """Keys or values (M, D) of a group of heads: (group · keys, group · E), zero off the diagonal blocks."""
    KEYS: tl.constexpr = block.keys
    rows, features = tl.arange(0, tiles.group * KEYS), own(tl.arange(0, tiles.group_width))
    mine = (rows // KEYS)[:, None] == (features // block.E)[None, :]
    pointers = ptr + (rows % KEYS)[:, None] * block.D + (group * tiles.group_width + features)[None, :]
    return tl.load(pointers, mask=mine & (rows % KEYS < block.M)[:, None], other=0.0)


@triton.jit
def load_weights(w, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """Both weights (inputs, outputs), what follows a norm with its gain; vectors (6, D) in fp32 for the whole program.

    Vectors are the biases of the weights, g0, b0, g1 and b1, where rows are normed that are more than read.
    """
    C: tl.constexpr = block.C
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm if block.spec.norm_first else "none"
    inputs, features = tl.arange(0, tiles.inputs), own(tl.arange(0, D))
    inside, all_inside = inputs < C, features < D
    w_q = load_weight(w.w_q, inputs, features, inside, all_inside, C)
    w_o = load_weight(w.w_o, features, features, all_inside, all_inside, D)
    w_q, shift = fold_norm(w_q, inputs, inside, w.g0, w.b0, NORM)
    tl.store(vectors + features, load_vector(w.b_q, features, all_inside) + shift)
    w_o, shift = fold_norm(w_o, features, all_inside, w.g1, w.b1, NORM)
    tl.store(vectors + D + features, load_vector(w.b_o, features, all_inside) + shift)
    if not block.spec.norm_first:
        keep_vector(vectors + 2 * D, w.g0, D)
        keep_vector(vectors + 3 * D, w.b0, D)
        keep_vector(vectors + 4 * D, w.g1, D)
        keep_vector(vectors + 5 * D, w.b1, D)
    tl.debug_barrier()
    return w_q, w_o


@triton.jit
def attended(x_ptr, count, w_q, keys, values, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """Attention of `count` rows at x_ptr and the residual beside it, as permuted pieces."""
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    x = load_rows(x_ptr, count, block.C, tiles.rows, tiles.inputs)
    if block.norm_input:
        x = standardise(x.to(tl.float32), block.C, NORM, EPS)[0].to(x.dtype)
    q = add_own(pieces_of(tl.dot(x, w_q), 32), vectors)
    o = attend_groups(q, keys, values, block, tiles)
    if block.spec.residual == "input":  # noqa: SIM108
        o = add(o, load_pieces(x_ptr, block.D, count, block.D, tiles.rows))
    else:
        o = add(o, q)
    return o


@triton.jit
def run_layers(o, w_o, vectors, block: tl.constexpr):
    """The norms and the layer that follow attention, on permuted pieces."""
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    ACTIVATION: tl.constexpr = block.spec.activation
    if block.spec.norm_first:
        h, _ = standardise_pieces(o, NORM, EPS)
    else:
        o = normalise_pieces(o, vectors + 2 * D, vectors + 3 * D, NORM, EPS)
        h = o
    z = add_own(pieces_of(tl.dot(whole(h, w_o.dtype), w_o), 32), vectors + D)
    y = add(o, activate_pieces(z, ACTIVATION))
    if not block.spec.norm_first:
        y = normalise_pieces(y, vectors + 4 * D, vectors + 5 * D, NORM, EPS)
    return y


@triton.jit
def attend_groups(q, keys, values, block: tl.constexpr, tiles: tl.constexpr):
    """What every group of heads attends to, as permuted pieces; q are the queries alike."""
    PER: tl.constexpr = tiles.group_width // 32
    GROUP: tl.constexpr = tiles.group
    out = ()
    for group in tl.static_range(len(keys)):
        mine = ()
        for i in tl.static_range(PER):
            mine = mine + (q[group * PER + i],)
        k, v = keys[group], values[group]
        scores = pieces_of(tl.dot(whole(mine, k.dtype), tl.trans(k)), block.keys)
        p = ()
        shares = ()
        for i in tl.static_range(GROUP):
            e, share = exponentials(scores[i], block)
            if block.E < 32:
                e *= share
            p, shares = p + (e,), shares + (share,)
        a = pieces_of(tl.dot(whole(p, v.dtype), v), 32)
        for i in tl.static_range(PER):
            # a piece of narrow heads holds several
            out = out + ((a[i] if block.E < 32 else a[i] * shares[i * 32 // block.E]),)
    return out


@triton.jit
def exponentials(s, block: tl.constexpr):
    """Of the unscaled scores (rows, keys) of a head: what softmax divides by its sum, and one over that, (rows, 1)."""
    SCALE: tl.constexpr = block.scale * LOG2_E
    if block.keys > block.M:
        s = tl.where((tl.arange(0, block.keys) < block.M)[None, :], s, float("-inf"))
    p = tl.exp2(s * SCALE - (tl.max(s, 1) * SCALE)[:, None])
    return p, reciprocal(tl.sum(p, 1))[:, None]
