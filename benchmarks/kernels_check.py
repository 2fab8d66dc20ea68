"""Compile every kernel as the named shapes launch it, ahead of time and without a GPU, and hold it to its limits.

Registers, stack (spilled bytes), shared memory and matrix instructions of each kernel on each architecture go to a
table and to benchmarks/results/kernels_check.csv. Exit status 1 where a kernel does not compile, spills more than
MAX_SPILL bytes, needs more shared memory than the architecture has, or reads whole sets without wgmma on sm_90.
"""

from __future__ import annotations

import csv
import importlib
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import triton
import typer
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from benchmarks.kernel_launches import PROBLEMS, train_step
from settx_fast.kernels import config

MAX_SPILL = 64
SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}
LARGE_PRODUCTS = ("scan_kernel", "broadcast_forward_kernel")
INSTRUCTIONS = {"wgmma": r"wgmma\.mma_async", "tcgen05": r"tcgen05\.mma", "mma": r"\bmma\.sync"}
RESULTS = Path(__file__).parent / "results" / "kernels_check.csv"


@dataclass(frozen=True)
class Launch:
    """One kernel with the types, constants and options that it is compiled for."""

    problem: str
    arch: int
    module: str
    name: str
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: Any

    @property
    def kernel(self) -> JITFunction[Any]:
        """The function; launches travel between processes by its name."""
        kernel: JITFunction[Any] = getattr(importlib.import_module(self.module), self.name)
        return kernel

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for launches of one program, whatever numbers Triton specialised it for (1, multiples of 16)."""
        declared = {i for i, param in enumerate(self.kernel.params) if param.is_constexpr}
        constants = {path: value for path, value in self.constants.items() if value is None or path[0] in declared}
        types = [kind for kind in _flat(self.signature.values()) if kind.startswith("*")]
        return self.arch, self.module, self.name, str(constants), str(types), self.options.num_warps


def _flat(kinds: Iterable[Any]) -> Iterator[str]:
    for kind in kinds:
        if isinstance(kind, tuple):
            yield from _flat(kind)
        else:
            yield kind


@dataclass(frozen=True)
class Usage:
    """What the compiler made of a launch; `fault` says which limit it breaks, empty where none."""

    kernel: str
    problem: str
    arch: int
    warps: int
    registers: int
    stack: int
    shared: int
    wgmma: int
    tcgen05: int
    mma: int
    fault: str


def record(problem: str, arch: int, run: Callable[[], object]) -> list[Launch]:
    """The launches that `run` makes on an architecture, which are not executed; tensors may be on the meta device."""
    backend = make_backend(GPUTarget("cuda", arch, 32))
    launches: list[Launch] = []

    def note(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, options = binder(*args, debug=False, **kwargs)
        packed = kernel._pack_args(backend, {**kwargs, "debug": False}, bound, specialization, options)
        options, signature, constants, attributes = packed
        name = kernel.__module__, kernel.__name__
        launches.append(Launch(problem, arch, *name, signature, constants, attributes, options))

    def gpu_of(device: object) -> tuple[int, str]:
        return SHARED_MEMORY[arch], ""

    with mock.patch.object(JITFunction, "run", note), mock.patch.object(config, "gpu_of", gpu_of):
        run()
    return launches


def compile_ahead(launch: Launch) -> Usage:
    """Compile one launch and read what it uses."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    where = (launch.name, launch.problem, launch.arch, launch.options.num_warps)
    try:
        program = triton.compile(source, GPUTarget("cuda", launch.arch, 32), launch.options.__dict__)
    except Exception as error:  # every failure is a finding, named in the table
        return Usage(*where, 0, 0, 0, 0, 0, 0, f"does not compile: {str(error).strip().splitlines()[-1]}")
    registers, stack = resources(program.asm["cubin"])
    counts = {name: len(re.findall(pattern, program.asm["ptx"])) for name, pattern in INSTRUCTIONS.items()}
    shared = program.metadata.shared
    matrix = (counts["wgmma"], counts["tcgen05"], counts["mma"])
    return Usage(*where, registers, stack, shared, *matrix, fault(launch, stack, shared, counts))


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread, as cuobjdump reads them from a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    if found is None:
        raise RuntimeError(f"cuobjdump: expected REG and STACK, got {listing!r}")
    return int(found[1]), int(found[2])


def fault(launch: Launch, stack: int, shared: int, counts: dict[str, int]) -> str:
    """Which limit a compiled launch breaks."""
    if stack > MAX_SPILL:
        return f"spills {stack} bytes"
    if shared > SHARED_MEMORY[launch.arch]:
        return f"{shared} bytes of shared memory, {SHARED_MEMORY[launch.arch]} exist"
    if launch.arch == 90 and launch.name in LARGE_PRODUCTS and counts["mma"] and not counts["wgmma"]:
        return "no wgmma"
    return ""


def check(launches: Iterable[Launch], jobs: int) -> Iterator[Usage]:
    """Compile launches in `jobs` processes."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(compile_ahead, launches)


def unique(launches: Iterable[Launch]) -> list[Launch]:
    """One launch of each program."""
    return list({launch.key: launch for launch in reversed(list(launches))}.values())[::-1]


def tabulate(usages: list[Usage]) -> Table:
    """All of it, faults in red."""
    table = Table(*(field.name for field in fields(Usage)))
    for usage in usages:
        cells = (str(getattr(usage, field.name)) for field in fields(Usage))
        table.add_row(*cells, style="red" if usage.fault else None)
    return table


def write_csv(usages: list[Usage], path: Path) -> None:
    """One line a kernel, problem and architecture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Usage))
        writer.writerows([getattr(usage, field.name) for field in fields(Usage)] for usage in usages)


def main(
    problem: Annotated[list[str] | None, typer.Option(help="Only these named problems.")] = None,
    arch: Annotated[list[int] | None, typer.Option(help="Only these architectures, such as 90.")] = None,
    kernel: Annotated[str, typer.Option(help="Only kernels whose name contains this.")] = "",
    jobs: Annotated[int, typer.Option(help="Processes that compile.")] = 2,
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = RESULTS,
) -> None:
    """Compile all kernels for all architectures and fail where one breaks a limit."""
    recorded = (
        launched
        for name in problem or PROBLEMS
        for capability in arch or SHARED_MEMORY
        for launched in record(name, capability, partial(train_step, PROBLEMS[name]))
    )
    usages = list(check(unique(one for one in recorded if kernel in one.name), jobs))
    write_csv(usages, out)
    Console(width=200).print(tabulate(usages))
    faults = [usage for usage in usages if usage.fault]
    typer.echo(f"{len(usages)} programs, {len(faults)} of them break a limit")
    raise typer.Exit(bool(faults))


if __name__ == "__main__":
    typer.run(main)
