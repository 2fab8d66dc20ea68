"""Stage B: the elements of every set read M keys, then the whole rest of the block, in one kernel with one write.

Heads are kept apart in groups: the keys of a group's heads are the diagonal blocks of one matrix (heads · keys,
features), which makes a group two plain products. All heads are one group where their keys are few; else a loop takes
them in turn and puts a group's features in place with a selection matrix, through memory, or with its slice of the
output projection. Of heads too wide for their keys to fit, a piece of the features is multiplied at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from settx_fast._block import BlockSpec, BlockWeights
from settx_fast._sets import Sets
from settx_fast.kernels.broadcast_config import Block, ForwardTiles, forward_tiles, stages_on
from settx_fast.kernels.launch import launch
from settx_fast.kernels.primitives import (
    LOG2_E,
    contiguous,
    finish,
    load_tile,
    load_vector,
    load_weight,
    multiply,
    multiply_add,
    store_tile,
)
from settx_fast.kernels.sets import locate, num_blocks, row_offsets, rows_of, set_length


@triton.jit
def row_statistics(x_ptr, offsets, valid, block: tl.constexpr, CHUNK: tl.constexpr):
    """Mean (0 under "rms") and reciprocal deviation of elements, each (rows,), chunk of columns by chunk."""
    C: tl.constexpr = block.C
    total = tl.zeros(offsets.shape, tl.float32)
    if block.spec.norm == "layer":
        for first in range(0, C, CHUNK):
            inputs = first + tl.arange(0, CHUNK)
            total += tl.sum(load_tile(x_ptr, offsets, inputs, valid, inputs < C).to(tl.float32), 1)
    mean = total / C
    squares = tl.zeros(offsets.shape, tl.float32)
    for first in range(0, C, CHUNK):
        inputs = first + tl.arange(0, CHUNK)
        x = load_tile(x_ptr, offsets, inputs, valid, inputs < C).to(tl.float32) - mean[:, None]
        squares += tl.sum(tl.where((inputs < C)[None, :], x * x, 0.0), 1)
    return mean, tl.rsqrt(squares / C + block.spec.norm_eps)


@triton.jit
def load_inputs(x_ptr, offsets, valid, first, mean, factor, w, block: tl.constexpr, CHUNK: tl.constexpr):
    """Columns first … first + CHUNK of elements, normed where the block norms its input."""
    inputs = first + tl.arange(0, CHUNK)
    inside = inputs < block.C
    x = load_tile(x_ptr, offsets, inputs, valid, inside)
    if block.norm_input:
        standard = (x.to(tl.float32) - mean[:, None]) * factor[:, None]
        normed = standard * load_vector(w.g0, inputs, inside)[None, :] + load_vector(w.b0, inputs, inside)[None, :]
        x = normed.to(x.dtype)
    return x


@triton.jit
def load_heads(ptr, first, skip, block: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """Keys or values (M, D) of heads first … first + GROUP as (GROUP · keys, WIDTH), zero off the diagonal blocks.

    `skip` leaves out the first features of the heads.
    """
    KEYS: tl.constexpr = block.keys
    rows, features = tl.arange(0, GROUP * KEYS), skip + tl.arange(0, WIDTH)
    own = (rows // KEYS)[:, None] == (features // block.E)[None, :]
    keys = rows % KEYS
    pointers = ptr + keys[:, None] * block.D + (first * block.E + features)[None, :]
    return tl.load(pointers, mask=own & (keys < block.M)[:, None], other=0.0)


@triton.jit
def softmax(s, block: tl.constexpr, GROUP: tl.constexpr):
    """Of unscaled scores over the keys of each head of a group: (rows, GROUP · keys), zero for padded keys."""
    KEYS: tl.constexpr = block.keys
    ROWS: tl.constexpr = s.shape[0]
    SCALE: tl.constexpr = block.scale * LOG2_E
    s = tl.reshape(s, (ROWS, GROUP, KEYS))
    if block.M < KEYS:
        s = tl.where((tl.arange(0, KEYS) < block.M)[None, None, :], s, float("-inf"))
    # a multiply-add and an exponential for each score, one division for each row
    p = tl.exp2(s * SCALE - (tl.max(s, 2) * SCALE)[:, :, None])
    return tl.reshape(p * (1.0 / tl.sum(p, 2))[:, :, None], (ROWS, GROUP * KEYS))


@triton.jit
def attend(
    x_ptr, offsets, valid, k_ptr, v_ptr, w, kept, kept_rows, stage_ptr, stage_offsets,
    KEEP: tl.constexpr, block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """O = R + proj(concat_h(A_h V_h)) of a tile of elements of one set: (rows, width) in fp32.

    If KEEP, stores normed elements, Q and the attended values in rows kept_rows of `kept` (a `Chunk`). Where heads or
    their pieces come together in memory, they do in the rows (D,) at stage_ptr + stage_offsets.
    """
    C: tl.constexpr = block.C
    D: tl.constexpr = block.D
    WIDTH: tl.constexpr = block.width
    ROWS: tl.constexpr = tiles.rows
    PRECISION: tl.constexpr = block.precision
    GROUP: tl.constexpr = tiles.group
    GROUP_WIDTH: tl.constexpr = tiles.group_width
    PIECE: tl.constexpr = tiles.piece
    PIECES: tl.constexpr = GROUP_WIDTH // PIECE
    SCORES: tl.constexpr = GROUP * block.keys
    CHUNK: tl.constexpr = tiles.inputs
    PROJECTED: tl.constexpr = block.spec.residual == "projected"
    DIRECT: tl.constexpr = PROJECTED or not block.spec.output_projection
    WHOLE: tl.constexpr = block.spec.num_heads == GROUP and PIECES == 1
    STAGED: tl.constexpr = DIRECT and not WHOLE and (tiles.staged or PIECES > 1)
    columns = tl.arange(0, WIDTH)
    inside = columns < D
    mean, factor = None, None
    if block.norm_input:
        mean, factor = row_statistics(x_ptr, offsets, valid, block, CHUNK)
    # (rows, CHUNK): the whole of x where it fits, then read once
    x = load_inputs(x_ptr, offsets, valid, 0, mean, factor, w, block, CHUNK)
    if KEEP:
        for first in range(0, C, CHUNK):
            if C > CHUNK:
                x = load_inputs(x_ptr, offsets, valid, first, mean, factor, w, block, CHUNK)
            inputs = first + tl.arange(0, CHUNK)
            store_tile(kept.x, kept_rows * C, inputs, valid, inputs < C, x)
    # (rows, width)
    o = tl.zeros((ROWS, WIDTH), tl.float32) + load_vector(w.b_p, columns, inside)[None, :]
    for head in range(0, block.spec.num_heads, GROUP):
        s = tl.zeros((ROWS, SCORES), tl.float32)
        q = tl.zeros((ROWS, PIECE), tl.float32)
        for skip in range(0, GROUP_WIDTH, PIECE):
            local = skip + tl.arange(0, PIECE)
            features, own = head * block.E + local, local < GROUP * block.E
            # (rows, PIECE)
            q = tl.zeros((ROWS, PIECE), tl.float32) + load_vector(w.b_q, features, own)[None, :]
            for first in range(0, C, CHUNK):
                if C > CHUNK:
                    x = load_inputs(x_ptr, offsets, valid, first, mean, factor, w, block, CHUNK)
                inputs = first + tl.arange(0, CHUNK)
                q = multiply_add(x, load_weight(w.w_q, inputs, features, inputs < C, own, C), q, PRECISION)
            s = multiply_add(q, tl.trans(load_heads(k_ptr, head, skip, block, GROUP, PIECE)), s, PRECISION)
            if KEEP:
                store_tile(kept.q, kept_rows * D, features, valid, own, q)
            if PIECES > 1 and PROJECTED:
                store_tile(stage_ptr, stage_offsets, features, valid, own, q)
        p = softmax(s, block, GROUP)
        if PIECES > 1:
            tl.debug_barrier()
        for skip in range(0, GROUP_WIDTH, PIECE):
            local = skip + tl.arange(0, PIECE)
            features, own = head * block.E + local, local < GROUP * block.E
            a = multiply(p, load_heads(v_ptr, head, skip, block, GROUP, PIECE), PRECISION)
            if KEEP and block.spec.output_projection:
                store_tile(kept.a, kept_rows * D, features, valid, own, a)
            if block.spec.output_projection:
                o = multiply_add(a, load_weight(w.w_p, features, columns, own, inside, D), o, PRECISION)
            if PIECES > 1:
                if not block.spec.output_projection:
                    if PROJECTED:
                        a += load_tile(stage_ptr, stage_offsets, features, valid, own).to(tl.float32)
                    store_tile(stage_ptr, stage_offsets, features, valid, own, a)
            elif DIRECT:
                if block.spec.output_projection:
                    direct = q
                elif PROJECTED:
                    direct = q + a
                else:
                    direct = a
                if WHOLE:
                    o += direct
                elif STAGED:
                    store_tile(stage_ptr, stage_offsets, features, valid, own, direct)
                else:
                    place = (features[:, None] == columns[None, :]) & own[:, None]
                    o = multiply_add(direct, place.to(x.dtype), o, PRECISION)
    if STAGED:
        tl.debug_barrier()
        o += load_tile(stage_ptr, stage_offsets, columns, valid, inside).to(tl.float32)
        tl.debug_barrier()
    if block.spec.residual == "input":
        o += load_tile(x_ptr, offsets, columns, valid, inside).to(tl.float32)
    return o


@triton.jit
def broadcast_tile(x, out, N, k_ptr, v_ptr, w, b, first, block: tl.constexpr, tiles: tl.constexpr):
    """The block on rows first … first + tiles.rows of set b (both int64); zeros for padded rows past its length."""
    ROWS: tl.constexpr = tiles.rows
    WIDTH: tl.constexpr = block.width
    length = set_length(x, N, b)
    rows = first + tl.arange(0, ROWS)
    out_offsets = row_offsets(out, b, rows)
    columns = tl.arange(0, WIDTH)
    y = tl.zeros((ROWS, WIDTH), tl.float32)
    if first < length:
        own_keys = b * (block.M * block.D)
        o = attend(
            x.ptr, row_offsets(x, b, rows), rows < length, k_ptr + own_keys, v_ptr + own_keys, w, None, None,
            out.ptr, out_offsets, False, block, tiles,
        )  # fmt: skip
        y = finish(o, out.ptr, out_offsets, rows < length, w, block, tiles)
        y = tl.where((rows < length)[:, None], y, 0.0)
    writable = rows < (length if x.offsets is not None else N)
    store_tile(out.ptr, out_offsets, columns, writable, columns < block.D, y)


@triton.jit(do_not_specialize=["N", "num_sets"])
def broadcast_forward_kernel(x, out, N, num_sets, k_ptr, v_ptr, w, block: tl.constexpr, tiles: tl.constexpr):
    """One program, one tile of rows of one set."""
    ROWS: tl.constexpr = tiles.rows
    b, first = locate(tl.program_id(0), x, N, num_sets, ROWS)
    broadcast_tile(x, out, N, k_ptr, v_ptr, w, b, first, block, tiles)


def broadcast_forward(
    x: Sets, k: Tensor, v: Tensor, weights: BlockWeights, spec: BlockSpec, tiles: ForwardTiles | None = None
) -> Tensor:
    """Output of the block whose queries are the elements of x: (B, N, D) or packed (R, D), zero outside the sets.

    k and v (B, M, D) are the keys' and values' projections, every one of the M rows a key; all tensors of one dtype.
    """
    block = Block.of(spec, x.width, k.shape[2], k.shape[1], k.dtype)
    tiles = tiles or forward_tiles(block)
    out = x.rows.new_empty(*x.rows.shape[:-1], block.D)
    if out.numel():
        launch(
            broadcast_forward_kernel, num_blocks(x, tiles.rows),
            rows_of(x), rows_of(x, out), x.longest, x.num_sets, k.contiguous(), v.contiguous(),
            contiguous(weights), block, tiles,
            num_warps=tiles.warps, num_stages=stages_on(k.device, tiles, block),
        )  # fmt: skip
    return out
