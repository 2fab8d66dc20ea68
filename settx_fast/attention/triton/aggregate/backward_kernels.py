"""Gradients of stage A's pass over the elements: recompute a tile, use it, drop it.

From the gradient of the attended values O_h every score's gradient is dS = P ∘ (dP − δ), with dP = dO V and
δ = Σ_c dY ∘ Y for each query. Absorbed: dY = dO_h Wv_h, dX = Pᵀ dY + dSᵀ G, dG = dS X. Projected: the tile's keys and
values are made again and dWk, dWv, dQ are summed over elements. Scores are in units of log₂, so dS here carries ln 2,
which `FACTOR` = scale · log₂ e undoes.

Each program adds up in registers what it owns, in the order of its elements; the sums of all programs are added by one
reduction afterwards. No atomics: same inputs, same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.aggregate.forward_kernels import element_pointers, load_elements, load_head, piece
from settx_fast.attention.triton.primitives import (
    LN2,
    load_vector,
    multiply,
    multiply_add,
    normalise_backward,
    standardise,
)
from settx_fast.attention.triton.sets import first_row, set_length


@triton.jit(do_not_specialize=["N", "num_sets", "group", "num_splits"])
def absorbed_kernel(
    x, dx, N, folded_ptr, folded_stride, w, dy_ptr, lse_ptr, delta_ptr, dfolded_ptr, dgain_ptr, dbias_ptr,
    num_sets, group, num_splits, num_rows,
    spec: tl.constexpr, C: tl.constexpr, SINGLE: tl.constexpr, WRITE_X: tl.constexpr, TRANSPOSED: tl.constexpr,
    ADD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dG of one block of folded queries over one piece of each of `group` sets, and dX when WRITE_X.

    WRITE_X takes a block that holds all queries. dG (groups, splits, num_rows, C). SINGLE: a group is one set, without
    the registers of a loop over sets.
    """
    blocks = tl.cdiv(num_rows, BLOCK_R)
    first = tl.program_id(0) % blocks * BLOCK_R
    program = tl.program_id(0) // blocks
    split, first_set = program % num_splits, program // num_splits * group
    zeros = tl.zeros((BLOCK_C,), tl.float32)
    sums = tl.zeros((BLOCK_R, BLOCK_C), tl.float32), zeros, zeros
    if SINGLE:
        sums = absorbed_set(
            sums, x, dx, N, folded_ptr, folded_stride, w, dy_ptr, lse_ptr, delta_ptr,
            first_set, split, num_splits, first, num_rows,
            spec, C, WRITE_X, TRANSPOSED, ADD, BLOCK_R, BLOCK_N, BLOCK_C, PRECISION,
        )  # fmt: skip
    else:
        for number in range(first_set, tl.minimum(first_set + group, num_sets)):
            sums = absorbed_set(
                sums, x, dx, N, folded_ptr, folded_stride, w, dy_ptr, lse_ptr, delta_ptr,
                number, split, num_splits, first, num_rows,
                spec, C, WRITE_X, TRANSPOSED, ADD, BLOCK_R, BLOCK_N, BLOCK_C, PRECISION,
            )  # fmt: skip
    dfolded, dgain, dbias = sums
    program = program.to(tl.int64)
    store_matrix(dfolded_ptr + (program * num_rows + first) * C, dfolded, num_rows - first, C, C, 1)
    if WRITE_X and spec.norm_first and spec.norm != "none":
        columns = tl.arange(0, BLOCK_C)
        tl.store(dgain_ptr + program * C + columns, dgain, mask=columns < C)
        tl.store(dbias_ptr + program * C + columns, dbias, mask=columns < C)


@triton.jit
def absorbed_set(
    sums, x, dx, N, folded_ptr, folded_stride, w, dy_ptr, lse_ptr, delta_ptr, number, split, num_splits,
    first, num_rows, spec: tl.constexpr, C: tl.constexpr, WRITE_X: tl.constexpr, TRANSPOSED: tl.constexpr,
    ADD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add one piece of a set to the gradients of folded queries and of the norm's gain and bias; dX when WRITE_X."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    dfolded, dgain, dbias = sums
    b = tl.cast(number, tl.int64)
    length, base_ptr = set_length(x, N, b), x.ptr + first_row(x, b)
    q = load_queries(folded_ptr + b * folded_stride, first, num_rows, C, BLOCK_R, BLOCK_C)
    dy = load_queries(dy_ptr + b * num_rows * C, first, num_rows, C, BLOCK_R, BLOCK_C)
    lse, delta = load_statistics(lse_ptr, delta_ptr, b, first, num_rows, num_rows, BLOCK_R)
    begin, end = piece(length, split, num_splits, BLOCK_N)
    for tile in range(begin, end):
        raw, inside = load_elements(base_ptr, x.row_stride, tile, length, C, BLOCK_N, BLOCK_C)
        elements, standard, factor = norm_elements(raw, w.g0, w.b0, C, NORM, spec.norm_eps)
        p, ds = score_gradient(elements, elements, q, dy, lse, delta, inside, PRECISION)
        dfolded = multiply_add(ds, elements, dfolded, PRECISION)
        if WRITE_X:
            grad = absorbed_gradient(p, ds, q, dy, TRANSPOSED, PRECISION)
            gain_part, bias_part = store_element_gradient(
                dx, b, tile, inside, grad, standard, factor, w.g0, C, NORM, ADD, BLOCK_C
            )
            dgain += gain_part
            dbias += bias_part
    return dfolded, dgain, dbias


@triton.jit
def load_queries(ptr, first, last, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr):
    """Rows first … last of a contiguous (rows, WIDTH) matrix."""
    r, columns = first + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_W)
    ok = (r < last)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(ptr + r[:, None] * WIDTH + columns[None, :], mask=ok, other=0.0)


@triton.jit
def load_statistics(lse_ptr, delta_ptr, b, first, last, num_rows, BLOCK_R: tl.constexpr):
    """log₂-sum-exp and δ of folded queries; +∞ past the last, so that theirs is no probability."""
    r = first + tl.arange(0, BLOCK_R)
    lse = tl.load(lse_ptr + b * num_rows + r, mask=r < last, other=float("inf"))
    return lse, tl.load(delta_ptr + b * num_rows + r, mask=r < last, other=0.0)


@triton.jit
def norm_elements(
    x, gain_ptr, bias_ptr, C: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr
):  # fmt: skip
    """Normed tile in its type, and the standardised tile and factor that its backward needs."""
    if NORM == "none":
        return x, x, x
    else:
        columns = tl.arange(0, x.shape[1])
        standard, factor = standardise(x.to(tl.float32), C, NORM, EPS)
        normed = standard * load_vector(gain_ptr, columns, columns < C)[None, :]
        normed += load_vector(bias_ptr, columns, columns < C)[None, :]
        return normed.to(x.dtype), standard, factor


@triton.jit
def score_gradient(keys, values, q, grad, lse, delta, inside, PRECISION: tl.constexpr):
    """Probabilities and score gradients (queries, elements) of a tile, from its keys and values."""
    # (BLOCK_R, BLOCK_N)
    s = multiply(q, tl.trans(keys), PRECISION)
    p = tl.where(inside[None, :], tl.exp2(s - lse[:, None]), 0.0)
    dp = multiply(grad, tl.trans(values), PRECISION)
    ds = p * (dp - delta[:, None]) * LN2
    return p.to(keys.dtype), ds.to(keys.dtype)


@triton.jit
def absorbed_gradient(p, ds, q, dy, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):
    """dX = Pᵀ dY + dSᵀ G of a tile, as fp32.

    TRANSPOSED makes dXᵀ: on sm_90 eight warps take 128 rows of a chain of products, so of dX's 64 every one twice.
    """
    if TRANSPOSED:
        grad = multiply(tl.trans(dy), p, PRECISION)
        grad = tl.trans(multiply_add(tl.trans(q), ds, grad, PRECISION))
    else:
        grad = multiply(tl.trans(p), dy, PRECISION)
        grad = multiply_add(tl.trans(ds), q, grad, PRECISION)
    return grad


@triton.jit
def store_element_gradient(
    dx, b, tile, inside, grad, standard, factor, gain_ptr,
    C: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Through the norm, if there is one, into the rows dx (or nowhere), on top of what is there when ADD.

    Returns the parts of the norm's gain and bias.
    """
    columns = tl.arange(0, BLOCK_C)
    gain_grad = tl.zeros((BLOCK_C,), tl.float32)
    bias_grad = tl.zeros((BLOCK_C,), tl.float32)
    if NORM != "none":
        grad = tl.where(inside[:, None], grad, 0.0)
        gain_grad = tl.sum(grad * standard, 0)
        bias_grad = tl.sum(grad, 0)
        grad = normalise_backward(grad, standard, factor, gain_ptr, C, NORM)
    if dx.ptr is not None:
        ok = inside[:, None] & (columns < C)[None, :]
        target = element_pointers(dx.ptr + first_row(dx, b), dx.row_stride, tile, grad.shape[0], columns)
        if ADD:
            grad += tl.load(target, mask=ok, other=0.0).to(tl.float32)
        tl.store(target, grad.to(dx.ptr.dtype.element_ty), mask=ok)
    return gain_grad, bias_grad


@triton.jit
def store_matrix(ptr, tile, ROWS, COLUMNS, row_stride, column_stride):
    """A tile into the ROWS by COLUMNS matrix at ptr."""
    rows, columns = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    ok = (rows < ROWS)[:, None] & (columns < COLUMNS)[None, :]
    tl.store(ptr + rows[:, None] * row_stride + columns[None, :] * column_stride, tile, mask=ok)


@triton.jit(do_not_specialize=["N", "num_sets", "group", "num_splits"])
def projected_kernel(
    x, N, folded_ptr, folded_stride, w,
    dattended_ptr, lse_ptr, delta_ptr, dfolded_ptr, dw_k_ptr, dw_v_ptr, num_sets, group, num_splits, M,
    spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr, SINGLE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dQ, dWk, dWv of one block of one head's queries over one piece of each of `group` sets.

    dQ (groups, splits, H · M, E); dWk and dWv (groups, splits, blocks of a head, D, C). SINGLE as in absorbed_kernel.
    """
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    blocks = tl.cdiv(M, BLOCK_R)
    block, h = tl.program_id(0) % blocks, tl.program_id(0) // blocks % H
    program = tl.program_id(0) // blocks // H
    first, last = h * M + block * BLOCK_R, h * M + M
    split, first_set = program % num_splits, program // num_splits * group
    w_k, w_v = load_head(w.w_k, h, E, C, BLOCK_E, BLOCK_C), load_head(w.w_v, h, E, C, BLOCK_E, BLOCK_C)
    zeros = tl.zeros((BLOCK_C, BLOCK_E), tl.float32)
    sums = tl.zeros((BLOCK_R, BLOCK_E), tl.float32), zeros, zeros
    if SINGLE:
        sums = projected_set(
            sums, x, N, folded_ptr, folded_stride, w, w_k, w_v, dattended_ptr, lse_ptr, delta_ptr,
            first_set, split, num_splits, first, last, M,
            spec, C, D, BLOCK_R, BLOCK_N, BLOCK_C, BLOCK_E, PRECISION,
        )  # fmt: skip
    else:
        for number in range(first_set, tl.minimum(first_set + group, num_sets)):
            sums = projected_set(
                sums, x, N, folded_ptr, folded_stride, w, w_k, w_v, dattended_ptr, lse_ptr, delta_ptr,
                number, split, num_splits, first, last, M,
                spec, C, D, BLOCK_R, BLOCK_N, BLOCK_C, BLOCK_E, PRECISION,
            )  # fmt: skip
    dfolded, dw_k, dw_v = sums
    program = program.to(tl.int64)
    store_matrix(dfolded_ptr + (program * H * M + first) * E, dfolded, last - first, E, E, 1)
    weight = ((program * blocks + block) * H + h) * E * C
    store_matrix(dw_k_ptr + weight, dw_k, C, E, 1, C)
    store_matrix(dw_v_ptr + weight, dw_v, C, E, 1, C)


@triton.jit
def projected_set(
    sums, x, N, folded_ptr, folded_stride, w, w_k, w_v, dattended_ptr, lse_ptr, delta_ptr, number, split, num_splits,
    first, last, M, spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add one piece of a set to dQ, dWk and dWv of one block of one head's queries."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    dfolded, dw_k, dw_v = sums
    b = tl.cast(number, tl.int64)
    length, base_ptr = set_length(x, N, b), x.ptr + first_row(x, b)
    q = load_queries(folded_ptr + b * folded_stride, first, last, E, BLOCK_R, BLOCK_E)
    do = load_head_grad(dattended_ptr, b, first, last, M, D, E, BLOCK_R, BLOCK_E)
    lse, delta = load_statistics(lse_ptr, delta_ptr, b, first, last, H * M, BLOCK_R)
    begin, end = piece(length, split, num_splits, BLOCK_N)
    for tile in range(begin, end):
        raw, inside = load_elements(base_ptr, x.row_stride, tile, length, C, BLOCK_N, BLOCK_C)
        elements, _, _ = norm_elements(raw, w.g0, w.b0, C, NORM, spec.norm_eps)
        keys = multiply(elements, w_k, PRECISION).to(elements.dtype)
        values = multiply(elements, w_v, PRECISION).to(elements.dtype)
        p, ds = score_gradient(keys, values, q, do, lse, delta, inside, PRECISION)
        dkeys = multiply(tl.trans(ds), q, PRECISION).to(q.dtype)
        dvalues = multiply(tl.trans(p), do, PRECISION).to(q.dtype)
        dw_k = multiply_add(tl.trans(elements), dkeys, dw_k, PRECISION)
        dw_v = multiply_add(tl.trans(elements), dvalues, dw_v, PRECISION)
        dfolded = multiply_add(ds, keys, dfolded, PRECISION)
    return dfolded, dw_k, dw_v


@triton.jit
def load_head_grad(
    ptr, b, first, last, M, D: tl.constexpr, E: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr
):  # fmt: skip
    """Gradient of the attended values (B, M, D) of folded queries first … last, all of one head: (BLOCK_R, BLOCK_E)."""
    r, e = first + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_E)
    ok = (r < last)[:, None] & (e < E)[None, :]
    return tl.load(ptr + ((b * M + r % M) * D + r // M * E)[:, None] + e[None, :], mask=ok, other=0.0)


@triton.jit(do_not_specialize=["N", "num_splits"])
def elements_kernel(
    x, dx, N, folded_ptr, folded_stride, w, grad_ptr, lse_ptr, delta_ptr, dgain_ptr, dbias_ptr, num_splits, M,
    spec: tl.constexpr, C: tl.constexpr, D: tl.constexpr, ABSORBED: tl.constexpr, ADD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dX of one piece of one set, from all its queries, a block at a time; grad is dY or dO."""
    NORM: tl.constexpr = spec.norm if spec.norm_first else "none"
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    num_rows = H * M
    program = tl.program_id(0).to(tl.int64)
    split, b = tl.program_id(0) % num_splits, program // num_splits
    length = set_length(x, N, b)
    base_ptr = x.ptr + first_row(x, b)
    dgain = tl.zeros((BLOCK_C,), tl.float32)
    dbias = tl.zeros((BLOCK_C,), tl.float32)
    blocks = tl.cdiv(num_rows, BLOCK_R) if ABSORBED else tl.cdiv(M, BLOCK_R)
    begin, end = piece(length, split, num_splits, BLOCK_N)
    for tile in range(begin, end):
        raw, inside = load_elements(base_ptr, x.row_stride, tile, length, C, BLOCK_N, BLOCK_C)
        elements, standard, factor = norm_elements(raw, w.g0, w.b0, C, NORM, spec.norm_eps)
        grad = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        if ABSORBED:
            for block in range(blocks):
                first = block * BLOCK_R
                q = load_queries(folded_ptr + b * folded_stride, first, num_rows, C, BLOCK_R, BLOCK_C)
                dy = load_queries(grad_ptr + b * num_rows * C, first, num_rows, C, BLOCK_R, BLOCK_C)
                lse, delta = load_statistics(lse_ptr, delta_ptr, b, first, num_rows, num_rows, BLOCK_R)
                p, ds = score_gradient(elements, elements, q, dy, lse, delta, inside, PRECISION)
                grad = multiply_add(tl.trans(p), dy, grad, PRECISION)
                grad = multiply_add(tl.trans(ds), q, grad, PRECISION)
        else:
            for h in range(H):
                w_k, w_v = load_head(w.w_k, h, E, C, BLOCK_E, BLOCK_C), load_head(w.w_v, h, E, C, BLOCK_E, BLOCK_C)
                keys = multiply(elements, w_k, PRECISION).to(elements.dtype)
                values = multiply(elements, w_v, PRECISION).to(elements.dtype)
                dkeys = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
                dvalues = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
                for block in range(blocks):
                    first, last = h * M + block * BLOCK_R, h * M + M
                    q = load_queries(folded_ptr + b * folded_stride, first, last, E, BLOCK_R, BLOCK_E)
                    do = load_head_grad(grad_ptr, b, first, last, M, D, E, BLOCK_R, BLOCK_E)
                    lse, delta = load_statistics(lse_ptr, delta_ptr, b, first, last, num_rows, BLOCK_R)
                    p, ds = score_gradient(keys, values, q, do, lse, delta, inside, PRECISION)
                    dkeys = multiply_add(tl.trans(ds), q, dkeys, PRECISION)
                    dvalues = multiply_add(tl.trans(p), do, dvalues, PRECISION)
                grad = multiply_add(dkeys, tl.trans(w_k), grad, PRECISION)
                grad = multiply_add(dvalues, tl.trans(w_v), grad, PRECISION)
        gain_part, bias_part = store_element_gradient(
            dx, b, tile, inside, grad, standard, factor, w.g0, C, NORM, ADD, BLOCK_C
        )
        dgain += gain_part
        dbias += bias_part
    if NORM != "none":
        columns = tl.arange(0, BLOCK_C)
        tl.store(dgain_ptr + program * C + columns, dgain, mask=columns < C)
        tl.store(dbias_ptr + program * C + columns, dbias, mask=columns < C)
