"""Stage B backwards in two passes of persistent programs, for blocks that `resident_kernels` computes.

`layers_pass` makes attention again and goes back through norms and the layer to the gradient of O, which lies in the
memory of the elements' gradient; `attention_pass` goes on from there to queries, keys, values and elements. What sums
over rows stays with a program while it walks over its tiles: the gradients of both weights, and of a set's keys and
values. Weights have the gain of the norm before them, see `fold_norm`; `gradient_kernels` adds up the programs'
parts and takes the gains out again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.broadcast.forward_kernels import softmax
from settx_fast.attention.triton.broadcast.pieces import keep_vector
from settx_fast.attention.triton.primitives import (
    activate,
    activation_slope,
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
    load_strided_rows,
    norm_back,
    part_of_set,
    prefetch_rows,
    store_rows,
)

# places of a program's sums of columns, each D wide, behind those of both weights; B_Q is the attention pass's
B_Q, B_O, G0, B0, G1, B1 = (tl.constexpr(i) for i in range(6))
SUMS = 6
ONES: tl.constexpr = tl.constexpr(16)  # rows of ones, with which a product sums columns up


@triton.jit(do_not_specialize=["N", "num_sets", "share"])
def layers_pass_kernel(
    x, grad, d_o, N, num_sets, k_ptr, v_ptr, w, vectors, parts_ptr, stride, share,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of O for `share` tiles of rows, and its part of what those of w_o and norms sum up.

    vectors (5, D) in fp32 for all programs: see `load_layers`.
    """
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    tile = tl.program_id(0).to(tl.int64) * share
    stop = tile + share
    b, _ = locate(tile, x, N, num_sets, ROWS)
    w_q, w_o = load_layers(w, vectors, block)
    parts_ptr += tl.program_id(0).to(tl.int64) * stride + D * D
    sums_ptr = parts_ptr + D * D
    clear_sums(sums_ptr, D)
    # registers have no room for the gradient of w_o: it grows in memory
    outs, ins = tl.arange(0, D)[:, None], tl.arange(0, D)[None, :]
    d_w_ptr = parts_ptr + outs * D + ins
    tl.store(d_w_ptr, tl.zeros((D, D), tl.float32))
    tl.debug_barrier()
    d_b = tl.zeros((ONES, D), tl.float32)
    d_b1 = tl.zeros((ONES, D), tl.float32)
    while (tile < stop) & (b < num_sets):
        first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, ROWS)
        keys = load_all_heads(k_ptr + b * (block.M * D), block)
        values = load_all_heads(v_ptr + b * (block.M * D), block)
        x_ptr, d_o_ptr = x.ptr + first_row(x, b) + first * D, d_o.ptr + first_row(d_o, b) + first * D
        grad_ptr = grad.ptr + first_row(grad, b) + first * grad.row_stride
        filled = tl.cdiv(elements, ROWS)
        for i in range(0, filled):
            ahead, here = tl.minimum(i + 1, filled - 1) * ROWS, i * ROWS
            prefetch_rows(x_ptr + at_row(ahead, D), elements - ahead, D, ROWS, D)
            o = attend_again(x_ptr + at_row(here, D), elements - here, w_q, keys, values, vectors, block, tiles)
            grad_tile_ptr = grad_ptr + tl.cast(here, tl.int64) * grad.row_stride
            d_tile, d_z, read, d_b, d_b1 = layers_back(
                o, grad_tile_ptr, grad.row_stride, elements - here, w_o, vectors, sums_ptr, d_b, d_b1, block, tiles
            )
            store_rows(d_o_ptr + at_row(here, D), d_tile, elements - here)
            tl.store(d_w_ptr, tl.dot(tl.trans(d_z), read, tl.load(d_w_ptr)))
            tl.debug_barrier()
        tile = last
        b += 1
    keep_ones(sums_ptr + B_O * D, d_b)
    if not block.spec.norm_first and block.spec.norm == "layer":
        keep_ones(sums_ptr + B1 * D, d_b1)


@triton.jit
def clear_sums(sums_ptr, D: tl.constexpr):
    """Zero this program's sums of columns that are added up in memory."""
    columns = tl.arange(0, D)
    for place in tl.static_range(G0, B1 + 1):
        tl.store(sums_ptr + place * D + columns, tl.zeros((D,), tl.float32))
    tl.debug_barrier()


@triton.jit
def load_layers(w, vectors, block: tl.constexpr):
    """Both weights (inputs, outputs) with the gains of the norms before them.

    vectors: the biases of both weights with what those norms bring, then g0, b0 and g1 where rows are normed that are
    more than read.
    """
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    features = tl.arange(0, D)
    inside = features < D
    w_q = load_weight(w.w_q, features, features, inside, inside, D)
    w_o = load_weight(w.w_o, features, features, inside, inside, D)
    if block.spec.norm_first:
        w_q, shift = fold_norm(w_q, features, inside, w.g0, w.b0, NORM)
        w_o, shift_o = fold_norm(w_o, features, inside, w.g1, w.b1, NORM)
    else:
        shift = tl.zeros((D,), tl.float32)
        w_o, shift_o = fold_norm(w_o, features, inside, w.g0, w.b0, NORM)
        keep_vector(vectors + 2 * D, w.g0, D)
        keep_vector(vectors + 3 * D, w.b0, D)
        keep_vector(vectors + 4 * D, w.g1, D)
    tl.store(vectors + features, load_vector(w.b_q, features, inside) + shift)
    tl.store(vectors + D + features, load_vector(w.b_o, features, inside) + shift_o)
    tl.debug_barrier()
    return w_q, w_o


@triton.jit
def load_all_heads(ptr, block: tl.constexpr):
    """Keys or values (M, D) of a set: (heads · keys, D), zero off the diagonal blocks."""
    HEADS: tl.constexpr = block.spec.num_heads
    return load_some_heads(ptr, 0, block, HEADS)


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
def keep_ones(ptr, products):
    """Store sums of columns: every row of products (ONES, columns) has them."""
    WIDTH: tl.constexpr = products.shape[1]
    first = tl.arange(0, ONES)[:, None] == 0
    tl.store(ptr + tl.arange(0, WIDTH), tl.sum(tl.where(first, products, 0.0), 0))


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


@triton.jit
def attend_again(x_ptr, count, w_q, keys, values, vectors, block: tl.constexpr, tiles: tl.constexpr):
    """O of `count` rows at x_ptr: (rows, D) in fp32."""
    D: tl.constexpr = block.D
    HEADS: tl.constexpr = block.spec.num_heads
    x = load_rows(x_ptr, count, D, tiles.rows, D)
    read, _ = elements_and_factor(x, block)
    q = tl.dot(read, w_q) + tl.load(vectors + tl.arange(0, D))[None, :]
    p = softmax(tl.dot(q.to(x.dtype), tl.trans(keys)), block, HEADS)
    o = tl.dot(p.to(x.dtype), values, x.to(tl.float32) if block.spec.residual == "input" else q)
    return o


@triton.jit
def layers_back(
    o, grad_ptr, grad_stride, count, w_o, vectors, sums_ptr, d_b, d_b1, block: tl.constexpr, tiles: tl.constexpr
):
    """The gradient of a tile o (rows, D), that of the layer before its activation, what the layer read,

    and sums of columns that grow: d_b and d_b1 (ONES, D).
    """
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    ACTIVATION: tl.constexpr = block.spec.activation
    AFTER: tl.constexpr = NORM != "none" and not block.spec.norm_first
    ROWS: tl.constexpr = tiles.rows
    dtype: tl.constexpr = w_o.dtype
    columns = tl.arange(0, D)
    ones = tl.full((ONES, ROWS), 1.0, dtype)
    standard, factor = o, tl.zeros((ROWS,), tl.float32)
    if NORM != "none":
        standard, factor = standardise(o, D, NORM, EPS)
    z = tl.dot(standard.to(dtype), w_o) + tl.load(vectors + D + columns)[None, :]
    # registers keep a standardised row and the activation's slope as one number
    kept = pack_halves(standard, activation_slope(z, ACTIVATION), dtype)
    if AFTER:
        y = standard * tl.load(vectors + 2 * D + columns)[None, :] + activate(z, ACTIVATION)
        if NORM == "layer":
            y += tl.load(vectors + 3 * D + columns)[None, :]
        y, factor1 = standardise(y, D, NORM, EPS)
    d_y = load_strided_rows(grad_ptr, grad_stride, count, D, ROWS)
    d = d_y.to(tl.float32)
    if AFTER:
        add_columns(sums_ptr + G1 * D, d * y)
        if NORM == "layer":
            d_b1 = tl.dot(ones, d_y, d_b1)
        d = norm_back(d * tl.load(vectors + 4 * D + columns)[None, :], y, factor1, NORM)
    d_z = (d * unpack_low(kept, dtype)).to(dtype)
    standard = unpack_high(kept, dtype)
    d_b = tl.dot(ones, d_z, d_b)
    if AFTER:
        add_columns(sums_ptr + G0 * D, d * standard)
        if NORM == "layer":
            add_columns(sums_ptr + B0 * D, d)
        d *= tl.load(vectors + 2 * D + columns)[None, :]
        d = norm_back(tl.dot(d_z, tl.trans(w_o), d), standard, factor, NORM)
    elif NORM != "none":
        d += norm_back(tl.dot(d_z, tl.trans(w_o)), standard, factor, NORM)
    else:
        d = tl.dot(d_z, tl.trans(w_o), d)
    return d, d_z, standard.to(dtype), d_b, d_b1


@triton.jit
def add_columns(ptr, tile):
    """Add the sums of a tile's columns to ptr, which belongs to this program."""
    columns = tl.arange(0, tile.shape[1])
    tl.store(ptr + columns, tl.load(ptr + columns) + tl.sum(tile, 0))


@triton.jit(do_not_specialize=["N", "num_sets", "share"])
def attention_pass_kernel(
    x, d_x, N, num_sets, k_ptr, v_ptr, w, vectors, parts_ptr, stride, keys_ptr, d_k_ptr, d_v_ptr, share,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of `share` tiles of elements, in place of that of O, and its part of what sums up.

    Those are w_q's, and the keys' and values': of a set that is whole within the program in their place, else in
    keys_ptr (programs, 2, 2, M, D), first of a set that began before, then of one that goes on after.
    """
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    WIDTH: tl.constexpr = tiles.group * block.E
    GROUPS: tl.constexpr = block.spec.num_heads // tiles.group
    SCORES: tl.constexpr = tiles.group * block.keys
    SIZE: tl.constexpr = block.M * D
    tile = tl.program_id(0).to(tl.int64) * share
    stop = tile + share
    b, _ = locate(tile, x, N, num_sets, ROWS)
    keys_ptr += tl.program_id(0).to(tl.int64) * (4 * SIZE)
    w_q = load_queries(w, vectors, block, tiles)
    d_w, d_b = (), ()
    for _ in tl.static_range(GROUPS):
        d_w = d_w + (tl.zeros((WIDTH, D), tl.float32),)
        d_b = d_b + (tl.zeros((ONES, WIDTH), tl.float32),)
    while (tile < stop) & (b < num_sets):
        first, last, num, elements, written = part_of_set(x, N, b, tile, stop, ROWS)
        keys, values, d_k, d_v = (), (), (), ()
        for group in tl.static_range(GROUPS):
            keys = keys + (load_some_heads(k_ptr + b * SIZE, group * tiles.group, block, tiles.group),)
            values = values + (load_some_heads(v_ptr + b * SIZE, group * tiles.group, block, tiles.group),)
            d_k = d_k + (tl.zeros((SCORES, WIDTH), tl.float32),)
            d_v = d_v + (tl.zeros((SCORES, WIDTH), tl.float32),)
        x_ptr, d_ptr = x.ptr + first_row(x, b) + first * D, d_x.ptr + first_row(d_x, b) + first * D
        filled = tl.cdiv(elements, ROWS)
        for i in range(0, filled):
            ahead, here = tl.minimum(i + 1, filled - 1) * ROWS, i * ROWS
            prefetch_rows(x_ptr + at_row(ahead, D), elements - ahead, D, ROWS, D)
            prefetch_rows(d_ptr + at_row(ahead, D), elements - ahead, D, ROWS, D)
            d, d_w, d_b, d_k, d_v = attention_back(
                x_ptr + at_row(here, D), d_ptr + at_row(here, D), elements - here, w_q, keys, values, vectors,
                d_w, d_b, d_k, d_v, block, tiles,
            )  # fmt: skip
            if x.lengths is not None:
                d = tl.where((tl.arange(0, ROWS) < elements - here)[:, None], d, 0.0)
            store_rows(d_ptr + at_row(here, D), d, written - here)
        if x.lengths is not None:
            for i in range(filled, num):
                clear_rows(d_ptr + at_row(i * ROWS, D), written - i * ROWS, D, ROWS)
        begin, end = blocks_of_set(x, N, b, ROWS)
        whole = (begin == tile) & (end == last)
        if whole:
            keep_keys(d_k_ptr + b * SIZE, d_k, block, tiles)
            keep_keys(d_v_ptr + b * SIZE, d_v, block, tiles)
        else:
            slot = keys_ptr + tl.where(begin < tile, 0, 2 * SIZE)
            keep_keys(slot, d_k, block, tiles)
            keep_keys(slot + SIZE, d_v, block, tiles)
        tile = last
        b += 1
    parts_ptr += tl.program_id(0).to(tl.int64) * stride
    features, ins = tl.arange(0, WIDTH), tl.arange(0, D)
    for group in tl.static_range(GROUPS):
        outs = group * WIDTH + features
        tl.store(parts_ptr + outs[:, None] * D + ins[None, :], d_w[group])
        keep_ones(parts_ptr + 2 * D * D + B_Q * D + group * WIDTH, d_b[group])


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
    x_ptr, d_ptr, count, w_q, keys, values, vectors, d_w, d_b, d_k, d_v, block: tl.constexpr, tiles: tl.constexpr
):
    """The gradient of `count` elements at x_ptr (rows, D) from that of O at d_ptr; sums of every group, grown."""
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    GROUP: tl.constexpr = tiles.group
    WIDTH: tl.constexpr = GROUP * block.E
    ROWS: tl.constexpr = tiles.rows
    x = load_rows(x_ptr, count, D, ROWS, D)
    dtype: tl.constexpr = x.dtype
    read, factor = elements_and_factor(x, block)
    ones = tl.full((ONES, ROWS), 1.0, dtype)
    rows, features = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    d_qs, d_ws, d_bs, d_ks, d_vs = (), (), (), (), ()
    for group in tl.static_range(len(w_q)):
        pointers = d_ptr + rows[:, None] * D + (group * WIDTH + features)[None, :]
        d_o = tl.load(pointers, mask=(rows < count)[:, None], other=0.0)
        q = (tl.dot(read, w_q[group]) + tl.load(vectors + group * WIDTH + features)[None, :]).to(dtype)
        p = softmax(tl.dot(q, tl.trans(keys[group])), block, GROUP)
        d_p = tl.dot(d_o, tl.trans(values[group]))
        d_s = softmax_back(p, d_p, block, GROUP).to(dtype)
        d_vs = d_vs + (tl.dot(tl.trans(p.to(dtype)), d_o, d_v[group]),)
        d_ks = d_ks + (tl.dot(tl.trans(d_s), q, d_k[group]),)
        if block.spec.residual == "projected":
            d_q = tl.dot(d_s, keys[group], d_o.to(tl.float32)).to(dtype)
        else:
            d_q = tl.dot(d_s, keys[group]).to(dtype)
        d_ws = d_ws + (tl.dot(tl.trans(d_q), read, d_w[group]),)
        d_bs = d_bs + (tl.dot(ones, d_q, d_b[group]),)
        d_qs = d_qs + (d_q,)
    d_x = tl.dot(d_qs[0], tl.trans(w_q[0]))
    for group in tl.static_range(1, len(w_q)):
        d_x = tl.dot(d_qs[group], tl.trans(w_q[group]), d_x)
    if block.norm_input:
        d_x = norm_back(d_x, read.to(tl.float32), factor, NORM)
    if block.spec.residual == "input":
        d_x += load_rows(d_ptr, count, D, ROWS, D).to(tl.float32)
    return d_x, d_ws, d_bs, d_ks, d_vs


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
