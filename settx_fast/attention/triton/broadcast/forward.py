"""Launch stage B's forward."""

from __future__ import annotations

from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.broadcast.forward_kernels import broadcast_forward_kernel
from settx_fast.attention.triton.broadcast.tiles import Block, ForwardTiles, forward_tiles, stages_on
from settx_fast.attention.triton.launch import launch
from settx_fast.attention.triton.primitives import contiguous
from settx_fast.attention.triton.sets import num_blocks, rows_of


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
