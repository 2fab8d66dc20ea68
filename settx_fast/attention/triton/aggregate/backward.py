"""Launch stage A's backward: the layers on the latents, the elements, the queries; then products for the weights."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from settx_fast.attention.block import NO_WEIGHTS, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.aggregate import backward_kernels, product_kernels, row_backward_kernels
from settx_fast.attention.triton.aggregate.forward import LOG2_E, Aggregated, Stage, problem_of, row_arguments
from settx_fast.attention.triton.aggregate.projected_backward import projected_backward, unfold
from settx_fast.attention.triton.aggregate.tiles import (
    Problem,
    ProjectedTiles,
    Tile,
    backward_config,
    projected_tiles,
    row_tile,
)
from settx_fast.attention.triton.launch import add_, launch
from settx_fast.attention.triton.primitives import matrix_precision, padded
from settx_fast.attention.triton.sets import NO_ROWS, rows_of

PRODUCT_BLOCK = 64


class LatentGrads(NamedTuple):
    """Gradients of `Latents`, (B · M, ·); where a stage is left out, the one after it."""

    keys_from: Tensor
    out: Tensor
    sum1: Tensor
    before: Tensor
    hidden: Tensor
    sum0: Tensor
    attended: Tensor
    y: Tensor | None  # (B, H · M, C), absorbed only
    delta: Tensor  # (B, H · M) fp32: Σ dY ∘ Y


class QueryGrads(NamedTuple):
    """Gradients of `Queries` and of the query rows; a stage left out is the one after it."""

    folded: Tensor | None  # (H, rows, C) in the type of the rows, absorbed only
    query: Tensor
    normed: Tensor
    input: Tensor
    scale: Tensor | None  # of the factors (rows, D), where there are any


class Gradients(NamedTuple):
    """Gradients of stage A's inputs but the elements, as few tensors; `unpack_gradients` tells them apart."""

    query: Tensor
    scale: Tensor | None
    latent_matrices: Tensor  # flat, in the order of `latent_shapes`
    vectors: Tensor  # (VECTORS, widest)
    query_matrices: Tensor  # flat, in the order of `query_shapes`
    query_vectors: Tensor  # (QUERY_VECTORS, widest)
    projections: Tensor | None  # (2, D, C): w_k and w_v, projected only


def latent_shapes(stage: Stage, absorbed: bool) -> dict[str, torch.Size]:
    """Weights whose gradients are sums over latents; the next block's are called next_."""
    w, after = stage.weights, stage.next_weights
    named = {"w_o": w.w_o, "w_p": w.w_p, "w_o2": w.w_o2}
    if stage.next_spec is not None:
        named |= {"next_w_k": after.w_k, "next_w_v": after.w_v}
    if absorbed:
        named["w_v"] = w.w_v
    return {name: weight.shape for name, weight in named.items() if weight is not None}


def query_shapes(stage: Stage, absorbed: bool) -> dict[str, torch.Size]:
    """Weights whose gradients are sums over query rows."""
    return {"w_q": stage.weights.w_q.shape} | ({"w_k": stage.weights.w_k.shape} if absorbed else {})


def split_flat(flat: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Consecutive matrices of a flat tensor."""
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def unpack_gradients(gradients: Gradients, stage: Stage) -> tuple[BlockWeights, BlockWeights]:
    """Gradients of the block's weights, and what the next block's keys and values bring to its."""
    g, absorbed, places = gradients, gradients.projections is None, row_backward_kernels
    matrices = split_flat(g.latent_matrices, latent_shapes(stage, absorbed))
    matrices |= split_flat(g.query_matrices, query_shapes(stage, absorbed))
    if g.projections is not None:
        matrices["w_k"], matrices["w_v"] = g.projections.unbind()
    first = g.query_vectors if stage.spec.norm_first else g.vectors
    vectors = {
        "b_q": g.query_vectors[places.B_Q.value], "b_k": g.vectors[places.B_K.value],
        "b_v": g.vectors[places.B_V.value], "b_o": g.vectors[places.B_O.value], "b_p": g.vectors[places.B_P.value],
        "b_o2": g.vectors[places.B_O2.value], "g0": first[places.G0.value], "b0": first[places.B0.value],
        "g1": g.vectors[places.G1.value], "b1": g.vectors[places.B1.value],
    }  # fmt: skip
    following = {"b_k": g.vectors[places.NEXT_B_K.value], "b_v": g.vectors[places.NEXT_B_V.value]}
    following |= {name[5:]: matrices.pop(name) for name in list(matrices) if name.startswith("next_")}
    if stage.normed_keys:
        following |= {"g0": g.vectors[places.NEXT_G0.value], "b0": g.vectors[places.NEXT_B0.value]}
    return like_weights(matrices | vectors, stage.weights), like_weights(following, stage.next_weights)


def like_weights(gradients: dict[str, Tensor], weights: BlockWeights) -> BlockWeights:
    """Gradients of the weights there are, vectors cut to their width."""
    found = {
        name: gradients[name] if weight.ndim == 2 else gradients[name][: weight.shape[0]]
        for name, weight in weights._asdict().items()
        if weight is not None and name in gradients
    }
    return NO_WEIGHTS._replace(**found)


def aggregate_backward(
    sets: Sets, query: Tensor, stage: Stage, saved: Aggregated, grad: Tensor | tuple[Tensor, Tensor],
    dx: Tensor | None, add: bool, scale: Tensor | None = None,
) -> Gradients:  # fmt: skip
    """Backward of `aggregate_forward` from the gradient of its output, or of the next block's keys and values.

    Writes the elements' gradient into dx (laid out like the elements), on top of what it holds when `add`; rows outside
    the sets are not touched. dx may be None where nobody asks for it.
    """
    problem = problem_of(sets, query.shape[1], stage)
    grads, vector_parts = finish_backward(saved, grad, problem, stage)
    latent_parts = (latent_products(saved, grads, grad, problem, stage), query.dtype), (vector_parts, query.dtype)
    own, tiles = query.shape[0] != 1, chosen_tiles(sets, query, dx, problem)
    dnorm, folded_sums = None, None
    if tiles is None:
        dfolded, projections, dnorm = attend_backward(sets, own, saved, grads, dx, add, problem, stage)
    else:
        matrices, vectors = sum_parts(*latent_parts)  # at once: chunks of elements need the room
        latent_parts = (matrices[:, None], query.dtype), (vectors[:, None], query.dtype)
        dfolded, parts = projected_backward(
            sets, saved.queries.folded, saved.lse, grads.attended, grads.delta, dx, add, problem, stage, tiles,
            sum({id(t): t.numel() * t.element_size() for t in grads if t is not None}.values()),
        )  # fmt: skip
        dfolded, folded_sums = dfolded[None], sum_parts((parts[None], torch.float32))[0]
    dfolded, residual, matrices, vectors = sum_parts(
        (dfolded, torch.float32),
        (grads.sum0.view(query.shape[0], problem.num_sets // query.shape[0], -1), torch.float32),
        *latent_parts,
    )
    query_grads, query_parts = queries_backward(query, scale, saved, dfolded, residual, problem, stage)
    query_matrices, query_vectors = sum_parts(
        (query_products(saved, query_grads, problem, stage), query.dtype), (query_parts, query.dtype)
    )
    if dnorm is not None:
        for total, part in zip(query_vectors[row_backward_kernels.G0.value :, : problem.C], dnorm, strict=True):
            add_(total, part)
    if folded_sums is not None:
        d_gain, d_shift = query_vectors[row_backward_kernels.G0.value], query_vectors[row_backward_kernels.B0.value]
        d_bias = vectors[row_backward_kernels.B_V.value]
        projections = unfold(folded_sums, problem, stage, d_bias, d_gain, d_shift)
    return Gradients(
        query_grads.input, query_grads.scale, matrices[0], vectors, query_matrices[0], query_vectors, projections
    )


def chosen_tiles(sets: Sets, query: Tensor, dx: Tensor | None, problem: Problem) -> ProjectedTiles | None:
    """Tiles of the backward in three steps, which reads rows that follow one another; None where passes do it."""
    in_order = all(t.stride(-2) == problem.C for t in (sets.rows, dx) if t is not None)
    return projected_tiles(problem, query.shape[0] == 1) if in_order else None


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
    tile = row_tile(problem, rows, problem.D)
    programs = triton.cdiv(rows, tile.rows)
    next_dim = problem.D if dk is None else dk.shape[-1]
    widest = max(problem.D, latents.before.shape[-1], next_dim)
    parts = out.new_empty(row_backward_kernels.VECTORS, programs, widest, dtype=torch.float32)
    launch(
        row_backward_kernels.finish_backward_kernel, programs,
        dk, dv, latents, saved.y, saved.lse, stage.weights, stage.next_weights, grads, parts, rows, problem.M, widest,
        spec, next_spec, problem.C, problem.D, next_dim, problem.absorbed,
        BLOCK_D=padded(problem.D), **row_arguments(problem, tile),
    )  # fmt: skip
    return grads, parts


def attend_backward(
    sets: Sets, own: bool, saved: Aggregated, grads: LatentGrads, dx: Tensor | None, add: bool,
    problem: Problem, stage: Stage,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Through the elements: parts of the folded queries' gradients, `projections` (2, D, C) and the norm's (2, C)."""
    x, B, H, M, C = sets.rows, problem.num_sets, problem.H, problem.M, problem.C
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
    target = NO_ROWS if dx is None else rows_of(sets, dx)
    options = {"BLOCK_C": problem.width, "PRECISION": problem.precision}
    sums, elements = ({**options, **tile_arguments(tile)} for tile in (config.sums, config.elements))
    projections = None
    if problem.absorbed:
        blocks = problem.blocks(config.sums.block_r)
        launch(
            backward_kernels.absorbed_kernel, programs * blocks,
            rows_of(sets), target, sets.longest, saved.queries.folded, folded_stride, stage.weights, grads.y, saved.lse,
            grads.delta, dfolded, dgain, dbias, B, config.group, config.num_splits, H * M,
            stage.spec, C, config.group == 1, fused, config.transposed, add, **sums,
        )  # fmt: skip
    else:
        blocks = triton.cdiv(M, config.sums.block_r)
        parts = x.new_empty(2, programs * blocks, problem.D * C, dtype=torch.float32)
        launch(
            backward_kernels.projected_kernel, programs * blocks * H,
            rows_of(sets), sets.longest, saved.queries.folded, folded_stride, stage.weights, grads.attended, saved.lse,
            grads.delta, dfolded, parts[0], parts[1], B, config.group, config.num_splits, M, stage.spec, C, problem.D,
            config.group == 1, BLOCK_E=padded(problem.E), **sums,
        )  # fmt: skip
        projections = sum_parts((parts, x.dtype))[0].view(2, problem.D, C)
    if wanted and not fused:
        launch(
            backward_kernels.elements_kernel, B * config.element_splits,
            rows_of(sets), target, sets.longest, saved.queries.folded, folded_stride, stage.weights,
            grads.attended if grads.y is None else grads.y, saved.lse, grads.delta, dgain, dbias, config.element_splits,
            M, stage.spec, C, problem.D, problem.absorbed, add, BLOCK_E=padded(problem.E), **elements,
        )  # fmt: skip
    dfolded = dfolded.view(B if own else 1, -1, H * M * width)
    return dfolded, projections, None if dnorm is None else sum_parts((dnorm, x.dtype))[0]


def tile_arguments(tile: Tile) -> dict[str, int]:
    """A tile as kernels and their launcher call it."""
    return {"BLOCK_R": tile.block_r, "BLOCK_N": tile.block_n, "num_warps": tile.warps, "num_stages": tile.stages}


def queries_backward(
    query: Tensor, scale: Tensor | None, saved: Aggregated, dfolded: Tensor, residual: Tensor, problem: Problem,
    stage: Stage,
) -> tuple[QueryGrads, Tensor]:  # fmt: skip
    """From the gradients of the folded queries and of what is added to them to the query rows; parts of vectors."""
    num_sets, M, width = query.shape
    rows = num_sets * M
    normed = stage.normed_inputs
    dnormed = torch.empty_like(query)
    to = QueryGrads(
        query.new_empty(problem.H, rows, problem.C) if problem.absorbed else None,
        torch.empty_like(saved.queries.query), dnormed, torch.empty_like(query) if normed else dnormed,
        None if scale is None else torch.empty_like(scale),
    )  # fmt: skip
    tile = row_tile(problem, rows, width)
    programs = triton.cdiv(rows, tile.rows)
    widest = max(problem.D, width)
    parts_dtype = query.dtype if programs == 1 else torch.float32
    parts = query.new_empty(row_backward_kernels.QUERY_VECTORS, programs, widest, dtype=parts_dtype)
    launch(
        row_backward_kernels.queries_backward_kernel, programs,
        dfolded, residual, query, scale, saved.queries.query, stage.weights, to, parts, rows, M,
        stage.spec.score_scale(problem.D) * LOG2_E, widest,
        stage.spec, width, problem.C, problem.D, problem.absorbed,
        BLOCK_CQ=padded(width), **row_arguments(problem, tile),
    )  # fmt: skip
    return to, parts


def latent_products(
    saved: Aggregated, grads: LatentGrads, grad: Tensor | tuple[Tensor, Tensor], problem: Problem, stage: Stage
) -> Tensor:
    """Parts of the gradients of the weights of `latent_shapes`, flat."""
    dk, dv = (None, None) if isinstance(grad, Tensor) else grad
    shapes = latent_shapes(stage, problem.absorbed)
    heads = {"w_v": problem.H}
    parts, programs, constants = product_launch(shapes, heads, problem.num_sets * problem.M, grads.sum0)
    launch(
        product_kernels.latent_products_kernel, programs,
        saved.latents, grads, dk, dv, saved.y, parts, parts.shape[1], problem.num_sets * problem.M, parts.shape[2],
        problem.C, problem.D, grads.before.shape[-1], stage.next_dim, problem.H, stage.spec.output_projection,
        stage.spec.ffn_dim is not None, **constants,
    )  # fmt: skip
    return parts


def query_products(saved: Aggregated, grads: QueryGrads, problem: Problem, stage: Stage) -> Tensor:
    """Parts of the gradients of the weights of `query_shapes`, flat."""
    shapes = query_shapes(stage, problem.absorbed)
    width, rows = grads.input.shape[-1], grads.input.shape[:-1].numel()
    parts, programs, constants = product_launch(shapes, {"w_k": problem.H}, rows, grads.query)
    launch(
        product_kernels.query_products_kernel, programs,
        saved.queries, grads, parts, parts.shape[1], rows, parts.shape[2],
        width, problem.C, problem.D, problem.H, **constants,
    )  # fmt: skip
    return parts


def product_launch(
    shapes: dict[str, torch.Size], heads: dict[str, int], rows: int, like: Tensor
) -> tuple[Tensor, int, dict[str, Any]]:
    """Room for the partial sums (1, splits, size), the programs and the constants of a products kernel.

    `heads` names the weights that are products of each head.
    """
    splits = max(1, min(32, rows // 256))
    size = sum(shape.numel() for shape in shapes.values())
    dtype = like.dtype if splits == 1 else torch.float32
    tiles = 0
    for name, (out, into) in shapes.items():
        each = heads.get(name, 1)
        tiles += each * triton.cdiv(out // each, PRODUCT_BLOCK) * triton.cdiv(into, PRODUCT_BLOCK)
    step = 32 if like.dtype == torch.float32 else 64
    constants = {
        "BLOCK": PRODUCT_BLOCK, "STEP": step, "PRECISION": matrix_precision(like.dtype), "num_warps": 8,
    }  # fmt: skip
    return like.new_empty(1, splits, size, dtype=dtype), tiles * splits, constants


def sum_parts(*arrays: tuple[Tensor, torch.dtype]) -> list[Tensor]:
    """Sums (outer, size) of up to four arrays (outer, parts, size), each in a type, in a fixed order of parts."""
    open_sums = {
        i: a.new_empty(a.shape[0], a.shape[2], dtype=dtype)
        for i, (a, dtype) in enumerate(arrays)
        if a.shape[1] > 1 or a.dtype != dtype
    }
    if open_sums:
        sizes = [arrays[i][0].shape for i in open_sums]
        tiles = sum(outer * triton.cdiv(size, 64) for outer, _, size in sizes)
        given = [(arrays[i][0], total, *arrays[i][0].shape) for i, total in open_sums.items()]
        given += [(None, None, 0, 0, 0)] * (4 - len(given))
        launch(
            row_backward_kernels.sum_parts_kernel, tiles, *itertools.chain(*given), BLOCK_P=32, BLOCK_S=64, num_warps=4
        )
    return [open_sums[i] if i in open_sums else a[:, 0] for i, (a, _) in enumerate(arrays)]
