"""What the rules for tiles ask of a GPU, and how it multiplies matrices of a type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import torch
import triton

from settx_fast.attention.triton.primitives import matrix_precision

# Bytes of shared memory one program may use, by compute capability.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
MOST_BYTES = 192 * 2**20  # of all temporaries of a backward, as far as the smallest chunk of rows fits
LEAST_BYTES = 32 * 2**20  # of few rows


class Gpu(NamedTuple):
    """What rules ask of a GPU."""

    arch: int  # compute capability, such as 90
    shared: int  # bytes of shared memory that one program may use
    table: str  # the name of its tuned table, such as sm_90-nvidia-h100
    multiprocessors: int = 132


_stand_in: ContextVar[Gpu | None] = ContextVar("stand_in", default=None)


def of(device: torch.device) -> Gpu:
    """The GPU of a device; of any other, the smallest that the kernels run on, or who stands for it."""
    return _stand_in.get() or _found(device)


@contextmanager
def standing_in(found: Gpu) -> Iterator[None]:
    """A GPU that stands for the meta device, on which plans are noted."""
    token = _stand_in.set(found)
    try:
        yield
    finally:
        _stand_in.reset(token)


@cache
def _found(device: torch.device) -> Gpu:
    if device.type != "cuda":
        return Gpu(80, min(SHARED_MEMORY.values()), "")
    index = torch.cuda.current_device() if device.index is None else device.index
    shared = triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
    major, minor = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index).lower().replace(" ", "-")
    multiprocessors = torch.cuda.get_device_properties(index).multi_processor_count
    return Gpu(10 * major + minor, shared, f"sm_{major}{minor}-{name}", multiprocessors)


def room(rows: int, kept: int) -> int:
    """Bytes of a backward's temporaries: a twentieth of those that formulas keep, `kept` of each of `rows`."""
    return min(MOST_BYTES, max(LEAST_BYTES, rows * kept // 20))


def products_of(dtype: torch.dtype) -> str:
    """How matrices of a dtype are multiplied."""
    if dtype != torch.float32:
        return "half"
    return "exact" if matrix_precision(dtype) == "ieee" else "tf32"
