"""Stage A over projected elements, several heads a program: what `forward_kernels.scan_kernel` does head by head.

A tile of elements is normed once and projected once, to keys and values of a group of heads in one product; then each
head scores it and adds up its values. The norm's gain is in the weights, its bias left out of keys and values: it moves
all scores of a query alike, so that it is added to their maximum, and to a sum of values by the sum of their weights.

Normed elements are of bounded length, and so are their scores. Where the bound is low, no maximum is taken off.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.aggregate.forward_kernels import (
    element_pointers,
    load_elements,
    piece,
    store_attention,
)
from settx_fast.attention.triton.halving import pieces_of
from settx_fast.attention.triton.primitives import standardise
from settx_fast.attention.triton.sets import first_row, set_length
from settx_fast.attention.triton.walk import fold_norm

PARTS: tl.constexpr = tl.constexpr(4)  # threads that hold a row of a matrix product
SAFE: tl.constexpr = tl.constexpr(110.0)  # 2^SAFE times a value, and 2^−SAFE, are numbers of 8 bits of exponent


@triton.jit(do_not_specialize=["N", "num_sets", "num_splits"])
def scan_heads_kernel(
    x, N, folded_ptr, folded_stride, w,
    lse_ptr, y_ptr, tops_ptr, totals_ptr, ys_ptr, num_sets, num_splits, M,
    spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr,
    HEADS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R queries of each of HEADS heads over one piece of one set."""
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    query_blocks = tl.cdiv(M, BLOCK_R)
    blocks = H // HEADS * query_blocks
    first_head = tl.program_id(0) % blocks // query_blocks * HEADS
    m, features = tl.program_id(0) % query_blocks * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, E)
    split = tl.program_id(0) // blocks % num_splits
    b = (tl.program_id(0) // blocks // num_splits).to(tl.int64)
    weight, shift = load_projections(w, first_head, spec, C, E, HEADS)
    shifts = pieces_of(shift[None, :], E)
    queries, moved = (), ()
    for i in tl.static_range(HEADS):
        pointers = folded_ptr + b * folded_stride + ((first_head + i) * M + m)[:, None] * E + features[None, :]
        q = tl.load(pointers, mask=(m < M)[:, None], other=0.0)
        queries, moved = queries + (q,), moved + (tl.sum(q.to(tl.float32) * shifts[2 * i], 1),)
    length, base_ptr = set_length(x, N, b), x.ptr + first_row(x, b)
    begin, end = piece(length, split, num_splits, BLOCK_N)
    # the last tile of a set holds less
    whole = tl.maximum(tl.minimum(end, (length // BLOCK_N).to(tl.int32)), begin)
    top = float("-inf")
    if BOUNDED:
        is_safe = bound(queries, weight) + tl.log2(tl.maximum(length, 1).to(tl.float32)) < SAFE
        whole, top = tl.where(is_safe, whole, begin), tl.where(is_safe, 0.0, float("-inf"))
    tops, totals, ys = (), (), ()
    for _ in tl.static_range(HEADS):
        tops = tops + (tl.zeros((BLOCK_R,), tl.float32) + top,)
        totals = totals + (tl.zeros((BLOCK_R, PARTS), tl.float32),)
        ys = ys + (tl.zeros((BLOCK_R, E), tl.float32),)
    for tile in range(begin, whole):
        elements = tl.load(element_pointers(base_ptr, x.row_stride, tile, BLOCK_N, tl.arange(0, C)))
        if BOUNDED:
            totals, ys = add_tile(elements, weight, queries, totals, ys, spec)
        else:
            tops, totals, ys = attend_tile(elements, None, weight, queries, tops, totals, ys, spec)
    for tile in range(whole, end):
        elements, inside = load_elements(base_ptr, x.row_stride, tile, length, C, BLOCK_N, C)
        tops, totals, ys = attend_tile(elements, inside, weight, queries, tops, totals, ys, spec)
    for i in tl.static_range(HEADS):
        h = first_head + i
        top, total = tops[i] + moved[i], tl.sum(totals[i], 1)
        y = ys[i] + total[:, None] * shifts[2 * i + 1]
        r, last = h * M + m, h * M + M
        if SPLIT:
            part = (b * num_splits + split) * (H * M) + r
            tl.store(tops_ptr + part, top, mask=r < last)
            tl.store(totals_ptr + part, total, mask=r < last)
            tl.store(ys_ptr + part[:, None] * E + features[None, :], y, mask=(r < last)[:, None])
        else:
            store_attention(top, total, y, lse_ptr, y_ptr, w.b_v, b, r, last, features, M, num_sets, H, C, E, False)


@triton.jit
def load_projections(w, first_head, spec: tl.constexpr, C: tl.constexpr, E: tl.constexpr, HEADS: tl.constexpr):
    """Both projections of HEADS heads, keys' features of each before values': (C, HEADS · 2 · E); see `fold_norm`."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    inputs, columns = tl.arange(0, C), tl.arange(0, HEADS * 2 * E)
    weights = tl.where(columns // E % 2 == 0, w.w_k, w.w_v)
    rows = weights + ((first_head + columns // (2 * E)) * E + columns % E) * C
    weight = tl.load(rows[None, :] + inputs[:, None])
    return fold_norm(weight, inputs, inputs < C, w.g0, w.b0, NORM)


@triton.jit
def bound(queries, weight):
    """No score of standardised elements is larger, nor smaller than its negative.

    A standardised row is at most √C long, what meets it |q W|. Rounding elements and keys to eight bits moves a score
    by at most 2⁻⁸ |q| |W| √C.
    """
    C: tl.constexpr = weight.shape[0]
    projections = pieces_of(weight, queries[0].shape[1])
    largest = 0.0
    for i in tl.static_range(len(queries)):
        q, w = queries[i].to(tl.float32), projections[2 * i].to(tl.float32)
        met = tl.dot(queries[i], tl.trans(projections[2 * i]))
        rounding = 2**-8 * tl.sqrt(tl.sum(q * q, 1) * tl.sum(w * w))
        largest = tl.maximum(largest, tl.max(tl.sqrt(tl.sum(met * met, 1)) + rounding))
    return largest * tl.sqrt(C * 1.0)


@triton.jit
def add_tile(elements, weight, queries, totals, ys, spec: tl.constexpr):
    """Sums and values of every head, grown by a tile of elements whose scores need no maximum taken off."""
    keys, values = project(elements, weight, spec, len(queries))
    new_totals, new_ys = (), ()
    for i in tl.static_range(len(queries)):
        # (BLOCK_R, BLOCK_N)
        p = tl.exp2(tl.dot(queries[i], tl.trans(keys[i])))
        new_totals = new_totals + (totals[i] + partial_sums(p),)
        new_ys = new_ys + (tl.dot(p.to(elements.dtype), values[i], ys[i]),)
    return new_totals, new_ys


@triton.jit
def attend_tile(elements, inside, weight, queries, tops, totals, ys, spec: tl.constexpr):
    """Maxima, sums and values of every head, grown by a tile: by its rows `inside` a set, all where that is None."""
    keys, values = project(elements, weight, spec, len(queries))
    if inside is not None:
        most = tl.where(inside, float("inf"), float("-inf"))
    new_tops, new_totals, new_ys = (), (), ()
    for i in tl.static_range(len(queries)):
        s = tl.dot(queries[i], tl.trans(keys[i]))
        if inside is not None:
            s = tl.minimum(s, most[None, :])  # fewer instructions than a choice
        higher = tl.maximum(tops[i], tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        fade = tl.exp2(tops[i] - higher)[:, None]
        new_tops = new_tops + (higher,)
        new_totals = new_totals + (totals[i] * fade + partial_sums(p),)
        new_ys = new_ys + (tl.dot(p.to(elements.dtype), values[i], ys[i] * fade),)
    return new_tops, new_totals, new_ys


@triton.jit
def project(elements, weight, spec: tl.constexpr, HEADS: tl.constexpr):
    """Keys and values of every head of a tile of elements (BLOCK_N, C): twice HEADS tiles (BLOCK_N, E)."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    if NORM != "none":
        standard, _factor = standardise(elements.to(tl.float32), elements.shape[1], NORM, spec.norm_eps)
        elements = standard.to(elements.dtype)
    projected = pieces_of(tl.dot(elements, weight).to(elements.dtype), weight.shape[1] // (2 * HEADS))
    # taken apart before any is used, so that all go to shared memory behind one barrier
    keys, values = (), ()
    for i in tl.static_range(HEADS):
        keys, values = keys + (projected[2 * i],), values + (projected[2 * i + 1],)
    return keys, values


@triton.jit
def partial_sums(p):
    """PARTS sums of every row of a product, each of what one thread holds: (rows, PARTS)."""
    return tl.sum(tl.sum(tl.reshape(p, (p.shape[0], p.shape[1] // (2 * PARTS), PARTS, 2)), 3), 1)
