"""Launch stage A's backward: the layers on the latents, the elements, the queries; then products for the weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from settx_fast._block import BlockWeights
from settx_fast.kernels import aggregate_backward as kernels
from settx_fast.kernels import rows_backward
from settx_fast.kernels.aggregate import LOG2_E, NO_WEIGHTS, Aggregated, Stage, problem_of
from settx_fast.kernels.config import Problem, Tile, backward_config
from settx_fast.kernels.primitives import matrix_precision, padded
from settx_fast.kernels.rows_backward import LatentGrads, QueryGrads
from settx_fast.kernels.sets import SetView


class Gradients(NamedTuple):
    """Gradients of stage A's inputs but the elements, each tensor with storage of its own.

    `matrices` and `next_matrices` hold those of weights with two axes, `vectors` (VECTORS, widest) and
    `query_vectors` (QUERY_VECTORS, widest) of the others, see `with_vectors`.
    """

    query: Tensor
    matrices: BlockWeights
    next_matrices: BlockWeights
    vectors: Tensor
    query_vectors: Tensor


def aggregate_backward(
    view: SetView, query: Tensor, stage: Stage, saved: Aggregated, grad: Tensor | tuple[Tensor, Tensor],
    dx: Tensor | None, add: bool,
) -> Gradients:  # fmt: skip
    """Backward of `aggregate_forward` from the gradient of its output, or of the next block's keys and values.

    Writes the elements' gradient into dx (laid out like the elements), on top of what it holds when `add`; rows outside
    the sets are not touched. dx may be None where nobody asks for it.
    """
    problem = problem_of(view, query.shape[1], stage)
    grads, parts = finish_backward(saved, grad, problem, stage)
    dfolded, dw, dnorm = attend_backward(view, query.shape[0] != 1, saved, grads, dx, add, problem, stage)
    query_grads, query_vectors = queries_backward(query, saved, dfolded, grads, problem, stage)
    if dnorm is not None:
        query_vectors[rows_backward.G0.value :, : problem.C] += dnorm
    dw_k, dw_v = absorbed_weights(saved, grads, query_grads, problem) if dw is None else dw
    w, latents = stage.weights, saved.latents
    matrices = NO_WEIGHTS._replace(
        w_q=product(query_grads.query, saved.queries.normed), w_k=dw_k, w_v=dw_v,
        w_o=product(grads.before, latents.hidden),
        w_p=None if w.w_p is None else product(grads.sum0, latents.attended),
        w_o2=None if w.w_o2 is None else product(grads.sum1, latents.inner),
    )  # fmt: skip
    following = NO_WEIGHTS
    if not isinstance(grad, Tensor):
        dk, dv = (product(part, latents.keys_from) for part in grad)
        following = NO_WEIGHTS._replace(w_k=dk, w_v=dv)
    return Gradients(query_grads.input, matrices, following, sum_parts(parts, query.dtype), query_vectors)


def with_vectors(gradients: Gradients, stage: Stage) -> tuple[BlockWeights, BlockWeights]:
    """All weights' gradients of the block, and those that the next block's keys and values bring to its weights."""
    vectors, queries, w, after = gradients.vectors, gradients.query_vectors, stage.weights, stage.next_weights

    def take(source: Tensor, place: int, like: Tensor | None) -> Tensor | None:
        return None if like is None else source[place, : like.shape[0]]

    places = rows_backward
    first = queries if stage.spec.norm_first else vectors
    block = gradients.matrices._replace(
        b_q=take(queries, places.B_Q.value, w.b_q), b_k=take(vectors, places.B_K.value, w.b_k),
        b_v=take(vectors, places.B_V.value, w.b_v), b_o=take(vectors, places.B_O.value, w.b_o),
        b_p=take(vectors, places.B_P.value, w.b_p), b_o2=take(vectors, places.B_O2.value, w.b_o2),
        g0=take(first, places.G0.value, w.g0), b0=take(first, places.B0.value, w.b0),
        g1=take(vectors, places.G1.value, w.g1), b1=take(vectors, places.B1.value, w.b1),
    )  # fmt: skip
    if stage.next_spec is None:
        return block, NO_WEIGHTS
    following = gradients.next_matrices._replace(
        b_k=take(vectors, places.NEXT_B_K.value, after.b_k), b_v=take(vectors, places.NEXT_B_V.value, after.b_v)
    )
    if stage.normed_keys:
        following = following._replace(
            g0=take(vectors, places.NEXT_G0.value, after.g0), b0=take(vectors, places.NEXT_B0.value, after.b0)
        )
    return block, following


def finish_backward(
    saved: Aggregated, grad: Tensor | tuple[Tensor, Tensor], problem: Problem, stage: Stage
) -> tuple[LatentGrads, Tensor]:
    """Through the block's layers on the M rows, down to dY and δ."""
    spec, next_spec, latents = stage.spec, stage.next_spec, saved.latents
    empty, normed = torch.empty_like, spec.norm != "none"
    dk, dv = (None, None) if isinstance(grad, Tensor) else grad
    keys_from = grad if isinstance(grad, Tensor) else empty(latents.out)
    out = empty(latents.out) if stage.normed_keys else keys_from
    sum1 = empty(out) if normed and not spec.norm_first else out
    hidden = empty(out)
    sum0 = empty(out) if normed else hidden
    grads = LatentGrads(
        keys_from, out, sum1, empty(latents.before), hidden, sum0, empty(out) if spec.output_projection else sum0,
        saved.y.new_empty(problem.num_sets, problem.H * problem.M, problem.C) if saved.y is not None else None,
        empty(saved.lse),
    )  # fmt: skip
    rows = problem.num_sets * problem.M
    block = 16 if rows <= 8192 else 64
    next_dim = problem.D if dk is None else dk.shape[-1]
    widest = max(problem.D, latents.before.shape[-1], next_dim)
    parts = out.new_empty(rows_backward.VECTORS, triton.cdiv(rows, block), widest, dtype=torch.float32)
    rows_backward.finish_backward_kernel[(triton.cdiv(rows, block),)](
        dk, dv, latents, saved.y, saved.lse, stage.weights, stage.next_weights, grads, parts, rows, problem.M, widest,
        spec, next_spec, problem.C, problem.D, next_dim, problem.absorbed,
        BLOCK_M=block, BLOCK_D=padded(problem.D), BLOCK_E=min(64, padded(problem.E)), BLOCK_K=64,
        PRECISION=matrix_precision(out.dtype), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return grads, parts


def attend_backward(
    view: SetView, own: bool, saved: Aggregated, grads: LatentGrads, dx: Tensor | None, add: bool,
    problem: Problem, stage: Stage,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor | None]:  # fmt: skip
    """Through the elements: gradients of the folded queries (fp32), (dWk, dWv) when projected, and (2, C) the norm's."""
    x, B, H, M, C = view.x, problem.num_sets, problem.H, problem.M, problem.C
    config = backward_config(problem, not own)
    width = C if problem.absorbed else problem.E
    folded_stride = H * M * width if own else 0
    programs = triton.cdiv(B, config.group) * config.num_splits
    dfolded = x.new_empty(programs, H * M * width, dtype=torch.float32)
    normed = stage.normed_inputs
    wanted = dx is not None or normed
    fused = config.fused and wanted
    dnorm = None
    if normed:
        dnorm = x.new_empty(2, programs if fused else B * config.element_splits, C, dtype=torch.float32)
    dgain, dbias = (None, None) if dnorm is None else dnorm.unbind()
    target = view.like(dx).arguments[:3] if dx is not None else (None, 0, 0)
    launch = {"BLOCK_C": problem.width, "PRECISION": matrix_precision(x.dtype), "enable_fp_fusion": True}
    sums, elements = ({**launch, **tile_arguments(tile)} for tile in (config.sums, config.elements))
    dw = None
    if problem.absorbed:
        blocks = problem.blocks(config.sums.block_r)
        kernels.absorbed_kernel[(programs * blocks,)](
            *view.arguments, *target, saved.queries.folded, folded_stride, stage.weights, grads.y, saved.lse,
            grads.delta, dfolded, dgain, dbias, B, config.group, config.num_splits, H * M, stage.spec, C, fused, add, **sums,
        )  # fmt: skip
    else:
        blocks = triton.cdiv(M, config.sums.block_r)
        parts = x.new_empty(2, 1, programs * blocks, problem.D * C, dtype=torch.float32)
        kernels.projected_kernel[(programs * blocks * H,)](
            *view.arguments, saved.queries.folded, folded_stride, stage.weights, grads.attended, saved.lse, grads.delta,
            dfolded, parts[0], parts[1], B, config.group, config.num_splits, M, stage.spec, C, problem.D,
            BLOCK_E=padded(problem.E), **sums,
        )  # fmt: skip
        dw = sum_parts(parts[0], x.dtype).view(-1, C), sum_parts(parts[1], x.dtype).view(-1, C)
    if wanted and not fused:
        kernels.elements_kernel[(B * config.element_splits,)](
            *view.arguments, *target, saved.queries.folded, folded_stride, stage.weights,
            grads.attended if grads.y is None else grads.y, saved.lse, grads.delta, dgain, dbias, config.element_splits,
            M, stage.spec, C, problem.D, problem.absorbed, add, BLOCK_E=padded(problem.E), **elements,
        )  # fmt: skip
    sets = B if own else 1
    dfolded = sum_parts(dfolded.view(sets, -1, H * M * width), torch.float32)
    return dfolded, dw, None if dnorm is None else sum_parts(dnorm, x.dtype)


def tile_arguments(tile: Tile) -> dict[str, int]:
    """A tile as kernels and their launcher call it."""
    return {"BLOCK_R": tile.block_r, "BLOCK_N": tile.block_n, "num_warps": tile.warps, "num_stages": tile.stages}


def queries_backward(
    query: Tensor, saved: Aggregated, dfolded: Tensor, grads: LatentGrads, problem: Problem, stage: Stage
) -> tuple[QueryGrads, Tensor]:
    """From the folded queries to the query rows."""
    num_sets, M, width = query.shape
    rows = num_sets * M
    residual = grads.sum0
    if num_sets != problem.num_sets:
        residual = sum_parts(residual.view(1, problem.num_sets, -1), torch.float32)
    normed = stage.normed_inputs
    dnormed = torch.empty_like(query)
    to = QueryGrads(
        query.new_empty(problem.H, rows, problem.C) if problem.absorbed else None,
        torch.empty_like(saved.queries.query), dnormed, torch.empty_like(query) if normed else dnormed,
    )  # fmt: skip
    block = min(64, padded(rows)) if rows <= 64 else 16 if rows <= 8192 else 64
    programs = triton.cdiv(rows, block)
    widest = max(problem.D, width)
    parts_dtype = query.dtype if programs == 1 else torch.float32
    parts = query.new_empty(rows_backward.QUERY_VECTORS, programs, widest, dtype=parts_dtype)
    rows_backward.queries_backward_kernel[(programs,)](
        dfolded, residual, query, stage.weights, to, parts, rows, M, stage.spec.score_scale(problem.D) * LOG2_E, widest,
        stage.spec, width, problem.C, problem.D, problem.absorbed,
        BLOCK_M=block, BLOCK_CQ=padded(width), BLOCK_E=min(64, padded(problem.E)), BLOCK_K=64,
        PRECISION=matrix_precision(query.dtype), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return to, sum_parts(parts, query.dtype)


def absorbed_weights(
    saved: Aggregated, grads: LatentGrads, query_grads: QueryGrads, problem: Problem
) -> tuple[Tensor, Tensor]:
    """dWk = Σ_rows Q_hᵀ dG_h and dWv = Σ_rows dO_hᵀ Y_h, (D, C) each."""

    def heads(rows: Tensor) -> Tensor:
        return rows.view(-1, problem.H, problem.E).permute(1, 2, 0)  # (H, E, rows)

    assert query_grads.folded is not None and saved.y is not None
    dw_k = torch.bmm(heads(saved.queries.query), query_grads.folded)
    dw_v = torch.bmm(heads(grads.attended), saved.y.view(problem.H, -1, problem.C))
    return dw_k.view(problem.D, problem.C), dw_v.view(problem.D, problem.C)


def product(grad: Tensor, source: Tensor) -> Tensor:
    """Σ_rows gradᵀ source: the gradient of a weight (out, in)."""
    return torch.mm(grad.to(source.dtype).flatten(0, -2).t(), source.flatten(0, -2))


def sum_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum (outer, parts, size) over its middle axis, in a fixed order."""
    outer, num_parts, size = parts.shape
    if num_parts == 1 and parts.dtype == dtype:
        return parts[:, 0]
    total = parts.new_empty(outer, size, dtype=dtype)
    block = 32 if size <= 4096 else 64
    rows_backward.sum_parts_kernel[(outer * triton.cdiv(size, block),)](
        parts, total, num_parts, size, BLOCK_P=64, BLOCK_S=block, num_warps=4, enable_fp_fusion=True
    )
    return total
