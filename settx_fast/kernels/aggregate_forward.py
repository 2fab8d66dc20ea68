"""Stage A: M queries read the N elements of every set, split over programs and merged in a fixed order.

The ladder: `prepare` folds what it can into the queries, `scan` reads the set, `merge` joins the pieces, `finish` runs
the block's layers on the M rows and makes the next block's keys and values of them.

Absorbed: a folded query row is c · Q_h Wk_h (C wide), keys and values are the elements themselves. Projected: it is
c · Q_h (E wide), keys and values of a tile of elements are made, used and dropped. c = scale · log₂ e: scores are in
units of log₂, exponentials exp2. The key bias shifts all scores of a query alike and cancels.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from settx_fast.kernels.primitives import load_vector, normalise
from settx_fast.kernels.rows import (
    add_attention,
    add_feed_forward,
    dot_rows,
    make_keys_values,
    norm_rows,
    store_rows,
)
from settx_fast.kernels.sets import first_row, set_length


class Queries(NamedTuple):
    """What `prepare` makes of the query rows."""

    normed: Tensor  # (rows, C_q) under norm_first, else the input itself
    query: Tensor  # (rows, D)
    folded: Tensor  # (sets · H · M, C or E)


class Latents(NamedTuple):
    """The M rows of every set on their way through the block's layers, (B · M, ·); a stage left out is its input."""

    out: Tensor  # D: the block's output
    attended: Tensor  # D: concat_h(A_h V_h)
    sum0: Tensor  # D: residual + attention
    hidden: Tensor  # D: what the feed-forward layers read
    before: Tensor  # F: before the activation
    inner: Tensor  # F: after it, where there is a second layer
    sum1: Tensor  # D: + feed-forward
    keys_from: Tensor  # D: the output as the next block's norm leaves it
    next_keys: Tensor | None  # D of the next block
    next_values: Tensor | None


@triton.jit
def prepare(
    input_ptr, w, to, rows, rows_ok, h, M, FACTOR,
    spec: tl.constexpr, CQ: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ABSORBED: tl.constexpr,
    BLOCK_CQ: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Head h of Q and of the folded queries, from query rows (rows, CQ); every head stores the same normed rows."""
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    NORM: tl.constexpr = spec.norm
    EPS: tl.constexpr = spec.norm_eps
    if spec.norm_first and NORM != "none":
        norm_rows(input_ptr, to.normed, w.g0, w.b0, rows, rows_ok, CQ, NORM, EPS, BLOCK_CQ)
    folded_rows = (rows // M * H + h) * M + rows % M
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        q = dot_rows(to.normed, CQ, rows, rows_ok, w.w_q, CQ, 1, h * E + e, e < E, CQ, BLOCK_K, PRECISION)
        q += load_vector(w.b_q, h * E + e, e < E)[None, :]
        ok = rows_ok[:, None] & (e < E)[None, :]
        tl.store(to.query + rows[:, None] * D + h * E + e[None, :], q.to(to.query.dtype.element_ty), mask=ok)
        if not ABSORBED:
            store_rows(to.folded, folded_rows, rows_ok, e, E, q * FACTOR)
    if ABSORBED:
        tl.debug_barrier()
        for start in range(0, C, BLOCK_K):
            c = start + tl.arange(0, BLOCK_K)
            # (rows, BLOCK_K): Q_h Wk_h
            folded = dot_rows(
                to.query + h * E, D, rows, rows_ok, w.w_k + h * E * C, 1, C, c, c < C, E, BLOCK_E, PRECISION
            )
            store_rows(to.folded, folded_rows, rows_ok, c, C, folded * FACTOR)


@triton.jit
def element_pointers(base_ptr, row_stride, tile, BLOCK_N: tl.constexpr, columns):
    """Where a tile of BLOCK_N rows lies: what is int64 is a scalar for each tile, or the same for all tiles."""
    start_ptr = base_ptr + tl.cast(tile, tl.int64) * BLOCK_N * row_stride
    return start_ptr + tl.arange(0, BLOCK_N).to(tl.int64)[:, None] * row_stride + columns[None, :]


@triton.jit
def load_elements(base_ptr, row_stride, tile, length, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Tile of a set's elements, zero outside the set, and which of its rows are inside."""
    columns = tl.arange(0, BLOCK_C)
    inside = tl.arange(0, BLOCK_N) < tl.minimum(length - tl.cast(tile, tl.int64) * BLOCK_N, BLOCK_N).to(tl.int32)
    pointers = element_pointers(base_ptr, row_stride, tile, BLOCK_N, columns)
    return tl.load(pointers, mask=inside[:, None] & (columns < C)[None, :], other=0.0), inside


@triton.jit
def piece(length, split, num_splits, BLOCK_N: tl.constexpr):
    """The tiles of a set that belong to one of its programs: first and past the last."""
    tiles = tl.cdiv(length, BLOCK_N).to(tl.int32)
    share = tl.cdiv(tiles, num_splits)
    return tl.minimum(split * share, tiles), tl.minimum(split * share + share, tiles)


@triton.jit
def load_head(weight_ptr, h, E: tl.constexpr, C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_C: tl.constexpr):
    """Head h of a projection (D, C), transposed: (C, E)."""
    e, c = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_C)
    ok = (c < C)[:, None] & (e < E)[None, :]
    return tl.load(weight_ptr + (h * E + e)[None, :] * C + c[:, None], mask=ok, other=0.0)


@triton.jit
def scan(
    x, N, folded_ptr, w, b, split, num_splits, first, last, h,
    spec: tl.constexpr, C: tl.constexpr, E: tl.constexpr, ABSORBED: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Maximum, sum and weighted values of folded queries first … last over one piece of set b (int64)."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    WIDTH: tl.constexpr = C if ABSORBED else E
    BLOCK_W: tl.constexpr = BLOCK_C if ABSORBED else BLOCK_E
    length, base_ptr = set_length(x, N, b), x.ptr + first_row(x, b)
    r, columns = first + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_W)
    # (BLOCK_R, BLOCK_W)
    ok = (r < last)[:, None] & (columns < WIDTH)[None, :]
    q = tl.load(folded_ptr + r[:, None] * WIDTH + columns[None, :], mask=ok, other=0.0)
    if not ABSORBED:
        w_k = load_head(w.w_k, h, E, C, BLOCK_E, BLOCK_C)
        w_v = load_head(w.w_v, h, E, C, BLOCK_E, BLOCK_C)
    top = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_R,), tl.float32)
    y = tl.zeros((BLOCK_R, BLOCK_W), tl.float32)
    begin, end = piece(length, split, num_splits, BLOCK_N)
    for tile in range(begin, end):
        elements, inside = load_elements(base_ptr, x.row_stride, tile, length, C, BLOCK_N, BLOCK_C)
        if NORM != "none":
            normed = normalise(elements.to(tl.float32), w.g0, w.b0, C, NORM, spec.norm_eps)
            elements = normed.to(elements.dtype)
        if ABSORBED:
            keys, values = elements, elements
        else:
            keys = tl.dot(elements, w_k, input_precision=PRECISION).to(elements.dtype)
            values = tl.dot(elements, w_v, input_precision=PRECISION).to(elements.dtype)
        # (BLOCK_R, BLOCK_N)
        s = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        s = tl.where(inside[None, :], s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(p, 1)
        y = tl.dot(p.to(values.dtype), values, y * fade[:, None], input_precision=PRECISION)
        top = higher
    return top, total, y


@triton.jit
def store_attention(
    top, total, y, lse_ptr, y_ptr, b_v_ptr, b, r, last, columns, M, num_sets,
    H: tl.constexpr, C: tl.constexpr, E: tl.constexpr, ABSORBED: tl.constexpr,
):  # fmt: skip
    """log₂-sum-exp (B, H · M), −∞ for an empty set, and Y (H, B, M, C) or the attended values (B, M, D)."""
    h, m = r // M, r % M
    y = y / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(
        lse_ptr + b * (H * M) + r,
        tl.where(total > 0.0, top + tl.log2(tl.where(total > 0.0, total, 1.0)), float("-inf")),
        mask=r < last,
    )
    if ABSORBED:
        ok = (r < last)[:, None] & (columns < C)[None, :]
        target = y_ptr + ((b + tl.cast(h, tl.int64) * num_sets) * M + m)[:, None] * C + columns[None, :]
    else:
        ok = (r < last)[:, None] & (columns < E)[None, :]
        target = y_ptr + ((b * M + m) * (H * E) + h * E)[:, None] + columns[None, :]
        bias = tl.load(b_v_ptr + (h * E)[:, None] + columns[None, :], mask=ok, other=0.0).to(tl.float32)
        y += tl.where((total > 0.0)[:, None], bias, 0.0)
    tl.store(target, y.to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit
def merge(
    tops_ptr, totals_ptr, ys_ptr, b, r, last, columns, num_splits, num_rows,
    WIDTH: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Join the pieces of set b, in order: (B, splits, rows) maxima and sums, (B, splits, rows, WIDTH) values."""
    top = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_R,), tl.float32)
    y = tl.zeros((BLOCK_R, BLOCK_W), tl.float32)
    for start in range(0, num_splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        # (BLOCK_S, BLOCK_R)
        part = (b * num_splits + split)[:, None] * num_rows + r[None, :]
        part_ok = (split < num_splits)[:, None] & (r < last)[None, :]
        part_top = tl.load(tops_ptr + part, mask=part_ok, other=float("-inf"))
        part_total = tl.load(totals_ptr + part, mask=part_ok, other=0.0)
        # (BLOCK_S, BLOCK_R, BLOCK_W)
        ok = part_ok[:, :, None] & (columns < WIDTH)[None, None, :]
        part_y = tl.load(ys_ptr + part[:, :, None] * WIDTH + columns[None, None, :], mask=ok, other=0.0)
        higher = tl.maximum(top, tl.max(part_top, 0))
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        fade, gain = tl.exp2(top - anchor), tl.exp2(part_top - anchor[None, :])
        total = total * fade + tl.sum(part_total * gain, 0)
        y = y * fade[:, None] + tl.sum(part_y * gain[:, :, None], 0)
        top = higher
    return top, total, y


@triton.jit
def attend_absorbed(
    y_ptr, lse_ptr, w, attended_ptr, rows, rows_ok, M, num_rows,
    C: tl.constexpr, D: tl.constexpr, H: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """attended_h = Y_h Wv_hᵀ + bv_h, zero for an empty set."""
    E: tl.constexpr = D // H
    for h in range(H):
        filled = tl.load(lse_ptr + (rows // M * H + h) * M + rows % M, mask=rows_ok, other=0.0) > float("-inf")
        for start in range(0, E, BLOCK_E):
            e = start + tl.arange(0, BLOCK_E)
            y_rows = rows + h * num_rows
            values = dot_rows(y_ptr, C, y_rows, rows_ok, w.w_v, C, 1, h * E + e, e < E, C, BLOCK_K, PRECISION)
            values += tl.where(filled[:, None], load_vector(w.b_v, h * E + e, e < E)[None, :], 0.0)
            target = attended_ptr + rows[:, None] * D + h * E + e[None, :]
            tl.store(target, values.to(attended_ptr.dtype.element_ty), mask=rows_ok[:, None] & (e < E)[None, :])
    tl.debug_barrier()


@triton.jit
def finish(
    y_ptr, lse_ptr, residual_ptr, residual_rows, w, w_next, to, rows, rows_ok, M, num_rows,
    spec: tl.constexpr, spec_next: tl.constexpr, C: tl.constexpr, D: tl.constexpr, D_NEXT: tl.constexpr,
    ABSORBED: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The block's layers on rows of (sets · M), and the next block's keys and values of its output."""
    F: tl.constexpr = D if spec.ffn_dim is None else spec.ffn_dim
    H: tl.constexpr = spec.num_heads
    NORM: tl.constexpr = spec.norm
    EPS: tl.constexpr = spec.norm_eps
    ACTIVATION: tl.constexpr = spec.activation
    if ABSORBED:
        attend_absorbed(
            y_ptr, lse_ptr, w, to.attended, rows, rows_ok, M, num_rows,
            C, D, H, BLOCK_E, BLOCK_K, PRECISION,
        )  # fmt: skip
    add_attention(to.attended, residual_ptr, residual_rows, w, to.sum0, rows, rows_ok, D, BLOCK_K, PRECISION)
    if NORM != "none":
        if spec.norm_first:
            norm_rows(to.sum0, to.hidden, w.g1, w.b1, rows, rows_ok, D, NORM, EPS, BLOCK_D)
        else:
            norm_rows(to.sum0, to.hidden, w.g0, w.b0, rows, rows_ok, D, NORM, EPS, BLOCK_D)
    base_ptr = to.sum0 if spec.norm_first else to.hidden
    add_feed_forward(
        to.hidden, base_ptr, w, to.before, to.inner, to.sum1, rows, rows_ok, D, F, ACTIVATION, BLOCK_K, PRECISION
    )
    if NORM != "none" and not spec.norm_first:
        norm_rows(to.sum1, to.out, w.g1, w.b1, rows, rows_ok, D, NORM, EPS, BLOCK_D)
    if spec_next is not None:
        NEXT_NORM: tl.constexpr = spec_next.norm
        NEXT_EPS: tl.constexpr = spec_next.norm_eps
        if NEXT_NORM != "none" and spec_next.norm_first:
            norm_rows(
                to.out, to.keys_from, w_next.g0, w_next.b0, rows, rows_ok, D, NEXT_NORM, NEXT_EPS, BLOCK_D
            )  # fmt: skip
        make_keys_values(
            to.keys_from, w_next, to.next_keys, to.next_values, rows, rows_ok, D, D_NEXT, BLOCK_K, PRECISION
        )


@triton.jit(do_not_specialize=["num_rows"])
def prepare_kernel(
    input_ptr, w, to, num_rows, M, FACTOR,
    spec: tl.constexpr, CQ: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ABSORBED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_CQ: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M query rows of one head."""
    H: tl.constexpr = spec.num_heads
    h = tl.program_id(0) % H
    rows = (tl.program_id(0) // H).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    prepare(
        input_ptr, w, to, rows, rows < num_rows, h, M, FACTOR,
        spec, CQ, C, D, ABSORBED, BLOCK_CQ, BLOCK_E, BLOCK_K, PRECISION,
    )  # fmt: skip


@triton.jit(do_not_specialize=["N", "num_sets", "num_splits"])
def scan_kernel(
    x, N, folded_ptr, folded_stride, w,
    lse_ptr, y_ptr, tops_ptr, totals_ptr, ys_ptr, num_sets, num_splits, M,
    spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ABSORBED: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one block of folded queries (of one head when projected) over one piece of one set."""
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    num_rows = H * M
    if ABSORBED:
        blocks = tl.cdiv(num_rows, BLOCK_R)
        h, first, last = 0, tl.program_id(0) % blocks * BLOCK_R, num_rows
    else:
        blocks = H * tl.cdiv(M, BLOCK_R)
        h = tl.program_id(0) % blocks // tl.cdiv(M, BLOCK_R)
        first, last = h * M + tl.program_id(0) % tl.cdiv(M, BLOCK_R) * BLOCK_R, h * M + M
    split = tl.program_id(0) // blocks % num_splits
    b = (tl.program_id(0) // blocks // num_splits).to(tl.int64)
    top, total, y = scan(
        x, N, folded_ptr + b * folded_stride, w, b, split, num_splits, first, last, h,
        spec, C, E, ABSORBED, BLOCK_R, BLOCK_N, BLOCK_C, BLOCK_E, PRECISION,
    )  # fmt: skip
    WIDTH: tl.constexpr = C if ABSORBED else E
    r, columns = first + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_C if ABSORBED else BLOCK_E)
    if SPLIT:
        part = (b * num_splits + split) * num_rows + r
        tl.store(tops_ptr + part, top, mask=r < last)
        tl.store(totals_ptr + part, total, mask=r < last)
        ok = (r < last)[:, None] & (columns < WIDTH)[None, :]
        tl.store(ys_ptr + part[:, None] * WIDTH + columns[None, :], y, mask=ok)
    else:
        store_attention(top, total, y, lse_ptr, y_ptr, w.b_v, b, r, last, columns, M, num_sets, H, C, E, ABSORBED)


@triton.jit(do_not_specialize=["num_sets", "num_splits"])
def merge_kernel(
    tops_ptr, totals_ptr, ys_ptr, b_v_ptr, lse_ptr, y_ptr, num_sets, num_splits, M,
    H: tl.constexpr, C: tl.constexpr, E: tl.constexpr, ABSORBED: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R rows and BLOCK_W columns of one set."""
    WIDTH: tl.constexpr = C if ABSORBED else E
    num_rows = H * M
    row_blocks, column_blocks = tl.cdiv(num_rows, BLOCK_R), tl.cdiv(WIDTH, BLOCK_W)
    b = (tl.program_id(0) // column_blocks // row_blocks).to(tl.int64)
    r = tl.program_id(0) // column_blocks % row_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.program_id(0) % column_blocks * BLOCK_W + tl.arange(0, BLOCK_W)
    top, total, y = merge(
        tops_ptr, totals_ptr, ys_ptr, b, r, num_rows, columns, num_splits, num_rows, WIDTH, BLOCK_S, BLOCK_R, BLOCK_W
    )
    store_attention(top, total, y, lse_ptr, y_ptr, b_v_ptr, b, r, num_rows, columns, M, num_sets, H, C, E, ABSORBED)


@triton.jit(do_not_specialize=["residual_period", "num_rows"])
def finish_kernel(
    y_ptr, lse_ptr, residual_ptr, residual_period, w, w_next, to, num_rows, M,
    spec: tl.constexpr, spec_next: tl.constexpr, C: tl.constexpr, D: tl.constexpr, D_NEXT: tl.constexpr,
    ABSORBED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of (sets · M)."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    finish(
        y_ptr, lse_ptr, residual_ptr, rows % residual_period, w, w_next, to, rows, rows < num_rows, M, num_rows,
        spec, spec_next, C, D, D_NEXT, ABSORBED, BLOCK_D, BLOCK_E, BLOCK_K, PRECISION,
    )  # fmt: skip
