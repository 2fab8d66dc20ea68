"""Launch stage A's backward over projected elements, three steps a chunk; see `projected_backward_kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.aggregate import projected_backward_kernels as kernels
from settx_fast.attention.triton.aggregate.forward import Stage
from settx_fast.attention.triton.aggregate.tiles import Problem, ProjectedTiles
from settx_fast.attention.triton.launch import launch, zero
from settx_fast.attention.triton.sets import NO_ROWS, num_blocks, rows_of


def projected_backward(
    sets: Sets, folded: Tensor, lse: Tensor, d_attended: Tensor, delta: Tensor, dx: Tensor | None, add: bool,
    problem: Problem, stage: Stage, tiles: ProjectedTiles, held: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Parts in fp32 of the gradients of the folded queries (programs, H · M, E) and of both folded projections

    (programs, 2, D, C); writes dx, on top of what it holds when `add`. `held` bytes are in use by other temporaries.
    """
    H, M, C, D, E, like = problem.H, problem.M, problem.C, problem.D, problem.E, sets.rows
    num_tiles, scoring = num_blocks(sets, tiles.rows), max(1, 3 * tiles.multiprocessors // H)
    scoring, dense = min(scoring, num_tiles), min(tiles.multiprocessors, num_tiles)
    sizes = scoring * H * M * E, dense * 2 * D * C
    d_folded, parts = zero(like.new_empty(sum(sizes), dtype=torch.float32)).split(sizes)
    chunk = chunk_tiles(num_tiles, problem, tiles, held + 4 * sum(sizes))
    projected = like.new_empty(chunk * tiles.rows, 2, D)
    x, target = rows_of(sets), NO_ROWS if dx is None else rows_of(sets, dx)
    for first in range(0, num_tiles, chunk):
        count = min(chunk, num_tiles - first)
        where = (sets.longest, sets.num_sets, first, count)

        def shared(programs: int, count: int = count) -> tuple[int, int]:
            share = triton.cdiv(count, programs)
            return triton.cdiv(count, share), share

        shape = {"spec": stage.spec, "C": C, "D": D, "ROWS": tiles.rows}
        programs, share = shared(2 * tiles.multiprocessors)
        launch(
            kernels.project_kernel, programs, x, *where, share, stage.weights, projected, **shape,
            num_warps=tiles.warps, num_stages=3,
        )  # fmt: skip
        programs, share = shared(scoring)
        launch(
            kernels.scores_back_kernel, programs * H, x, *where, share, folded, stage.weights, d_attended, lse, delta,
            projected, d_folded, M=M, **shape, QUERIES=tiles.queries, num_warps=4, num_stages=3,
        )  # fmt: skip
        programs, share = shared(dense)
        launch(
            kernels.project_back_kernel, programs, x, target, *where, share, stage.weights, projected, parts, ADD=add,
            **shape, num_warps=tiles.warps, num_stages=2,
        )  # fmt: skip
    return d_folded.view(scoring, H * M * E), parts.view(dense, 2 * D * C)


def chunk_tiles(num_tiles: int, problem: Problem, tiles: ProjectedTiles, held: int) -> int:
    """Tiles of a chunk, all chunks alike: formulas keep of an element at least probabilities, twice, and eight rows."""
    H, M, D, size = problem.H, problem.M, problem.D, problem.itemsize
    rows = problem.num_sets * problem.longest
    room = gpu.room(rows, size * (2 * H * M + 8 * D)) - held
    most = max(1, min(num_tiles, room // (tiles.rows * 2 * D * size)))
    return triton.cdiv(num_tiles, triton.cdiv(num_tiles, most))


def unfold(sums: Tensor, problem: Problem, stage: Stage, d_bias: Tensor, d_gain: Tensor, d_shift: Tensor) -> Tensor:
    """Gradients of both projections (2, D, C) from those of the folded; adds those of the norm to d_gain and d_shift.

    d_bias is that of the values' bias.
    """
    to = stage.weights.w_k.new_empty(2, problem.D, problem.C)
    launch(
        kernels.unfold_kernel, problem.C // 32, sums, stage.weights, d_bias, to, d_gain, d_shift,
        spec=stage.spec, C=problem.C, D=problem.D, INS=32, OUTS=32, num_warps=4,
    )  # fmt: skip
    return to
