"""Gradients of weights from few rows: every product gradᵀ source of a block in one launch, split over the rows."""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.primitives import multiply_add


@triton.jit(do_not_specialize=["num_splits", "num_rows"])
def latent_products_kernel(
    latents, grads, dk_ptr, dv_ptr, y_ptr, out_ptr, num_splits, num_rows, size,
    C: tl.constexpr, D: tl.constexpr, F: tl.constexpr, D_NEXT: tl.constexpr, H: tl.constexpr,
    PROJECTION: tl.constexpr, TWO_LAYERS: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w_o, then those there are of w_p, w_o2, the next block's w_k and w_v, and w_v of an absorbed block."""
    split, tile = tl.program_id(0) % num_splits, tl.program_id(0) // num_splits
    out_ptr += split.to(tl.int64) * size
    chosen = (grads.before, F, latents.hidden, out_ptr, F, D, 0, 0)
    chosen, tile, out_ptr = choose(chosen, tile, out_ptr, grads.before, 0, F, latents.hidden, 0, 1, F, D, BLOCK)
    if PROJECTION:
        chosen, tile, out_ptr = choose(chosen, tile, out_ptr, grads.sum0, 0, D, latents.attended, 0, 1, D, D, BLOCK)
    if TWO_LAYERS:
        chosen, tile, out_ptr = choose(chosen, tile, out_ptr, grads.sum1, 0, D, latents.inner, 0, 1, D, F, BLOCK)
    if dk_ptr is not None:
        source_ptr = latents.keys_from
        chosen, tile, out_ptr = choose(chosen, tile, out_ptr, dk_ptr, 0, D_NEXT, source_ptr, 0, 1, D_NEXT, D, BLOCK)
        chosen, tile, out_ptr = choose(chosen, tile, out_ptr, dv_ptr, 0, D_NEXT, source_ptr, 0, 1, D_NEXT, D, BLOCK)
    if y_ptr is not None:
        # Σ_rows dO_hᵀ Y_h
        head = tl.cast(num_rows, tl.int64) * C
        chosen, tile, out_ptr = choose(
            chosen, tile, out_ptr, grads.attended, D // H, D, y_ptr, head, H, D // H, C, BLOCK
        )  # fmt: skip
    add_product(chosen, split, num_splits, num_rows, BLOCK, STEP, PRECISION)


@triton.jit
def choose(
    chosen, tile, out_ptr, grad_ptr, grad_head, grad_stride, source_ptr, source_head,
    HEADS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What `add_product` takes: this product where tile number `tile` is one of its tiles, else `chosen`.

    Per head grad (rows, OUT) with rows grad_stride apart and source (rows, IN), out (HEADS, OUT, IN). Returns the
    tile's number and place in the product that follows as well.
    """
    across: tl.constexpr = (IN + BLOCK - 1) // BLOCK
    per_head: tl.constexpr = (OUT + BLOCK - 1) // BLOCK * across
    mine = (tile >= 0) & (tile < HEADS * per_head)
    h, within = tile // per_head, tile % per_head
    chosen = (
        tl.where(mine, grad_ptr + h * grad_head, chosen[0]),
        tl.where(mine, grad_stride, chosen[1]),
        tl.where(mine, source_ptr + h * source_head, chosen[2]),
        tl.where(mine, out_ptr + h * (OUT * IN), chosen[3]),
        tl.where(mine, OUT, chosen[4]),
        tl.where(mine, IN, chosen[5]),
        tl.where(mine, within // across * BLOCK, chosen[6]),
        tl.where(mine, within % across * BLOCK, chosen[7]),
    )
    return chosen, tile - HEADS * per_head, out_ptr + HEADS * OUT * IN


@triton.jit
def add_product(
    chosen, split, num_splits, num_rows, BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Store one tile of Σ_rows grad[row]ᵀ source[row] over one piece of the rows; one loop serves all products."""
    grad_ptr, grad_stride, source_ptr, out_ptr, OUT, IN, first_out, first_in = chosen
    outs, ins = first_out + tl.arange(0, BLOCK), first_in + tl.arange(0, BLOCK)
    out_ok, in_ok = (outs < OUT)[None, :], (ins < IN)[None, :]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    share = tl.cdiv(num_rows, num_splits)
    end = tl.minimum(split * share + share, num_rows)
    for start in range(split * share, end, STEP):
        rows = (start + tl.arange(0, STEP)).to(tl.int64)[:, None]
        ok = rows < end
        # (STEP, BLOCK)
        source = tl.load(source_ptr + rows * IN + ins[None, :], mask=ok & in_ok, other=0.0)
        grad = tl.load(grad_ptr + rows * grad_stride + outs[None, :], mask=ok & out_ok, other=0.0)
        total = multiply_add(tl.trans(grad), source, total, PRECISION)
    target = out_ptr + outs[:, None] * IN + ins[None, :]
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=(outs < OUT)[:, None] & in_ok)


@triton.jit(do_not_specialize=["num_splits", "num_rows"])
def query_products_kernel(
    queries, grads, out_ptr, num_splits, num_rows, size,
    CQ: tl.constexpr, C: tl.constexpr, D: tl.constexpr, H: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w_q, then w_k of an absorbed block."""
    split, tile = tl.program_id(0) % num_splits, tl.program_id(0) // num_splits
    out_ptr += split.to(tl.int64) * size
    chosen = (grads.query, D, queries.normed, out_ptr, D, CQ, 0, 0)
    chosen, tile, out_ptr = choose(chosen, tile, out_ptr, grads.query, 0, D, queries.normed, 0, 1, D, CQ, BLOCK)
    if grads.folded is not None:
        # Σ_rows Q_hᵀ dG_h
        head = tl.cast(num_rows, tl.int64) * C
        chosen, tile, out_ptr = choose(
            chosen, tile, out_ptr, queries.scaled, D // H, D, grads.folded, head, H, D // H, C, BLOCK
        )  # fmt: skip
    add_product(chosen, split, num_splits, num_rows, BLOCK, STEP, PRECISION)
