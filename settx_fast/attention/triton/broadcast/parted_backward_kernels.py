"""Stage B backwards in five steps a chunk of rows, for pre-norm blocks that `parted_kernels` computes.

`attend_again` makes queries and attended values and standardises the rows that the hidden layer reads; `hidden_back`
goes back through both layers, a part of the hidden features a program; `norm_back` through the norm before them and the
output projection; `keys_back` through attention, a head and run a program; `queries_back` to the elements. The gradient
of O lies in the memory of the elements' gradient, other gradients in place of what they are made of.

Programs but those of `keys_back` walk over tiles and keep the gradients of the weights they hold, which they add to
theirs of earlier chunks. Weights have the gain of the norm before them, see `fold_norm`; `gradient_kernels` takes it
out.
Temporaries hold a chunk's runs one after another: see `part_of_set`.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from settx_fast.attention.triton.broadcast.parted_kernels import load_head, load_queries
from settx_fast.attention.triton.broadcast.pieces import whole
from settx_fast.attention.triton.halving import pieces_of
from settx_fast.attention.triton.primitives import (
    LN2,
    LOG2_E,
    activate_with_slope,
    load_vector,
    load_weight,
    log2,
    reciprocal,
    standardise,
)
from settx_fast.attention.triton.sets import elements_of_block, first_row, locate
from settx_fast.attention.triton.walk import (
    add_to,
    at_row,
    clear_rows,
    fold_norm,
    load_rows,
    norm_back,
    part_of_set,
    store_rows,
    tiles_of_program,
)

ONES: tl.constexpr = tl.constexpr(16)  # columns of ones, with which a product sums rows up


class Chunk(NamedTuple):
    """Temporaries of one chunk, (rows, D) unless said. The gradient of q comes to lie where q did."""

    q: Tensor  # times the scale, in units of log₂
    a: Tensor  # attended values
    u: Tensor  # standardised: what the hidden layer reads
    d_a: Tensor  # before it, a part of u's
    factor: Tensor  # (rows,) fp32: what standardised u
    lse: Tensor  # (H, rows) fp32: log₂ of the sums of 2^scores
    delta: Tensor  # (H, rows) fp32: Σ a ∘ dA of a head


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "per", "share"])
def attend_again_kernel(
    x, N, num_sets, first_tile, num_tiles, per, share, k_ptr, v_ptr, w, bias, chunk, stride,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """Queries, attended values and what the hidden layer reads of `share` tiles; chunk.lse has rows `stride` long."""
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    H: tl.constexpr = block.spec.num_heads
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, tl.program_id(0), ROWS, per)
    w_q = load_queries(w, bias, block, D)
    features = tl.arange(0, D)
    w_p = load_weight(w.w_p, features, features, features < D, features < D, D)
    while (tile < stop) & (b < num_sets):
        first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, ROWS, per)
        keys, values = (), ()
        for h in tl.static_range(H):
            keys = keys + (tl.trans(load_head(k_ptr + b * (block.M * D), h, block)),)
            values = values + (load_head(v_ptr + b * (block.M * D), h, block),)
        x_ptr, at = x.ptr + first_row(x, b) + first * D, (tile - first_tile) * ROWS
        for i in range(0, tl.cdiv(elements, ROWS)):
            here = i * ROWS
            attend_tile(
                x_ptr + at_row(here, D), elements - here, w_q, w_p, keys, values, w, bias,
                chunk, at + here, stride, block, tiles,
            )  # fmt: skip
        tile = last
        b += 1


@triton.jit
def attend_tile(
    x_ptr, count, w_q, w_p, keys, values, w, bias, chunk, at, stride, block: tl.constexpr, tiles: tl.constexpr
):
    """One tile of `count` rows at x_ptr, kept from row `at` (int64) of the temporaries on."""
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    SCALE: tl.constexpr = block.scale * LOG2_E
    ROWS: tl.constexpr = tiles.rows
    D: tl.constexpr = block.D
    E: tl.constexpr = block.E
    H: tl.constexpr = block.spec.num_heads
    features, rows = tl.arange(0, D), tl.arange(0, ROWS)
    inside = rows < count
    x = load_rows(x_ptr, count, D, ROWS, D)
    dtype: tl.constexpr = x.dtype
    if block.norm_input:
        x = standardise(x.to(tl.float32), D, NORM, EPS)[0].to(dtype)
    q = (tl.dot(x, w_q) * SCALE + tl.load(bias + features)[None, :]).to(dtype)
    store_rows(chunk.q + at * D, q, count)
    queries, heads = pieces_of(q, E), ()
    for h in tl.static_range(H):
        a, lse = attend_head(queries[h], keys[h], values[h], block)
        tl.store(chunk.lse + h * stride + at + rows, lse, mask=inside)
        heads = heads + (a,)
    a = whole(heads, dtype)
    store_rows(chunk.a + at * D, a, count)
    # the elements again: registers have no room for them meanwhile
    o = load_rows(x_ptr, count, D, ROWS, D).to(tl.float32) + load_vector(w.b_p, features, features < D)[None, :]
    o = tl.dot(a, w_p) + o
    if NORM != "none":
        o, factor = standardise(o, D, NORM, EPS)
        tl.store(chunk.factor + at + rows, factor, mask=inside)
    store_rows(chunk.u + at * D, o, count)


@triton.jit
def attend_head(q, k, v, block: tl.constexpr):
    """softmax(q k) v of one head in the type of v, and log₂ of the sum of 2^scores; k (E, keys), v (keys, E)."""
    s = tl.dot(q, k)
    if block.keys > block.M:
        s = tl.where((tl.arange(0, block.keys) < block.M)[None, :], s, float("-inf"))
    top = tl.max(s, 1)
    p = tl.exp2(s - top[:, None])
    total = tl.sum(p, 1)
    a = tl.dot(p.to(v.dtype), v) * reciprocal(total)[:, None]
    return a.to(v.dtype), top + log2(total)


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "per", "share"])
def hidden_back_kernel(
    x, grad, d_x, N, num_sets, first_tile, num_tiles, per, share, w, folded_ptr, chunk, parts_ptr, width,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """Back through both layers: one part of the hidden features, `share` tiles a program.

    The gradient of what the hidden layer reads goes to d_x, a second part's share of it to chunk.d_a. parts_ptr
    (programs of a part, width): gradients of w_o (F, D), w_o2 (D, F) and b_o (F,). folded_ptr (F, D): room for w_o with
    the norm's gain, the same for all programs.
    """
    ROWS: tl.constexpr = tiles.step
    D: tl.constexpr = block.D
    F: tl.constexpr = block.spec.ffn_dim
    HIDDEN: tl.constexpr = tiles.hidden
    NORM: tl.constexpr = block.spec.norm
    ACTIVATION: tl.constexpr = block.spec.activation
    program, part = tl.program_id(0) // (F // HIDDEN), tl.program_id(0) % (F // HIDDEN)
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, program, tiles.rows, per)
    features, hidden = tl.arange(0, D), part * HIDDEN + tl.arange(0, HIDDEN)
    w_o = load_weight(w.w_o, features, hidden, features < D, hidden < F, D)
    w_o, shift = fold_norm(w_o, features, features < D, w.g1, w.b1, NORM)
    # a product's left side stays in shared memory if it was read from memory, else in registers
    tl.store(folded_ptr + hidden[None, :] * D + features[:, None], w_o)
    tl.debug_barrier()
    # (HIDDEN, D)
    w_o = tl.load(folded_ptr + hidden[:, None] * D + features[None, :])
    w_o2 = load_weight(w.w_o2, hidden, features, hidden < F, features < D, F)
    bias = load_vector(w.b_o, hidden, hidden < F) + shift
    d_w = tl.zeros((HIDDEN, D), tl.float32)
    d_w2 = tl.zeros((HIDDEN, D), tl.float32)
    d_b = tl.zeros((HIDDEN,), tl.float32)
    while (tile < stop) & (b < num_sets):
        first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, tiles.rows, per)
        at = (tile - first_tile) * tiles.rows
        grad_ptr = grad.ptr + first_row(grad, b) + first * D
        d_u_ptr = chunk.d_a + at * D
        if part == 0:
            d_u_ptr = d_x.ptr + first_row(d_x, b) + first * D
        for i in range(0, tl.cdiv(elements, ROWS)):
            here, count = i * ROWS, elements - i * ROWS
            u = load_rows(chunk.u + at * D + at_row(here, D), count, D, ROWS, D)
            d_y = load_rows(grad_ptr + at_row(here, D), count, D, ROWS, D)
            # (HIDDEN, rows)
            z = tl.dot(w_o, tl.trans(u)) + bias[:, None]
            active, slope = activate_with_slope(z, ACTIVATION)
            d_z = tl.dot(w_o2, tl.trans(d_y)) * slope
            d_w2 = tl.dot(active.to(u.dtype), d_y, d_w2)
            d_b += tl.sum(d_z, 1)
            d_z = d_z.to(u.dtype)
            d_w = tl.dot(d_z, u, d_w)
            store_rows(d_u_ptr + at_row(here, D), tl.dot(tl.trans(d_z), w_o), count)
        tile = last
        b += 1
    parts_ptr += tl.cast(program, tl.int64) * width
    own = hidden[:, None] * D + features[None, :]
    add_to(parts_ptr + own, d_w)
    add_to(parts_ptr + F * D + features[None, :] * F + hidden[:, None], d_w2)
    add_to(parts_ptr + 2 * F * D + hidden, d_b)


@triton.jit
def sum_of(products):
    """The sums of rows that every column of products (·, ONES) holds."""
    return tl.sum(tl.where((tl.arange(0, ONES) == 0)[None, :], products, 0.0), 1)


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "per", "share"])
def norm_back_kernel(
    x, grad, d_x, N, num_sets, first_tile, num_tiles, per, share, w, chunk, stride, parts_ptr, width,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """Back through the norm before the layers to O, and through the output projection to attended values.

    parts_ptr (programs, width): gradients of w_p (D, D), b_p and b_o2 (D,).
    """
    ROWS: tl.constexpr = tiles.step
    D: tl.constexpr = block.D
    H: tl.constexpr = block.spec.num_heads
    NORM: tl.constexpr = block.spec.norm
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, tl.program_id(0), tiles.rows, per)
    features, rows = tl.arange(0, D), tl.arange(0, ROWS)
    # (outputs, inputs)
    w_p = tl.load(w.w_p + features[:, None] * D + features[None, :])
    ones = tl.full((ROWS, ONES), 1.0, w_p.dtype)
    d_w = tl.zeros((D, D), tl.float32)
    d_b = tl.zeros((D, ONES), tl.float32)
    d_b2 = tl.zeros((D, ONES), tl.float32)
    while (tile < stop) & (b < num_sets):
        first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, tiles.rows, per)
        at = (tile - first_tile) * tiles.rows
        grad_ptr = grad.ptr + first_row(grad, b) + first * D
        d_o_ptr = d_x.ptr + first_row(d_x, b) + first * D
        for i in range(0, tl.cdiv(elements, ROWS)):
            here, count = i * ROWS, elements - i * ROWS
            place = at * D + at_row(here, D)
            d = load_rows(d_o_ptr + at_row(here, D), count, D, ROWS, D).to(tl.float32)
            if block.spec.ffn_dim > tiles.hidden:
                d += load_rows(chunk.d_a + place, count, D, ROWS, D).to(tl.float32)
            d_y = load_rows(grad_ptr + at_row(here, D), count, D, ROWS, D)
            a = load_rows(chunk.a + place, count, D, ROWS, D)
            if NORM != "none":
                u = load_rows(chunk.u + place, count, D, ROWS, D).to(tl.float32)
                factor = tl.load(chunk.factor + at + here + rows, mask=rows < count, other=0.0)
                d = norm_back(d, u, factor, NORM)
            d_o = (d + d_y.to(tl.float32)).to(w_p.dtype)
            store_rows(d_o_ptr + at_row(here, D), d_o, count)
            d_a = tl.dot(d_o, w_p)
            d_w = tl.dot(tl.trans(d_o), a, d_w)
            d_b = tl.dot(tl.trans(d_o), ones, d_b)
            d_b2 = tl.dot(tl.trans(d_y), ones, d_b2)
            # (rows, H)
            delta = tl.sum(tl.reshape(d_a * a.to(tl.float32), (ROWS, H, block.E)), 2)
            pointers = chunk.delta + tl.arange(0, H)[None, :] * stride + (at + here + rows)[:, None]
            tl.store(pointers, delta, mask=(rows < count)[:, None])
            store_rows(chunk.d_a + place, d_a, count)
        tile = last
        b += 1
    parts_ptr += tl.program_id(0).to(tl.int64) * width
    add_to(parts_ptr + features[:, None] * D + features[None, :], d_w)
    add_to(parts_ptr + D * D + features, sum_of(d_b))
    add_to(parts_ptr + D * D + D + features, sum_of(d_b2))


@triton.jit(do_not_specialize=["N", "num_sets", "first_run"])
def keys_back_kernel(
    x, N, num_sets, first_run, run_rows, k_ptr, v_ptr, chunk, stride, sums_ptr, block: tl.constexpr, tiles: tl.constexpr
):
    """One head of one run: gradients of its queries, in their place, and the run's share of its set's.

    sums_ptr (runs, 2, M, D): those of keys and values.
    """
    ROWS: tl.constexpr = tiles.step
    KEYS: tl.constexpr = tiles.keys
    D: tl.constexpr = block.D
    E: tl.constexpr = block.E
    H: tl.constexpr = block.spec.num_heads
    PARTS: tl.constexpr = block.keys // KEYS
    run, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    b, first = locate(first_run + run, x, N, num_sets, run_rows)
    keys, values, d_k, d_v = (), (), (), ()
    for part in tl.static_range(PARTS):
        keys = keys + (load_keys(k_ptr + b * (block.M * D), h, part, block, tiles),)
        values = values + (load_keys(v_ptr + b * (block.M * D), h, part, block, tiles),)
        d_k = d_k + (tl.zeros((KEYS, E), tl.float32),)
        d_v = d_v + (tl.zeros((KEYS, E), tl.float32),)
    rows, features = tl.arange(0, ROWS), tl.arange(0, E)
    place = rows[:, None] * D + (h * E + features)[None, :]
    elements = elements_of_block(x, N, b, first, run_rows)
    for start in range(0, elements, ROWS):
        inside, at = start + rows < elements, run * run_rows + start
        q = tl.load(chunk.q + at * D + place, mask=inside[:, None], other=0.0)
        d_a = tl.load(chunk.d_a + at * D + place, mask=inside[:, None], other=0.0)
        lse = tl.load(chunk.lse + h * stride + at + rows, mask=inside, other=float("inf"))
        delta = tl.load(chunk.delta + h * stride + at + rows, mask=inside, other=0.0)
        d_q, d_k, d_v = head_back(q, d_a, lse, delta, keys, values, d_k, d_v, block, tiles)
        tl.store(chunk.q + at * D + place, (d_q * block.scale).to(q.dtype), mask=inside[:, None])
    sums_ptr += run * (2 * block.M * D)
    for part in tl.static_range(PARTS):
        numbers = part * KEYS + tl.arange(0, KEYS)
        place = numbers[:, None] * D + (h * E + features)[None, :]
        tl.store(sums_ptr + place, d_k[part] * LN2, mask=(numbers < block.M)[:, None])
        tl.store(sums_ptr + block.M * D + place, d_v[part], mask=(numbers < block.M)[:, None])


@triton.jit
def load_keys(ptr, h, part, block: tl.constexpr, tiles: tl.constexpr):
    """Part of the keys or values (M, D) of a head: (tiles.keys, E)."""
    numbers, features = part * tiles.keys + tl.arange(0, tiles.keys), tl.arange(0, block.E)
    pointers = ptr + numbers[:, None] * block.D + (h * block.E + features)[None, :]
    return tl.load(pointers, mask=(numbers < block.M)[:, None], other=0.0)


@triton.jit
def head_back(q, d_a, lse, delta, keys, values, d_k, d_v, block: tl.constexpr, tiles: tl.constexpr):
    """Gradient of a tile's queries without their scale (rows, E); those of keys and values, grown."""
    KEYS: tl.constexpr = tiles.keys
    d_q = tl.zeros(q.shape, tl.float32)
    more_k, more_v = (), ()
    for part in tl.static_range(len(keys)):
        # (KEYS, rows)
        p = tl.exp2(tl.dot(keys[part], tl.trans(q)) - lse[None, :])
        if block.keys > block.M:
            p = tl.where((part * KEYS + tl.arange(0, KEYS) < block.M)[:, None], p, 0.0)
        d_s = (p * (tl.dot(values[part], tl.trans(d_a)) - delta[None, :])).to(q.dtype)
        more_v = more_v + (tl.dot(p.to(q.dtype), d_a, d_v[part]),)
        more_k = more_k + (tl.dot(d_s, q, d_k[part]),)
        d_q = tl.dot(tl.trans(d_s), keys[part], d_q)
    return d_q, more_k, more_v


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "per", "share"])
def queries_back_kernel(
    x, d_x, N, num_sets, first_tile, num_tiles, per, share, w, chunk, parts_ptr, width,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """The gradient of the elements in place of O's, zero outside the sets.

    parts_ptr (programs, width): gradients of w_q (D, D) and b_q (D,).
    """
    ROWS: tl.constexpr = tiles.step
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, tl.program_id(0), tiles.rows, per)
    features = tl.arange(0, D)
    w_q = load_weight(w.w_q, features, features, features < D, features < D, D)
    w_q, _shift = fold_norm(w_q, features, features < D, w.g0, w.b0, NORM)
    # turned here: what is turned in a loop goes to shared memory anew for every tile
    w_q = tl.trans(w_q)
    ones = tl.full((ROWS, ONES), 1.0, w_q.dtype)
    d_w = tl.zeros((D, D), tl.float32)
    d_b = tl.zeros((D, ONES), tl.float32)
    while (tile < stop) & (b < num_sets):
        first, last, num, elements, written = part_of_set(x, N, b, tile, stop, tiles.rows, per)
        at = (tile - first_tile) * tiles.rows
        x_ptr, d_ptr = x.ptr + first_row(x, b) + first * D, d_x.ptr + first_row(d_x, b) + first * D
        filled = tl.cdiv(elements, ROWS)
        for i in range(0, filled):
            here, count = i * ROWS, elements - i * ROWS
            d_q = load_rows(chunk.q + at * D + at_row(here, D), count, D, ROWS, D)
            d_o = load_rows(d_ptr + at_row(here, D), count, D, ROWS, D)
            read = load_rows(x_ptr + at_row(here, D), count, D, ROWS, D).to(tl.float32)
            d = tl.dot(d_q, w_q)
            if block.norm_input:
                read, factor = standardise(read, D, NORM, EPS)
                d = norm_back(d, read, factor, NORM)
            d_w = tl.dot(tl.trans(d_q), read.to(d_q.dtype), d_w)
            d_b = tl.dot(tl.trans(d_q), ones, d_b)
            # zero in rows that are no elements: theirs are zero
            store_rows(d_ptr + at_row(here, D), d + d_o.to(tl.float32), written - here)
        if x.lengths is not None:
            for i in range(filled, num * (tiles.rows // ROWS)):
                clear_rows(d_ptr + at_row(i * ROWS, D), written - i * ROWS, D, ROWS)
        tile = last
        b += 1
    parts_ptr += tl.program_id(0).to(tl.int64) * width
    add_to(parts_ptr + features[:, None] * D + features[None, :], d_w)
    add_to(parts_ptr + D * D + features, sum_of(d_b))
