"""What persistent programs of the backward found, added up in a fixed order, and gains of norms taken out of it.

A weight W that reads standardised rows is computed with as Ŵ = W diag(g), its bias as b + W bₙ (`fold_norm`). From
the gradients of those, dŴ and db: dW = dŴ diag(g) + db bₙᵀ, dg = Σ W ∘ dŴ over outputs, dbₙ = Wᵀ db.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from settx_fast.attention.triton.primitives import load_vector
from settx_fast.attention.triton.sets import blocks_of_set


class Folded(NamedTuple):
    """One weight (OUT, IN): what is known of it, and where its gradients go. None where no norm is before it.

    `sums_gain` and `sums_shift` are what the norm's gain and bias bring elsewhere: rows that are not only read.
    """

    weight: Tensor
    gain: Tensor | None
    shift: Tensor | None  # the norm's bias
    sums: Tensor  # (OUT · IN,) fp32: of dŴ
    bias_sums: Tensor  # (OUT,) fp32
    gain_sums: Tensor | None  # (IN,) fp32
    shift_sums: Tensor | None
    d_weight: Tensor
    d_bias: Tensor | None  # there is always one
    d_gain: Tensor | None
    d_shift: Tensor | None


class Plain(NamedTuple):
    """A vector whose gradient is a sum as it is."""

    sums: Tensor
    gradient: Tensor


@triton.jit(do_not_specialize=["num_0", "num_1", "num_2", "N", "num_sets", "share", "size"])
def gather_kernel(
    parts, num_0, num_1, num_2, total_ptr, x, N, num_sets, keys_ptr, d_k_ptr, d_v_ptr, share, size,
    WIDTHS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """total: sums of three parts (num, WIDTHS), one after the other; then dK and dV of sets that several programs had.

    keys_ptr (programs, 2, 2, size): shares of a set that began before the program, and of one that went on after it.
    A program had `share` tiles of ROWS rows.
    """
    place, nums = tl.program_id(0), (num_0, num_1, num_2)
    for i in tl.static_range(len(WIDTHS)):
        if (place >= 0) & (place < tl.cdiv(WIDTHS[i], BLOCK)):
            sum_columns(parts[i], nums[i], total_ptr, place, WIDTHS[i], BLOCK, PARTS)
        place -= tl.cdiv(WIDTHS[i], BLOCK)
        total_ptr += WIDTHS[i]
    if place >= 0:
        pieces = tl.cdiv(size, BLOCK)
        b, piece = (place // pieces).to(tl.int64), place % pieces
        merge_shares(x, N, b, piece, keys_ptr, d_k_ptr, d_v_ptr, share, size, ROWS, BLOCK)


@triton.jit
def sum_columns(parts_ptr, num, total_ptr, block, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """Columns block · BLOCK … of the sum over rows of parts (num, WIDTH)."""
    columns = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PARTS, BLOCK), tl.float32)
    for first in range(0, num, PARTS):
        rows = (first + tl.arange(0, PARTS)).to(tl.int64)
        inside = (rows < num)[:, None] & (columns < WIDTH)[None, :]
        total += tl.load(parts_ptr + rows[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)
    tl.store(total_ptr + columns, tl.sum(total, 0), mask=columns < WIDTH)


@triton.jit
def merge_shares(x, N, b, piece, keys_ptr, d_k_ptr, d_v_ptr, share, size, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Add up set b's shares of dK and dV, columns piece · BLOCK …; a set that one program had whole has its sums."""
    columns = piece * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    begin, end = blocks_of_set(x, N, b, ROWS)
    first, last = begin // share, (end - 1) // share
    if first < last:
        # of the program in which the set begins, what goes on after it
        pointers = keys_ptr + tl.cast(2 * first + 1, tl.int64) * (2 * size) + columns
        d_k = tl.load(pointers, mask=inside, other=0.0)
        d_v = tl.load(pointers + size, mask=inside, other=0.0)
        for program in range(first + 1, last + 1):
            pointers = keys_ptr + tl.cast(program, tl.int64) * (4 * size) + columns
            d_k += tl.load(pointers, mask=inside, other=0.0)
            d_v += tl.load(pointers + size, mask=inside, other=0.0)
        tl.store(d_k_ptr + b * size + columns, d_k.to(d_k_ptr.dtype.element_ty), mask=inside)
        tl.store(d_v_ptr + b * size + columns, d_v.to(d_v_ptr.dtype.element_ty), mask=inside)


@triton.jit
def unfold_kernel(layers, vectors, SHAPES: tl.constexpr, WIDTH: tl.constexpr, INS: tl.constexpr, OUTS: tl.constexpr):
    """Gradients of weights, biases and norms: one program, INS inputs of one weight; one more for each vector.

    layers: `Folded` each, SHAPES (OUT, IN) each; vectors (WIDTH,): `Plain` each.
    """
    place = tl.program_id(0)
    for i in tl.static_range(len(SHAPES)):  # Triton 3.6 cannot count tuples of tuples with None in them
        programs = SHAPES[i][1] // INS
        if (place >= 0) & (place < programs):
            unfold(layers[i], place * INS, SHAPES[i][0], SHAPES[i][1], INS, OUTS)
        place -= programs
    columns = tl.arange(0, WIDTH)
    for i in tl.static_range(len(vectors)):
        if place == i:
            found = tl.load(vectors[i].sums + columns)
            tl.store(vectors[i].gradient + columns, found.to(vectors[i].gradient.dtype.element_ty))


@triton.jit
def unfold(layer, first, OUT: tl.constexpr, IN: tl.constexpr, INS: tl.constexpr, OUTS: tl.constexpr):
    """Gradients of a weight's inputs first … first + INS, and with the first of them that of its bias."""
    ins = first + tl.arange(0, INS)
    every = ins < IN
    gain, shift = load_vector(layer.gain, ins, every), load_vector(layer.shift, ins, every)
    d_gain, d_shift = tl.zeros((INS,), tl.float32), tl.zeros((INS,), tl.float32)
    for start in range(0, OUT, OUTS):
        outs = start + tl.arange(0, OUTS)
        at = outs[:, None] * IN + ins[None, :]
        d = tl.load(layer.sums + at, mask=(outs < OUT)[:, None], other=0.0)
        d_bias = tl.load(layer.bias_sums + outs, mask=outs < OUT, other=0.0)
        if layer.gain is not None:
            weight = tl.load(layer.weight + at, mask=(outs < OUT)[:, None], other=0.0).to(tl.float32)
            d_gain += tl.sum(weight * d, 0)
            d_shift += tl.sum(weight * d_bias[:, None], 0)
            d = d * gain[None, :] + d_bias[:, None] * shift[None, :]
        tl.store(layer.d_weight + at, d.to(layer.d_weight.dtype.element_ty), mask=(outs < OUT)[:, None])
        tl.store(
            layer.d_bias + outs, d_bias.to(layer.d_bias.dtype.element_ty), mask=outs < tl.where(first == 0, OUT, 0)
        )
    if layer.d_gain is not None:
        d_gain += load_vector(layer.gain_sums, ins, every)
        tl.store(layer.d_gain + ins, d_gain.to(layer.d_gain.dtype.element_ty))
    if layer.d_shift is not None:
        d_shift += load_vector(layer.shift_sums, ins, every)
        tl.store(layer.d_shift + ins, d_shift.to(layer.d_shift.dtype.element_ty))
