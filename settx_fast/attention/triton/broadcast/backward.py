"""Launch stage B's backward: chunk after chunk of rows, so that temporaries never grow with the number of elements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from settx_fast.attention.block import KEY_WEIGHTS, NO_WEIGHTS, BlockSpec, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.broadcast import backward_kernels
from settx_fast.attention.triton.broadcast.parted_backward import parted_backward
from settx_fast.attention.triton.broadcast.resident_backward import resident_backward
from settx_fast.attention.triton.broadcast.sums import KeySums, parts_of, sum_rows
from settx_fast.attention.triton.broadcast.tiles import (
    CHUNK_ROWS,
    AttentionTiles,
    BackwardTiles,
    Block,
    ForwardTiles,
    InputTiles,
    LayerTiles,
    PassTiles,
    StepTiles,
    backward_tiles,
    pass_tiles,
    run_bytes,
    run_rows,
    stages_on,
    step_tiles,
)
from settx_fast.attention.triton.broadcast.weight_kernels import weight_gradient_kernel
from settx_fast.attention.triton.launch import launch, zero
from settx_fast.attention.triton.primitives import contiguous
from settx_fast.attention.triton.sets import Rows, num_blocks, rows_of

WEIGHT_BYTES = 28 * 2**20  # of them, for partial sums of the weights
SPLITS = 64  # programs that share the rows of one piece of a gradient, as far as their sums fit


def broadcast_backward(
    x: Sets, k: Tensor, v: Tensor, weights: BlockWeights, spec: BlockSpec, grad_out: Tensor, dx: Tensor,
    tiles: BackwardTiles | PassTiles | StepTiles | None = None, chunk_rows: int | None = None,
) -> tuple[Tensor, Tensor, BlockWeights]:  # fmt: skip
    """Gradients of k, v (B, M, D) and of the weights that queries use, the others None; writes dx, laid out like x.

    grad_out is the gradient of `broadcast_forward`'s output, in its layout; dx is zero outside the sets. Sums over rows
    run in an order that the shapes fix, so that the same inputs give the same bits.
    """
    if not x.rows.numel():
        used = {n: w for n, w in weights._asdict().items() if w is not None and n not in KEY_WEIGHTS}
        dk, dv, *zeros = (zero(torch.empty_like(t)) for t in (k, v, *used.values()))
        return dk, dv, NO_WEIGHTS._replace(**dict(zip(used, zeros, strict=True)))
    block = Block.of(spec, x.width, k.shape[2], k.shape[1], k.dtype)
    tiles = tiles or chosen_tiles(x, block, grad_out, dx)
    if isinstance(tiles, PassTiles):
        return resident_backward(x, k, v, weights, block, grad_out, dx, tiles, chunk_rows)
    if isinstance(tiles, StepTiles):
        return parted_backward(x, k, v, weights, block, grad_out, dx, tiles, chunk_rows)
    job = new_job(x, k, v, weights, block, tiles, chunk_rows or CHUNK_ROWS)
    for first_run in range(0, job.num_runs, job.chunk_runs):
        job.backward(grad_out, dx, first_run, min(job.chunk_runs, job.num_runs - first_run))
    return *job.keys.gradients(), job.weight_gradients()


def chosen_tiles(x: Sets, block: Block, grad_out: Tensor, dx: Tensor) -> BackwardTiles | PassTiles | StepTiles:
    """Tiles by rule; persistent programs read rows that follow one another."""
    found = gpu.of(x.rows.device)
    persistent: PassTiles | StepTiles | None = None
    if x.rows.stride(-2) == dx.stride(-2) == block.C:
        persistent = pass_tiles(block, found)
        if persistent is None and grad_out.stride(-2) == block.D:
            persistent = step_tiles(block, found)
    return persistent or backward_tiles(block)


class Chunk(NamedTuple):
    """Temporaries (rows, ·) of one chunk; `d_` is the gradient of what follows it. None where the block has none.

    The gradient of o lies where o did, that of q where q did unless several programs read one head's queries.
    """

    x: Tensor  # C: the elements as the query projection reads them
    q: Tensor  # D: queries
    a: Tensor | None  # D: attended values, before an output projection
    o: Tensor  # D: residual + attention
    u: Tensor  # D: what the feed-forward layers read
    f: Tensor | None  # F: the hidden layer, where there are two
    d_o: Tensor  # D
    d_z: Tensor  # F: before the activation (D where there is one layer)
    d_y: Tensor | None  # D: after the second layer
    d_q: Tensor  # D


def new_job(
    x: Sets, k: Tensor, v: Tensor, weights: BlockWeights, block: Block, tiles: BackwardTiles,
    chunk_rows: int = CHUNK_ROWS,
) -> Job:  # fmt: skip
    """Cut the sets into runs and the runs into chunks, by shapes alone."""
    rows = run_rows(x.longest, x.rows.shape[:-1].numel())
    runs = num_blocks(x, rows)
    # less the gradients of keys and values while chunks add to them
    room = gpu.MOST_BYTES - WEIGHT_BYTES - 8 * k.numel()
    chunk_runs = max(1, min(runs, chunk_rows // rows, room // run_bytes(block, tiles, rows, k.element_size())))
    return Job(x, k.contiguous(), v.contiguous(), contiguous(weights), block, tiles, rows, runs, chunk_runs)


@dataclass(frozen=True)
class Job:
    """One backward pass: its inputs, how it is cut, the temporaries of a chunk and the sums that grow over chunks."""

    sets: Sets
    k: Tensor
    v: Tensor
    weights: BlockWeights
    block: Block
    tiles: BackwardTiles
    run_rows: int
    num_runs: int
    chunk_runs: int

    @cached_property
    def chunk(self) -> Chunk:
        """Temporaries; sized by the chunk, never by the sets."""
        block, spec = self.block, self.block.spec
        two_layers, hidden = spec.ffn_dim is not None, spec.ffn_dim or block.D

        def rows(width: int) -> Tensor:
            return self.k.new_empty(self.chunk_runs * self.run_rows, width)

        q, o = rows(block.D), rows(block.D)
        return Chunk(
            x=rows(block.C), q=q, a=rows(block.D) if spec.output_projection else None, o=o,
            u=rows(block.D), f=rows(hidden) if two_layers else None, d_o=o, d_z=rows(hidden),
            d_y=rows(block.D) if two_layers else None, d_q=q if self.tiles.attention.alone else rows(block.D),
        )  # fmt: skip

    @cached_property
    def keys(self) -> KeySums:
        """Gradients of keys and values."""
        return KeySums(self.k, self.num_runs, self.chunk_runs)

    @cached_property
    def products(self) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        """Which temporaries a weight and its bias are made of: the gradient of their output, and their input."""
        chunk = self.chunk
        pairs = {("w_q", "b_q"): (chunk.d_q, chunk.x), ("w_o", "b_o"): (chunk.d_z, chunk.u)}
        if chunk.a is not None:
            pairs["w_p", "b_p"] = chunk.d_o, chunk.a
        if chunk.f is not None and chunk.d_y is not None:
            pairs["w_o2", "b_o2"] = chunk.d_y, chunk.f
        return pairs

    @cached_property
    def weight_sums(self) -> Tensor:
        """Partial sums of all weights and biases, one after another."""
        width = sum(grad.shape[1] * (seen.shape[1] + 1) for grad, seen in self.products.values())
        return self._fp32(max(1, min(SPLITS, self.chunk_runs, WEIGHT_BYTES // (4 * width))), width)

    @cached_property
    def norm_sums(self) -> Tensor:
        """Partial sums of both norms' gains and biases, one row a tile: (tiles, 2 · C or D + 2 · D)."""
        first = self.block.C if self.block.spec.norm_first else self.block.D
        tiles = self.chunk_runs * self.run_rows // min(self.tiles.layers.rows, self.tiles.inputs.rows)
        return zero(self._fp32(tiles, 2 * first + 2 * self.block.D))

    def _fp32(self, *shape: int) -> Tensor:
        return self.k.new_empty(shape, dtype=torch.float32)

    def backward(self, grad_out: Tensor, dx: Tensor, first_run: int, num_runs: int) -> None:
        """One chunk, from runs first_run … first_run + num_runs."""
        sets, block, tiles, w = self.sets, self.block, self.tiles, self.weights
        x, grad, d_x = (rows_of(sets, t) for t in (sets.rows, grad_out, dx))
        where = (sets.longest, sets.num_sets, first_run, self.run_rows)
        rows = num_runs * self.run_rows
        launch(
            backward_kernels.recompute_kernel, rows // tiles.recompute.rows,
            x, *where, self.k, self.v, w, self.chunk, block, tiles.recompute, **self.options(tiles.recompute),
        )  # fmt: skip
        launch(
            backward_kernels.layers_backward_kernel, rows // tiles.layers.rows,
            x, *where, grad, w, self.chunk, self.norm_sums, self.norm_sums.shape[1], block, tiles.layers,
            **self.options(tiles.layers),
        )  # fmt: skip
        groups = block.spec.num_heads // tiles.attention.group * (tiles.attention.group_width // tiles.attention.piece)
        launch(
            backward_kernels.attention_backward_kernel, num_runs * groups,
            x, *where, self.k, self.v, w, self.chunk, self.keys.shares, num_runs, block, tiles.attention,
            **self.options(tiles.attention),
        )  # fmt: skip
        launch(
            backward_kernels.input_backward_kernel, rows // tiles.inputs.rows,
            x, d_x, *where, w, self.chunk, self.norm_sums, self.norm_sums.shape[1], block, tiles.inputs,
            **self.options(tiles.inputs),
        )  # fmt: skip
        self.keys.merge(sets, first_run, num_runs, self.run_rows)
        self._add_weights(x, first_run, num_runs)

    def options(self, tiles: ForwardTiles | LayerTiles | AttentionTiles | InputTiles) -> dict[str, Any]:
        """How Triton compiles a kernel with these tiles."""
        stages = stages_on(self.k.device, tiles, self.block)
        return {"num_warps": tiles.warps, "num_stages": stages}

    def _add_weights(self, x: Rows, first_run: int, num_runs: int) -> None:
        sets, (splits, stride) = self.sets, self.weight_sums.shape
        step = 16 if self.block.products == "exact" else 64
        start = 0
        for grad, seen in self.products.values():
            outs, ins = grad.shape[1], seen.shape[1]
            pieces = triton.cdiv(outs, 64) * triton.cdiv(ins, 64)
            launch(
                weight_gradient_kernel, splits * pieces,
                grad, seen, self.weight_sums[:, start:], stride, x, sets.longest, sets.num_sets, first_run, num_runs,
                self.run_rows, splits, outs, ins, BLOCK=64, STEP=step, PRECISION=self.block.precision,
                num_warps=4, num_stages=3,
            )  # fmt: skip
            start += outs * (ins + 1)

    def weight_gradients(self) -> BlockWeights:
        """Add up the partial sums."""
        names = [name for pair in self.products for name in pair]
        flat = self.k.new_empty(self.weight_sums.shape[1])
        sum_rows(self.weight_sums, flat)
        shapes = {name: getattr(self.weights, name).shape for name in names}
        gradients = dict(zip(names, parts_of(flat, list(shapes.values())), strict=True))
        if self.block.spec.norm != "none":
            gradients |= self._norm_gradients()
        return NO_WEIGHTS._replace(**gradients)

    def _norm_gradients(self) -> dict[str, Tensor]:
        flat = self.k.new_empty(self.norm_sums.shape[1])
        sum_rows(self.norm_sums, flat)
        second = self.block.D
        first = flat.numel() // 2 - second
        parts = parts_of(flat, [(first,), (first,), (second,), (second,)])
        named = zip(("g0", "b0", "g1", "b1"), parts, strict=True)
        return {name: part for name, part in named if getattr(self.weights, name) is not None}
