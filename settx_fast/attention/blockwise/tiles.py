"""Rows of a batch of sets, cut into tiles that fit in cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from settx_fast.attention.sets import Sets

# scores, where they are written, or elements of an activation in one tile: some tens of these arrays stay in the last
# cache, and an operation on one is long enough for all threads to share (measured with `benchmarks.run --only isab-*`)
ELEMENTS_PER_TILE = 2**18


@dataclass(frozen=True)
class Tile:
    """Rows start … start + size of the sets first … last (exclusive); several sets, or a part of one set."""

    first: int
    last: int
    start: int
    size: int
    lengths: list[int] | None  # of its sets, where they differ
    bounds: list[int] | None  # packed: where each of its sets begins, and the end of the last

    @property
    def sets(self) -> slice:
        """Index of the sets along a batch axis."""
        return slice(self.first, self.last)

    def outside(self) -> Tensor | None:
        """(b, n) bool, True for rows that belong to no set; None when there are none."""
        if self.lengths is None:
            return None
        return torch.arange(self.size) >= torch.tensor(self.lengths)[:, None]

    def load(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """(b, n, C) of the rows in a compute dtype, zero outside the sets."""
        if self.bounds is None:
            tile = rows[self.sets, self.start : self.start + self.size].to(dtype)
            outside = self.outside()
            return tile if outside is None else tile.masked_fill(outside[..., None], 0)
        if self.last - self.first == 1:
            begin = self.bounds[0] + self.start
            return rows[begin : begin + self.size].to(dtype)[None]
        tile = rows.new_zeros(self.last - self.first, self.size, rows.shape[1], dtype=dtype)
        for index, (begin, end) in enumerate(pairwise(self.bounds)):
            tile[index, : end - begin] = rows[begin:end]
        return tile

    def store(self, tile: Tensor, rows: Tensor) -> None:
        """Write (b, n, D) into rows that are zero outside the sets."""
        for target, part in self._pairs(tile, rows):
            target.copy_(part)

    def add(self, tile: Tensor, rows: Tensor) -> None:
        """Add (b, n, D) to rows that are zero outside the sets."""
        for target, part in self._pairs(tile, rows):
            target.add_(part)

    def _pairs(self, tile: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of rows and what of (b, n, D) belongs there, zero outside the sets."""
        if self.bounds is None:
            outside = self.outside()
            target = rows[self.sets, self.start : self.start + self.size]
            yield target, tile if outside is None else tile.masked_fill(outside[..., None], 0)
        elif self.last - self.first == 1:
            begin = self.bounds[0] + self.start
            yield rows[begin : begin + self.size], tile[0]
        else:
            for index, (begin, end) in enumerate(pairwise(self.bounds)):
                yield rows[begin:end], tile[index, : end - begin]


def tiles(sets: Sets, elements_per_row: int) -> list[Tile]:
    """All tiles, in order; small sets share one, a large set has several, empty sets may be in none."""
    rows_per_tile = max(64, ELEMENTS_PER_TILE // max(1, elements_per_row))
    found: list[Tile] = []
    offsets = None if sets.offsets is None else sets.offsets.tolist()
    sizes = _sizes(sets, offsets)
    first = 0
    while first < len(sizes):
        last, longest = _group(sizes, first, rows_per_tile)
        group = sizes[first:last]
        lengths = group if min(group) < longest else None
        bounds = None if offsets is None else offsets[first : last + 1]
        step = longest if last - first > 1 else rows_per_tile
        for start in range(0, longest, step or 1):
            found.append(Tile(first, last, start, min(step, longest - start), lengths, bounds))
        first = last
    return found


def _sizes(sets: Sets, offsets: list[int] | None) -> list[int]:
    if offsets is not None:
        return [end - begin for begin, end in pairwise(offsets)]
    if sets.lengths is not None:
        return sets.lengths.tolist()
    return [sets.rows.shape[1]] * sets.rows.shape[0]


def _group(sizes: list[int], first: int, rows: int) -> tuple[int, int]:
    """The end of the longest run of sets from `first` on that fit, padded, into `rows`; and the size of its largest."""
    longest, last = sizes[first], first + 1
    while last < len(sizes):
        grown = max(longest, sizes[last])
        if grown * (last + 1 - first) > rows:
            break
        longest, last = grown, last + 1
    return last, longest


def blank(sets: Sets, width: int) -> Tensor:
    """Rows of a width in the layout of the sets, zero where no tile writes."""
    shape = (*sets.rows.shape[:-1], width)
    return sets.rows.new_empty(shape) if sets.lengths is None else sets.rows.new_zeros(shape)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that tiles of rows of a dtype are computed in: never less than fp32."""
    return torch.promote_types(dtype, torch.float32)
