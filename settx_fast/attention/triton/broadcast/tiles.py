"""What compiles a kernel of stage B: the block it computes, and how large its tiles are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton

from settx_fast.attention.block import BlockSpec
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.gpu import products_of
from settx_fast.attention.triton.primitives import matrix_precision, padded


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
    products: str

    @classmethod
    def of(cls, spec: BlockSpec, dim_in: int, dim: int, keys: int, dtype: torch.dtype) -> Block:
        """The block of tensors of a dtype."""
        scale, precision = spec.score_scale(dim), matrix_precision(dtype)
        head, products = dim // spec.num_heads, products_of(dtype)
        return cls(spec, dim_in, dim, keys, head, padded(keys), padded(dim), scale, precision, products)

    @property
    def norm_input(self) -> bool:
        """Queries are made of normed elements."""
        return self.spec.norm_first and self.spec.norm != "none"


@dataclass(frozen=True)
class ForwardTiles:
    """Rows of a tile; heads taken together and the padded width of their features; what is multiplied at a time.

    At a time: `piece` of a group's features, `inputs` columns of x, `hidden` columns of F. `staged` lets what is too
    large for the registers pass through memory: heads taken in turn, and the rows that a single feed-forward layer
    multiplies by its weight, chunk by chunk.
    """

    rows: int
    group: int
    group_width: int
    piece: int
    inputs: int
    hidden: int
    staged: bool
    warps: int
    stages: int


@dataclass(frozen=True)
class ResidentTiles:
    """Persistent programs that keep both weights and a set's keys and values on chip: see `resident_kernels`.

    `group` heads have `group_width` features together; `inputs` is C as a tile holds it.
    """

    rows: int
    group: int
    group_width: int
    inputs: int
    warps: int
    programs: int


@dataclass(frozen=True)
class AttendTiles:
    """Persistent programs that make attended values: see `parted_kernels`."""

    rows: int
    inputs: int
    warps: int
    programs: int


@dataclass(frozen=True)
class DenseTiles:
    """Persistent programs that run what follows attention, `hidden` columns of F at a time."""

    rows: int
    hidden: int
    warps: int
    programs: int


@dataclass(frozen=True)
class PartedTiles:
    """The forward in two kernels."""

    attend: AttendTiles
    dense: DenseTiles


@dataclass(frozen=True)
class PassTiles:
    """The backward in passes of persistent programs: see `resident_backward_kernels`.

    The pass through the layers has the forward's tiles, for it makes attention again as that does.
    """

    layers: ResidentTiles
    rows: int
    group: int
    warps: int
    programs: int


@dataclass(frozen=True)
class StepTiles:
    """The backward in five steps a chunk of rows: see `parted_backward_kernels`.

    Attention is made again for tiles of `rows`, the other steps take `step` of them at once, `hidden` features of F a
    program and `keys` of a head's keys.
    """

    rows: int
    step: int
    hidden: int
    keys: int
    warps: int
    programs: int


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
    """Tile of the backward kernel of attention: features of a group multiplied at a time, and summed by a program."""

    rows: int
    group: int
    group_width: int
    chunk: int
    piece: int
    warps: int
    stages: int

    @property
    def alone(self) -> bool:
        """Whether no other program reads the queries whose gradient one writes."""
        return self.piece == self.group_width


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


def forward_tiles(block: Block) -> ForwardTiles:
    """Tiles of the forward kernel: all that a tile needs stays in registers, weights pass through shared memory."""
    heads, head, wide = block.spec.num_heads, padded(block.E), block.width > 128
    inputs, piece = padded(min(block.C, 32 if wide else 128)), at_a_time(block, head)
    if block.products == "exact":
        return ForwardTiles(16, 1, head, piece, min(inputs, 32), 16, True, 8, 2)
    if block.products == "tf32":
        rows, hidden, stages = 64 if block.keys <= 128 else 32, 16 if wide else 32, 1 if wide else 2
        return ForwardTiles(rows, 1, head, piece, inputs, hidden, True, 8, stages)
    if wide:
        return ForwardTiles(64, 1, head, piece, inputs, 32, True, 8, 2)
    if heads * block.keys <= 128:
        return ForwardTiles(64, heads, block.width, block.width, inputs, 64, False, 4, 2)
    return ForwardTiles(64, 1, head, piece, inputs, 32, False, 4 if block.keys <= 128 else 8, 2)


def persistent_tiles(block: Block, of: gpu.Gpu) -> ResidentTiles | PartedTiles | None:
    """Tiles of the kernels that keep everything but the rows on chip, None where they do not fit or do not pay.

    They are laid out for the matrix instructions of sm_90, and were measured there on D = 128.
    """
    if of.arch // 10 != 9 or block.products != "half" or block.D not in (64, 128) or block.C > 128:
        return None
    return parted_tiles(block, of) if block.spec.output_projection else resident_tiles(block, of)


def resident_tiles(block: Block, of: gpu.Gpu) -> ResidentTiles | None:
    """For the query projection and one feed-forward layer; two programs share a multiprocessor."""
    group, inputs, rows = max(1, 64 // block.E), padded(block.C), 64
    if block.spec.ffn_dim is not None or 64 % block.E or group * block.keys > 128:
        return None
    weights, keys, x = (inputs + block.D) * block.D, 2 * block.D * group * block.keys, rows * inputs
    if 2 * (weights + keys + x) > half_of(of):
        return None
    return ResidentTiles(rows, group, group * block.E, inputs, 4, 2 * of.multiprocessors)


def parted_tiles(block: Block, of: gpu.Gpu) -> PartedTiles | None:
    """For many keys, an output projection and the block's input as residual; two programs of the first share memory."""
    D, F = block.D, block.spec.ffn_dim
    few, large = block.keys < 128, F is not None and (F % 64 > 0 or F > 2 * D)
    if block.spec.residual != "input" or block.E not in (16, 32) or few or large:
        return None
    attend = AttendTiles(64, padded(block.C), 4, 2 * of.multiprocessors)
    dense = DenseTiles(128, 64, 8, of.multiprocessors)
    layers = D * D if F is None else 2 * D * F
    fits = 2 * (D * D + 2 * block.keys * D + attend.rows * D) <= half_of(of)
    return PartedTiles(attend, dense) if fits and 2 * (D * D + layers + dense.rows * D) <= of.shared else None


def pass_tiles(block: Block, of: gpu.Gpu) -> PassTiles | None:
    """Tiles of the backward in passes, None where they do not fit: all heads' keys are one matrix, C is D."""
    if of.arch // 10 != 9 or block.products != "half" or block.D not in (64, 128) or block.C != block.D:
        return None
    if block.spec.ffn_dim is not None or block.spec.output_projection:
        return None
    if 64 % block.E or block.spec.num_heads * block.keys > 128 or (layers := resident_tiles(block, of)) is None:
        return None
    wide = block.D == 128
    return PassTiles(
        layers, 128 if wide else 64, 64 // block.E, 8 if wide else 4, (1 if wide else 2) * of.multiprocessors
    )


def step_tiles(block: Block, of: gpu.Gpu) -> StepTiles | None:
    """Tiles of the backward in five steps: for what goes forward in two kernels with all norms first."""
    D, spec = block.D, block.spec
    normed_after = spec.norm != "none" and not spec.norm_first
    if normed_after or spec.ffn_dim not in (D, 2 * D) or not isinstance(persistent_tiles(block, of), PartedTiles):
        return None
    wide = D == 128
    return StepTiles(128 if wide else 64, 64, D, 64, 8 if wide else 4, (1 if wide else 2) * of.multiprocessors)


def half_of(of: gpu.Gpu) -> int:
    """Bytes of shared memory for each of two programs on a multiprocessor, which has 1 KB more than one may use."""
    return of.shared // 2 - 512


def backward_tiles(block: Block) -> BackwardTiles:
    """Tiles of the backward kernels."""
    head, inputs, wide, many = padded(block.E), padded(block.C), block.width > 128, block.keys > 128
    chunk = max(16, at_a_time(block, head) // (2 if many else 1))
    features = chunk, min(head, 64 if not many else 32 if block.products == "half" else 16)
    if block.products == "exact":
        return BackwardTiles(
            forward_tiles(block), LayerTiles(16, 16, True, 8, 2), AttentionTiles(16, 1, head, *features, 8, 2),
            InputTiles(16, inputs, 16, 8, 2),
        )  # fmt: skip
    if block.products == "tf32":
        return BackwardTiles(
            replace(forward_tiles(block), rows=16), LayerTiles(16 if wide else 32, 32, True, 8, 2),
            AttentionTiles(16 if block.keys > 64 else 32, 1, head, *features, 8, 2), InputTiles(32, inputs, 32, 8, 2),
        )  # fmt: skip
    return BackwardTiles(
        forward_tiles(block), LayerTiles(32 if wide else 64, 32, True, 8, 2),
        AttentionTiles(32 if many else 64, 1, head, *features, 8 if many else 4, 2),
        InputTiles(64 if inputs <= 128 else 32, inputs, 64, 8, 2),
    )  # fmt: skip


def stages_on(
    device: torch.device, tiles: ForwardTiles | LayerTiles | AttentionTiles | InputTiles, block: Block
) -> int:
    """Tiles of a loop that are on their way at once; wide blocks leave no room for a second where memory is small."""
    return tiles.stages if block.width <= 128 or gpu.of(device).shared > 2**17 else 1


def at_a_time(block: Block, head: int) -> int:
    """Features of a head whose keys take no more than 32 KB (16 KB where registers hold them)."""
    most = {"half": 16384, "tf32": 8192, "exact": 4096}[block.products]
    # a projection's weight, of all its outputs, is read by as many features
    rows = max(block.keys, block.width) if block.spec.output_projection and block.products == "exact" else block.keys
    return min(head, max(16, most // rows))


CHUNK_ROWS = 65_536  # rows of the backward's temporaries
ROW_MULTIPLE = 64


def run_rows(longest: int, num_rows: int) -> int:
    """Rows of a run: short enough that some hundred programs share all rows, long enough that sums stay few."""
    wanted = min(longest, max(num_rows // 256, ROW_MULTIPLE), 1024)
    return max(ROW_MULTIPLE, triton.next_power_of_2(wanted))


def run_bytes(block: Block, tiles: BackwardTiles, rows: int, itemsize: int) -> int:
    """Bytes of a run's temporaries: what has a row axis, its share of the keys' gradients, the norms' of every tile."""
    D, spec = block.D, block.spec
    two_layers, hidden = spec.ffn_dim is not None, spec.ffn_dim or D
    kept = 3 + spec.output_projection + two_layers + (not tiles.attention.alone)  # q, o, u and more, each D wide
    width = block.C + kept * D + hidden * (1 + two_layers)
    norms = rows // min(tiles.layers.rows, tiles.inputs.rows) * 2 * ((block.C if spec.norm_first else D) + D)
    return rows * width * itemsize + 4 * (2 * block.M * D + norms)
