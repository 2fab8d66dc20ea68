"""Launch the forward of many small sets."""

from __future__ import annotations

from torch import Tensor

from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.aggregate.forward import LOG2_E, Aggregated, Stage, allocate, problem_of
from settx_fast.attention.triton.aggregate.tiles import PROGRAMS, Problem, forward_config
from settx_fast.attention.triton.broadcast.tiles import Block, ForwardTiles, forward_tiles
from settx_fast.attention.triton.launch import launch
from settx_fast.attention.triton.primitives import matrix_precision, padded
from settx_fast.attention.triton.sets import rows_of
from settx_fast.attention.triton.small.forward_kernels import small_kernel

MAX_ELEMENTS, MAX_QUERIES = 256, 32


def is_small(sets: Sets, problem: Problem) -> bool:
    """Whether one launch does the whole forward: enough sets to fill a GPU, each a few tiles."""
    few = sets.longest <= MAX_ELEMENTS and problem.M <= MAX_QUERIES and problem.width <= 128 and problem.D <= 128
    return not sets.packed and problem.num_sets >= PROGRAMS and few and problem.absorbed and problem.products != "exact"


def small_forward(sets: Sets, context: Sets, query: Tensor, stage: Stage) -> tuple[Tensor, Aggregated]:
    """Output of induced set attention and what stage A leaves, see `aggregate_forward`."""
    problem = problem_of(sets, query.shape[1], stage)
    to = allocate(problem, query, stage)
    tile = forward_config(problem).tile
    assert stage.next_spec is not None
    block = Block.of(stage.next_spec, problem.C, stage.next_dim, problem.M, query.dtype)
    tiles: ForwardTiles = forward_tiles(block)
    out = sets.rows.new_empty(*sets.rows.shape[:-1], stage.next_dim)
    residual = to.queries.query if stage.spec.residual == "projected" else query
    launch(
        small_kernel, problem.num_sets,
        rows_of(sets), rows_of(context), rows_of(sets, out), sets.longest, query, residual,
        stage.weights, stage.next_weights, to,
        problem.num_sets, problem.M, stage.spec.score_scale(problem.D) * LOG2_E, stage.spec, stage.next_spec,
        problem.C, problem.D, stage.next_dim, block, tiles, BLOCK_M=padded(problem.M), BLOCK_R=tile.block_r,
        BLOCK_N=tile.block_n, BLOCK_C=problem.width, BLOCK_D=padded(problem.D), BLOCK_E=min(64, padded(problem.E)),
        BLOCK_K=64, PRECISION=matrix_precision(query.dtype), num_warps=max(tile.warps, tiles.warps),
        num_stages=2,
    )  # fmt: skip
    return out, to
