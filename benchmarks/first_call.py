"""How long the first call of a shape compiles: wall time of ISAB's first forward and backward in bf16, without a GPU.

Every figure is of a process of its own with an empty cache. "in turn" compiles one program after another, "side by
side" is what a call does; the columns differ by what the cores of the machine at hand bring.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, NamedTuple
from unittest import mock

import typer
from rich.console import Console
from rich.table import Table

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


def measure_afresh(shape: str, arch: int, threads: int | None) -> tuple[float, float]:
    """The same in a process of its own, with nothing cached."""
    code = f"from benchmarks.first_call import measure; print(list(measure({shape!r}, {arch}, {threads})))"
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    forward, backward = json.loads(done.stdout)
    return forward, backward


def main(
    shape: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SHAPES)}; default: hidden, tabular.")] = None,
    arch: Annotated[list[int] | None, typer.Option(help="Architectures, such as 90.")] = None,
) -> None:
    """Compile what first calls compile and print how long it took."""
    if unknown := set(shape or ()) - set(SHAPES):
        raise typer.BadParameter(f"shape: expected some of {sorted(SHAPES)}, got {sorted(unknown)}")
    table = Table("shape", "arch", *(f"{call}, {way}" for way in WAYS for call in ("forward", "backward")))
    for name in shape or ("hidden", "tabular"):
        for each in arch or (90,):
            seconds = [s for threads in WAYS.values() for s in measure_afresh(name, each, threads)]
            table.add_row(name, str(each), *(f"{s:.1f} s" for s in seconds))
    Console().print(table)
    typer.echo(f"{os.cpu_count()} cores")


if __name__ == "__main__":
    typer.run(main)
