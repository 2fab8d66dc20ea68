"""Launch stage B's backward in passes of persistent programs; see `resident_backward_kernels`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
from torch import Tensor

from settx_fast.attention.block import NO_WEIGHTS, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.broadcast import resident_backward_kernels as kernels
from settx_fast.attention.triton.broadcast.gradient_kernels import Folded, Plain, gather_kernel, unfold_kernel
from settx_fast.attention.triton.broadcast.tiles import Block, PassTiles
from settx_fast.attention.triton.launch import launch
from settx_fast.attention.triton.primitives import contiguous
from settx_fast.attention.triton.sets import Rows, num_blocks, rows_of

GATHERED = 64  # columns of the parts that one program adds up
PRODUCT_ROWS = 128  # rows that the layer's product takes at once


def resident_backward(
    x: Sets,
    k: Tensor,
    v: Tensor,
    weights: BlockWeights,
    block: Block,
    grad_out: Tensor,
    dx: Tensor,
    tiles: PassTiles,
    chunk_rows: int | None = None,
) -> tuple[Tensor, Tensor, BlockWeights]:
    """As `broadcast_backward`, for rows that follow one another in x and dx; chunk_rows: no more rows in a chunk."""
    passes = Passes(x, k.contiguous(), v.contiguous(), contiguous(weights), block, tiles, chunk_rows)
    passes.go_back(grad_out, dx)
    return passes.dk, passes.dv, passes.weight_gradients()


@dataclass(frozen=True)
class Passes:
    """One backward: its inputs, the temporaries of a chunk, and what programs leave."""

    sets: Sets
    k: Tensor
    v: Tensor
    weights: BlockWeights
    block: Block
    tiles: PassTiles
    most_rows: int | None

    @cached_property
    def dk(self) -> Tensor:
        """Gradient of the keys."""
        return torch.empty_like(self.k)

    @cached_property
    def dv(self) -> Tensor:
        """Gradient of the values."""
        return torch.empty_like(self.v)

    @cached_property
    def num_tiles(self) -> int:
        """Tiles of the layers' pass."""
        return num_blocks(self.sets, self.tiles.layers.rows)

    @cached_property
    def chunk_tiles(self) -> int:
        """Of them, those of a chunk: all chunks about as large as they may be, equally."""
        rows, spec, D = self.tiles.layers.rows, self.block.spec, self.block.D
        itemsize = self.k.element_size()
        # formulas keep probabilities of both stages and rows around the layers
        kept = itemsize * (2 * spec.num_heads * self.block.M + 8 * D)
        stays = 4 * (self.tiles.programs * D * D + self.tiles.layers.programs * kernels.SUMS.value * D)
        room = gpu.room(self.sets.rows.shape[:-1].numel(), kept) - stays
        most = room // (rows * 2 * D * itemsize) if self.most_rows is None else self.most_rows // rows
        return triton.cdiv(self.num_tiles, triton.cdiv(self.num_tiles, max(1, most)))

    @cached_property
    def layer_share(self) -> int:
        """Tiles of the layers' pass that a program takes one after another."""
        return triton.cdiv(self.chunk_tiles, self.tiles.layers.programs)

    @cached_property
    def product_share(self) -> int:
        """Tiles of PRODUCT_ROWS that a program of the layer's product takes."""
        return triton.cdiv(triton.cdiv(self.chunk_tiles * self.tiles.layers.rows, PRODUCT_ROWS), self.tiles.programs)

    @cached_property
    def share(self) -> int:
        """Tiles of the attention's pass that a program takes."""
        return triton.cdiv(num_blocks(self.sets, self.tiles.rows), self.tiles.programs)

    @cached_property
    def programs(self) -> int:
        """Programs of the attention's pass."""
        return triton.cdiv(num_blocks(self.sets, self.tiles.rows), self.share)

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """What programs leave: the gradient of w_q and its bias, that of w_o, sums of columns."""
        D, products = self.block.D, triton.cdiv(self.chunk_tiles * self.tiles.layers.rows, PRODUCT_ROWS)
        return (
            self._fp32(self.programs, D * D + D),
            self._fp32(triton.cdiv(products, self.product_share), D * D),
            self._fp32(triton.cdiv(self.chunk_tiles, self.layer_share), kernels.SUMS.value * D),
        )

    @cached_property
    def total(self) -> Tensor:
        """All of it added up, one kind after the other."""
        return self._fp32(sum(part.shape[1] for part in self.parts))

    def _fp32(self, *shape: int) -> Tensor:
        return self.k.new_empty(shape, dtype=torch.float32)

    def go_back(self, grad_out: Tensor, dx: Tensor) -> None:
        """All passes and the sum of what their programs leave."""
        sets, block, tiles = self.sets, self.block, self.tiles
        x, d_x = (rows_of(sets, t) for t in (sets.rows, dx))
        where, vectors = (sets.longest, sets.num_sets), self._fp32(kernels.VECTORS.value, block.D)
        self._layers_back(x, rows_of(sets, grad_out), d_x, vectors)
        keys, size = self._fp32(self.programs, 4, block.M * block.D), block.M * block.D
        launch(
            kernels.attention_pass_kernel, self.programs, x, d_x, *where, self.k, self.v, self.weights, vectors,
            self.parts[0], keys, self.dk, self.dv, self.share, block, tiles, num_warps=tiles.warps, num_stages=1,
        )  # fmt: skip
        nums, widths = zip(*(part.shape for part in self.parts), strict=True)
        columns = sum(triton.cdiv(width, GATHERED) for width in widths)
        launch(
            gather_kernel, columns + sets.num_sets * triton.cdiv(size, GATHERED), self.parts, *nums, self.total,
            x, *where, keys, self.dk, self.dv, self.share, size,
            WIDTHS=widths, ROWS=tiles.rows, BLOCK=GATHERED, PARTS=16, num_warps=4,
        )  # fmt: skip

    def _layers_back(self, x: Rows, grad: Rows, d_x: Rows, vectors: Tensor) -> None:
        """From the output's gradient to that of O, in the memory of the elements'."""
        sets, block, layers = self.sets, self.block, self.tiles.layers
        factors = self.k.new_empty(self.chunk_tiles * layers.rows, 2 * block.D)
        for first in range(0, self.num_tiles, self.chunk_tiles):
            num = min(self.chunk_tiles, self.num_tiles - first)
            launch(
                kernels.layers_pass_kernel, triton.cdiv(num, self.layer_share), x, grad, d_x, sets.longest,
                sets.num_sets, first, num, self.k, self.v, self.weights, vectors, factors, self.parts[2],
                self.layer_share, block, layers, num_warps=layers.warps, num_stages=1,
            )  # fmt: skip
            rows = num * layers.rows
            launch(
                kernels.layer_product_kernel, triton.cdiv(triton.cdiv(rows, PRODUCT_ROWS), self.product_share), factors,
                self.parts[1], first, rows, self.product_share, block.D, PRODUCT_ROWS,
                num_warps=self.tiles.warps, num_stages=3,
            )  # fmt: skip

    def weight_gradients(self) -> BlockWeights:
        """From the sums to the gradients of what queries use."""
        D, spec, w = self.block.D, self.block.spec, self.weights
        query, bias, layer, sums = self.total.split([D * D, D, D * D, kernels.SUMS.value * D])
        sum_of = sums.view(kernels.SUMS.value, D)
        names = [name for name in ("w_q", "b_q", "w_o", "b_o", "g0", "b0", "g1", "b1") if getattr(w, name) is not None]
        found = NO_WEIGHTS._replace(**{name: torch.empty_like(getattr(w, name)) for name in names})
        read = (w.g0, w.b0) if spec.norm_first else (None, None)
        then = (w.g1, w.b1, found.g1, found.b1) if spec.norm_first else (w.g0, w.b0, found.g0, found.b0)
        alone = spec.norm != "none" and not spec.norm_first  # a norm whose rows are more than read
        layers = (
            Folded(
                w.w_q, *read, query, bias, None, None, found.w_q, found.b_q,
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
