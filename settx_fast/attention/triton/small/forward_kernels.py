"""Induced set attention forward in one launch, for many small sets: a program takes a set from end to end.

The stages are those of `aggregate_forward` and `broadcast_forward`, with a barrier between them in place of a launch.
The queries do not depend on the set: every program makes them anew and stores the same numbers, which costs less than
a launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.aggregate.forward_kernels import scan, store_attention
from settx_fast.attention.triton.aggregate.row_kernels import finish, prepare
from settx_fast.attention.triton.broadcast.forward_kernels import broadcast_tile


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
            input_ptr, None, w, to.queries, m, m < M, h, M, FACTOR,
            spec, D, C, D, True, BLOCK_D, BLOCK_E, BLOCK_K, PRECISION,
        )  # fmt: skip
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
