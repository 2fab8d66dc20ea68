"""Gradients of weights from few rows: every product gradᵀ source of a block in one launch, split over the rows."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_product(
    grad_ptr, grad_head, source_ptr, source_head, out_ptr, tile, split, num_splits, num_rows,
    HEADS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, GRAD_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tile number `tile`, if the product has it, of Σ_rows grad[row]ᵀ source[row] over one piece of the rows.

    Per head grad (rows, OUT) with rows GRAD_STRIDE apart and source (rows, IN), out (HEADS, OUT, IN). Returns the
    tile's number and place in the product that follows.
    """
    per_head: tl.constexpr = tl.cdiv(OUT, BLOCK) * tl.cdiv(IN, BLOCK)
    if (tile >= 0) & (tile < HEADS * per_head):
        h, within = tile // per_head, tile % per_head
        outs = within // tl.cdiv(IN, BLOCK) * BLOCK + tl.arange(0, BLOCK)
        ins = within % tl.cdiv(IN, BLOCK) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK, BLOCK), tl.float32)
        share = tl.cdiv(num_rows, num_splits)
        end = tl.minimum(split * share + share, num_rows)
        for start in range(split * share, end, STEP):
            rows = start + tl.arange(0, STEP)
            place = rows.to(tl.int64)[:, None]
            ok = (rows < end)[:, None]
            # (STEP, BLOCK)
            source = tl.load(
                source_ptr + h * source_head + place * IN + ins[None, :], mask=ok & (ins < IN)[None, :], other=0.0
            )
            grad = tl.load(
                grad_ptr + h * grad_head + place * GRAD_STRIDE + outs[None, :],
                mask=ok & (outs < OUT)[None, :],
                other=0.0,
            )
            total = tl.dot(tl.trans(grad.to(source.dtype)), source, total, input_precision=PRECISION)
        target = out_ptr + h * (OUT * IN) + outs[:, None] * IN + ins[None, :]
        inside = (outs < OUT)[:, None] & (ins < IN)[None, :]
        tl.store(target, total.to(out_ptr.dtype.element_ty), mask=inside)
    return tile - HEADS * per_head, out_ptr + HEADS * OUT * IN


@triton.jit
def latent_products_kernel(
    latents, grads, dk_ptr, dv_ptr, y_ptr, out_ptr, num_splits, num_rows, size,
    C: tl.constexpr, D: tl.constexpr, F: tl.constexpr, D_NEXT: tl.constexpr, H: tl.constexpr,
    PROJECTION: tl.constexpr, TWO_LAYERS: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w_o, then those there are of w_p, w_o2, the next block's w_k and w_v, and w_v of an absorbed block."""
    split, tile = tl.program_id(0) % num_splits, tl.program_id(0) // num_splits
    out_ptr += split.to(tl.int64) * size
    tile, out_ptr = add_product(
        grads.before, 0, latents.hidden, 0, out_ptr, tile, split, num_splits, num_rows,
        1, F, D, F, BLOCK, STEP, PRECISION,
    )  # fmt: skip
    if PROJECTION:
        tile, out_ptr = add_product(
            grads.sum0, 0, latents.attended, 0, out_ptr, tile, split, num_splits, num_rows,
            1, D, D, D, BLOCK, STEP, PRECISION,
        )  # fmt: skip
    if TWO_LAYERS:
        tile, out_ptr = add_product(
            grads.sum1, 0, latents.inner, 0, out_ptr, tile, split, num_splits, num_rows,
            1, D, F, D, BLOCK, STEP, PRECISION,
        )  # fmt: skip
    if dk_ptr is not None:
        tile, out_ptr = add_product(
            dk_ptr, 0, latents.keys_from, 0, out_ptr, tile, split, num_splits, num_rows,
            1, D_NEXT, D, D_NEXT, BLOCK, STEP, PRECISION,
        )  # fmt: skip
        tile, out_ptr = add_product(
            dv_ptr, 0, latents.keys_from, 0, out_ptr, tile, split, num_splits, num_rows,
            1, D_NEXT, D, D_NEXT, BLOCK, STEP, PRECISION,
        )  # fmt: skip
    if y_ptr is not None:
        # Σ_rows dO_hᵀ Y_h
        tile, out_ptr = add_product(
            grads.attended, D // H, y_ptr, tl.cast(num_rows, tl.int64) * C, out_ptr, tile, split, num_splits, num_rows,
            H, D // H, C, D, BLOCK, STEP, PRECISION,
        )  # fmt: skip


@triton.jit
def query_products_kernel(
    queries, grads, out_ptr, num_splits, num_rows, size,
    CQ: tl.constexpr, C: tl.constexpr, D: tl.constexpr, H: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w_q, then w_k of an absorbed block."""
    split, tile = tl.program_id(0) % num_splits, tl.program_id(0) // num_splits
    out_ptr += split.to(tl.int64) * size
    tile, out_ptr = add_product(
        grads.query, 0, queries.normed, 0, out_ptr, tile, split, num_splits, num_rows,
        1, D, CQ, D, BLOCK, STEP, PRECISION,
    )  # fmt: skip
    if grads.folded is not None:
        # Σ_rows Q_hᵀ dG_h
        tile, out_ptr = add_product(
            queries.query, D // H, grads.folded, tl.cast(num_rows, tl.int64) * C, out_ptr, tile, split, num_splits,
            num_rows, H, D // H, C, D, BLOCK, STEP, PRECISION,
        )  # fmt: skip
