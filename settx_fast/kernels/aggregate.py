"""Launch stage A: allocate, choose tiles, run the kernels of `aggregate_forward` and `aggregate_backward`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from settx_fast._block import BlockSpec, BlockWeights
from settx_fast.kernels import aggregate_forward as forward
from settx_fast.kernels.aggregate_forward import Latents, Queries
from settx_fast.kernels.config import Problem, forward_scan, shared_memory
from settx_fast.kernels.primitives import matrix_precision, padded
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
    x = view.x
    exact = x.dtype == torch.float32 and matrix_precision(x.dtype) == "ieee"
    return Problem(
        view.num_sets, view.longest, view.width, stage.dim, stage.spec.num_heads, num_queries, x.element_size(), exact,
        shared_memory(x.device),
    )  # fmt: skip


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
        PRECISION=matrix_precision(query.dtype), num_warps=4,
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
        PRECISION=matrix_precision(query.dtype), num_warps=4,
    )  # fmt: skip
    return queries


def attend(
    view: SetView, queries: Queries, own: bool, problem: Problem, stage: Stage
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Read the sets: log₂-sum-exp, Y (absorbed only), and the attended values (filled unless absorbed)."""
    x, B, H, M = view.x, problem.num_sets, problem.H, problem.M
    tiles = forward_scan(problem)
    width = problem.C if problem.absorbed else problem.E
    lse = x.new_empty(B, H * M, dtype=torch.float32)
    attended = x.new_empty(B, M, problem.D)
    y = x.new_empty(H, B, M, problem.C) if problem.absorbed else None
    target = attended if y is None else y
    split = tiles.num_splits > 1
    pieces = (B, tiles.num_splits, H * M) if split else (0,)
    tops, totals = (x.new_empty(pieces, dtype=torch.float32) for _ in range(2))
    ys = x.new_empty(*pieces, width, dtype=torch.float32)
    blocks = triton.cdiv(H * M, tiles.block_r) if problem.absorbed else H * triton.cdiv(M, tiles.block_r)
    forward.scan_kernel[(B * tiles.num_splits * blocks,)](
        *view.arguments, queries.folded, H * M * width if own else 0, stage.weights,
        lse, target, tops, totals, ys, B, tiles.num_splits, M,
        stage.spec, problem.C, problem.D, problem.absorbed, split,
        BLOCK_R=tiles.block_r, BLOCK_N=tiles.block_n, BLOCK_C=padded(problem.C), BLOCK_E=padded(problem.E),
        PRECISION=matrix_precision(x.dtype), num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    if split:
        block_w = min(64, padded(width))
        forward.merge_kernel[(B * triton.cdiv(H * M, 2) * triton.cdiv(width, block_w),)](
            tops, totals, ys, stage.weights.b_v, lse, target, B, tiles.num_splits, M,
            H, problem.C, problem.E, problem.absorbed,
            BLOCK_S=8 if tiles.num_splits <= 8 else 32, BLOCK_R=2, BLOCK_W=block_w, num_warps=4,
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
