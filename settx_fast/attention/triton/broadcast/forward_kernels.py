"""Stage B: the elements of every set read M keys, then the whole rest of the block, in one kernel with one write.

Heads are kept apart in groups: the keys of a group's heads are the diagonal blocks of one matrix (heads · keys,
features), which makes a group two plain products. All heads are one group where their keys are few; else a loop takes
them in turn and puts a group's features in place with a selection matrix, through memory, or with its slice of the
output projection. Of heads too wide for their keys to fit, a piece of the features is multiplied at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.primitives import (
    LOG2_E,
    finish,
    load_tile,
    load_vector,
    load_weight,
    multiply,
    multiply_add,
    store_tile,
)
from settx_fast.attention.triton.sets import locate, row_offsets, set_length


@triton.jit(do_not_specialize=["N", "num_sets"])
def broadcast_forward_kernel(x, out, N, num_sets, k_ptr, v_ptr, w, block: tl.constexpr, tiles: tl.constexpr):
    """One program, one tile of rows of one set."""
    ROWS: tl.constexpr = tiles.rows
    b, first = locate(tl.program_id(0), x, N, num_sets, ROWS)
    broadcast_tile(x, out, N, k_ptr, v_ptr, w, b, first, block, tiles)


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


@triton.jit
def attend(
    x_ptr, offsets, valid, k_ptr, v_ptr, w, kept, kept_rows, stage_ptr, stage_offsets,
    KEEP: tl.constexpr, block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """O = R + proj(concat_h(A_h V_h)) of a tile of elements of one set: (rows, width) in fp32.

    If KEEP, stores normed elements, Q and the attended values in rows kept_rows of `kept` (a `Chunk`). Where heads or
    their pieces come together in memory, they do in the rows (D,) at stage_ptr + stage_offsets.
    """
    ROWS: tl.constexpr = tiles.rows  # Triton 3.6 takes no field of a constant inside a shape
    WIDTH: tl.constexpr = block.width
    GROUP: tl.constexpr = tiles.group
    CHUNK: tl.constexpr = tiles.inputs
    columns = tl.arange(0, WIDTH)
    inside = columns < block.D
    mean, factor = None, None
    if block.norm_input:
        mean, factor = row_statistics(x_ptr, offsets, valid, block, CHUNK)
    # (rows, CHUNK): the whole of x where it fits, then read once
    x = load_inputs(x_ptr, offsets, valid, 0, mean, factor, w, block, CHUNK)
    if KEEP:
        keep_inputs(x, x_ptr, offsets, valid, mean, factor, w, kept, kept_rows, block, CHUNK)
    # (rows, width)
    o = tl.zeros((ROWS, WIDTH), tl.float32) + load_vector(w.b_p, columns, inside)[None, :]
    for head in range(0, block.spec.num_heads, GROUP):
        s, q = score(
            x, x_ptr, offsets, valid, mean, factor, k_ptr, w, kept, kept_rows, stage_ptr, stage_offsets,
            head, KEEP, block, tiles,
        )  # fmt: skip
        p = softmax(s, block, GROUP)
        o = add_values(
            o, p, q, v_ptr, valid, w, kept, kept_rows, stage_ptr, stage_offsets, head, KEEP, block, tiles
        )  # fmt: skip
    if is_staged(block, tiles):
        tl.debug_barrier()
        o += load_tile(stage_ptr, stage_offsets, columns, valid, inside).to(tl.float32)
        tl.debug_barrier()
    if block.spec.residual == "input":
        o += load_tile(x_ptr, offsets, columns, valid, inside).to(tl.float32)
    return o


@triton.jit
def keep_inputs(
    x, x_ptr, offsets, valid, mean, factor, w, kept, kept_rows, block: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """Store normed elements for the backward; x holds their first CHUNK columns."""
    for first in range(0, block.C, CHUNK):
        if block.C > CHUNK:
            x = load_inputs(x_ptr, offsets, valid, first, mean, factor, w, block, CHUNK)
        inputs = first + tl.arange(0, CHUNK)
        store_tile(kept.x, kept_rows * block.C, inputs, valid, inputs < block.C, x)


@triton.jit
def score(
    x, x_ptr, offsets, valid, mean, factor, k_ptr, w, kept, kept_rows, stage_ptr, stage_offsets, head,
    KEEP: tl.constexpr, block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """Unscaled scores of a group of heads (rows, GROUP · keys), and the last piece of its queries (rows, PIECE).

    x holds the first columns of the elements. Pieces of projected queries wait in memory to be added to their values.
    """
    PRECISION: tl.constexpr = block.precision
    C: tl.constexpr = block.C
    GROUP: tl.constexpr = tiles.group
    PIECE: tl.constexpr = tiles.piece
    CHUNK: tl.constexpr = tiles.inputs
    ROWS: tl.constexpr = tiles.rows
    SCORES: tl.constexpr = GROUP * block.keys
    s = tl.zeros((ROWS, SCORES), tl.float32)
    q = tl.zeros((ROWS, PIECE), tl.float32)
    for skip in range(0, tiles.group_width, PIECE):
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
            store_tile(kept.q, kept_rows * block.D, features, valid, own, q)
        if tiles.group_width > PIECE and block.spec.residual == "projected":
            store_tile(stage_ptr, stage_offsets, features, valid, own, q)
    return s, q


@triton.jit
def add_values(
    o, p, q, v_ptr, valid, w, kept, kept_rows, stage_ptr, stage_offsets, head,
    KEEP: tl.constexpr, block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """o plus what a group of heads with probabilities p (rows, GROUP · keys) attends to, or that stored in its place.

    q is the whole of the group's queries where they are in one piece.
    """
    PRECISION: tl.constexpr = block.precision
    D: tl.constexpr = block.D
    PIECE: tl.constexpr = tiles.piece
    PIECES: tl.constexpr = tiles.group_width // PIECE
    columns = tl.arange(0, block.width)
    if PIECES > 1:
        tl.debug_barrier()
    for skip in range(0, tiles.group_width, PIECE):
        local = skip + tl.arange(0, PIECE)
        features, own = head * block.E + local, local < tiles.group * block.E
        # (rows, PIECE)
        a = multiply(p, load_heads(v_ptr, head, skip, block, tiles.group, PIECE), PRECISION)
        if block.spec.output_projection:
            if KEEP:
                store_tile(kept.a, kept_rows * D, features, valid, own, a)
            o = multiply_add(a, load_weight(w.w_p, features, columns, own, columns < D, D), o, PRECISION)
        elif PIECES > 1:
            if block.spec.residual == "projected":
                a += load_tile(stage_ptr, stage_offsets, features, valid, own).to(tl.float32)
            store_tile(stage_ptr, stage_offsets, features, valid, own, a)
        if PIECES == 1 and goes_around_projection(block):
            o = add_in_place(o, direct(q, a, block), features, own, valid, w, stage_ptr, stage_offsets, block, tiles)
    return o


@triton.constexpr_function
def goes_around_projection(block):
    """Whether something of a head's own width is added to O: its queries, or its values without a projection."""
    return block.spec.residual == "projected" or not block.spec.output_projection


@triton.constexpr_function
def is_whole(block, tiles):
    """Whether one group of one piece holds all heads, so that its features are O's."""
    return block.spec.num_heads == tiles.group and tiles.group_width == tiles.piece


@triton.constexpr_function
def is_staged(block, tiles):
    """Whether heads come together in memory."""
    in_memory = tiles.staged or tiles.group_width > tiles.piece
    return goes_around_projection(block) and not is_whole(block, tiles) and in_memory


@triton.jit
def direct(q, a, block: tl.constexpr):
    """What goes around an output projection: queries, attended values, or their sum."""
    if block.spec.output_projection:
        out = q
    elif block.spec.residual == "projected":
        out = q + a
    else:
        out = a
    return out


@triton.jit
def add_in_place(
    o, part, features, own, valid, w, stage_ptr, stage_offsets, block: tl.constexpr, tiles: tl.constexpr
):  # fmt: skip
    """o with a group's features (rows, PIECE) in their columns; or they go to memory, where heads come together."""
    PRECISION: tl.constexpr = block.precision
    if is_whole(block, tiles):
        o += part
    elif tiles.staged:
        store_tile(stage_ptr, stage_offsets, features, valid, own, part)
    else:
        place = (features[:, None] == tl.arange(0, block.width)[None, :]) & own[:, None]
        o = multiply_add(part, place.to(w.w_q.dtype.element_ty), o, PRECISION)
    return o


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
