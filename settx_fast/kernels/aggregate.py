"""Launch stage A: allocate, choose tiles, run the kernels of `aggregate_forward` and `aggregate_backward`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from settx_fast._block import BlockSpec, BlockWeights
from settx_fast.kernels import aggregate_backward as backward
from settx_fast.kernels import aggregate_forward as forward
from settx_fast.kernels import rows_backward
from settx_fast.kernels.aggregate_forward import Latents, Queries
from settx_fast.kernels.config import Problem, Tile, backward_config, forward_config, gpu_of, products_of
from settx_fast.kernels.primitives import matrix_precision, padded
from settx_fast.kernels.rows_backward import LatentGrads, QueryGrads
from settx_fast.kernels.sets import SetView

LOG2_E = math.log2(math.e)
NO_WEIGHTS = BlockWeights(*[None] * len(BlockWeights._fields))  # type: ignore[arg-type]


class Aggregated(NamedTuple):
    """What stage A leaves for the next block and for its own backward; nothing has an axis of elements."""

    queries: Queries
    lse: Tensor  # (B, H · M) fp32
    y: Tensor | None  # (H, B, M, C), absorbed only
    latents: Latents


@dataclass(frozen=True)
class Stage:
    """One block that M queries a set run over its elements, and the block that reads its output (or None)."""

    spec: BlockSpec
    weights: BlockWeights
    next_spec: BlockSpec | None = None
    next_weights: BlockWeights = NO_WEIGHTS

    @property
    def dim(self) -> int:
        """D."""
        return self.weights.w_v.shape[0]


def problem_of(view: SetView, num_queries: int, stage: Stage) -> Problem:
    """The shape that tiles are chosen by."""
    dim, heads = stage.dim, stage.spec.num_heads
    products = products_of(view.x.dtype)
    return Problem(
        view.num_sets, view.longest, view.width, dim, heads, num_queries, products, *gpu_of(view.x.device)
    )


def aggregate_forward(view: SetView, query: Tensor, stage: Stage) -> Aggregated:
    """MAB(query, sets): query (B or 1, M, C_q) contiguous, one for all sets when its batch is 1."""
    problem = problem_of(view, query.shape[1], stage)
    queries = prepare(query, problem, stage)
    lse, y, attended = attend(view, queries, query.shape[0] != 1, problem, stage)
    latents = new_latents(attended, problem, stage)
    residual = queries.query if stage.spec.residual == "projected" else query
    rows = problem.num_sets * problem.M
    forward.finish_kernel[(triton.cdiv(rows, 16),)](
        y, lse, residual, query.shape[0] * problem.M, stage.weights, stage.next_weights, latents, rows, problem.M,
        stage.spec, stage.next_spec, problem.C, problem.D,
        problem.D if stage.next_spec is None else stage.next_weights.w_k.shape[0], problem.absorbed,
        BLOCK_M=16, BLOCK_D=padded(problem.D), BLOCK_E=min(64, padded(problem.E)), BLOCK_K=64,
        PRECISION=matrix_precision(query.dtype), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return Aggregated(queries, lse, y, latents)


def prepare(query: Tensor, problem: Problem, stage: Stage) -> Queries:
    """Project the queries and fold what the elements' projection allows."""
    num_sets, num_queries, width = query.shape
    normed = stage.spec.norm_first and stage.spec.norm != "none"
    queries = Queries(
        torch.empty_like(query) if normed else query,
        query.new_empty(num_sets, num_queries, problem.D),
        query.new_empty(num_sets, problem.H * num_queries, problem.C if problem.absorbed else problem.E),
    )
    rows = num_sets * num_queries
    forward.prepare_kernel[(triton.cdiv(rows, 16) * problem.H,)](
        query, stage.weights, queries, rows, num_queries, stage.spec.score_scale(problem.D) * LOG2_E,
        stage.spec, width, problem.C, problem.D, problem.absorbed,
        BLOCK_M=16, BLOCK_CQ=padded(width), BLOCK_E=min(64, padded(problem.E)), BLOCK_K=64,
        PRECISION=matrix_precision(query.dtype), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return queries


def attend(
    view: SetView, queries: Queries, own: bool, problem: Problem, stage: Stage
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Read the sets: log₂-sum-exp, Y (absorbed only), and the attended values (filled unless absorbed)."""
    x, B, H, M = view.x, problem.num_sets, problem.H, problem.M
    tile, num_splits = forward_config(problem)
    width = problem.C if problem.absorbed else problem.E
    lse = x.new_empty(B, H * M, dtype=torch.float32)
    attended = x.new_empty(B, M, problem.D)
    y = x.new_empty(H, B, M, problem.C) if problem.absorbed else None
    target = attended if y is None else y
    split = num_splits > 1
    pieces = (B, num_splits, H * M) if split else (0,)
    tops, totals = (x.new_empty(pieces, dtype=torch.float32) for _ in range(2))
    ys = x.new_empty(*pieces, width, dtype=torch.float32)
    forward.scan_kernel[(B * num_splits * problem.blocks(tile.block_r),)](
        *view.arguments, queries.folded, H * M * width if own else 0, stage.weights,
        lse, target, tops, totals, ys, B, num_splits, M,
        stage.spec, problem.C, problem.D, problem.absorbed, split,
        BLOCK_R=tile.block_r, BLOCK_N=tile.block_n, BLOCK_C=problem.width, BLOCK_E=padded(problem.E),
        PRECISION=matrix_precision(x.dtype), num_warps=tile.warps, num_stages=tile.stages,
        enable_fp_fusion=True,
    )  # fmt: skip
    if split:
        block_w = min(64, padded(width))
        forward.merge_kernel[(B * triton.cdiv(H * M, 2) * triton.cdiv(width, block_w),)](
            tops, totals, ys, stage.weights.b_v, lse, target, B, num_splits, M,
            H, problem.C, problem.E, problem.absorbed,
            BLOCK_S=8 if num_splits <= 8 else 32, BLOCK_R=2, BLOCK_W=block_w, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return lse, y, attended


def new_latents(attended: Tensor, problem: Problem, stage: Stage) -> Latents:
    """Room for every stage that the block has; a stage it has not is the one before."""
    spec, next_spec = stage.spec, stage.next_spec
    empty, normed = torch.empty_like, spec.norm != "none"
    sum0, sum1 = empty(attended), empty(attended)
    before = attended.new_empty(*attended.shape[:-1], problem.D if spec.ffn_dim is None else spec.ffn_dim)
    out = empty(attended) if normed and not spec.norm_first else sum1
    keys = values = None
    keys_from = out
    if next_spec is not None:
        keys_from = empty(out) if next_spec.norm != "none" and next_spec.norm_first else out
        keys, values = attended.new_empty(2, *attended.shape[:-1], stage.next_weights.w_k.shape[0]).unbind()
    return Latents(
        attended, sum0, empty(attended) if normed else sum0, before, before if spec.ffn_dim is None else empty(before),
        sum1, out, keys_from, keys, values,
    )  # fmt: skip


class Gradients(NamedTuple):
    """Gradients of stage A's inputs but the elements; of the next block those that its keys and values bring."""

    query: Tensor
    weights: BlockWeights
    next_weights: BlockWeights


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
    dfolded, dw_k, dw_v, dnorm = attend_backward(view, query.shape[0] != 1, saved, grads, dx, add, problem, stage)
    query_grads, query_vectors = queries_backward(query, saved, dfolded, grads, problem, stage)
    vectors = sum_parts(parts, query.dtype)
    if dw_k is None:
        dw_k, dw_v = absorbed_weights(saved, grads, query_grads, problem)
    weights = block_gradients(saved, grads, query_grads, dw_k, dw_v, vectors, stage, problem)
    if dnorm is not None:
        g0, b0 = query_vectors[1:, : problem.C] + dnorm
        weights = weights._replace(g0=g0, b0=b0 if stage.weights.b0 is not None else None)
    weights = weights._replace(b_q=query_vectors[0, : problem.D])
    next_weights = NO_WEIGHTS if isinstance(grad, Tensor) else next_gradients(saved, grad, vectors, stage)
    return Gradients(query_grads.input, weights, next_weights)


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


def block_gradients(
    saved: Aggregated, grads: LatentGrads, query_grads: QueryGrads, dw_k: Tensor, dw_v: Tensor, vectors: Tensor,
    stage: Stage, problem: Problem,
) -> BlockWeights:  # fmt: skip
    """Gradients of the block's weights, but for what the queries' vectors bring."""
    w, latents, D = stage.weights, saved.latents, problem.D
    F = latents.before.shape[-1]
    two, normed, first = w.w_o2 is not None, w.g1 is not None, stage.spec.norm_first

    def vector(place: tl.constexpr, like: Tensor | None, width: int = D) -> Tensor | None:
        return None if like is None else vectors[place.value, :width]

    return BlockWeights(
        product(query_grads.query, saved.queries.normed), w.b_q,
        dw_k, vectors[rows_backward.B_K.value, :D], dw_v, vectors[rows_backward.B_V.value, :D],
        product(grads.before, latents.hidden), vectors[rows_backward.B_O.value, :F],
        product(grads.sum0, latents.attended) if w.w_p is not None else None, vector(rows_backward.B_P, w.b_p),
        product(grads.sum1, latents.inner) if two else None, vector(rows_backward.B_O2, w.b_o2),
        None if first else vector(rows_backward.G0, w.g0), None if first else vector(rows_backward.B0, w.b0),
        vector(rows_backward.G1, w.g1) if normed else None, vector(rows_backward.B1, w.b1),
    )  # fmt: skip


def next_gradients(saved: Aggregated, grad: tuple[Tensor, Tensor], vectors: Tensor, stage: Stage) -> BlockWeights:
    """What the next block's key and value projections, and its norm of the latents, owe to these."""
    w, width, dim = stage.next_weights, saved.latents.out.shape[-1], grad[0].shape[-1]
    normed = w.g0 is not None and stage.next_spec is not None and stage.next_spec.norm_first
    return NO_WEIGHTS._replace(
        w_k=product(grad[0], saved.latents.keys_from), b_k=vectors[rows_backward.NEXT_B_K.value, :dim],
        w_v=product(grad[1], saved.latents.keys_from), b_v=vectors[rows_backward.NEXT_B_V.value, :dim],
        g0=vectors[rows_backward.NEXT_G0.value, :width] if normed else None,
        b0=vectors[rows_backward.NEXT_B0.value, :width] if normed and w.b0 is not None else None,
    )  # fmt: skip


def product(grad: Tensor, source: Tensor) -> Tensor:
    """Σ_rows gradᵀ source: the gradient of a weight (out, in)."""
    return torch.mm(grad.flatten(0, -2).t(), source.flatten(0, -2))


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


def finish_backward(
    saved: Aggregated, grad: Tensor | tuple[Tensor, Tensor], problem: Problem, stage: Stage
) -> tuple[LatentGrads, Tensor]:
    """Through the block's layers on the M rows, down to dY and δ."""
    spec, next_spec, latents = stage.spec, stage.next_spec, saved.latents
    empty, normed = torch.empty_like, spec.norm != "none"
    dk, dv = (None, None) if isinstance(grad, Tensor) else grad
    keys_from = grad if isinstance(grad, Tensor) else empty(latents.out)
    next_normed = next_spec is not None and next_spec.norm != "none" and next_spec.norm_first
    out = empty(latents.out) if next_normed else keys_from
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
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Through the elements: gradients of the folded queries (fp32), dWk and dWv (projected only), and the norm's."""
    x, B, H, M, C = view.x, problem.num_sets, problem.H, problem.M, problem.C
    config = backward_config(problem, not own)
    width = C if problem.absorbed else problem.E
    folded_stride = H * M * width if own else 0
    programs = triton.cdiv(B, config.group) * config.num_splits
    dfolded = x.new_empty(programs, H * M * width, dtype=torch.float32)
    normed = stage.spec.norm_first and stage.spec.norm != "none"
    wanted = dx is not None or normed
    fused = config.fused and wanted
    dnorm = None
    if normed:
        dnorm = x.new_empty(2, programs if fused else B * config.element_splits, C, dtype=torch.float32)
    dgain, dbias = (None, None) if dnorm is None else dnorm.unbind()
    target = view.like(dx).arguments[:3] if dx is not None else (None, 0, 0)
    launch = {"BLOCK_C": problem.width, "PRECISION": matrix_precision(x.dtype), "enable_fp_fusion": True}
    sums, elements = ({**launch, **tile_arguments(tile)} for tile in (config.sums, config.elements))
    dw_k = dw_v = None
    if problem.absorbed:
        blocks = problem.blocks(config.sums.block_r)
        backward.absorbed_kernel[(programs * blocks,)](
            *view.arguments, *target, saved.queries.folded, folded_stride, stage.weights, grads.y, saved.lse,
            grads.delta, dfolded, dgain, dbias, B, config.group, config.num_splits, H * M, stage.spec, C, fused, add, **sums,
        )  # fmt: skip
    else:
        blocks = triton.cdiv(M, config.sums.block_r)
        dw = x.new_empty(2, programs * blocks, problem.D * C, dtype=torch.float32)
        dw_k, dw_v = dw.unbind()
        backward.projected_kernel[(programs * blocks * H,)](
            *view.arguments, saved.queries.folded, folded_stride, stage.weights, grads.attended, saved.lse, grads.delta,
            dfolded, dw_k, dw_v, B, config.group, config.num_splits, M, stage.spec, C, problem.D,
            BLOCK_E=padded(problem.E), **sums,
        )  # fmt: skip
    if wanted and not fused:
        backward.elements_kernel[(B * config.element_splits,)](
            *view.arguments, *target, saved.queries.folded, folded_stride, stage.weights,
            grads.attended if grads.y is None else grads.y, saved.lse, grads.delta, dgain, dbias, config.element_splits,
            M, stage.spec, C, problem.D, problem.absorbed, add, BLOCK_E=padded(problem.E), **elements,
        )  # fmt: skip
    sets = B if own else 1
    dfolded = sum_parts(dfolded.view(sets, -1, H * M * width), torch.float32)
    if dw_k is not None and dw_v is not None:
        dw_k, dw_v = sum_parts(dw, x.dtype).view(2, problem.D, C).unbind()
    return dfolded, dw_k, dw_v, None if dnorm is None else sum_parts(dnorm, x.dtype)


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
    normed = stage.spec.norm_first and stage.spec.norm != "none"
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
