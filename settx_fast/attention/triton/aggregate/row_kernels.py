"""Layers on few rows, stage after stage through memory: queries, and the M rows of a set after attention.

A program owns a block of rows and walks through the columns of a layer in chunks, so that any width fits. A stage
stores what the next one loads; `tl.debug_barrier` between them makes the stores visible to the whole program. The rows
of all sets lie one after another, (sets · M, width), so a block of rows may cross from one set into the next.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.primitives import activate, load_vector, multiply_add, normalise


@triton.jit(do_not_specialize=["num_rows"])
def prepare_kernel(
    input_ptr, scale_ptr, w, to, num_rows, M, FACTOR,
    spec: tl.constexpr, CQ: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ABSORBED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_CQ: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M query rows of one head."""
    H: tl.constexpr = spec.num_heads
    h = tl.program_id(0) % H
    rows = (tl.program_id(0) // H).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    prepare(
        input_ptr, scale_ptr, w, to, rows, rows < num_rows, h, M, FACTOR,
        spec, CQ, C, D, ABSORBED, BLOCK_CQ, BLOCK_E, BLOCK_K, PRECISION,
    )  # fmt: skip


@triton.jit
def prepare(
    input_ptr, scale_ptr, w, to, rows, rows_ok, h, M, FACTOR,
    spec: tl.constexpr, CQ: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ABSORBED: tl.constexpr,
    BLOCK_CQ: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Head h of Q and of the folded queries, from query rows (rows, CQ); every head stores the same normed rows.

    `scale_ptr` (rows, D), if given, are factors of Q where it is folded.
    """
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
        place = rows[:, None] * D + h * E + e[None, :]
        tl.store(to.query + place, q.to(to.query.dtype.element_ty), mask=ok)
        if scale_ptr is not None:
            q *= tl.load(scale_ptr + place, mask=ok, other=0.0).to(tl.float32)
            if ABSORBED:
                tl.store(to.scaled + place, q.to(to.scaled.dtype.element_ty), mask=ok)
        if not ABSORBED:
            store_rows(to.folded, folded_rows, rows_ok, e, E, q * FACTOR)
    if ABSORBED:
        tl.debug_barrier()
        for start in range(0, C, BLOCK_K):
            c = start + tl.arange(0, BLOCK_K)
            # (rows, BLOCK_K): Q_h Wk_h
            folded = dot_rows(
                to.scaled + h * E, D, rows, rows_ok, w.w_k + h * E * C, 1, C, c, c < C, E, BLOCK_E, PRECISION
            )
            store_rows(to.folded, folded_rows, rows_ok, c, C, folded * FACTOR)


@triton.jit
def norm_rows(
    source_ptr, target_ptr, gain_ptr, bias_ptr, rows, rows_ok, WIDTH: tl.constexpr, NORM: tl.constexpr,
    EPS: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The norm of rows, from one matrix (rows, WIDTH) into another, visible to the whole program."""
    columns = tl.arange(0, BLOCK_W)
    tile = load_rows(source_ptr, rows, rows_ok, columns, WIDTH)
    store_rows(target_ptr, rows, rows_ok, columns, WIDTH, normalise(tile, gain_ptr, bias_ptr, WIDTH, NORM, EPS))
    tl.debug_barrier()


@triton.jit
def load_rows(ptr, rows, rows_ok, columns, WIDTH: tl.constexpr):
    """Tile of a contiguous (rows, WIDTH) matrix as fp32, zero outside; rows int64."""
    ok = rows_ok[:, None] & (columns < WIDTH)[None, :]
    return tl.load(ptr + rows[:, None] * WIDTH + columns[None, :], mask=ok, other=0.0).to(tl.float32)


@triton.jit
def store_rows(ptr, rows, rows_ok, columns, WIDTH: tl.constexpr, tile):
    """Store a tile of a contiguous (rows, WIDTH) matrix in its type."""
    ok = rows_ok[:, None] & (columns < WIDTH)[None, :]
    tl.store(ptr + rows[:, None] * WIDTH + columns[None, :], tile.to(ptr.dtype.element_ty), mask=ok)


@triton.jit
def dot_rows(
    source_ptr, stride, rows, rows_ok, weight_ptr, out_stride, in_stride, outs, outs_ok,
    IN: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ_k source[row, k] · weight[out, k] as fp32 (rows, outs), for any strides of the weight."""
    total = tl.zeros((rows.shape[0], outs.shape[0]), tl.float32)
    for start in range(0, IN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        # (rows, BLOCK_K)
        source = tl.load(
            source_ptr + rows[:, None] * stride + k[None, :], mask=rows_ok[:, None] & (k < IN)[None, :], other=0.0
        )
        # (BLOCK_K, outs)
        weight = tl.load(
            weight_ptr + outs[None, :] * out_stride + k[:, None] * in_stride,
            mask=outs_ok[None, :] & (k < IN)[:, None],
            other=0.0,
        )
        total = multiply_add(source, weight, total, PRECISION)
    return total


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
def add_attention(
    attended_ptr, residual_ptr, residual_rows, w, sum_ptr, rows, rows_ok,
    D: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sum = residual + attended, projected where the block has an output projection."""
    for start in range(0, D, BLOCK_K):
        d = start + tl.arange(0, BLOCK_K)
        if w.w_p is not None:
            tile = linear_rows(attended_ptr, rows, rows_ok, w.w_p, w.b_p, d, D, D, BLOCK_K, PRECISION)
        else:
            tile = load_rows(attended_ptr, rows, rows_ok, d, D)
        store_rows(sum_ptr, rows, rows_ok, d, D, tile + load_rows(residual_ptr, residual_rows, rows_ok, d, D))
    tl.debug_barrier()


@triton.jit
def linear_rows(
    source_ptr, rows, rows_ok, weight_ptr, bias_ptr, outs, IN: tl.constexpr, OUT: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns `outs` of source weightᵀ + bias, weight (OUT, IN), as fp32."""
    y = dot_rows(source_ptr, IN, rows, rows_ok, weight_ptr, IN, 1, outs, outs < OUT, IN, BLOCK_K, PRECISION)
    return y + load_vector(bias_ptr, outs, outs < OUT)[None, :]


@triton.jit
def add_feed_forward(
    hidden_ptr, residual_ptr, w, before_ptr, inner_ptr, sum_ptr, rows, rows_ok,
    D: tl.constexpr, F: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sum = residual + feed-forward(hidden): one layer D → D, or two with F (then `inner`) between them."""
    for start in range(0, F, BLOCK_K):
        f = start + tl.arange(0, BLOCK_K)
        z = linear_rows(hidden_ptr, rows, rows_ok, w.w_o, w.b_o, f, D, F, BLOCK_K, PRECISION)
        store_rows(before_ptr, rows, rows_ok, f, F, z)
        if w.w_o2 is not None:
            store_rows(inner_ptr, rows, rows_ok, f, F, activate(z, ACTIVATION))
        else:
            total = activate(z, ACTIVATION) + load_rows(residual_ptr, rows, rows_ok, f, F)
            store_rows(sum_ptr, rows, rows_ok, f, F, total)
    tl.debug_barrier()
    if w.w_o2 is not None:
        for start in range(0, D, BLOCK_K):
            d = start + tl.arange(0, BLOCK_K)
            total = linear_rows(inner_ptr, rows, rows_ok, w.w_o2, w.b_o2, d, F, D, BLOCK_K, PRECISION)
            store_rows(sum_ptr, rows, rows_ok, d, D, total + load_rows(residual_ptr, rows, rows_ok, d, D))
        tl.debug_barrier()


@triton.jit
def make_keys_values(
    source_ptr, w, k_ptr, v_ptr, rows, rows_ok, IN: tl.constexpr, D: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys and values (rows, D) that a block makes of rows IN wide."""
    for start in range(0, D, BLOCK_K):
        d = start + tl.arange(0, BLOCK_K)
        k = linear_rows(source_ptr, rows, rows_ok, w.w_k, w.b_k, d, IN, D, BLOCK_K, PRECISION)
        store_rows(k_ptr, rows, rows_ok, d, D, k)
        v = linear_rows(source_ptr, rows, rows_ok, w.w_v, w.b_v, d, IN, D, BLOCK_K, PRECISION)
        store_rows(v_ptr, rows, rows_ok, d, D, v)
    tl.debug_barrier()
