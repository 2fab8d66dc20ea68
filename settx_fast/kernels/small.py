"""Induced set attention forward in one launch, for many small sets: a program takes a set from end to end.

The stages are those of `aggregate_forward` and `broadcast_forward`, with a barrier between them in place of a launch.
The queries do not depend on the set: every program makes them anew and stores the same numbers, which costs less than
a launch.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from settx_fast._sets import Sets
from settx_fast.kernels.aggregate import LOG2_E, Aggregated, Stage, allocate, problem_of
from settx_fast.kernels.aggregate_forward import finish, prepare, scan, store_attention
from settx_fast.kernels.broadcast_config import Block, ForwardTiles, forward_tiles
from settx_fast.kernels.broadcast_forward import broadcast_tile
from settx_fast.kernels.config import PROGRAMS, Problem, forward_config
from settx_fast.kernels.launch import launch
from settx_fast.kernels.primitives import matrix_precision, padded
from settx_fast.kernels.sets import rows_of

MAX_ELEMENTS, MAX_QUERIES = 256, 32


@triton.jit(do_not_specialize=["N", "num_sets"])
def small_kernel(
    x, context, out, N, input_ptr, residual_ptr, w, w_next, to, num_sets, M, FACTOR,
    spec: tl.constexpr, spec_next: tl.constexpr, C: tl.constexpr, D: tl.constexpr, D_NEXT: tl.constexpr,
    block: tl.constexpr, tiles: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one set, absorbed; all sets share the M query rows (M, D), which read its rows in `context`."""
    H: tl.constexpr = spec.num_heads
    E: tl.constexpr = D // H
    b = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, BLOCK_M).to(tl.int64)
    for h in range(H):
        prepare(
            input_ptr, w, to.queries, m, m < M, h, M, FACTOR, spec, D, C, D, True, BLOCK_D, BLOCK_E, BLOCK_K, PRECISION
        )
    tl.debug_barrier()
    num_rows = H * M
    columns = tl.arange(0, BLOCK_C)
    for first in range(0, num_rows, BLOCK_R):
        top, total, y = scan(
            context, N, to.queries.folded, w, b, 0, 1, first,
            num_rows, 0, spec, C, E, True, BLOCK_R, BLOCK_N, BLOCK_C, BLOCK_E, PRECISION,
        )  # fmt: skip
        r = first + tl.arange(0, BLOCK_R)
        store_attention(top, total, y, to.lse, to.y, w.b_v, b, r, num_rows, columns, M, num_sets, H, C, E, True)
    tl.debug_barrier()
    finish(
        to.y, to.lse, residual_ptr, m, w, w_next, to.latents, b * M + m, m < M, M, num_sets * M,
        spec, spec_next, C, D, D_NEXT, True, BLOCK_D, BLOCK_E, BLOCK_K, PRECISION,
    )  # fmt: skip
    for start in range(0, N, tiles.rows):
        place = tl.cast(start, tl.int64)
        broadcast_tile(x, out, N, to.latents.next_keys, to.latents.next_values, w_next, b, place, block, tiles)


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
