"""Stage A: M queries read the N elements of every set, split over programs and merged in a fixed order.

The ladder: `prepare` (`row_kernels.py`) folds what it can into the queries, `scan` reads the set, `merge` joins the
pieces, `finish` (`row_kernels.py`) runs the block's layers on the M rows and makes the next block's keys and values.

Absorbed: a folded query row is c · Q_h Wk_h (C wide), keys and values are the elements themselves. Projected: it is
c · Q_h (E wide), keys and values of a tile of elements are made, used and dropped. c = scale · log₂ e: scores are in
units of log₂, exponentials exp2. The key bias shifts all scores of a query alike and cancels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.primitives import multiply, multiply_add, normalise
from settx_fast.attention.triton.sets import first_row, set_length


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
            keys = multiply(elements, w_k, PRECISION).to(elements.dtype)
            values = multiply(elements, w_v, PRECISION).to(elements.dtype)
        # (BLOCK_R, BLOCK_N)
        s = multiply(q, tl.trans(keys), PRECISION)
        s = tl.where(inside[None, :], s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(p, 1)
        y = multiply_add(p, values, y * fade[:, None], PRECISION)
        top = higher
    return top, total, y


@triton.jit
def load_head(weight_ptr, h, E: tl.constexpr, C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_C: tl.constexpr):
    """Head h of a projection (D, C), transposed: (C, E)."""
    e, c = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_C)
    ok = (c < C)[:, None] & (e < E)[None, :]
    return tl.load(weight_ptr + (h * E + e)[None, :] * C + c[:, None], mask=ok, other=0.0)


@triton.jit
def piece(length, split, num_splits, BLOCK_N: tl.constexpr):
    """The tiles of a set that belong to one of its programs: first and past the last."""
    tiles = tl.cdiv(length, BLOCK_N).to(tl.int32)
    share = tl.cdiv(tiles, num_splits)
    return tl.minimum(split * share, tiles), tl.minimum(split * share + share, tiles)


@triton.jit
def load_elements(base_ptr, row_stride, tile, length, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Tile of a set's elements, zero outside the set, and which of its rows are inside."""
    columns = tl.arange(0, BLOCK_C)
    inside = tl.arange(0, BLOCK_N) < tl.minimum(length - tl.cast(tile, tl.int64) * BLOCK_N, BLOCK_N).to(tl.int32)
    pointers = element_pointers(base_ptr, row_stride, tile, BLOCK_N, columns)
    return tl.load(pointers, mask=inside[:, None] & (columns < C)[None, :], other=0.0), inside


@triton.jit
def element_pointers(base_ptr, row_stride, tile, BLOCK_N: tl.constexpr, columns):
    """Where a tile of BLOCK_N rows lies: what is int64 is a scalar for each tile, or the same for all tiles."""
    start_ptr = base_ptr + tl.cast(tile, tl.int64) * BLOCK_N * row_stride
    return start_ptr + tl.arange(0, BLOCK_N).to(tl.int64)[:, None] * row_stride + columns[None, :]


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
