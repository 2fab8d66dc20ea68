"""Layers on few rows, stage after stage through memory: queries, and the M rows of a set after attention.

A program owns a block of rows and walks through the columns of a layer in chunks, so that any width fits. A stage
stores what the next one loads; `tl.debug_barrier` between them makes the stores visible to the whole program. The rows
of all sets lie one after another, (sets · M, width), so a block of rows may cross from one set into the next.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.kernels.primitives import activate, load_vector, normalise


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
        total = tl.dot(source.to(weight.dtype), weight, total, input_precision=PRECISION)
    return total


@triton.jit
def linear_rows(
    source_ptr, rows, rows_ok, weight_ptr, bias_ptr, outs, IN: tl.constexpr, OUT: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns `outs` of source weightᵀ + bias, weight (OUT, IN), as fp32."""
    y = dot_rows(source_ptr, IN, rows, rows_ok, weight_ptr, IN, 1, outs, outs < OUT, IN, BLOCK_K, PRECISION)
    return y + load_vector(bias_ptr, outs, outs < OUT)[None, :]


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
