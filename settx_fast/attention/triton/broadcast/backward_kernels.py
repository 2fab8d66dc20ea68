"""Stage B backwards, a bounded chunk of rows at a time: what the forward pass made is made again, used and dropped.

The ladder, for every chunk: `recompute` runs attention again, `layers_backward` goes back through norms and layers to
the sum of residual and attention, `attention_backward` to queries, keys and values, `input_backward` to the elements;
`weight_gradients` adds up what weights saw, `merge_keys` what the runs of a set found for its keys and values.

A run is some consecutive tiles of one set, a tile is what one program holds. Temporaries hold a chunk's runs one after
another; rows that are no elements are neither written nor read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from settx_fast.attention.triton.broadcast.forward_kernels import attend, load_heads, softmax
from settx_fast.attention.triton.primitives import (
    activate,
    activation_slope,
    feed_forward,
    load_tile,
    load_vector,
    load_weight,
    multiply,
    multiply_add,
    normalise_backward,
    staged_multiply,
    standardise,
    store_tile,
)
from settx_fast.attention.triton.sets import blocks_of_set, elements_of_block, locate, row_offsets, set_length


@triton.jit(do_not_specialize=["N", "num_sets", "first_run"])
def recompute_kernel(
    x, N, num_sets, first_run, run_rows, k_ptr, v_ptr, w, chunk, block: tl.constexpr, tiles: tl.constexpr
):  # fmt: skip
    """Attention of a tile again, up to the sum with the residual."""
    ROWS: tl.constexpr = tiles.rows
    WIDTH: tl.constexpr = block.width
    b, rows, packed, valid = find_tile(x, N, num_sets, first_run, run_rows, ROWS)
    if tl.max(valid.to(tl.int32), 0) > 0:
        own_keys = b * (block.M * block.D)
        o = attend(
            x.ptr, row_offsets(x, b, rows), valid, k_ptr + own_keys, v_ptr + own_keys, w,
            chunk, packed, chunk.o, packed * block.D, True, block, tiles,
        )  # fmt: skip
        columns = tl.arange(0, WIDTH)
        store_tile(chunk.o, packed * block.D, columns, valid, columns < block.D, o)


@triton.jit
def find_tile(x, N, num_sets, first_run, run_rows, ROWS: tl.constexpr):
    """This program's tile: its set, its rows in it and in the temporaries (int64), and which of them are elements."""
    tiles = run_rows // ROWS
    run, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    b, first = locate(first_run + run, x, N, num_sets, run_rows)
    rows = first + tile * ROWS + tl.arange(0, ROWS)
    packed = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return b, rows, packed, rows < set_length(x, N, b)


@triton.jit(do_not_specialize=["N", "num_sets", "first_run"])
def layers_backward_kernel(
    x, N, num_sets, first_run, run_rows, grad, w, chunk, sums_ptr, sums_stride, block: tl.constexpr, tiles: tl.constexpr
):  # fmt: skip
    """Back through norms and feed-forward layers of a tile; sums_ptr (tiles, ·) gathers the norms' gradients."""
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    EPS: tl.constexpr = block.spec.norm_eps
    ROWS: tl.constexpr = tiles.rows
    WIDTH: tl.constexpr = block.width
    SECOND: tl.constexpr = 2 * (block.C if block.spec.norm_first else D)
    b, rows, packed, valid = find_tile(x, N, num_sets, first_run, run_rows, ROWS)
    if tl.max(valid.to(tl.int32), 0) > 0:
        columns = tl.arange(0, WIDTH)
        inside = columns < D
        sums_ptr += tl.program_id(0).to(tl.int64) * sums_stride
        d_y = load_tile(grad.ptr, row_offsets(grad, b, rows), columns, valid, inside).to(tl.float32)
        o = load_tile(chunk.o, packed * D, columns, valid, inside).to(tl.float32)
        u, standard, factor = o, o, tl.zeros((ROWS,), tl.float32)
        if NORM != "none":
            gain_ptr, bias_ptr = (w.g1, w.b1) if block.spec.norm_first else (w.g0, w.b0)
            standard, factor = standardise(o, D, NORM, EPS)
            u = standard * load_vector(gain_ptr, columns, inside)[None, :]
            u += load_vector(bias_ptr, columns, inside)[None, :]
        if block.spec.norm_first:
            d_u = layers_backward(u, d_y, w, chunk, packed, valid, block, tiles)
            d_o = d_y + norm_backward(d_u, standard, factor, w.g1, sums_ptr + SECOND, D, NORM)
        else:
            if NORM != "none":
                y, factor1 = standardise(u + feed_forward(u, chunk.u, packed * D, valid, w, block, tiles), D, NORM, EPS)
                d_y = norm_backward(d_y, y, factor1, w.g1, sums_ptr + SECOND, D, NORM)
            d_u = d_y + layers_backward(u, d_y, w, chunk, packed, valid, block, tiles)
            d_o = norm_backward(d_u, standard, factor, w.g0, sums_ptr, D, NORM)
        store_tile(chunk.d_o, packed * D, columns, valid, inside, d_o)


@triton.jit
def layers_backward(u, d_y, w, chunk, packed, valid, block: tl.constexpr, tiles: tl.constexpr):
    """Gradient of the feed-forward layers' input u from their output's; keeps what the weight gradients need."""
    D: tl.constexpr = block.D
    PRECISION: tl.constexpr = block.precision
    ACTIVATION: tl.constexpr = block.spec.activation
    CHUNK: tl.constexpr = tiles.hidden
    columns = tl.arange(0, u.shape[1])
    inside = columns < D
    u = u.to(w.w_o.dtype.element_ty)
    store_tile(chunk.u, packed * D, columns, valid, inside, u)
    if block.spec.ffn_dim is None:
        if tiles.staged:
            z = staged_multiply(chunk.u, packed * D, valid, w.w_o, 1, D, columns, inside, D, CHUNK, PRECISION)
        else:
            weight = load_weight(w.w_o, columns, columns, inside, inside, D)
            z = multiply(u, weight, PRECISION)
        z += load_vector(w.b_o, columns, inside)[None, :]
        d_z = (d_y * activation_slope(z, ACTIVATION)).to(u.dtype)
        store_tile(chunk.d_z, packed * D, columns, valid, inside, d_z)
        if tiles.staged:
            d_u = staged_multiply(chunk.d_z, packed * D, valid, w.w_o, D, 1, columns, inside, D, CHUNK, PRECISION)
        else:
            d_u = multiply(d_z, tl.trans(weight), PRECISION)
    else:
        F: tl.constexpr = block.spec.ffn_dim
        d_y = d_y.to(u.dtype)
        store_tile(chunk.d_y, packed * D, columns, valid, inside, d_y)
        d_u = tl.zeros(u.shape, tl.float32)
        for first in range(0, F, CHUNK):
            hidden = first + tl.arange(0, CHUNK)
            weight = load_weight(w.w_o, columns, hidden, inside, hidden < F, D)
            z = multiply(u, weight, PRECISION) + load_vector(w.b_o, hidden, hidden < F)[None, :]
            store_tile(chunk.f, packed * F, hidden, valid, hidden < F, activate(z, ACTIVATION))
            # (width, CHUNK): Wo2 itself, (D, F)
            weight2 = load_tile(w.w_o2, columns * F, hidden, inside, hidden < F)
            d_z = (multiply(d_y, weight2, PRECISION) * activation_slope(z, ACTIVATION)).to(u.dtype)
            store_tile(chunk.d_z, packed * F, hidden, valid, hidden < F, d_z)
            d_u = multiply_add(d_z, tl.trans(weight), d_u, PRECISION)
    return d_u


@triton.jit
def norm_backward(
    grad, standard, factor, gain_ptr, sums_ptr, D: tl.constexpr, NORM: tl.constexpr
):  # fmt: skip
    """Gradient of a norm's input; adds those of its gain and bias to (2, D) sums of this program."""
    if NORM != "none":
        add_column_sums(sums_ptr, grad * standard, D)
        if NORM == "layer":
            add_column_sums(sums_ptr + D, grad, D)
        grad = normalise_backward(grad, standard, factor, gain_ptr, D, NORM)
    return grad


@triton.jit
def add_column_sums(ptr, tile, D: tl.constexpr):
    """Add the sums of a tile's columns to ptr, which belongs to this program."""
    columns = tl.arange(0, tile.shape[1])
    sums = tl.load(ptr + columns, mask=columns < D, other=0.0) + tl.sum(tile, 0)
    tl.store(ptr + columns, sums, mask=columns < D)


@triton.jit(do_not_specialize=["N", "num_sets", "first_run", "num_runs"])
def attention_backward_kernel(
    x, N, num_sets, first_run, run_rows, k_ptr, v_ptr, w, chunk, partial_ptr, num_runs,
    block: tl.constexpr, tiles: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries of a run, and this run's share (2, M, D) of those of its set's keys and values.

    A program takes one group of heads, and of heads wider than tiles.piece a piece of their features.
    """
    D: tl.constexpr = block.D
    E: tl.constexpr = block.E
    KEYS: tl.constexpr = block.keys
    GROUP: tl.constexpr = tiles.group
    GROUP_WIDTH: tl.constexpr = tiles.group_width
    PIECE: tl.constexpr = tiles.piece
    CHUNK: tl.constexpr = tiles.chunk
    ROWS: tl.constexpr = tiles.rows
    PRECISION: tl.constexpr = block.precision
    run, part = tl.program_id(0) % num_runs, tl.program_id(0) // num_runs
    pieces = GROUP_WIDTH // PIECE
    head, skip = part // pieces * GROUP, part % pieces * PIECE
    b, first = locate(first_run + run, x, N, num_sets, run_rows)
    k_ptr += b * (block.M * D)
    v_ptr += b * (block.M * D)
    mine = skip + tl.arange(0, PIECE)
    own, wanted = mine < GROUP * E, head * E + mine
    # (GROUP · keys, features), of all that are multiplied at once and of those that this program sums
    keys = load_heads(k_ptr, head, 0, block, GROUP, CHUNK)
    values = load_heads(v_ptr, head, 0, block, GROUP, CHUNK)
    keys_mine = load_heads(k_ptr, head, skip, block, GROUP, PIECE)
    d_keys = tl.zeros((GROUP * KEYS, PIECE), tl.float32)
    d_values = tl.zeros((GROUP * KEYS, PIECE), tl.float32)
    elements = elements_of_block(x, N, b, first, run_rows)
    for start in range(0, elements, ROWS):
        valid = start + tl.arange(0, ROWS) < elements
        rows = (run * run_rows + start).to(tl.int64) + tl.arange(0, ROWS)
        # (rows, GROUP · keys)
        s = tl.zeros((ROWS, GROUP * KEYS), tl.float32)
        d_p = tl.zeros((ROWS, GROUP * KEYS), tl.float32)
        for chunk_start in range(0, GROUP_WIDTH, CHUNK):
            local = chunk_start + tl.arange(0, CHUNK)
            features, inside = head * E + local, local < GROUP * E
            if CHUNK < GROUP_WIDTH:
                keys = load_heads(k_ptr, head, chunk_start, block, GROUP, CHUNK)
                values = load_heads(v_ptr, head, chunk_start, block, GROUP, CHUNK)
            s = multiply_add(load_tile(chunk.q, rows * D, features, valid, inside), tl.trans(keys), s, PRECISION)
            d_a = attended_gradient(chunk, rows, valid, features, inside, w, block)
            d_p = multiply_add(d_a, tl.trans(values), d_p, PRECISION)
        p = softmax(s, block, GROUP)
        share = tl.sum(tl.reshape(p * d_p, (ROWS, GROUP, KEYS)), 2)
        d_p = tl.reshape(tl.reshape(d_p, (ROWS, GROUP, KEYS)) - share[:, :, None], (ROWS, GROUP * KEYS))
        d_s = (p * d_p * block.scale).to(keys.dtype)
        d_q = multiply(d_s, keys_mine, PRECISION)
        d_a = attended_gradient(chunk, rows, valid, wanted, own, w, block).to(keys.dtype)
        d_values = multiply_add(tl.trans(p.to(keys.dtype)), d_a, d_values, PRECISION)
        d_keys = multiply_add(tl.trans(d_s), load_tile(chunk.q, rows * D, wanted, valid, own), d_keys, PRECISION)
        if block.spec.residual == "projected":
            d_q += load_tile(chunk.d_o, rows * D, wanted, valid, own).to(tl.float32)
        store_tile(chunk.d_q, rows * D, wanted, valid, own, d_q)
    partial_ptr += run.to(tl.int64) * (2 * block.M * D)
    store_heads(partial_ptr, d_keys, head, skip, block, GROUP)
    store_heads(partial_ptr + block.M * D, d_values, head, skip, block, GROUP)


@triton.jit
def attended_gradient(chunk, rows, valid, features, own, w, block: tl.constexpr):
    """Gradient of features of the attended values: (rows, features)."""
    D: tl.constexpr = block.D
    WIDTH: tl.constexpr = block.width
    PRECISION: tl.constexpr = block.precision
    if block.spec.output_projection:
        columns = tl.arange(0, WIDTH)
        d_o = load_tile(chunk.d_o, rows * D, columns, valid, columns < D)
        d_a = multiply(d_o, load_tile(w.w_p, columns * D, features, columns < D, own), PRECISION)
    else:
        d_a = load_tile(chunk.d_o, rows * D, features, valid, own)
    return d_a


@triton.jit
def store_heads(ptr, tile, first, skip, block: tl.constexpr, GROUP: tl.constexpr):
    """The inverse of load_heads: the diagonal blocks of a (GROUP · keys, ·) tile to their heads' places in (M, D)."""
    KEYS: tl.constexpr = block.keys
    rows, features = tl.arange(0, GROUP * KEYS), skip + tl.arange(0, tile.shape[1])
    own = (rows // KEYS)[:, None] == (features // block.E)[None, :]
    pointers = ptr + (rows % KEYS)[:, None] * block.D + (first * block.E + features)[None, :]
    tl.store(pointers, tile, mask=own & (rows % KEYS < block.M)[:, None])


@triton.jit(do_not_specialize=["N", "num_sets", "first_run"])
def input_backward_kernel(
    x, d_x, N, num_sets, first_run, run_rows, w, chunk, sums_ptr, sums_stride, block: tl.constexpr, tiles: tl.constexpr
):  # fmt: skip
    """Gradient of a tile of elements, zero outside the sets, from those of its queries and of its residual."""
    C: tl.constexpr = block.C
    D: tl.constexpr = block.D
    NORM: tl.constexpr = block.spec.norm
    ROWS: tl.constexpr = tiles.rows
    INPUTS: tl.constexpr = tiles.inputs
    CHUNK: tl.constexpr = tiles.chunk
    EPS: tl.constexpr = block.spec.norm_eps
    PRECISION: tl.constexpr = block.precision
    b, rows, packed, valid = find_tile(x, N, num_sets, first_run, run_rows, ROWS)
    inputs = tl.arange(0, INPUTS)
    inside = inputs < C
    d = tl.zeros((ROWS, INPUTS), tl.float32)
    if tl.max(valid.to(tl.int32), 0) > 0:
        for first in range(0, D, CHUNK):
            features = first + tl.arange(0, CHUNK)
            d_q = load_tile(chunk.d_q, packed * D, features, valid, features < D)
            d = multiply_add(d_q, load_tile(w.w_q, features * C, inputs, features < D, inside), d, PRECISION)
        if block.norm_input:
            tile = load_tile(x.ptr, row_offsets(x, b, rows), inputs, valid, inside).to(tl.float32)
            standard, factor = standardise(tile, C, NORM, EPS)
            d = norm_backward(
                d, standard, factor, w.g0, sums_ptr + tl.program_id(0).to(tl.int64) * sums_stride, C, NORM
            )
        if block.spec.residual == "input":
            d += load_tile(chunk.d_o, packed * D, inputs, valid, inside).to(tl.float32)
        d = tl.where(valid[:, None], d, 0.0)
    writable = valid if x.offsets is not None else rows < N
    store_tile(d_x.ptr, row_offsets(d_x, b, rows), inputs, writable, inside, d)


@triton.jit(do_not_specialize=["N", "first_run", "num_runs", "first_set"])
def merge_keys_kernel(
    partial_ptr, dk_ptr, dv_ptr, x, N, first_run, num_runs, run_rows, first_set, SIZE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Add a chunk's shares (runs, 2, SIZE) to their sets' gradients (B, SIZE), in order, from zero at a set's first."""
    parts: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    b = (first_set + tl.program_id(0) // parts).to(tl.int64)
    columns = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    inside = columns < SIZE
    begin, end = blocks_of_set(x, N, b, run_rows)
    first, last = tl.maximum(begin, first_run), tl.minimum(end, first_run + num_runs)
    dk_ptr, dv_ptr = dk_ptr + b * SIZE + columns, dv_ptr + b * SIZE + columns
    if first < last:
        begun = columns < tl.where(begin < first_run, SIZE, 0)
        dk = tl.load(dk_ptr, mask=begun, other=0.0).to(tl.float32)
        dv = tl.load(dv_ptr, mask=begun, other=0.0).to(tl.float32)
        for run in range(first, last):
            share_ptr = partial_ptr + (run - first_run).to(tl.int64) * (2 * SIZE) + columns
            dk += tl.load(share_ptr, mask=inside, other=0.0)
            dv += tl.load(share_ptr + SIZE, mask=inside, other=0.0)
        tl.store(dk_ptr, dk.to(dk_ptr.dtype.element_ty), mask=inside)
        tl.store(dv_ptr, dv.to(dv_ptr.dtype.element_ty), mask=inside)
