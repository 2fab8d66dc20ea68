"""What compiles a kernel of stage B: the block it computes, and how large its tiles are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from settx_fast._block import BlockSpec
from settx_fast.kernels.primitives import matrix_precision, padded


@dataclass(frozen=True)
class Block:
    """An attention block C → D whose elements read M keys, as kernels see it; `keys` and `width` are M and D padded."""

    spec: BlockSpec
    C: int
    D: int
    M: int
    E: int
    keys: int
    width: int
    scale: float
    precision: str

    @classmethod
    def of(cls, spec: BlockSpec, dim_in: int, dim: int, keys: int, dtype: torch.dtype) -> Block:
        """The block of tensors of a dtype."""
        scale, precision = spec.score_scale(dim), matrix_precision(dtype)
        return cls(spec, dim_in, dim, keys, dim // spec.num_heads, padded(keys), padded(dim), scale, precision)

    @property
    def norm_input(self) -> bool:
        """Queries are made of normed elements."""
        return self.spec.norm_first and self.spec.norm != "none"


@dataclass(frozen=True)
class ForwardTiles:
    """Rows of a tile; heads taken together and the padded width of their features; columns of x and of F at a time."""

    rows: int
    group: int
    group_width: int
    inputs: int
    hidden: int
    warps: int
    stages: int


def forward_tiles(block: Block) -> ForwardTiles:
    """Tiles of the forward kernel."""
    heads = block.spec.num_heads
    group = heads if heads * block.keys <= max(block.width, 128) else 1
    group_width = block.width if group == heads else padded(group * block.E)
    rows, warps = (64, 8) if block.width > 128 else (64, 4)
    return ForwardTiles(rows, group, group_width, min(padded(block.C), 128), 64, warps, 2)
