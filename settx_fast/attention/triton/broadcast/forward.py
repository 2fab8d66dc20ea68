"""Launch stage B's forward: by persistent programs where all but the rows fits on chip, else tile by tile."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.broadcast.forward_kernels import broadcast_forward_kernel
from settx_fast.attention.triton.broadcast.parted_kernels import attend_forward_kernel, dense_forward_kernel
from settx_fast.attention.triton.broadcast.resident_kernels import resident_forward_kernel
from settx_fast.attention.triton.broadcast.tiles import (
    AttendTiles,
    Block,
    DenseTiles,
    ForwardTiles,
    PartedTiles,
    ResidentTiles,
    forward_tiles,
    persistent_tiles,
    stages_on,
)
from settx_fast.attention.triton.launch import launch
from settx_fast.attention.triton.primitives import contiguous
from settx_fast.attention.triton.sets import num_blocks, rows_of


def broadcast_forward(
    x: Sets, k: Tensor, v: Tensor, weights: BlockWeights, spec: BlockSpec,
    tiles: ForwardTiles | ResidentTiles | PartedTiles | None = None,
) -> Tensor:  # fmt: skip
    """Output of the block whose queries are the elements of x: (B, N, D) or packed (R, D), zero outside the sets.

    k and v (B, M, D) are the keys' and values' projections, every one of the M rows a key; all tensors of one dtype.
    """
    block = Block.of(spec, x.width, k.shape[2], k.shape[1], k.dtype)
    out = x.rows.new_empty(*x.rows.shape[:-1], block.D)
    if not out.numel():
        return out
    tiles = tiles or chosen_tiles(x, block)
    sets, keys_values, weights = (rows_of(x), rows_of(x, out)), (k.contiguous(), v.contiguous()), contiguous(weights)
    if isinstance(tiles, ResidentTiles):
        launch(
            resident_forward_kernel, programs_of(x, tiles), *sets, x.longest, x.num_sets, *keys_values, weights,
            floats(out, 6, block.D), share_of(x, tiles), block, tiles, num_warps=tiles.warps, num_stages=1,
        )  # fmt: skip
    elif isinstance(tiles, PartedTiles):
        attend, dense = tiles.attend, tiles.dense
        launch(
            attend_forward_kernel, programs_of(x, attend), *sets, x.longest, x.num_sets, *keys_values, weights,
            floats(out, block.D), share_of(x, attend), block, attend, num_warps=attend.warps, num_stages=1,
        )  # fmt: skip
        launch(
            dense_forward_kernel, programs_of(x, dense), *sets, x.longest, x.num_sets, weights,
            floats(out, 7, max(block.D, spec.ffn_dim or 0)), share_of(x, dense), block, dense,
            num_warps=dense.warps, num_stages=1,
        )  # fmt: skip
    else:
        launch(
            broadcast_forward_kernel, num_blocks(x, tiles.rows), *sets, x.longest, x.num_sets, *keys_values, weights,
            block, tiles, num_warps=tiles.warps, num_stages=stages_on(k.device, tiles, block),
        )  # fmt: skip
    return out


def chosen_tiles(x: Sets, block: Block) -> ForwardTiles | ResidentTiles | PartedTiles:
    """Tiles by rule; persistent programs read rows that follow one another."""
    persistent = persistent_tiles(block, gpu.of(x.rows.device)) if x.rows.stride(-2) == block.C else None
    return persistent or forward_tiles(block)


def share_of(x: Sets, tiles: ResidentTiles | AttendTiles | DenseTiles) -> int:
    """Tiles that a program takes one after another."""
    return triton.cdiv(num_blocks(x, tiles.rows), tiles.programs)


def programs_of(x: Sets, tiles: ResidentTiles | AttendTiles | DenseTiles) -> int:
    """Programs that take all tiles."""
    return triton.cdiv(num_blocks(x, tiles.rows), share_of(x, tiles))


def floats(like: Tensor, *shape: int) -> Tensor:
    """Room for what programs keep for themselves in fp32."""
    return like.new_empty(*shape, dtype=torch.float32)
