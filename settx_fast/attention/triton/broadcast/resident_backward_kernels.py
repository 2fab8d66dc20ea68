"""Stage B backwards in persistent programs, for blocks that `resident_kernels` computes.

Chunk by chunk of rows `layers_pass` makes attention again and goes back through norms and the layer to the gradient of
O, which lies in the memory of the elements' gradient; `layer_product` sums up the layer's weight gradient from what
that leaves. `attention_pass` goes on from there to queries, keys, values and elements; what sums over rows, the
gradients of the query projection and of a set's keys and values, stays with a program while it walks over its tiles.
Its registers are full of that: what follows is in an order that leaves few numbers waiting at once, and the compiler
moves nothing out of its loop, where constant addresses of factors would take the place of what a tile needs.
Weights have the gain of the norm before them, see `fold_norm`; `gradient_kernels` adds up what programs leave and takes
the gains out again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.broadcast.forward_kernels import softmax
from settx_fast.attention.triton.broadcast.pieces import (
    add,
    add_own,
    keep_vector,
    load_pieces,
    multiply_pieces,
    norm_back_pieces,
    own,
    scale_own,
    standardise_pieces,
    store_pieces,
    whole,
)
from settx_fast.attention.triton.broadcast.resident_kernels import attended, load_groups
from settx_fast.attention.triton.halving import pieces_of
from settx_fast.attention.triton.primitives import (
    activate_with_slope,
    load_vector,
    load_weight,
    pack_halves,
    standardise,
    unpack_high,
    unpack_low,
)
from settx_fast.attention.triton.sets import blocks_of_set, first_row, locate
from settx_fast.attention.triton.walk import (
    at_row,
    clear_rows,
    fold_norm,
    load_rows,
    norm_back,
    part_of_set,
    prefetch_rows,
    store_rows,
    tiles_of_program,
)

# places of a program's sums of columns in the layers pass, each D wide
B_O, G0, B0, G1, B1 = (tl.constexpr(i) for i in range(5))
SUMS: tl.constexpr = tl.constexpr(5)
ONES: tl.constexpr = tl.constexpr(16)  # rows of ones, with which a product sums columns up
# places of vectors that all programs share, each D wide
SHIFT_Q, SHIFT_O, GAIN0, SHIFT0, GAIN1 = (tl.constexpr(i) for i in range(5))
VECTORS: tl.constexpr = tl.constexpr(5)


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "share"])
def layers_pass_kernel(
    x, grad, d_o, N, num_sets, first_tile, num_tiles, k_ptr, v_ptr, w, vectors, factors_ptr, sums_ptr, share,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of O for `share` tiles of rows, and its part of the sums (SUMS, D) of columns.

    What the layer read and the gradient of what it made, before the activation, go to factors (rows of all tiles,
    2 · D). vectors (VECTORS, D) in fp32 for all programs: see `load_layers`.
    """
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, tl.program_id(0), ROWS)
    w_q, w_o = load_layers(w, vectors, block, tiles)
    sums_ptr += tl.program_id(0).to(tl.int64) * (SUMS * D)
    if first_tile == 0:
        clear_sums(sums_ptr, SUMS, D)
    while (tile < stop) & (b < num_sets):
        first, last, num, elements, _written = part_of_set(x, N, b, tile, stop, ROWS)
        keys = load_groups(k_ptr + b * (block.M * D), block, tiles)
        values = load_groups(v_ptr + b * (block.M * D), block, tiles)
        x_ptr, d_o_ptr = x.ptr + first_row(x, b) + first * D, d_o.ptr + first_row(d_o, b) + first * D
        grad_ptr = grad.ptr + first_row(grad, b) + first * grad.row_stride
        to_ptr = factors_ptr + (tile - first_tile) * (ROWS * 2 * D)
        filled = tl.cdiv(elements, ROWS)
        for i in range(0, filled):
            ahead, here = tl.minimum(i + 1, filled - 1) * ROWS, i * ROWS
            prefetch_rows(x_ptr + at_row(ahead, D), elements - ahead, D, ROWS, D)
            o = attended(x_ptr + at_row(here, D), elements - here, w_q, keys, values, vectors, block, tiles)
            d, read, d_z = layers_back(
                o, grad_ptr + tl.cast(here, tl.int64) * grad.row_stride, grad.row_stride, elements - here, w_o, vectors,
                sums_ptr, block, tiles,
            )  # fmt: skip
            store_pieces(d_o_ptr + at_row(here, D), d, elements - here, ROWS, D, ROWS, False)
            store_pieces(to_ptr + at_row(here, 2 * D), read, ROWS, ROWS, 2 * D, ROWS, False)
            store_pieces(to_ptr + at_row(here, 2 * D) + D, d_z, ROWS, ROWS, 2 * D, ROWS, False)
        for i in range(filled, num):
            clear_rows(to_ptr + at_row(i * ROWS, 2 * D), ROWS, 2 * D, ROWS)
        tile = last
        b += 1


@triton.jit
def clear_sums(ptr, PLACES: tl.constexpr, D: tl.constexpr):
    """Zero this program's sums of columns (PLACES, D)."""
    columns = tl.arange(0, D)
    for place in tl.static_range(PLACES):
        tl.store(ptr + place * D + columns, tl.zeros((D,), tl.float32))
    tl.debug_barrier()


@triton.jit
def load_layers(w, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """Both weights (inputs, outputs) with the gains of the norms before them, in the order of permuted pieces.

    vectors, in order: the biases of both weights with what those norms bring, then g0, b0 and g1 where rows are normed
    that are more than read.
    """
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    inputs, features = tl.arange(0, D), own(tl.arange(0, D))
    inside = inputs < D
    w_q = load_weight(w.w_q, inputs, features, inside, inside, D)
    w_o = load_weight(w.w_o, features, features, inside, inside, D)
    if block.spec.norm_first:
        w_q, shift = fold_norm(w_q, inputs, inside, w.g0, w.b0, NORM)
        w_o, shift_o = fold_norm(w_o, features, inside, w.g1, w.b1, NORM)
    else:
        shift = tl.zeros((D,), tl.float32)
        w_o, shift_o = fold_norm(w_o, features, inside, w.g0, w.b0, NORM)
        keep_vector(vectors + GAIN0 * D, w.g0, D)
        keep_vector(vectors + SHIFT0 * D, w.b0, D)
        keep_vector(vectors + GAIN1 * D, w.g1, D)
    tl.store(vectors + SHIFT_Q * D + features, load_vector(w.b_q, features, inside) + shift)
    tl.store(vectors + SHIFT_O * D + features, load_vector(w.b_o, features, inside) + shift_o)
    tl.debug_barrier()
    return w_q, w_o


@triton.jit
def layers_back(o, grad_ptr, grad_stride, count, w_o, vectors, sums_ptr, block: tl.constexpr, tiles: tl.constexpr):
    """The gradient of a tile o (rows, D), what the layer read and the gradient of what it made, as permuted pieces."""
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    ACTIVATION: tl.constexpr = block.spec.activation
    AFTER: tl.constexpr = NORM != "none" and not block.spec.norm_first
    dtype: tl.constexpr = w_o.dtype
    standard, factor = standardise_pieces(o, NORM, EPS)
    z = add_own(pieces_of(tl.dot(whole(standard, dtype), w_o), 32), vectors + SHIFT_O * D)
    active, slopes = activate_with_slopes(z, ACTIVATION)
    # registers keep a standardised row and the activation's slope as one number
    kept = pack_pieces(standard, slopes, dtype)
    d = load_pieces(grad_ptr, grad_stride, count, D, tiles.rows)
    if AFTER:
        y = add(scale_own(standard, vectors + GAIN0 * D), active)
        if NORM == "layer":
            y = add_own(y, vectors + SHIFT0 * D)
        y, factor1 = standardise_pieces(y, NORM, EPS)
        add_columns(sums_ptr + G1 * D, multiply_pieces(d, y), dtype)
        if NORM == "layer":
            add_columns(sums_ptr + B1 * D, d, dtype)
        d = norm_back_pieces(scale_own(d, vectors + GAIN1 * D), y, factor1, NORM)
    standard, slopes = unpack_pieces(kept, dtype)
    d_z = multiply_pieces(d, slopes)
    add_columns(sums_ptr + B_O * D, d_z, dtype)
    through = pieces_of(tl.dot(whole(d_z, dtype), tl.trans(w_o)), 32)
    if AFTER:
        add_columns(sums_ptr + G0 * D, multiply_pieces(d, standard), dtype)
        if NORM == "layer":
            add_columns(sums_ptr + B0 * D, d, dtype)
        d = norm_back_pieces(add(scale_own(d, vectors + GAIN0 * D), through), standard, factor, NORM)
    elif NORM != "none":
        d = add(d, norm_back_pieces(through, standard, factor, NORM))
    else:
        d = add(d, through)
    return d, standard, d_z


@triton.jit
def activate_with_slopes(pieces, ACTIVATION: tl.constexpr):
    """As activate_with_slope, of every piece."""
    active, slopes = (), ()
    for i in tl.static_range(len(pieces)):
        found, slope = activate_with_slope(pieces[i], ACTIVATION)
        active, slopes = active + (found,), slopes + (slope,)
    return active, slopes


@triton.jit
def pack_pieces(high, low, dtype: tl.constexpr):
    """As pack_halves, of every piece."""
    out = ()
    for i in tl.static_range(len(high)):
        out = out + (pack_halves(high[i], low[i], dtype),)
    return out


@triton.jit
def unpack_pieces(packed, dtype: tl.constexpr):
    """The inverse of pack_pieces."""
    high, low = (), ()
    for i in tl.static_range(len(packed)):
        high, low = high + (unpack_high(packed[i], dtype),), low + (unpack_low(packed[i], dtype),)
    return high, low


@triton.jit
def add_columns(ptr, pieces, dtype: tl.constexpr):
    """As add_sums, of permuted pieces."""
    tile = whole(pieces, dtype)
    add_sums(ptr, tile, own(tl.arange(0, tile.shape[1])))


@triton.jit
def add_sums(ptr, tile, places):
    """Add the sums of a tile's columns to ptr[places], which no other program adds to."""
    WIDTH: tl.constexpr = tile.shape[1]
    # (ONES, columns), all rows alike; a thread has each twice
    sums = tl.dot(tl.full((ONES, tile.shape[0]), 1.0, tile.dtype), tile)
    sums, _ = tl.split(tl.permute(tl.reshape(sums, (2, ONES // 2, WIDTH)), (1, 2, 0)))
    places = places[None, :] + tl.zeros((ONES // 2, 1), tl.int32)
    first = (tl.arange(0, ONES // 2)[:, None] == 0) & (places >= 0)
    tl.atomic_add(ptr + places, sums, mask=first, sem="relaxed")


@triton.jit(do_not_specialize=["first_tile", "num_rows", "share"])
def layer_product_kernel(factors_ptr, parts_ptr, first_tile, num_rows, share, D: tl.constexpr, ROWS: tl.constexpr):
    """One program: its part (D, D) of the layer's weight gradient, grown by `share` tiles of factors (rows, 2 · D)."""
    outs, ins = tl.arange(0, D)[:, None], tl.arange(0, D)[None, :]
    pointers = parts_ptr + tl.program_id(0).to(tl.int64) * (D * D) + outs * D + ins
    d_w = tl.zeros((D, D), tl.float32)
    if first_tile > 0:
        d_w = tl.load(pointers)
    begin = tl.program_id(0) * share
    rows = tl.arange(0, ROWS)
    for tile in range(begin, tl.minimum(begin + share, tl.cdiv(num_rows, ROWS))):
        at = factors_ptr + at_row(tile * ROWS, 2 * D) + rows[:, None] * (2 * D) + ins
        inside = (tile * ROWS + rows < num_rows)[:, None]
        read, d_z = tl.load(at, mask=inside, other=0.0), tl.load(at + D, mask=inside, other=0.0)
        d_w = tl.dot(tl.trans(d_z), read, d_w)
    tl.store(pointers, d_w)


@triton.jit
def load_some_heads(ptr, first, block: tl.constexpr, GROUP: tl.constexpr):
    """Keys or values of heads first … first + GROUP: (GROUP · keys, GROUP · E), zero off the diagonal blocks."""
    KEYS: tl.constexpr = block.keys
    WIDTH: tl.constexpr = GROUP * block.E
    rows, features = tl.arange(0, GROUP * KEYS), tl.arange(0, WIDTH)
    mine = (rows // KEYS)[:, None] == (features // block.E)[None, :]
    pointers = ptr + (rows % KEYS)[:, None] * block.D + (first * block.E + features)[None, :]
    return tl.load(pointers, mask=mine & (rows % KEYS < block.M)[:, None], other=0.0)


@triton.jit
def elements_and_factor(x, block: tl.constexpr):
    """What the query projection reads of a tile of elements, and the factor (rows,) that normed them."""
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    D: tl.constexpr = block.D
    factor = tl.zeros((x.shape[0],), tl.float32)
    if block.norm_input:
        standard, factor = standardise(x.to(tl.float32), D, NORM, EPS)
        x = standard.to(x.dtype)
    return x, factor


@triton.jit(do_not_specialize=["N", "num_sets", "share"])
def attention_pass_kernel(
    x, d_x, N, num_sets, k_ptr, v_ptr, w, vectors, parts_ptr, keys_ptr, d_k_ptr, d_v_ptr, share,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of `share` tiles of elements, in place of that of O, and its part of what sums up.

    Those are w_q's and its bias's, in parts_ptr (programs, D · D + D), and the keys' and values': of a set that is
    whole within the program in their place, else in keys_ptr (programs, 2, 2, M, D), first of a set that began before,
    then of one that goes on after.
    """
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    WIDTH: tl.constexpr = tiles.group * block.E
    SCORES: tl.constexpr = tiles.group * block.keys
    SIZE: tl.constexpr = block.M * D
    tile = tl.program_id(0).to(tl.int64) * share
    stop = tile + share
    b, _ = locate(tile, x, N, num_sets, ROWS)
    keys_ptr += tl.program_id(0).to(tl.int64) * (4 * SIZE)
    parts_ptr += tl.program_id(0).to(tl.int64) * (D * D + D)
    w_q = load_queries(w, vectors, block, tiles)
    d_w = tl.zeros((D, D), tl.float32)
    clear_sums(parts_ptr + D * D, 1, D)
    while (tile < stop) & (b < num_sets):
        first, last, num, elements, written = part_of_set(x, N, b, tile, stop, ROWS)
        keys, values, d_k, d_v = (), (), (), ()
        for group in tl.static_range(block.spec.num_heads // tiles.group):
            keys = keys + (load_some_heads(k_ptr + b * SIZE, group * tiles.group, block, tiles.group),)
            values = values + (load_some_heads(v_ptr + b * SIZE, group * tiles.group, block, tiles.group),)
            d_k = d_k + (tl.zeros((SCORES, WIDTH), tl.float32),)
            d_v = d_v + (tl.zeros((SCORES, WIDTH), tl.float32),)
        x_ptr, d_ptr = x.ptr + first_row(x, b) + first * D, d_x.ptr + first_row(d_x, b) + first * D
        filled = tl.cdiv(elements, ROWS)
        for i in tl.range(0, filled, disable_licm=True):
            here = i * ROWS
            d, d_w, d_k, d_v = attention_back(
                x_ptr + at_row(here, D), d_ptr + at_row(here, D), elements - here, w_q, keys, values, vectors,
                parts_ptr + D * D, d_w, d_k, d_v, block, tiles,
            )  # fmt: skip
            if x.lengths is not None:
                d = tl.where((tl.arange(0, ROWS) < elements - here)[:, None], d, 0.0)
            store_rows(d_ptr + at_row(here, D), d, written - here)
        if x.lengths is not None:
            for i in range(filled, num):
                clear_rows(d_ptr + at_row(i * ROWS, D), written - i * ROWS, D, ROWS)
        begin, end = blocks_of_set(x, N, b, ROWS)
        if (begin == tile) & (end == last):
            keep_keys(d_k_ptr + b * SIZE, d_k, block, tiles)
            keep_keys(d_v_ptr + b * SIZE, d_v, block, tiles)
        else:
            slot = keys_ptr + tl.where(begin < tile, 0, 2 * SIZE)
            keep_keys(slot, d_k, block, tiles)
            keep_keys(slot + SIZE, d_v, block, tiles)
        tile = last
        b += 1
    tl.store(parts_ptr + tl.arange(0, D)[:, None] * D + tl.arange(0, D)[None, :], d_w)


@triton.jit
def load_queries(w, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """The query projection, a tuple of (inputs, features of a group) with the gain of a norm before it.

    vectors: its bias, as `load_layers` writes it.
    """
    D: tl.constexpr = block.D
    WIDTH: tl.constexpr = tiles.group * block.E
    NORM: tl.constexpr = block.spec.norm if block.spec.norm_first else "none"
    inputs = tl.arange(0, D)
    inside = inputs < D
    weights = ()
    for group in tl.static_range(block.spec.num_heads // tiles.group):
        features = group * WIDTH + tl.arange(0, WIDTH)
        weight = load_weight(w.w_q, inputs, features, inside, features < D, D)
        weight, _shift = fold_norm(weight, inputs, inside, w.g0, w.b0, NORM)
        weights = weights + (weight,)
    return weights


@triton.jit
def attention_back(
    x_ptr, d_ptr, count, w_q, keys, values, vectors, d_b_ptr, d_w, d_k, d_v, block: tl.constexpr, tiles: tl.constexpr
):
    """The gradient of `count` elements at x_ptr (rows, D) from that of O at d_ptr; sums d_w, d_k and d_v, grown."""
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    GROUP: tl.constexpr = tiles.group
    WIDTH: tl.constexpr = GROUP * block.E
    ROWS: tl.constexpr = tiles.rows
    x = load_rows(x_ptr, count, D, ROWS, D)
    dtype: tl.constexpr = x.dtype
    read, factor = elements_and_factor(x, block)
    rows, features = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    d_qs, d_ks, d_vs = (), (), ()
    for group in tl.static_range(len(w_q)):
        pointers = d_ptr + rows[:, None] * D + (group * WIDTH + features)[None, :]
        d_o = tl.load(pointers, mask=(rows < count)[:, None], other=0.0)
        q = (tl.dot(read, w_q[group]) + tl.load(vectors + group * WIDTH + features)[None, :]).to(dtype)
        p = softmax(tl.dot(q, tl.trans(keys[group])), block, GROUP)
        # before d_p, which is as large: transposed for this product p takes registers twice
        d_vs = d_vs + (tl.dot(tl.trans(p.to(dtype)), d_o, d_v[group]),)
        d_p = tl.dot(d_o, tl.trans(values[group]))
        d_s = softmax_back(p, d_p, block, GROUP).to(dtype)
        d_ks = d_ks + (tl.dot(tl.trans(d_s), q, d_k[group]),)
        if block.spec.residual == "projected":
            d_q = tl.dot(d_s, keys[group], d_o.to(tl.float32)).to(dtype)
        else:
            d_q = tl.dot(d_s, keys[group]).to(dtype)
        add_sums(d_b_ptr + group * WIDTH, d_q, features)
        d_qs = d_qs + (d_q,)
    d_w = tl.dot(tl.trans(whole(d_qs, dtype)), read, d_w)
    d_x = tl.dot(d_qs[0], tl.trans(w_q[0]))
    for group in tl.static_range(1, len(w_q)):
        d_x = tl.dot(d_qs[group], tl.trans(w_q[group]), d_x)
    if block.norm_input:
        d_x = norm_back(d_x, read.to(tl.float32), factor, NORM)
    if block.spec.residual == "input":
        d_x += load_rows(d_ptr, count, D, ROWS, D).to(tl.float32)
    return d_x, d_w, d_ks, d_vs


@triton.jit
def softmax_back(p, d_p, block: tl.constexpr, GROUP: tl.constexpr):
    """Gradient of the unscaled scores of a group (rows, GROUP · keys), from probabilities and their gradient."""
    ROWS: tl.constexpr = p.shape[0]
    KEYS: tl.constexpr = block.keys
    share = tl.sum(tl.reshape(p * d_p, (ROWS, GROUP, KEYS)), 2)
    d_p = tl.reshape(tl.reshape(d_p, (ROWS, GROUP, KEYS)) - share[:, :, None], (ROWS, GROUP * KEYS))
    return p * d_p * block.scale


@triton.jit
def keep_keys(ptr, tiles_of_groups, block: tl.constexpr, tiles: tl.constexpr):
    """Store the diagonal blocks of every group's (keys, features) in their heads' places of (M, D) at ptr."""
    KEYS: tl.constexpr = block.keys
    WIDTH: tl.constexpr = tiles.group * block.E
    rows, features = tl.arange(0, tiles.group * KEYS), tl.arange(0, WIDTH)
    mine = (rows // KEYS)[:, None] == (features // block.E)[None, :]
    for group in tl.static_range(len(tiles_of_groups)):
        pointers = ptr + (rows % KEYS)[:, None] * block.D + (group * WIDTH + features)[None, :]
        found = tiles_of_groups[group].to(ptr.dtype.element_ty)
        tl.store(pointers, found, mask=mine & (rows % KEYS < block.M)[:, None])
