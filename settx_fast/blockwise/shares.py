"""Tiles on several threads, each of which computes whole tiles alone.

A thread that computes a tile alone waits for nobody within it and keeps it in its core's cache. With all threads on
every small operation, a busy machine would stall each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from settx_fast.blockwise.tiles import Tile

T = TypeVar("T")

# fixed, so that sums over shares do not depend on the number of threads
_MAX_SHARES = 32


def over_shares(tiles: list[Tile], work: Callable[[list[Tile]], T]) -> list[T]:
    """What `work` makes of contiguous shares of the tiles, in order."""
    shares = _shares(tiles)
    threads = torch.get_num_threads()
    if threads == 1 or len(shares) < 2:
        return [work(share) for share in shares]
    try:
        with ThreadPoolExecutor(min(threads, len(shares)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(torch.no_grad()(work), shares))
    finally:
        torch.set_num_threads(threads)  # what threads to come start with


def _shares(tiles: list[Tile]) -> list[list[Tile]]:
    number = min(_MAX_SHARES, len(tiles))
    return [tiles[len(tiles) * i // number : len(tiles) * (i + 1) // number] for i in range(number)]


def span(share: list[Tile]) -> slice:
    """The sets of a share along a batch axis."""
    return slice(share[0].first, share[-1].last)
