"""Launch stage B's backward in five steps a chunk of rows; see `parted_backward_kernels`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
from torch import Tensor

from settx_fast.attention.block import NO_WEIGHTS, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.broadcast import parted_backward_kernels as kernels
from settx_fast.attention.triton.broadcast.gradient_kernels import Folded, unfold_kernel
from settx_fast.attention.triton.broadcast.parted_backward_kernels import Chunk
from settx_fast.attention.triton.broadcast.sums import KeySums, parts_of, sum_rows
from settx_fast.attention.triton.broadcast.tiles import Block, StepTiles, run_rows
from settx_fast.attention.triton.launch import launch, zero
from settx_fast.attention.triton.primitives import contiguous
from settx_fast.attention.triton.sets import num_blocks, rows_of


def parted_backward(
    x: Sets, k: Tensor, v: Tensor, weights: BlockWeights, block: Block, grad_out: Tensor, dx: Tensor, tiles: StepTiles,
    chunk_rows: int | None = None,
) -> tuple[Tensor, Tensor, BlockWeights]:  # fmt: skip
    """As `broadcast_backward`, for rows that follow one another in all three; chunk_rows: no more rows in a chunk."""
    steps = Steps(x, k.contiguous(), v.contiguous(), contiguous(weights), block, tiles, chunk_rows)
    for first_run in range(0, steps.num_runs, steps.chunk_runs):
        steps.go_back(grad_out, dx, first_run, min(steps.chunk_runs, steps.num_runs - first_run))
    return *steps.keys.gradients(), steps.weight_gradients()


@dataclass(frozen=True)
class Steps:
    """One backward: its inputs, how it is cut, the temporaries of a chunk and the sums that grow over chunks."""

    sets: Sets
    k: Tensor
    v: Tensor
    weights: BlockWeights
    block: Block
    tiles: StepTiles
    most_rows: int | None

    @cached_property
    def run_rows(self) -> int:
        """Rows of a run, a power of two."""
        return max(self.tiles.rows, run_rows(self.sets.longest, self._num_rows))

    @cached_property
    def num_runs(self) -> int:
        """Runs of all sets."""
        return num_blocks(self.sets, self.run_rows)

    @cached_property
    def chunk_runs(self) -> int:
        """Runs of a chunk: all chunks about as large as they may be, equally."""
        room = self._room - self._sum_bytes
        most = self.num_runs if self.most_rows is None else self.most_rows // self.run_rows
        most = max(1, min(self.num_runs, most, room // self._run_bytes))
        return triton.cdiv(self.num_runs, triton.cdiv(self.num_runs, most))

    @property
    def _num_rows(self) -> int:
        return self.sets.rows.shape[:-1].numel()

    @property
    def _room(self) -> int:
        """Bytes of temporaries; formulas keep probabilities of both stages, the hidden layer and rows around it."""
        H, M, D, F = self.block.spec.num_heads, self.block.M, self.block.D, self.block.spec.ffn_dim or 0
        return gpu.room(self._num_rows, self.k.element_size() * (2 * H * M + 2 * F + 6 * D))

    @property
    def _sum_bytes(self) -> int:
        """Of all programs' gradients of weights, and of keys and values while chunks add to them."""
        widths = self._hidden_programs * self._widths[0] + self._programs * sum(self._widths[1:])
        return 4 * (widths + 2 * self.k.numel())

    @property
    def _run_bytes(self) -> int:
        block = self.block
        rows = 4 * block.D * self.k.element_size() + 4 * (1 + 2 * block.spec.num_heads)
        return self.run_rows * rows + 8 * block.M * block.D

    @property
    def _programs(self) -> int:
        return min(self.tiles.programs, self.num_runs * self._per)

    @property
    def _parts(self) -> int:
        """Programs that share the hidden features."""
        return (self.block.spec.ffn_dim or 0) // self.tiles.hidden

    @property
    def _hidden_programs(self) -> int:
        return max(1, min(self.tiles.programs // self._parts, self.num_runs * self._per))

    @property
    def _per(self) -> int:
        """Tiles of a run."""
        return self.run_rows // self.tiles.rows

    @property
    def _widths(self) -> tuple[int, int, int]:
        """Numbers that a program of `hidden_back`, `norm_back` and `queries_back` leaves."""
        D, F = self.block.D, self.block.spec.ffn_dim or 0
        return 2 * F * D + F, D * D + 2 * D, D * D + D

    @cached_property
    def parts(self) -> list[Tensor]:
        """What programs of these steps leave."""
        programs = self._hidden_programs, self._programs, self._programs
        sizes = list(zip(programs, self._widths, strict=True))
        return parts_of(zero(self._fp32(sum(n * w for n, w in sizes))), sizes)

    @cached_property
    def chunk(self) -> Chunk:
        """Temporaries; sized by the chunk, never by the sets."""
        rows, D, H = self.chunk_runs * self.run_rows, self.block.D, self.block.spec.num_heads
        q, a, u, d_a = (self.k.new_empty(rows, D) for _ in range(4))
        return Chunk(q, a, u, d_a, self._fp32(rows), self._fp32(H, rows), self._fp32(H, rows))

    @cached_property
    def keys(self) -> KeySums:
        """Gradients of keys and values."""
        return KeySums(self.k, self.num_runs, self.chunk_runs)

    @cached_property
    def bias(self) -> Tensor:
        """The query projection's bias, which programs read again and again."""
        return self._fp32(self.block.D)

    @cached_property
    def folded(self) -> Tensor:
        """The hidden layer's weight with the gain of the norm before it."""
        return torch.empty_like(self.weights.w_o)

    def _fp32(self, *shape: int) -> Tensor:
        return self.k.new_empty(shape, dtype=torch.float32)

    def go_back(self, grad_out: Tensor, dx: Tensor, first_run: int, num_runs: int) -> None:
        """One chunk, from runs first_run … first_run + num_runs."""
        sets, block, tiles, w, chunk = self.sets, self.block, self.tiles, self.weights, self.chunk
        x, grad, d_x = (rows_of(sets, t) for t in (sets.rows, grad_out, dx))
        num_tiles, stride, (hidden, norm, queries) = num_runs * self._per, chunk.lse.shape[1], self.parts
        share, hidden_share = (triton.cdiv(num_tiles, n) for n in (self._programs, self._hidden_programs))
        programs, hidden_programs = triton.cdiv(num_tiles, share), triton.cdiv(num_tiles, hidden_share)
        where = (sets.longest, sets.num_sets, first_run * self._per, num_tiles, self._per)
        launch(
            kernels.attend_again_kernel, programs, x, *where, share, self.k, self.v, w, self.bias, chunk, stride,
            block, tiles, num_warps=tiles.warps, num_stages=1,
        )  # fmt: skip
        launch(
            kernels.hidden_back_kernel, hidden_programs * self._parts, x, grad, d_x, *where, hidden_share, w,
            self.folded, chunk, hidden, hidden.shape[1], block, tiles, num_warps=tiles.warps, num_stages=3,
        )  # fmt: skip
        launch(
            kernels.norm_back_kernel, programs, x, grad, d_x, *where, share, w, chunk, stride, norm, norm.shape[1],
            block, tiles, num_warps=tiles.warps, num_stages=2,
        )  # fmt: skip
        launch(
            kernels.keys_back_kernel, num_runs * block.spec.num_heads, x, sets.longest, sets.num_sets, first_run,
            self.run_rows, self.k, self.v, chunk, stride, self.keys.shares, block, tiles,
            num_warps=4, num_stages=3, maxnreg=168,  # three programs on a multiprocessor
        )  # fmt: skip
        self.keys.merge(sets, first_run, num_runs, self.run_rows)
        launch(
            kernels.queries_back_kernel, programs, x, d_x, *where, share, w, chunk, queries, queries.shape[1],
            block, tiles, num_warps=tiles.warps, num_stages=3,
        )  # fmt: skip

    def weight_gradients(self) -> BlockWeights:
        """From the sums to the gradients of what queries use."""
        w, D, F = self.weights, self.block.D, self.block.spec.ffn_dim or 0
        hidden, norm, queries = (self._fp32(width) for width in self._widths)
        for parts, total in zip(self.parts, (hidden, norm, queries), strict=True):
            sum_rows(parts, total)
        w_o, w_o2, b_o = hidden.split([F * D, F * D, F])
        w_p, b_p, b_o2 = norm.split([D * D, D, D])
        w_q, b_q = queries.split([D * D, D])
        names = ("w_q", "b_q", "w_o", "b_o", "w_p", "b_p", "w_o2", "b_o2", "g0", "b0", "g1", "b1")
        found = NO_WEIGHTS._replace(**{n: torch.empty_like(t) for n in names if (t := getattr(w, n)) is not None})
        assert w.w_p is not None  # else nothing goes forward in two kernels
        assert w.w_o2 is not None
        assert found.w_p is not None
        assert found.w_o2 is not None
        layers = (
            Folded(w.w_q, w.g0, w.b0, w_q, b_q, None, None, found.w_q, found.b_q, found.g0, found.b0),
            Folded(w.w_o, w.g1, w.b1, w_o, b_o, None, None, found.w_o, found.b_o, found.g1, found.b1),
            Folded(w.w_p, None, None, w_p, b_p, None, None, found.w_p, found.b_p, None, None),
            Folded(w.w_o2, None, None, w_o2, b_o2, None, None, found.w_o2, found.b_o2, None, None),
        )
        shapes = ((D, D), (F, D), (D, D), (D, F))
        launch(
            unfold_kernel, sum(into for _, into in shapes) // 32, layers, (), shapes, D, INS=32, OUTS=32, num_warps=4
        )
        return found
