"""Gradients of the layers on few rows: of what follows attention on the M rows of a set, and of the queries.

As in `row_kernels.py`, a program owns a block of rows and goes from stage to stage through memory. What the gradients
of matrices need stays there for `product_kernels.py`; vectors (biases, norms) are summed over the program's rows into
`parts` (vectors, programs, widest), whose sum over programs is theirs. A key bias shifts all scores of a query alike:
its gradient is zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.aggregate.row_kernels import dot_rows, load_rows, store_rows
from settx_fast.attention.triton.primitives import activation_slope, load_vector, normalise_backward, standardise

# Places of vectors in `parts`; the first three are the query rows', the others the latents'.
B_Q: tl.constexpr = tl.constexpr(0)
G0: tl.constexpr = tl.constexpr(1)
B0: tl.constexpr = tl.constexpr(2)
G1: tl.constexpr = tl.constexpr(3)
B1: tl.constexpr = tl.constexpr(4)
B_O: tl.constexpr = tl.constexpr(5)
B_O2: tl.constexpr = tl.constexpr(6)
B_P: tl.constexpr = tl.constexpr(7)
B_V: tl.constexpr = tl.constexpr(8)
NEXT_B_V: tl.constexpr = tl.constexpr(9)
NEXT_G0: tl.constexpr = tl.constexpr(10)
NEXT_B0: tl.constexpr = tl.constexpr(11)
B_K: tl.constexpr = tl.constexpr(12)
NEXT_B_K: tl.constexpr = tl.constexpr(13)
QUERY_VECTORS, VECTORS = 3, 14


@triton.jit(do_not_specialize=["num_rows"])
def finish_backward_kernel(
    dk_ptr, dv_ptr, latents, y_ptr, lse_ptr, w, w_next, to, parts_ptr, num_rows, M, WIDEST,
    spec: tl.constexpr, spec_next: tl.constexpr, C: tl.constexpr, D: tl.constexpr, D_NEXT: tl.constexpr,
    ABSORBED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows of (sets · M), from the next block's keys and values (or to.out) to dY and δ."""
    NORM: tl.constexpr = spec.norm
    EPS: tl.constexpr = spec.norm_eps
    H: tl.constexpr = spec.num_heads
    ACTIVATION: tl.constexpr = spec.activation
    F: tl.constexpr = D if spec.ffn_dim is None else spec.ffn_dim
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows_ok = rows < num_rows
    if spec_next is not None:
        keys_values_backward(
            dk_ptr, dv_ptr, w_next, to.keys_from, parts_ptr, rows, rows_ok, WIDEST, D, D_NEXT, BLOCK_K, PRECISION
        )
        NEXT_NORM: tl.constexpr = spec_next.norm
        NEXT_EPS: tl.constexpr = spec_next.norm_eps
        if spec_next.norm_first and NEXT_NORM != "none":
            norm_rows_backward(
                latents.out, to.keys_from, None, to.out, w_next.g0, parts_ptr, rows, rows_ok, WIDEST,
                NEXT_G0, NEXT_B0, D, NEXT_NORM, NEXT_EPS, BLOCK_D,
            )  # fmt: skip
    if NORM != "none" and not spec.norm_first:
        norm_rows_backward(
            latents.sum1, to.out, None, to.sum1, w.g1, parts_ptr, rows, rows_ok, WIDEST, G1, B1, D, NORM, EPS, BLOCK_D
        )
    SKIP: tl.constexpr = NORM == "none" or not spec.norm_first
    feed_forward_backward(latents, to, w, parts_ptr, rows, rows_ok, WIDEST, D, F, ACTIVATION, SKIP, BLOCK_K, PRECISION)
    if NORM != "none" and spec.norm_first:
        norm_rows_backward(
            latents.sum0, to.hidden, to.sum1, to.sum0, w.g1, parts_ptr, rows, rows_ok, WIDEST,
            G1, B1, D, NORM, EPS, BLOCK_D,
        )  # fmt: skip
    elif NORM != "none":
        norm_rows_backward(
            latents.sum0,
            to.hidden,
            None,
            to.sum0,
            w.g0,
            parts_ptr,
            rows,
            rows_ok,
            WIDEST,
            G0,
            B0,
            D,
            NORM,
            EPS,
            BLOCK_D,
        )
    attended_backward(to, lse_ptr, w, parts_ptr, rows, rows_ok, M, WIDEST, D, H, BLOCK_K, PRECISION)
    values_backward(
        y_ptr, latents.attended, to, w, rows, rows_ok, M, num_rows,
        C, D, H, ABSORBED, BLOCK_E, BLOCK_K, PRECISION,
    )  # fmt: skip


@triton.jit
def keys_values_backward(
    dk_ptr, dv_ptr, w, target_ptr, parts_ptr, rows, rows_ok, WIDEST,
    IN: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the rows that keys and values were made of."""
    for start in range(0, IN, BLOCK_K):
        i = start + tl.arange(0, BLOCK_K)
        grad = dot_transposed(dk_ptr, rows, rows_ok, w.w_k, i, IN, D, BLOCK_K, PRECISION)
        grad += dot_transposed(dv_ptr, rows, rows_ok, w.w_v, i, IN, D, BLOCK_K, PRECISION)
        store_rows(target_ptr, rows, rows_ok, i, IN, grad)
    for start in range(0, D, BLOCK_K):
        d = start + tl.arange(0, BLOCK_K)
        dv = load_rows(dv_ptr, rows, rows_ok, d, D)
        sum_rows(parts_ptr, NEXT_B_V, d, D, WIDEST, dv)
        sum_rows(parts_ptr, NEXT_B_K, d, D, WIDEST, tl.zeros_like(dv))
    tl.debug_barrier()


@triton.jit
def dot_transposed(
    grad_ptr, rows, rows_ok, weight_ptr, columns, IN: tl.constexpr, OUT: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns of grad weight, grad (rows, OUT) and weight (OUT, IN), as fp32."""
    return dot_rows(grad_ptr, OUT, rows, rows_ok, weight_ptr, 1, IN, columns, columns < IN, OUT, BLOCK_K, PRECISION)


@triton.jit
def sum_rows(parts_ptr, VECTOR: tl.constexpr, columns, WIDTH: tl.constexpr, WIDEST, tile):
    """This program's part of the gradient of a vector."""
    target = parts_ptr + (tl.program_id(0).to(tl.int64) + VECTOR * tl.num_programs(0)) * WIDEST + columns
    tl.store(target, tl.sum(tile, 0), mask=columns < WIDTH)


@triton.jit
def norm_rows_backward(
    source_ptr, grad_ptr, skip_ptr, target_ptr, gain_ptr, parts_ptr, rows, rows_ok, WIDEST,
    GAIN: tl.constexpr, BIAS: tl.constexpr, WIDTH: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Through the norm of source rows, plus the gradient that skipped it."""
    columns = tl.arange(0, BLOCK_W)
    standard, factor = standardise(load_rows(source_ptr, rows, rows_ok, columns, WIDTH), WIDTH, NORM, EPS)
    grad = load_rows(grad_ptr, rows, rows_ok, columns, WIDTH)
    sum_rows(parts_ptr, GAIN, columns, WIDTH, WIDEST, grad * standard)
    sum_rows(parts_ptr, BIAS, columns, WIDTH, WIDEST, grad)
    grad = normalise_backward(grad, standard, factor, gain_ptr, WIDTH, NORM)
    if skip_ptr is not None:
        grad += load_rows(skip_ptr, rows, rows_ok, columns, WIDTH)
    store_rows(target_ptr, rows, rows_ok, columns, WIDTH, grad)
    tl.debug_barrier()


@triton.jit
def feed_forward_backward(
    latents, to, w, parts_ptr, rows, rows_ok, WIDEST,
    D: tl.constexpr, F: tl.constexpr, ACTIVATION: tl.constexpr, SKIP: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From sum1 to before and hidden; SKIP where the residual around the layers starts at hidden."""
    for start in range(0, F, BLOCK_K):
        f = start + tl.arange(0, BLOCK_K)
        if w.w_o2 is not None:
            grad = dot_transposed(to.sum1, rows, rows_ok, w.w_o2, f, F, D, BLOCK_K, PRECISION)
        else:
            grad = load_rows(to.sum1, rows, rows_ok, f, D)
        grad *= activation_slope(load_rows(latents.before, rows, rows_ok, f, F), ACTIVATION)
        store_rows(to.before, rows, rows_ok, f, F, grad)
        sum_rows(parts_ptr, B_O, f, F, WIDEST, grad)
    tl.debug_barrier()
    for start in range(0, D, BLOCK_K):
        d = start + tl.arange(0, BLOCK_K)
        grad = dot_transposed(to.before, rows, rows_ok, w.w_o, d, D, F, BLOCK_K, PRECISION)
        above = load_rows(to.sum1, rows, rows_ok, d, D)
        if w.w_o2 is not None:
            sum_rows(parts_ptr, B_O2, d, D, WIDEST, above)
        if SKIP:
            grad += above
        store_rows(to.hidden, rows, rows_ok, d, D, grad)
    tl.debug_barrier()


@triton.jit
def attended_backward(
    to, lse_ptr, w, parts_ptr, rows, rows_ok, M, WIDEST,
    D: tl.constexpr, H: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From sum0 to the attended values, through the output projection if there is one; the value bias on the way."""
    filled = tl.load(lse_ptr + rows // M * (H * M) + rows % M, mask=rows_ok, other=0.0) > float("-inf")
    for start in range(0, D, BLOCK_K):
        d = start + tl.arange(0, BLOCK_K)
        if w.w_p is not None:
            grad = dot_transposed(to.sum0, rows, rows_ok, w.w_p, d, D, D, BLOCK_K, PRECISION)
            sum_rows(parts_ptr, B_P, d, D, WIDEST, load_rows(to.sum0, rows, rows_ok, d, D))
            store_rows(to.attended, rows, rows_ok, d, D, grad)
        else:
            grad = load_rows(to.sum0, rows, rows_ok, d, D)
        sum_rows(parts_ptr, B_V, d, D, WIDEST, tl.where(filled[:, None], grad, 0.0))
        sum_rows(parts_ptr, B_K, d, D, WIDEST, tl.zeros_like(grad))
    tl.debug_barrier()


@triton.jit
def values_backward(
    y_ptr, attended_ptr, to, w, rows, rows_ok, M, num_rows,
    C: tl.constexpr, D: tl.constexpr, H: tl.constexpr, ABSORBED: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dY where absorbed, and δ."""
    E: tl.constexpr = D // H
    for h in range(H):
        folded_rows = (rows // M * H + h) * M + rows % M
        delta = tl.zeros((rows.shape[0],), tl.float32)
        if ABSORBED:
            for start in range(0, C, BLOCK_K):
                c = start + tl.arange(0, BLOCK_K)
                # (rows, BLOCK_K): dO_h Wv_h
                dy = dot_rows(
                    to.attended + h * E, D, rows, rows_ok, w.w_v + h * E * C, 1, C, c, c < C, E, BLOCK_E, PRECISION
                )
                store_rows(to.y, folded_rows, rows_ok, c, C, dy)
                delta += tl.sum(dy * load_rows(y_ptr, rows + h * num_rows, rows_ok, c, C), 1)
        else:
            for start in range(0, E, BLOCK_E):
                e = start + tl.arange(0, BLOCK_E)
                ok = rows_ok[:, None] & (e < E)[None, :]
                place = rows[:, None] * D + h * E + e[None, :]
                values = tl.load(attended_ptr + place, mask=ok, other=0.0).to(tl.float32)
                values -= load_vector(w.b_v, h * E + e, e < E)[None, :]
                delta += tl.sum(values * tl.load(to.attended + place, mask=ok, other=0.0).to(tl.float32), 1)
        tl.store(to.delta + folded_rows, delta, mask=rows_ok)


@triton.jit(do_not_specialize=["num_rows"])
def queries_backward_kernel(
    dfolded_ptr, dresidual_ptr, input_ptr, scale_ptr, query_ptr, w, to, parts_ptr, num_rows, M, FACTOR, WIDEST,
    spec: tl.constexpr, CQ: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ABSORBED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_CQ: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M query rows, from the folded queries (sets, H · M, C or E) fp32 to their input."""
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    NORM: tl.constexpr = spec.norm
    EPS: tl.constexpr = spec.norm_eps
    NORMED: tl.constexpr = spec.norm_first and NORM != "none"
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows_ok = rows < num_rows
    for h in range(H):
        folded_rows = (rows // M * H + h) * M + rows % M
        if ABSORBED:
            for start in range(0, C, BLOCK_K):
                c = start + tl.arange(0, BLOCK_K)
                grad = load_rows(dfolded_ptr, folded_rows, rows_ok, c, C) * FACTOR
                store_rows(to.folded, rows + h * num_rows, rows_ok, c, C, grad)
            tl.debug_barrier()
        for start in range(0, E, BLOCK_E):
            e = start + tl.arange(0, BLOCK_E)
            ok = rows_ok[:, None] & (e < E)[None, :]
            place = rows[:, None] * D + h * E + e[None, :]
            if ABSORBED:
                grad = dot_rows(
                    to.folded, C, rows + h * num_rows, rows_ok, w.w_k, C, 1, h * E + e, e < E, C, BLOCK_K, PRECISION
                )
            else:
                grad = load_rows(dfolded_ptr, folded_rows, rows_ok, e, E) * FACTOR
            if scale_ptr is not None:  # of what was folded, Q times its factors
                q = tl.load(query_ptr + place, mask=ok, other=0.0).to(tl.float32)
                tl.store(to.scale + place, (grad * q).to(to.scale.dtype.element_ty), mask=ok)
                grad *= tl.load(scale_ptr + place, mask=ok, other=0.0).to(tl.float32)
            if spec.residual == "projected":
                grad += tl.load(dresidual_ptr + place, mask=ok, other=0.0).to(tl.float32)
            tl.store(to.query + place, grad.to(to.query.dtype.element_ty), mask=ok)
            target = parts_ptr + (tl.program_id(0).to(tl.int64) + B_Q * tl.num_programs(0)) * WIDEST + h * E + e
            tl.store(target, tl.sum(grad, 0), mask=e < E)
    tl.debug_barrier()
    for start in range(0, CQ, BLOCK_K):
        c = start + tl.arange(0, BLOCK_K)
        grad = dot_transposed(to.query, rows, rows_ok, w.w_q, c, CQ, D, BLOCK_K, PRECISION)
        if spec.residual == "input" and not NORMED:
            grad += load_rows(dresidual_ptr, rows, rows_ok, c, CQ)
        store_rows(to.normed, rows, rows_ok, c, CQ, grad)
    if NORMED:
        tl.debug_barrier()
        skip_ptr = dresidual_ptr if spec.residual == "input" else None
        norm_rows_backward(
            input_ptr, to.normed, skip_ptr, to.input, w.g0, parts_ptr, rows, rows_ok, WIDEST,
            G0, B0, CQ, NORM, EPS, BLOCK_CQ,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "outer", "num_parts", "outer2", "num_parts2", "outer3", "num_parts3", "outer4", "num_parts4",
    ]
)  # fmt: skip
def sum_parts_kernel(
    parts_ptr, sum_ptr, outer, num_parts, size, parts2_ptr, sum2_ptr, outer2, num_parts2, size2,
    parts3_ptr, sum3_ptr, outer3, num_parts3, size3, parts4_ptr, sum4_ptr, outer4, num_parts4, size4,
    BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums over the middle axis of up to four arrays, in a fixed order, in the types of their targets."""
    tile = sum_parts(parts_ptr, sum_ptr, tl.program_id(0), outer, num_parts, size, BLOCK_P, BLOCK_S)
    if parts2_ptr is not None:
        tile = sum_parts(parts2_ptr, sum2_ptr, tile, outer2, num_parts2, size2, BLOCK_P, BLOCK_S)
    if parts3_ptr is not None:
        tile = sum_parts(parts3_ptr, sum3_ptr, tile, outer3, num_parts3, size3, BLOCK_P, BLOCK_S)
    if parts4_ptr is not None:
        sum_parts(parts4_ptr, sum4_ptr, tile, outer4, num_parts4, size4, BLOCK_P, BLOCK_S)


@triton.jit
def sum_parts(
    parts_ptr, sum_ptr, tile, outer, num_parts, size, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr
):  # fmt: skip
    """Tile number `tile`, if there is one, of the sum of (outer, num_parts, size) over its middle axis.

    Returns the tile's number in the sum that follows.
    """
    blocks = tl.cdiv(size, BLOCK_S)
    if (tile >= 0) & (tile < outer * blocks):
        which = (tile // blocks).to(tl.int64)
        columns = tile % blocks * BLOCK_S + tl.arange(0, BLOCK_S)
        total = tl.zeros((BLOCK_P, BLOCK_S), tl.float32)
        for start in range(0, num_parts, BLOCK_P):
            part = start + tl.arange(0, BLOCK_P)
            place = (which * num_parts + part)[:, None] * size + columns[None, :]
            ok = (part < num_parts)[:, None] & (columns < size)[None, :]
            total += tl.load(parts_ptr + place, mask=ok, other=0.0).to(tl.float32)
        target = sum_ptr + which * size + columns
        tl.store(target, tl.sum(total, 0).to(sum_ptr.dtype.element_ty), mask=columns < size)
    return tile - outer * blocks
