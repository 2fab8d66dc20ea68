"""How long a first training step takes, in a process that `benchmarks.run --only first-call` starts with empty caches.

Of a provider on the device at hand, or of compiling the kernels in bf16 without a GPU: "in turn" compiles one program
after another, "side by side" is what a call does; they differ by what the cores of the machine at hand bring.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

from settx_fast.testing import SHAPES

WAYS = {"in turn": 1, "side by side": None}


class Target(NamedTuple):
    """What Triton asks a driver for when it compiles; it loads nothing."""

    arch: int

    def get_current_target(self) -> Any:
        """The GPU that is compiled for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """One, and the first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default."""
        return 0


@contextmanager
def compiling_for(arch: int, threads: int | None) -> Iterator[None]:
    """A GPU of an architecture is what kernels are chosen and compiled for, by so many threads (None: as in a call)."""
    import triton

    from settx_fast.attention.triton import gpu, launch

    triton.runtime.driver.set_active(Target(arch))
    found = gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], "")
    pool = launch.ThreadPoolExecutor if threads is None else partial(launch.ThreadPoolExecutor, threads)
    with mock.patch.object(gpu, "of", return_value=found), mock.patch.object(launch, "ThreadPoolExecutor", pool):
        yield


def measure(shape: str, arch: int, threads: int | None) -> tuple[float, float]:
    """Seconds that the first forward and the first backward compile, in this process."""
    from benchmarks.kernel_launches import Problem, forward
    from settx_fast.attention.triton.launch import compile_side_by_side, noted

    with compiling_for(arch, threads):
        start = time.perf_counter()
        with noted() as launches:
            backward = forward(Problem(SHAPES[shape]))
        compile_side_by_side(launches)
        between = time.perf_counter()
        with noted() as launches:
            backward()
        compile_side_by_side(launches)
        return between - start, time.perf_counter() - between


def first_step(provider: str, shape: str, device: str, dtype: str) -> float:
    """Seconds of a provider's first training step in this process."""
    import torch

    from benchmarks.attention import shapes_of
    from benchmarks.blocks import PROVIDERS, Problem
    from settx_fast.testing import make_inputs

    inputs = make_inputs(shapes_of(device == "cuda")[shape], dtype=getattr(torch, dtype), device=device)
    torch.ones(1, device=device).sum().item()  # the device is there
    start = time.perf_counter()
    PROVIDERS[provider](Problem("isab", inputs, True)).train()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(who: str, shape: str, where: str, dtype: str, threads: int) -> None:
    """Print the seconds of a first training step: a provider's, or of compiling our kernels for an architecture."""
    import torch

    torch.set_num_threads(threads)
    if who in WAYS:
        print(sum(measure(shape, int(where), WAYS[who])))
    else:
        print(first_step(who, shape, where, dtype))


if __name__ == "__main__":
    who, shape, where, dtype, threads = sys.argv[1:]
    main(who, shape, where, dtype, int(threads))
