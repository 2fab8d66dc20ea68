"""How large the tiles are, how many programs share a set: by shape and GPU, never by the exact number of elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton

from settx_fast.kernels.primitives import padded

# Bytes of shared memory one program may use; the smallest of the supported GPUs where the device is unknown.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
PROGRAMS = 256  # enough to fill a GPU: a set is split until so many programs work
MIN_PIECE = 256  # elements that are worth a program of their own


@dataclass(frozen=True)
class Problem:
    """The shape of stage A: B sets of at most N elements C wide, H heads of M queries, D out, and the element size."""

    num_sets: int
    longest: int
    C: int
    D: int
    H: int
    M: int
    itemsize: int
    exact: bool = False  # fp32 products without tensor cores
    shared: int = min(SHARED_MEMORY.values())

    @property
    def E(self) -> int:
        """Head width."""
        return self.D // self.H

    @property
    def absorbed(self) -> bool:
        """Whether folding the key projection into the queries costs less than projecting every element.

        The projected kernel holds one head's weights on chip, so wide heads and wide elements are always absorbed.
        """
        cheap = self.H * self.M * self.C <= self.D * (self.C + self.M)
        return cheap or padded(self.E) > 64 or padded(self.C) > 256


class Scan(NamedTuple):
    """Tiles of one pass over the sets."""

    block_r: int  # folded queries
    block_n: int  # elements
    num_splits: int
    num_warps: int
    num_stages: int


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory one program may use on a device."""
    if device.type != "cuda":
        return min(SHARED_MEMORY.values())
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def splits(problem: Problem, blocks: int) -> int:
    """Programs that share one set, from its number of query blocks."""
    wanted = triton.cdiv(PROGRAMS, max(1, problem.num_sets * blocks))
    return max(1, min(wanted, triton.cdiv(problem.longest, MIN_PIECE)))


def forward_scan(problem: Problem) -> Scan:
    """Tiles of the forward pass: as many queries a program as its registers hold, so that elements are read once."""
    width = padded(problem.C)
    rows = problem.H * problem.M if problem.absorbed else problem.M
    most = {True: 32, False: 128}[problem.exact]
    block_r = min(padded(rows), most, max(16, 16384 // width // (2 if problem.itemsize == 4 else 1)))
    block_n = 128 if width <= 32 else 64
    if problem.itemsize == 4:
        block_n = 32 if width > 64 else block_n // 2
    stages = 3
    while stages > 1 and _scan_bytes(problem, block_r, block_n, stages) > problem.shared:
        stages -= 1
    while block_n > 16 and _scan_bytes(problem, block_r, block_n, stages) > problem.shared:
        block_n //= 2
    blocks = triton.cdiv(rows, block_r) * (1 if problem.absorbed else problem.H)
    warps = 8 if block_r * width >= 128 * 128 else 4
    return Scan(block_r, block_n, splits(problem, blocks), warps, stages)


def _scan_bytes(problem: Problem, block_r: int, block_n: int, stages: int) -> int:
    width = padded(problem.C)
    resident = block_r * width if problem.absorbed else (2 * width + block_r + 2 * block_n) * padded(problem.E)
    return problem.itemsize * (resident + stages * block_n * width + block_r * block_n)


class BackwardScan(NamedTuple):
    """Tiles of the backward passes: one sums over elements, one makes dX; `fused` when the first does both."""

    fused: bool
    block_r: int
    block_n: int
    group: int  # sets a program adds up
    num_splits: int  # programs that share a set
    element_splits: int  # the same of the dX pass
    num_warps: int
    num_stages: int


def backward_scan(problem: Problem, shared_queries: bool) -> BackwardScan:
    """Tiles of the backward: the registers hold a block of queries' gradients, the tile's and dX at once."""
    width = padded(problem.C)
    rows = problem.H * problem.M if problem.absorbed else problem.M
    budget = 16384 if problem.itemsize == 2 else 4096 if problem.exact else 8192
    block_r = max(16, min(padded(rows), 128, budget // width))
    block_n = 64 if problem.itemsize == 2 else 32
    while block_n > 16 and _backward_bytes(problem, block_r, block_n) > problem.shared:
        block_n //= 2
    while block_r > 16 and _backward_bytes(problem, block_r, block_n) > problem.shared:
        block_r //= 2
    blocks = triton.cdiv(rows, block_r) * (1 if problem.absorbed else problem.H)
    group = max(1, problem.num_sets * blocks // (2 * PROGRAMS)) if shared_queries else 1
    warps = 8 if block_r * width >= 128 * 64 or block_n * width >= 64 * 128 else 4
    return BackwardScan(
        problem.absorbed and rows <= block_r, block_r, block_n, group,
        splits(problem, blocks) if group == 1 else 1, splits(problem, 1), warps, 2,
    )  # fmt: skip


def _backward_bytes(problem: Problem, block_r: int, block_n: int) -> int:
    width = padded(problem.C)
    resident = 2 * block_r * width if problem.absorbed else 2 * (width + block_r + 2 * block_n) * padded(problem.E)
    return problem.itemsize * (resident + 2 * block_n * width + 2 * block_r * block_n)
