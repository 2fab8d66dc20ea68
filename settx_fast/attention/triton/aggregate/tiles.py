"""How large the tiles are and how many programs share a set: by shape and GPU, never by the exact number of elements.

The rules below fit the registers and the shared memory of every supported GPU. `configs/<gpu>.json`, written by
`python -m benchmarks.tune`, replaces what a rule says for the shapes it was measured on; see `tuned`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import triton

from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.gpu import products_of
from settx_fast.attention.triton.primitives import padded

PROGRAMS = 256  # enough to fill a GPU: a set is split until so many programs work
MIN_PIECE = 256  # elements that are worth a program of their own
START = 128  # elements that a program reads in the time that its weights take to load and its results to store
PIECES = 4  # at most about so many programs for each place on a GPU, where a set is in pieces
CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class ProjectedTiles:
    """The backward in three steps a chunk of rows, see `projected_backward_kernels`: `queries` of a head at once."""

    rows: int
    queries: int
    warps: int
    multiprocessors: int


@dataclass(frozen=True)
class Problem:
    """The shape of stage A: B sets of at most N elements C wide, H heads of M queries, D out, in a type.

    `products` is how matrices are multiplied: "half", "tf32", or "exact" (fp32 without tensor cores). Where `normed`,
    elements are normed first. `absorb` forces the variant that otherwise the cost decides.
    """

    num_sets: int
    longest: int
    C: int
    D: int
    H: int
    M: int
    products: str
    device: torch.device
    normed: bool = False
    absorb: bool | None = None

    @property
    def E(self) -> int:  # noqa: N802
        """Head width."""
        return self.D // self.H

    @property
    def precision(self) -> str:
        """How tl.dot multiplies."""
        return "tf32" if self.products == "tf32" else "ieee"

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 2 if self.products == "half" else 4

    @property
    def width(self) -> int:
        """C as tiles hold it."""
        return padded(self.C)

    @property
    def absorbed(self) -> bool:
        """Whether folding the key projection into the queries costs less than projecting every element.

        The projected kernels hold one head's weights on chip, so wide heads and wide elements are always absorbed.
        """
        if self.absorb is not None:
            return self.absorb
        cheap = self.H * self.M * self.C <= self.D * (self.C + self.M)
        return cheap or padded(self.E) > 64 or self.width > 256

    @property
    def rows(self) -> int:
        """Folded queries that one element tile may meet: of all heads when absorbed, of one when projected."""
        return self.H * self.M if self.absorbed else self.M

    def blocks(self, block_r: int) -> int:
        """Programs that share an element tile, each with a block of the folded queries."""
        return triton.cdiv(self.rows, block_r) * (1 if self.absorbed else self.H)

    def blocks_of_heads(self, tile: HeadsTile) -> int:
        """Programs that share an element tile, each with a block of the queries of some heads."""
        return self.H // tile.heads * triton.cdiv(self.M, tile.block_r)

    @property
    def key(self) -> str:
        """The bucket that tuned tables are keyed by."""
        sizes = f"B{_bucket(self.num_sets)} N{_bucket(self.longest)} C{self.C} D{self.D} H{self.H} M{self.M}"
        return f"{sizes} {self.products}{' normed' if self.normed else ''}"


class Tile(NamedTuple):
    """Folded queries and elements a program holds at once, and how it runs."""

    block_r: int
    block_n: int
    warps: int
    stages: int


class HeadsTile(NamedTuple):
    """Heads, folded queries of each and elements that a program holds at once, and how it runs.

    `resident` programs share a multiprocessor and its registers.
    """

    heads: int
    block_r: int
    block_n: int
    warps: int
    stages: int
    resident: int

    @property
    def registers(self) -> int | None:
        """The most that a thread may have, None where that is no limit."""
        most = 65_536 // (self.resident * self.warps * 32) // 8 * 8
        return most if most < 256 else None


class RowTile(NamedTuple):
    """Rows a program of the layers on few rows owns, the columns of a layer it takes at a time, and its warps."""

    rows: int
    columns: int
    warps: int


class Forward(NamedTuple):
    """The pass over the elements."""

    tile: Tile
    num_splits: int  # programs that share a set


class HeadsForward(NamedTuple):
    """The pass over projected elements with several heads a program."""

    tile: HeadsTile
    num_splits: int


class Backward(NamedTuple):
    """The passes of the backward: `sums` adds over elements, `elements` makes dX; `fused` where the first does both.

    `transposed` makes dX of absorbed queries as sm_90 likes it.
    """

    sums: Tile
    group: int  # sets a program adds up
    num_splits: int
    elements: Tile
    element_splits: int
    fused: bool
    transposed: bool


def stage_products(dtype: torch.dtype, width: int, device: torch.device) -> str:
    """How stage A multiplies elements of a width: exactly where the smallest tile of tf32 does not fit the memory."""
    products = products_of(dtype)
    return "exact" if products == "tf32" and width > 256 and gpu.of(device).shared < 2**17 else products


def forward_config(problem: Problem) -> Forward:
    """Tiles of the forward pass: as many queries a program as its registers hold, so that elements are read once.

    On sm_90, where many programs on a multiprocessor were measured faster, 64 queries of three programs.
    """
    if (tile := tuned(problem, "forward")) is None and shares_well(problem):
        tile, places = Tile(64, 64, 4, 3), 3 * gpu.of(problem.device).multiprocessors
        programs = places // max(1, problem.num_sets * problem.blocks(tile.block_r))
        return Forward(tile, max(1, min(programs, triton.cdiv(problem.longest, MIN_PIECE))))
    tile = tile or fit(problem, forward_tile(problem), resident=1)
    return Forward(tile, splits(problem, problem.blocks(tile.block_r)))


def shares_well(problem: Problem) -> bool:
    """Whether a block of 64 absorbed queries of this width fits a multiprocessor of sm_90 three times."""
    sm_90, half = gpu.of(problem.device).arch // 10 == 9, problem.products == "half"
    return sm_90 and half and problem.absorbed and not problem.normed and problem.width == 128 <= problem.rows


def heads_config(problem: Problem) -> HeadsForward | None:
    """Several heads a program, see `heads_kernels`; None where a program has one, as `forward_config` says.

    Laid out for the matrix instructions of sm_90 and whole tiles of features and queries.
    """
    found = gpu.of(problem.device)
    fits = problem.C in (64, 128) and problem.D in (64, 128) and problem.E in (16, 32) and problem.M % 64 == 0
    if found.arch // 10 != 9 or problem.products != "half" or problem.absorbed or not fits:
        return None
    tile = heads_tile(problem)
    programs = problem.num_sets * problem.blocks_of_heads(tile)
    return HeadsForward(tile, whole_waves(problem, programs, tile.resident * found.multiprocessors))


def heads_tile(problem: Problem) -> HeadsTile:
    """As many heads a program as make 128 columns of keys and values: 64 accumulators of a thread for 128 queries."""
    block_r = 128 if problem.M % 128 == 0 else 64
    heads = min(problem.H, 64 // problem.E)
    return HeadsTile(heads, block_r, 64, 4, 1, 2)


def whole_waves(problem: Problem, programs: int, places: int) -> int:
    """Pieces of a set that fill the places of a GPU best, when `programs` read each element and a start costs some."""
    longest = _bucket(problem.longest)

    def cost(pieces: int) -> float:
        return triton.cdiv(programs * pieces, places) * (longest / pieces + START)

    most = min(triton.cdiv(problem.longest, MIN_PIECE), triton.cdiv(PIECES * places, max(1, programs)))
    return min(range(1, max(1, most) + 1), key=cost)


def backward_config(problem: Problem, shared_queries: bool) -> Backward:
    """Tiles of the backward passes: the registers hold a block of queries' gradients and a tile's at once."""
    sums = tuned(problem, "sums") or fit(problem, sums_tile(problem), resident=2)
    elements = tuned(problem, "elements") or fit(problem, elements_tile(problem), resident=2)
    blocks = problem.blocks(sums.block_r)
    group = max(1, problem.num_sets * blocks // (2 * PROGRAMS)) if shared_queries else 1
    num_splits = splits(problem, blocks) if group == 1 else 1
    fused = problem.absorbed and problem.rows <= sums.block_r
    transposed = 90 <= gpu.of(problem.device).arch < 120 and problem.products == "half"
    return Backward(sums, group, num_splits, elements, splits(problem, 1), fused, transposed)


def projected_tiles(problem: Problem, shared_queries: bool) -> ProjectedTiles | None:
    """Tiles of the backward in three steps, None where the passes of `backward_config` do it.

    They are laid out for the matrix instructions of sm_90, and were measured there on elements 128 wide.
    """
    found = gpu.of(problem.device)
    fits = problem.C in (64, 128) and problem.D in (64, 128) and problem.E in (16, 32)
    if found.arch // 10 != 9 or problem.products != "half" or problem.absorbed or not shared_queries or not fits:
        return None
    return ProjectedTiles(64, 64, 8 if problem.D == 128 else 4, found.multiprocessors)


def forward_tile(problem: Problem) -> Tile:
    """What the forward would like."""
    block_r = _block_r(problem, {"half": 16384, "tf32": 8192, "exact": 4096})
    narrow = problem.width <= 32
    block_n = {"half": 128 if narrow else 64, "tf32": 64 if narrow else 32, "exact": 32 if problem.absorbed else 16}[
        problem.products
    ]
    held = problem.width if problem.absorbed else padded(problem.E)
    large = problem.products == "exact" or block_r * max(held, block_n) >= 128 * 128
    return Tile(block_r, block_n, 8 if large else 4, 1 if problem.products == "exact" else 3)


def sums_tile(problem: Problem) -> Tile:
    """What the sums over elements would like."""
    block_r = _block_r(problem, {"half": 16384, "tf32": 8192, "exact": 4096})
    wide = problem.width > 128
    # programs of several sets, which backward_config makes, have fewer registers left
    grouped = problem.num_sets * problem.blocks(block_r) >= 4 * PROGRAMS
    block_n = {"half": 32 if wide or grouped else 64, "tf32": 16 if wide else 32, "exact": 16}[problem.products]
    large = problem.products == "exact" or block_r * max(problem.width, block_n) > 64 * 64
    # Triton 3.6 cannot pipeline the projected loop where products go through tensor memory
    tensor_memory = 100 <= gpu.of(problem.device).arch < 120
    single = problem.products == "exact" or (tensor_memory and not problem.absorbed)
    return Tile(block_r, block_n, 8 if large else 4, 1 if single else 2)


def elements_tile(problem: Problem) -> Tile:
    """What dX would like, where it has a pass of its own."""
    tile = sums_tile(problem)
    if problem.absorbed or problem.products != "half":
        most = 64 if problem.width < 128 or (problem.absorbed and problem.products == "half") else 32
        return Tile(min(tile.block_r, most), tile.block_n, 8, 1)
    # 4 warps: 8 have twice the rows of a product of 32 elements or 64 queries, and would compute it twice
    return Tile(min(tile.block_r, 64), 32, 4, 1)


def row_tile(problem: Problem, num_rows: int, width: int) -> RowTile:
    """Tile of layers on `num_rows` rows whose norms are `width` wide: one program for up to 32 rows."""
    rows = 32 if 16 < num_rows <= 32 or num_rows > 8192 else 16
    return RowTile(rows, 32 if problem.products == "exact" else 64, 8 if rows * padded(width) > 32 * 128 else 4)


def _block_r(problem: Problem, registers: dict[str, int]) -> int:
    most = 32 if problem.products == "exact" or (problem.normed and problem.width > 128) else 128
    return max(16, min(padded(problem.rows), most, registers[problem.products] // problem.width))


def fit(problem: Problem, tile: Tile, resident: int) -> Tile:
    """The tile, made smaller until it fits shared memory: fewer stages first, then elements, then queries."""
    while shared_bytes(problem, tile, resident) > gpu.of(problem.device).shared:
        if tile.stages > 1:
            tile = tile._replace(stages=tile.stages - 1)
        elif tile.block_n > 16:
            tile = tile._replace(block_n=tile.block_n // 2)
        elif tile.block_r > 16:
            tile = tile._replace(block_r=tile.block_r // 2)
        else:
            break
    return tile


def shared_bytes(problem: Problem, tile: Tile, resident: int) -> int:
    """Estimate: `resident` matrices of queries (and a head's weights when projected), element tiles, scores.

    tf32 elements lie there once more, transposed, where they are keys and values at once, and rounded ones beside those
    that are on their way.
    """
    if problem.absorbed:
        held = resident * tile.block_r * problem.width
    else:
        held = (2 * problem.width + resident * tile.block_r + 2 * tile.block_n) * padded(problem.E)
    copies = tile.stages + (problem.products == "tf32") * (problem.absorbed + (tile.stages > 1))
    moving = copies * tile.block_n * problem.width + resident * tile.block_r * tile.block_n
    return problem.itemsize * (held + moving)


def splits(problem: Problem, blocks: int) -> int:
    """Programs that share one set, when `blocks` programs read each of its elements."""
    wanted = triton.cdiv(PROGRAMS, max(1, problem.num_sets * blocks))
    return max(1, min(wanted, triton.cdiv(problem.longest, MIN_PIECE)))


def tuned(problem: Problem, name: str) -> Tile | None:
    """The measured tile of a pass on this GPU and bucket, if there is one."""
    return load_table(gpu.of(problem.device).table).get(problem.key, {}).get(name)


@cache
def load_table(gpu: str) -> dict[str, dict[str, Tile]]:
    """Tuned tiles of a GPU: bucket → pass → tile. Raises ValueError for a file that says something else."""
    path = CONFIGS / f"{gpu}.json"
    if not gpu or not path.exists():
        return {}
    table = json.loads(path.read_text())
    return {
        key: {name: _checked(path, key, name, tile) for name, tile in tiles.items()} for key, tiles in table.items()
    }


def _checked(path: Path, key: str, name: str, tile: dict[str, int]) -> Tile:
    known = isinstance(tile, dict) and set(tile) == set(Tile._fields) and name in ("forward", "sums", "elements")
    sizes = [tile["block_r"], tile["block_n"], tile["warps"]] if known else []
    if not known or not all(isinstance(size, int) and size > 0 and size & (size - 1) == 0 for size in sizes):
        raise ValueError(f"{path.name}: expected powers of two {Tile._fields} at {key!r}/{name!r}, got {tile!r}")
    return Tile(**tile)


def _bucket(size: int) -> int:
    return triton.next_power_of_2(max(1, size))
