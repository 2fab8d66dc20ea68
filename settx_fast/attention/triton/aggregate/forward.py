"""Launch stage A's forward: make room, choose tiles, run the kernels of `forward_kernels` and `row_kernels`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from settx_fast.attention.block import NO_WEIGHTS, BlockSpec, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.aggregate import forward_kernels, heads_kernels, row_kernels
from settx_fast.attention.triton.aggregate.tiles import (
    HeadsTile,
    Problem,
    RowTile,
    forward_config,
    heads_config,
    row_tile,
    stage_products,
)
from settx_fast.attention.triton.launch import launch
from settx_fast.attention.triton.primitives import padded
from settx_fast.attention.triton.sets import rows_of

LOG2_E = math.log2(math.e)
MERGED = 4096  # numbers that a program of the merge takes at once: with few, starting programs took most of its time


class Queries(NamedTuple):
    """What `prepare` makes of the query rows."""

    normed: Tensor  # (rows, C_q) under norm_first, else the input itself
    query: Tensor  # (rows, D)
    scaled: Tensor  # (rows, D): times their factors, where they have any and keys are folded into them; else `query`
    folded: Tensor  # (sets · H · M, C or E)


class Latents(NamedTuple):
    """The M rows of every set on their way through the block's layers, (B · M, ·); a stage left out is its input."""

    out: Tensor  # D: the block's output
    attended: Tensor  # D: concat_h(A_h V_h)
    sum0: Tensor  # D: residual + attention
    hidden: Tensor  # D: what the feed-forward layers read
    before: Tensor  # F: before the activation
    inner: Tensor  # F: after it, where there is a second layer
    sum1: Tensor  # D: + feed-forward
    keys_from: Tensor  # D: the output as the next block's norm leaves it
    next_keys: Tensor | None  # D of the next block
    next_values: Tensor | None


class Aggregated(NamedTuple):
    """What stage A leaves for the next block and for its own backward; nothing has an axis of elements."""

    queries: Queries
    lse: Tensor  # (B, H · M) fp32
    y: Tensor | None  # (H, B, M, C), absorbed only
    latents: Latents

    def leaves(self) -> list[Tensor | None]:
        """All tensors, the block's output first; one that stands for two stages comes twice."""
        return [*self.latents, *self.queries, self.lse, self.y]


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

    @property
    def next_dim(self) -> int:
        """D of the next block."""
        return self.dim if self.next_spec is None else self.next_weights.w_k.shape[0]

    @property
    def normed_inputs(self) -> bool:
        """Queries and elements go through the block's first norm."""
        return self.spec.norm_first and self.spec.norm != "none"

    @property
    def normed_keys(self) -> bool:
        """The next block's keys and values are made of normed latents."""
        return self.next_spec is not None and self.next_spec.norm_first and self.next_spec.norm != "none"


def problem_of(sets: Sets, num_queries: int, stage: Stage) -> Problem:
    """The shape that tiles are chosen by."""
    x, heads = sets.rows, stage.spec.num_heads
    return Problem(
        sets.num_sets, sets.longest, sets.width, stage.dim, heads, num_queries,
        stage_products(x.dtype, sets.width, x.device), x.device, stage.normed_inputs,
    )  # fmt: skip


def allocate(problem: Problem, query: Tensor, stage: Stage, scale: Tensor | None = None) -> Aggregated:
    """Room for all that `aggregate_forward` computes; a stage that the block has not is the one before."""
    spec, normed = stage.spec, stage.spec.norm != "none"
    num_sets, M = query.shape[:2]
    projected = query.new_empty(num_sets, M, problem.D)
    queries = Queries(
        torch.empty_like(query) if stage.normed_inputs else query,
        projected,
        projected if scale is None or not problem.absorbed else torch.empty_like(projected),
        query.new_empty(num_sets, problem.H * M, problem.C if problem.absorbed else problem.E),
    )
    attended, sum0, sum1, before = (query.new_empty(problem.num_sets, M, problem.D) for _ in range(4))
    if spec.ffn_dim is not None:
        before = query.new_empty(problem.num_sets, M, spec.ffn_dim)
    empty = torch.empty_like
    out = empty(sum1) if normed and not spec.norm_first else sum1
    keys, values = (None if stage.next_spec is None else out.new_empty(*out.shape[:2], stage.next_dim) for _ in "kv")
    return Aggregated(
        queries,
        query.new_empty(problem.num_sets, problem.H * M, dtype=torch.float32),
        query.new_empty(problem.H, problem.num_sets, M, problem.C) if problem.absorbed else None,
        Latents(
            out, attended, sum0, empty(sum0) if normed else sum0, before,
            before if spec.ffn_dim is None else empty(before), sum1,
            empty(out) if stage.normed_keys else out, keys, values,
        ),
    )  # fmt: skip


def pack(saved: Aggregated, query: Tensor) -> list[Tensor]:
    """The distinct tensors of saved but the query."""
    return list({id(t): t for t in saved.leaves() if t is not None and t is not query}.values())


def aggregate_forward(sets: Sets, query: Tensor, stage: Stage, scale: Tensor | None = None) -> Aggregated:
    """MAB(query, sets): query (B or 1, M, C_q) contiguous, one for all sets when its batch is 1.

    `scale`, of the query's batch and (…, M, D), are factors of the projected queries where scores are made of them.
    """
    problem = problem_of(sets, query.shape[1], stage)
    to = allocate(problem, query, stage, scale)
    rows, width = query.shape[0] * problem.M, query.shape[2]
    tile = row_tile(problem, rows, width)
    launch(
        row_kernels.prepare_kernel, triton.cdiv(rows, tile.rows) * problem.H,
        query, scale, stage.weights, to.queries, rows, problem.M, stage.spec.score_scale(problem.D) * LOG2_E,
        stage.spec, width, problem.C, problem.D, problem.absorbed, BLOCK_CQ=padded(width),
        **row_arguments(problem, tile),
    )  # fmt: skip
    attend(sets, query.shape[0] != 1, to, problem, stage)
    residual = to.queries.query if stage.spec.residual == "projected" else query
    latents = problem.num_sets * problem.M
    tile = row_tile(problem, latents, problem.D)
    launch(
        row_kernels.finish_kernel, triton.cdiv(latents, tile.rows),
        to.y, to.lse, residual, rows, stage.weights, stage.next_weights, to.latents, latents, problem.M,
        stage.spec, stage.next_spec, problem.C, problem.D, stage.next_dim, problem.absorbed,
        BLOCK_D=padded(problem.D), **row_arguments(problem, tile),
    )  # fmt: skip
    return to


def row_arguments(problem: Problem, tile: RowTile) -> dict[str, Any]:
    """A tile as kernels of the layers on few rows and their launcher call it."""
    return {
        "BLOCK_M": tile.rows, "BLOCK_E": min(tile.columns, padded(problem.E)), "BLOCK_K": tile.columns,
        "PRECISION": problem.precision, "num_warps": tile.warps,
    }  # fmt: skip


def attend(sets: Sets, own: bool, to: Aggregated, problem: Problem, stage: Stage) -> None:
    """Read the sets into lse and Y or the attended values; every set has queries of its `own` or all share them."""
    B, H, M = problem.num_sets, problem.H, problem.M
    heads = heads_config(problem)
    tile, num_splits = heads or forward_config(problem)
    width = problem.C if problem.absorbed else problem.E
    target = to.latents.attended if to.y is None else to.y
    split = num_splits > 1
    pieces = (B, num_splits, H * M) if split else (0,)
    tops, totals = (sets.rows.new_empty(pieces, dtype=torch.float32) for _ in range(2))
    ys = sets.rows.new_empty(*pieces, width, dtype=torch.float32)
    queries = to.queries.folded, H * M * width if own else 0
    results = to.lse, target, tops, totals, ys
    if isinstance(tile, HeadsTile):
        launch(
            heads_kernels.scan_heads_kernel, B * num_splits * problem.blocks_of_heads(tile),
            rows_of(sets), sets.longest, *queries, stage.weights, *results, B, num_splits, M,
            stage.spec, problem.C, problem.D, split, HEADS=tile.heads, BLOCK_R=tile.block_r, BLOCK_N=tile.block_n,
            BOUNDED=stage.normed_inputs and sets.rows.dtype == torch.bfloat16,
            num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
        )  # fmt: skip
    else:
        launch(
            forward_kernels.scan_kernel, B * num_splits * problem.blocks(tile.block_r),
            rows_of(sets), sets.longest, *queries, stage.weights, *results, B, num_splits, M,
            stage.spec, problem.C, problem.D, problem.absorbed, split,
            BLOCK_R=tile.block_r, BLOCK_N=tile.block_n, BLOCK_C=problem.width, BLOCK_E=padded(problem.E),
            PRECISION=problem.precision, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    if split:
        block_s, block_w = 8 if num_splits <= 8 else 32, min(64, padded(width))
        block_r = min(32, MERGED // (block_s * block_w))
        launch(
            forward_kernels.merge_kernel, B * triton.cdiv(H * M, block_r) * triton.cdiv(width, block_w),
            tops, totals, ys, stage.weights.b_v, to.lse, target, B, num_splits, M,
            H, problem.C, problem.E, problem.absorbed,
            BLOCK_S=block_s, BLOCK_R=block_r, BLOCK_W=block_w, num_warps=4,
        )  # fmt: skip
