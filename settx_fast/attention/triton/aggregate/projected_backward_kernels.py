"""Gradients of stage A's pass over projected elements, three steps a chunk of rows.

`project` makes keys and values of a chunk; `scores_back`, a head a program, puts their gradients in their place and
keeps the queries'; `project_back` goes on to the elements and keeps the gradients of both projections.

A norm before the projections is folded into them (`fold_norm`), its bias left out of keys and values: what it adds to a
query's scores and to dP is the same for all elements, so that it is taken off the query's log₂-sum-exp and δ.
`unfold_kernel` takes the gain out again. Over all elements of a set, dK sums to zero and dV to dO (probabilities sum
to one, score gradients to zero): what the norm's bias brings needs no pass over rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.halving import beside
from settx_fast.attention.triton.primitives import LN2, load_vector, load_weight, standardise
from settx_fast.attention.triton.sets import first_row
from settx_fast.attention.triton.walk import (
    add_to,
    at_row,
    fold_norm,
    load_rows,
    norm_back,
    part_of_set,
    store_rows,
    tiles_of_program,
)

NOWHERE: tl.constexpr = tl.constexpr(32768.0)  # 2^−NOWHERE is no probability, and a half holds it


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "share"])
def project_kernel(
    x, N, num_sets, first_tile, num_tiles, share, w, projected_ptr,
    spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Keys and values of `share` tiles: projected (rows, 2 · D)."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, tl.program_id(0), ROWS)
    w_k, w_v = load_projection(w.w_k, w, NORM, C, D), load_projection(w.w_v, w, NORM, C, D)
    columns, rows = tl.arange(0, D), tl.arange(0, ROWS)
    while (tile < stop) & (b < num_sets):
        first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, ROWS)
        x_ptr, to_ptr = x.ptr + first_row(x, b) + first * C, projected_ptr + (tile - first_tile) * (ROWS * 2 * D)
        for i in range(0, tl.cdiv(elements, ROWS)):
            here, count = i * ROWS, elements - i * ROWS
            read, _ = elements_and_factor(x_ptr + at_row(here, C), count, spec, C, ROWS)
            pointers = to_ptr + at_row(here, 2 * D) + rows[:, None] * (2 * D) + columns[None, :]
            inside = (rows < count)[:, None]
            tl.store(pointers, tl.dot(read, w_k).to(read.dtype), mask=inside)
            tl.store(pointers + D, tl.dot(read, w_v).to(read.dtype), mask=inside)
        tile = last
        b += 1


@triton.jit
def load_projection(ptr, w, NORM: tl.constexpr, C: tl.constexpr, D: tl.constexpr):
    """A projection (D, C) with the gain of the norm before it, transposed: (C, D)."""
    inputs, outputs = tl.arange(0, C), tl.arange(0, D)
    weight = load_weight(ptr, inputs, outputs, inputs < C, outputs < D, C)
    weight, _shift = fold_norm(weight, inputs, inputs < C, w.g0, w.b0, NORM)
    return weight


@triton.jit
def elements_and_factor(ptr, count, spec: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):
    """What the projections read of `count` elements, and the factor (rows,) that normed them."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    x = load_rows(ptr, count, C, ROWS, C)
    factor = tl.zeros((ROWS,), tl.float32)
    if NORM != "none":
        standard, factor = standardise(x.to(tl.float32), C, NORM, spec.norm_eps)
        x = standard.to(x.dtype)
    return x, factor


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "share"])
def scores_back_kernel(
    x, N, num_sets, first_tile, num_tiles, share, folded_ptr, w, d_attended_ptr, lse_ptr, delta_ptr,
    projected_ptr, d_folded_ptr, M: tl.constexpr, spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    ROWS: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """One head of `share` tiles: gradients of keys and values in their place, of folded queries (programs, H · M, E).

    `QUERIES` are taken at once. Their log₂-sum-exp and δ are subtracted by the products themselves, as three more
    features: the parts of a number in the type of the rows, which ones meet.
    """
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    BLOCKS: tl.constexpr = (M + QUERIES - 1) // QUERIES
    program, h = tl.program_id(0) // H, tl.program_id(0) % H
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, program, ROWS)
    shift_k, shift_v = shift_of_head(w.w_k, w, h, spec, C, D), shift_of_head(w.w_v, w, h, spec, C, D)
    features, rows = tl.arange(0, E), tl.arange(0, ROWS)
    d_folded = ()
    for _ in tl.static_range(BLOCKS):
        d_folded = d_folded + (tl.zeros((QUERIES, E), tl.float32),)
    while (tile < stop) & (b < num_sets):
        _first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, ROWS)
        queries, grads, less_lse, less_delta = (), (), (), ()
        for block in tl.static_range(BLOCKS):
            m = block * QUERIES + tl.arange(0, QUERIES)
            ok, at = m < M, (b * H + h) * M + m
            q = tl.load(folded_ptr + (h * M + m)[:, None] * E + features[None, :], mask=ok[:, None], other=0.0)
            grad_ptr = d_attended_ptr + (b * M + m)[:, None] * D + (h * E + features)[None, :]
            grad = tl.load(grad_ptr, mask=ok[:, None], other=0.0)
            lse, delta = tl.load(lse_ptr + at, mask=ok, other=NOWHERE), tl.load(delta_ptr + at, mask=ok, other=0.0)
            lse = tl.maximum(lse, -NOWHERE) - tl.sum(q.to(tl.float32) * shift_k[None, :], 1)
            delta -= tl.sum(grad.to(tl.float32) * shift_v[None, :], 1)
            queries, grads = queries + (q,), grads + (grad,)
            # turned here: what is turned in a loop goes to shared memory anew for every tile
            less_lse = less_lse + (tl.trans(beside_number(q, -lse)),)
            less_delta = less_delta + (tl.trans(beside_number(grad, -delta)),)
        projected = projected_ptr + (tile - first_tile) * (ROWS * 2 * D) + h * E
        for i in range(0, tl.cdiv(elements, ROWS)):
            inside = (rows < elements - i * ROWS)[:, None]
            pointers = projected + at_row(i * ROWS, 2 * D) + rows[:, None] * (2 * D) + features[None, :]
            keys, values = tl.load(pointers, mask=inside, other=0.0), tl.load(pointers + D, mask=inside, other=0.0)
            d_k, d_v, d_folded = tile_back(keys, values, inside, queries, grads, less_lse, less_delta, d_folded)
            tl.store(pointers, (d_k * LN2).to(keys.dtype), mask=inside)
            tl.store(pointers + D, d_v.to(keys.dtype), mask=inside)
        tile = last
        b += 1
    d_folded_ptr += tl.cast(program, tl.int64) * (H * M * E)
    for block in tl.static_range(BLOCKS):
        m = block * QUERIES + tl.arange(0, QUERIES)
        pointers = d_folded_ptr + (h * M + m)[:, None] * E + features[None, :]
        ok = (m < M)[:, None]
        tl.store(pointers, tl.load(pointers, mask=ok, other=0.0) + d_folded[block] * LN2, mask=ok)


@triton.jit
def shift_of_head(weight_ptr, w, h, spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr):
    """What the norm's bias adds to every key or value of a head: (E,)."""
    E: tl.constexpr = D // spec.num_heads
    features, inputs = h * E + tl.arange(0, E), tl.arange(0, C)
    shift = tl.zeros((E,), tl.float32)
    if spec.norm_first and spec.norm == "layer":
        weight = tl.load(weight_ptr + features[:, None] * C + inputs[None, :]).to(tl.float32)
        shift = tl.sum(weight * load_vector(w.b0, inputs, inputs < C)[None, :], 1)
    return shift


@triton.jit
def beside_number(tile, number):
    """[tile | number in three parts, 1 | 0]: (rows, 2 · E) of (rows, E) and (rows,)."""
    E: tl.constexpr = tile.shape[1]
    e = tl.arange(0, E)[None, :]
    high = number.to(tile.dtype)
    number -= high.to(tl.float32)
    middle = number.to(tile.dtype)
    low = (number - middle.to(tl.float32)).to(tile.dtype)
    tail = tl.where(e == 1, middle[:, None], tl.where(e == 2, low[:, None], tl.where(e == 3, 1.0, 0.0).to(tile.dtype)))
    return beside(tile, tl.where(e == 0, high[:, None], tail))


@triton.jit
def tile_back(keys, values, inside, queries, grads, less_lse, less_delta, d_folded):
    """Gradients of keys, in units of ln 2, and values of one head of a tile (rows, E); that of its queries, grown."""
    ROWS: tl.constexpr = keys.shape[0]
    E: tl.constexpr = keys.shape[1]
    dtype: tl.constexpr = keys.dtype
    e = tl.broadcast_to(tl.arange(0, E)[None, :], (ROWS, E))
    ones = tl.where(e < 3, 1.0, 0.0)
    # rows that are no elements have no probability
    keys_ones = beside(keys, tl.where((e == 3) & (inside == 0), -NOWHERE, ones).to(dtype))
    values_ones = beside(values, ones.to(dtype))
    d_k = tl.zeros((ROWS, E), tl.float32)
    d_v = tl.zeros((ROWS, E), tl.float32)
    grown = ()
    for block in tl.static_range(len(queries)):
        # (rows, queries)
        p = tl.exp2(tl.dot(keys_ones, less_lse[block]))
        d_s = (p * tl.dot(values_ones, less_delta[block])).to(dtype)
        d_v = tl.dot(p.to(dtype), grads[block], d_v)
        d_k = tl.dot(d_s, queries[block], d_k)
        grown = grown + (tl.dot(tl.trans(d_s), keys, d_folded[block]),)
    return d_k, d_v, grown


@triton.jit(do_not_specialize=["N", "num_sets", "first_tile", "num_tiles", "share"])
def project_back_kernel(
    x, d_x, N, num_sets, first_tile, num_tiles, share, w, projected_ptr, parts_ptr, ADD: tl.constexpr,
    spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradient of the elements of `share` tiles, on top of what d_x holds when ADD; parts (programs, 2, D, C)."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    tile, stop, b = tiles_of_program(x, N, num_sets, first_tile, num_tiles, share, tl.program_id(0), ROWS)
    w_k, w_v = load_projection(w.w_k, w, NORM, C, D), load_projection(w.w_v, w, NORM, C, D)
    w_k, w_v = tl.trans(w_k), tl.trans(w_v)
    d_w_k = tl.zeros((D, C), tl.float32)
    d_w_v = tl.zeros((D, C), tl.float32)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, D)
    while (tile < stop) & (b < num_sets):
        first, last, _num, elements, _written = part_of_set(x, N, b, tile, stop, ROWS)
        x_ptr, projected = x.ptr + first_row(x, b) + first * C, projected_ptr + (tile - first_tile) * (ROWS * 2 * D)
        for i in range(0, tl.cdiv(elements, ROWS)):
            here, count = i * ROWS, elements - i * ROWS
            inside = (rows < count)[:, None]
            read, factor = elements_and_factor(x_ptr + at_row(here, C), count, spec, C, ROWS)
            pointers = projected + at_row(here, 2 * D) + rows[:, None] * (2 * D) + columns[None, :]
            d_k, d_v = tl.load(pointers, mask=inside, other=0.0), tl.load(pointers + D, mask=inside, other=0.0)
            d_w_k = tl.dot(tl.trans(d_k), read, d_w_k)
            d_w_v = tl.dot(tl.trans(d_v), read, d_w_v)
            if d_x.ptr is not None:
                d = tl.dot(d_v, w_v, tl.dot(d_k, w_k))
                if NORM != "none":
                    d = norm_back(d, read.to(tl.float32), factor, NORM)
                d_ptr = d_x.ptr + first_row(d_x, b) + first * C + at_row(here, C)
                if ADD:
                    d += load_rows(d_ptr, count, C, ROWS, C).to(tl.float32)
                store_rows(d_ptr, d, count)
        tile = last
        b += 1
    place = tl.arange(0, D)[:, None] * C + tl.arange(0, C)[None, :]
    parts_ptr += tl.program_id(0).to(tl.int64) * (2 * D * C)
    add_to(parts_ptr + place, d_w_k)
    add_to(parts_ptr + D * C + place, d_w_v)


@triton.jit
def unfold_kernel(
    sums_ptr, w, d_bias_ptr, to_ptr, d_gain_ptr, d_shift_ptr, spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    INS: tl.constexpr, OUTS: tl.constexpr,
):  # fmt: skip
    """Gradients of both projections (2, D, C) and, added to what is there, of the norm before them.

    sums (2, D, C) fp32 are those of the folded projections, d_bias (D,) that of the values' bias; a program has INS
    inputs. See `broadcast.gradient_kernels`.
    """
    ins = tl.program_id(0) * INS + tl.arange(0, INS)
    every = ins < C
    NORMED: tl.constexpr = spec.norm_first and spec.norm != "none"
    d_gain, d_shift = tl.zeros((INS,), tl.float32), tl.zeros((INS,), tl.float32)
    gain, shift = load_vector(w.g0, ins, every), load_vector(w.b0, ins, every)
    for start in range(0, D, OUTS):
        outs = start + tl.arange(0, OUTS)
        at = outs[:, None] * C + ins[None, :]
        d_k, d_v = tl.load(sums_ptr + at), tl.load(sums_ptr + D * C + at)
        if NORMED:
            w_k, w_v = tl.load(w.w_k + at).to(tl.float32), tl.load(w.w_v + at).to(tl.float32)
            d_bias = tl.load(d_bias_ptr + outs).to(tl.float32)[:, None]
            d_gain += tl.sum(w_k * d_k + w_v * d_v, 0)
            d_shift += tl.sum(w_v * d_bias, 0)
            d_k *= gain[None, :]
            d_v = d_v * gain[None, :] + d_bias * shift[None, :]
        tl.store(to_ptr + at, d_k.to(to_ptr.dtype.element_ty))
        tl.store(to_ptr + D * C + at, d_v.to(to_ptr.dtype.element_ty))
    if NORMED:
        d_gain += tl.load(d_gain_ptr + ins).to(tl.float32)
        d_shift += tl.load(d_shift_ptr + ins).to(tl.float32)
        tl.store(d_gain_ptr + ins, d_gain.to(d_gain_ptr.dtype.element_ty))
        tl.store(d_shift_ptr + ins, d_shift.to(d_shift_ptr.dtype.element_ty))
