"""What compiles a kernel of stage B: the block it computes, and how large its tiles are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

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
    """Rows of a tile; heads taken together and the padded width of their features; columns of x and of F at a time.

    `staged` lets the single feed-forward layer read its rows from memory: its weight is too large to hold.
    """

    rows: int
    group: int
    group_width: int
    inputs: int
    hidden: int
    staged: bool
    warps: int
    stages: int


@dataclass(frozen=True)
class LayerTiles:
    """Tile of the backward kernel of norms and layers; fields as above."""

    rows: int
    hidden: int
    staged: bool
    warps: int
    stages: int


@dataclass(frozen=True)
class AttentionTiles:
    """Tile of the backward kernel of attention; `piece` is how many of a group's features one program sums."""

    rows: int
    group: int
    group_width: int
    piece: int
    warps: int
    stages: int


@dataclass(frozen=True)
class InputTiles:
    """Tile of the backward kernel of the query projection: all C inputs, a chunk of the D features at a time."""

    rows: int
    inputs: int
    chunk: int
    warps: int
    stages: int


@dataclass(frozen=True)
class BackwardTiles:
    """Tiles of all backward kernels; a run has a multiple of ROW_MULTIPLE rows."""

    recompute: ForwardTiles
    layers: LayerTiles
    attention: AttentionTiles
    inputs: InputTiles


def forward_tiles(block: Block, rows: int = 64) -> ForwardTiles:
    """Tiles of the forward kernel."""
    heads, wide = block.spec.num_heads, block.width > 128
    together = heads * block.keys <= 128 and not (wide and block.spec.output_projection)
    group = heads if together else 1
    group_width = block.width if together else padded(block.E)
    inputs = min(padded(block.C), 64 if wide else 128)
    return ForwardTiles(rows, group, group_width, inputs, 64, wide, 8 if wide else 4, 2)


def backward_tiles(block: Block) -> BackwardTiles:
    """Tiles of the backward kernels."""
    wide, head = block.width > 128, padded(block.E)
    return BackwardTiles(
        forward_tiles(block, rows=32),
        LayerTiles(32, 64, wide, 8 if wide else 4, 2),
        AttentionTiles(64, 1, head, min(head, 64), 4, 2),
        InputTiles(32, padded(block.C), 64, 4, 2),
    )


CHUNK_ROWS = 65_536  # rows of the backward's temporaries
ROW_MULTIPLE = 64


def run_rows(longest: int, num_rows: int) -> int:
    """Rows of a run: short enough that some hundred programs share all rows, long enough that sums stay few."""
    wanted = min(longest, max(num_rows // 256, ROW_MULTIPLE), 1024)
    return max(ROW_MULTIPLE, triton.next_power_of_2(wanted))
