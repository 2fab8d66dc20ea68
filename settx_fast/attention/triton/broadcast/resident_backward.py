"""Launch stage B's backward in two passes that keep nothing with a row axis; see `resident_backward_kernels`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
from torch import Tensor

from settx_fast.attention.block import NO_WEIGHTS, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.broadcast import resident_backward_kernels as kernels
from settx_fast.attention.triton.broadcast.gradient_kernels import Folded, Plain, gather_kernel, unfold_kernel
from settx_fast.attention.triton.broadcast.tiles import Block, PassTiles
from settx_fast.attention.triton.launch import launch
from settx_fast.attention.triton.primitives import contiguous
from settx_fast.attention.triton.sets import num_blocks, rows_of

GATHERED = 64  # columns of the parts that one program adds up


def resident_backward(
    x: Sets, k: Tensor, v: Tensor, weights: BlockWeights, block: Block, grad_out: Tensor, dx: Tensor, tiles: PassTiles
) -> tuple[Tensor, Tensor, BlockWeights]:
    """As `broadcast_backward`, for rows that follow one another in x and dx."""
    passes = Passes(x, k.contiguous(), v.contiguous(), contiguous(weights), block, tiles)
    passes.go_back(grad_out, dx)
    return passes.dk, passes.dv, passes.weight_gradients()


@dataclass(frozen=True)
class Passes:
    """One backward: its inputs, and the parts that programs leave."""

    sets: Sets
    k: Tensor
    v: Tensor
    weights: BlockWeights
    block: Block
    tiles: PassTiles

    @cached_property
    def dk(self) -> Tensor:
        """Gradient of the keys."""
        return torch.empty_like(self.k)

    @cached_property
    def dv(self) -> Tensor:
        """Gradient of the values."""
        return torch.empty_like(self.v)

    @property
    def share(self) -> int:
        """Tiles that a program takes one after another."""
        return triton.cdiv(num_blocks(self.sets, self.tiles.rows), self.tiles.programs)

    @property
    def programs(self) -> int:
        """Programs that take all tiles."""
        return triton.cdiv(num_blocks(self.sets, self.tiles.rows), self.share)

    @property
    def width(self) -> int:
        """Numbers that a program leaves: the gradients of both weights, then sums of columns."""
        D = self.block.D
        return (2 * D + kernels.SUMS) * D

    @cached_property
    def total(self) -> Tensor:
        """All parts added up."""
        return self._fp32(self.width)

    def _fp32(self, *shape: int) -> Tensor:
        return self.k.new_empty(shape, dtype=torch.float32)

    def go_back(self, grad_out: Tensor, dx: Tensor) -> None:
        """Both passes and the sum of what their programs leave."""
        sets, block, tiles, w = self.sets, self.block, self.tiles, self.weights
        x, grad, d_x = (rows_of(sets, t) for t in (sets.rows, grad_out, dx))
        where, options = (sets.longest, sets.num_sets), {"num_warps": tiles.warps, "num_stages": 1}
        vectors, parts = self._fp32(5, block.D), self._fp32(self.programs, self.width)
        keys = self._fp32(self.programs, 4, block.M * block.D)
        launch(
            kernels.layers_pass_kernel, self.programs, x, grad, d_x, *where, self.k, self.v, w, vectors, parts,
            self.width, self.share, block, tiles, **options,
        )  # fmt: skip
        launch(
            kernels.attention_pass_kernel, self.programs, x, d_x, *where, self.k, self.v, w, vectors, parts,
            self.width, keys, self.dk, self.dv, self.share, block, tiles, **options,
        )  # fmt: skip
        size = block.M * block.D
        sums = triton.cdiv(self.width, GATHERED) + sets.num_sets * triton.cdiv(size, GATHERED)
        launch(
            gather_kernel, sums, parts, self.programs, self.width, self.total, x, *where, keys, self.dk, self.dv,
            self.share, size, ROWS=tiles.rows, BLOCK=GATHERED, PARTS=16, num_warps=4,
        )  # fmt: skip

    def weight_gradients(self) -> BlockWeights:
        """From the sums to the gradients of what queries use."""
        D, spec, w = self.block.D, self.block.spec, self.weights
        query, layer, sums = self.total.split([D * D, D * D, kernels.SUMS * D])
        sum_of = sums.view(kernels.SUMS, D)
        names = [name for name in ("w_q", "b_q", "w_o", "b_o", "g0", "b0", "g1", "b1") if getattr(w, name) is not None]
        found = NO_WEIGHTS._replace(**{name: torch.empty_like(getattr(w, name)) for name in names})
        read = (w.g0, w.b0) if spec.norm_first else (None, None)
        then = (w.g1, w.b1, found.g1, found.b1) if spec.norm_first else (w.g0, w.b0, found.g0, found.b0)
        alone = spec.norm != "none" and not spec.norm_first  # a norm whose rows are more than read
        layers = (
            Folded(
                w.w_q, *read, query, sum_of[kernels.B_Q.value], None, None, found.w_q, found.b_q,
                *((found.g0, found.b0) if spec.norm_first else (None, None)),
            ),
            Folded(
                w.w_o, *then[:2], layer, sum_of[kernels.B_O.value], sum_of[kernels.G0.value] if alone else None,
                sum_of[kernels.B0.value] if alone else None, found.w_o, found.b_o, *then[2:],
            ),
        )  # fmt: skip
        last = ((kernels.G1, found.g1), (kernels.B1, found.b1)) if alone else ()
        vectors = tuple(Plain(sum_of[place.value], gradient) for place, gradient in last if gradient is not None)
        launch(
            unfold_kernel, 2 * D // 32 + len(vectors), layers, vectors, ((D, D), (D, D)), D,
            INS=32, OUTS=32, num_warps=4,
        )  # fmt: skip
        return found
