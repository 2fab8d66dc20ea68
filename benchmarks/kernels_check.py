"""Compile every kernel as the named shapes launch it, ahead of time and without a GPU, and hold it to its limits.

Registers, stack (spilled bytes), shared memory, matrix instructions, what the main loop holds (`machine_code`), floors
on an H100's time (`floors`) and the time that compiling took, of each kernel on each architecture, go to
benchmarks/results/kernels_check.csv. Exit status 1 where a kernel does not compile, spills more than MAX_SPILL bytes or
its own SPILLING, needs more shared memory than there is, reads whole sets without wgmma on sm_90, has all its wgmma
serialised, makes a wgmma descriptor of the stack pointer, or has a floor that rose since `--record`. Corners of the
envelope may spill, which the table tells. Triton's cache keeps what is compiled: a kernel that did not change since the
last run costs nothing.
"""

from __future__ import annotations

import csv
import importlib
import multiprocessing
import os
import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import triton
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.cache import get_cache_manager
from triton.runtime.jit import JITFunction, create_function_from_signature

from benchmarks import floors, machine_code
from benchmarks.kernel_launches import CORNERS, COVERING, HALF, PROBLEMS, train_step
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.aggregate import tiles

MAX_SPILL = 128
# tiles that leave no registers free: all were timed on an H100, and are faster than what they replaced; when it was,
# attention_pass_kernel spilled three times as much.
# scan_heads_kernel spills before and after its loops, where its weights and its accumulators pass through registers
SPILLING = {
    "layers_pass_kernel": 640, "attention_pass_kernel": 384, "attend_again_kernel": 192, "hidden_back_kernel": 320,
    "project_back_kernel": 320, "scan_heads_kernel": 1152,
}  # fmt: skip
ARCHITECTURES = (80, 90, 100)  # every problem
SMALLER = (86, 120)  # HALF: less shared memory
CORNER_ARCHITECTURES = (86, 80, 90, 100, 120)
SAME_INSTRUCTIONS = (86, 80)
MATRIX_SIZE = 64  # rows that wgmma multiplies; LARGE_PRODUCTS of fewer queries do without
PERSISTENT = ("resident_forward_kernel", "attend_forward_kernel", "dense_forward_kernel")
LARGE_PRODUCTS = ("scan_kernel", "scan_heads_kernel", "broadcast_forward_kernel", "small_kernel", *PERSISTENT)
PASSES = ("layers_pass_kernel", "attention_pass_kernel")
FORWARD = (*LARGE_PRODUCTS, "prepare_kernel", "merge_kernel", "finish_kernel")
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
    def named(self) -> dict[str, Any]:
        """Constants by the name of their parameter."""
        names = [param.name for param in self.kernel.params]
        return {names[path[0]]: value for path, value in self.constants.items() if len(path) == 1}

    @property
    def queries(self) -> int:
        """Rows of a tile of folded queries; of a kernel without such tiles, a tile's rows are always MATRIX_SIZE."""
        return self.named.get("BLOCK_R", MATRIX_SIZE)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for launches of one program, whatever numbers Triton specialised it for (1, multiples of 16).

        sm_80 and sm_86 have one instruction set: a corner's program that fits the smaller memory fits the larger.
        """
        declared = {i for i, param in enumerate(self.kernel.params) if param.is_constexpr}
        constants = {path: value for path, value in self.constants.items() if value is None or path[0] in declared}
        types = [kind for kind in _flat(self.signature.values()) if kind.startswith("*")]
        arch = SAME_INSTRUCTIONS if self.problem in CORNERS and self.arch in SAME_INSTRUCTIONS else self.arch
        return arch, self.module, self.name, str(constants), str(types), self.options.num_warps


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
    repeated: int  # matrix products that warps compute more than once, having more rows than the product
    loop: int = 0  # instructions of a warp in one turn of the main loop
    local: int = 0  # of those, accesses to spilled registers
    barriers: int = 0
    alone: int = 0  # products that are waited for before the next one starts
    resident: int = 0  # programs that share a multiprocessor of sm_90
    row_bytes: int = 0  # by formula
    issue_ms: float = 0.0  # floors of a named shape's forward kernels on an H100
    byte_ms: float = 0.0
    seconds: float = 0.0  # of CPU time, when it was compiled
    fault: str = ""


def record(problem: str, arch: int, run: Callable[[], object], table: str = "") -> list[Launch]:
    """The launches that `run` makes on an architecture, which are not executed; tensors may be on the meta device.

    Tiles go by rule, or by the tuned table of that name.
    """
    backend = make_backend(GPUTarget("cuda", arch, 32))
    launches: list[Launch] = []

    def note(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, options = binder(*args, debug=False, **kwargs)
        packed = kernel._pack_args(backend, {**kwargs, "debug": False}, bound, specialization, options)
        options, signature, constants, attributes = packed
        name = kernel.__module__, kernel.__name__
        launches.append(Launch(problem, arch, *name, signature, constants, attributes, options))

    def found(device: object) -> gpu.Gpu:
        return gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], table)

    with mock.patch.object(JITFunction, "run", note), mock.patch.object(gpu, "of", found):
        run()
    return launches


def compile_ahead(launch: Launch) -> Usage:
    """Compile one launch and read what it uses."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    where = (launch.name, launch.problem, launch.arch, launch.options.num_warps)
    start = _cpu_seconds()
    try:
        program = triton.compile(source, GPUTarget("cuda", launch.arch, 32), launch.options.__dict__)
    except Exception as error:  # every failure is a finding, named in the table
        cause: BaseException = error
        while cause.__cause__ is not None:  # from the kernel's call down to what was called
            cause = cause.__cause__
        fault_found = f"does not compile: {str(cause).strip().splitlines()[-1]}"
        return Usage(*where, 0, 0, 0, 0, 0, 0, 0, fault=fault_found)
    seconds = _remembered(program.hash, _cpu_seconds() - start)
    registers, stack = machine_code.resources(program.asm["cubin"])
    counts = {name: len(re.findall(pattern, program.asm["ptx"])) for name, pattern in INSTRUCTIONS.items()}
    shared = program.metadata.shared
    usage = Usage(
        *where, registers, stack, shared, counts["wgmma"], counts["tcgen05"], counts["mma"],
        repeated(program.asm["ttgir"]), seconds=seconds, fault=fault(launch, stack, shared, counts),
    )  # fmt: skip
    return with_machine_code(launch, usage, machine_code.disassemble(program.asm["cubin"]))


def with_machine_code(launch: Launch, usage: Usage, sass: str) -> Usage:
    """The usage and what the machine code adds to it: the main loop, floors, and faults where there was none."""
    loop = machine_code.main_loop(sass)
    problem = PROBLEMS.get(launch.problem)
    found, resident = floors.NO_FLOORS, 0
    if launch.arch == 90:
        resident = machine_code.resident(usage.registers, usage.shared, usage.warps)
        if problem is not None:
            found = floors.floors(launch.name, launch.named, loop, usage.warps, problem.shape, problem.dtype.itemsize)
    return replace(
        usage, loop=loop.instructions, local=loop.local, barriers=loop.barriers, alone=loop.alone, resident=resident,
        row_bytes=found.row_bytes, issue_ms=round(found.issue_ms, 4), byte_ms=round(found.byte_ms, 4),
        fault=usage.fault or _trap(launch.name, loop, sass) or floors.rise(launch.problem, launch.name, found.issue_ms),
    )  # fmt: skip


def _trap(kernel: str, loop: machine_code.Loop, sass: str) -> str:
    """Known ways in which ptxas spoils a kernel; of stage A's backward, the column `alone` tells what is serialised."""
    if machine_code.stack_in_descriptor(sass):
        return "a wgmma descriptor is made of the stack pointer"
    return "wgmma is serialised" if kernel in (*LARGE_PRODUCTS, *PASSES) and loop.alone == loop.wgmma > 2 else ""


def _cpu_seconds() -> float:
    """CPU time of this process and of those it ran (ptxas)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _remembered(program: str, seconds: float) -> float:
    """How long a program took to compile: `seconds`, unless it came from the cache and the cache knows."""
    cache = get_cache_manager(program)
    if (known := cache.get_file("seconds")) is not None:
        return float(Path(known).read_text())
    cache.put(f"{seconds:.2f}", "seconds", binary=False)
    return round(seconds, 2)


def repeated(ttgir: str) -> int:
    """Products of warps that together hold more rows or columns than there are: each is computed so many times."""
    layout = r"(#\w+) = #ttg\.nvidia_mma<\{.*?warpsPerCTA = \[(\d+), (\d+)\]"
    warps = {name: (16 * int(rows), 8 * int(columns)) for name, rows, columns in re.findall(layout, ttgir)}
    product = r"= (?:ttng\.warp_group_dot|tt\.dot) .*-> tensor<(\d+)x(\d+)xf32, (#\w+)>"
    sizes = [
        (int(rows), int(columns), *warps[name]) for rows, columns, name in re.findall(product, ttgir) if name in warps
    ]
    return sum(rows < held_rows or columns < held_columns for rows, columns, held_rows, held_columns in sizes)


def fault(launch: Launch, stack: int, shared: int, counts: dict[str, int]) -> str:
    """Which limit a compiled launch breaks."""
    if stack > SPILLING.get(launch.name, MAX_SPILL) and launch.problem not in CORNERS:
        return f"spills {stack} bytes"
    if shared > gpu.SHARED_MEMORY[launch.arch]:
        return f"{shared} bytes of shared memory, {gpu.SHARED_MEMORY[launch.arch]} exist"
    large = launch.name in LARGE_PRODUCTS and launch.queries >= MATRIX_SIZE
    if launch.arch == 90 and large and counts["mma"] and not counts["wgmma"]:
        return "no wgmma"
    return ""


def check(launches: Iterable[Launch], jobs: int) -> Iterator[Usage]:
    """Compile launches in `jobs` processes."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(compile_ahead, launches)


def unique(launches: Iterable[Launch]) -> list[Launch]:
    """One launch of each program."""
    return list({launch.key: launch for launch in reversed(list(launches))}.values())[::-1]


def plan() -> Iterator[tuple[str, int, str]]:
    """Problems, the architectures that they are compiled for and the tuned tables (empty: by rule)."""
    yield from ((name, arch, "") for name in PROBLEMS for arch in ARCHITECTURES)
    yield from ((name, arch, "") for name in HALF for arch in SMALLER)
    yield from ((name, arch, "") for name in CORNERS for arch in CORNER_ARCHITECTURES)
    tables = [path.stem for path in sorted(tiles.CONFIGS.glob("sm_*.json"))]
    yield from ((name, int(table.split("-")[0].removeprefix("sm_")), table) for table in tables for name in HALF)


def summary(usages: list[Usage]) -> Table:
    """The most that any program of a kernel uses, a line for each kernel and architecture."""
    columns = ("kernel", "arch", "programs", "registers", "stack", "shared", "loop", "local", "matrix units", "seconds")
    table = Table(*columns, "faults")
    groups: dict[tuple[str, int], list[Usage]] = defaultdict(list)
    for usage in usages:
        groups[usage.kernel, usage.arch].append(usage)
    for (kernel, arch), group in sorted(groups.items()):
        most = [
            max(getattr(usage, name) for usage in group) for name in ("registers", "stack", "shared", "loop", "local")
        ]
        units = [name for name in INSTRUCTIONS if any(getattr(usage, name) for usage in group)]
        faults = [usage for usage in group if usage.fault]
        seconds = f"{max(usage.seconds for usage in group):.1f}"
        cells = kernel, arch, len(group), *most, " ".join(units), seconds, len(faults) or ""
        table.add_row(*map(str, cells), style="red" if faults else None)
    return table


def compile_times(launches: list[Launch], usages: dict[tuple[Any, ...], Usage]) -> Table:
    """CPU seconds of all that the first forward and the first training step of a problem compile."""
    table = Table("problem", "arch", "programs", "forward", "with backward")
    steps: dict[tuple[str, int], set[tuple[Any, ...]]] = defaultdict(set)
    for launch in launches:
        steps[launch.problem, launch.arch].add(launch.key)
    for (problem, arch), keys in steps.items():
        used = [usages[key] for key in keys]
        forward, step = (sum(u.seconds for u in used if u.kernel in names or not names) for names in (FORWARD, ()))
        table.add_row(problem, str(arch), str(len(keys)), f"{forward:.1f}", f"{step:.1f}")
    return table


def write_csv(usages: list[Usage], path: Path) -> None:
    """One line a kernel, problem and architecture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Usage))
        writer.writerows([getattr(usage, field.name) for field in fields(Usage)] for usage in usages)


def main(
    problem: Annotated[list[str] | None, typer.Option(help="Only these problems.")] = None,
    arch: Annotated[list[int] | None, typer.Option(help="Only these architectures, such as 90.")] = None,
    kernel: Annotated[str, typer.Option(help="Only kernels whose name contains this.")] = "",
    covering: Annotated[bool, typer.Option(help="Only problems that together launch every kernel.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes that compile; default: as many as cores.")] = None,
    keep: Annotated[
        bool, typer.Option("--record", help="Keep the floors of what was compiled, to be held later.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where the table goes; default: results/, where all is run.")] = None,
) -> None:
    """Compile all kernels for all architectures and fail where one breaks a limit."""
    known = PROBLEMS | CORNERS
    names = COVERING if covering else problem or tuple(known)
    if unknown := set(names) - set(known):
        raise typer.BadParameter(f"problem: expected some of {sorted(known)}, got {sorted(unknown)}")
    archs = arch or (ARCHITECTURES if covering else gpu.SHARED_MEMORY)
    chosen = [(n, a, t) for n, a, t in plan() if n in names and a in archs]
    steps = (record(n, a, partial(train_step, known[n]), t) for n, a, t in chosen)
    recorded = [launch for step in steps for launch in step if kernel in launch.name]
    launches = unique(recorded)
    usages = list(track(check(launches, jobs or os.cpu_count() or 1), "compiling", len(launches)))
    if out or not (problem or arch or kernel or covering):
        write_csv(usages, out or RESULTS)
    if keep:
        floors.save((usage.problem, usage.kernel, usage.issue_ms) for usage in usages if usage.issue_ms)
    console = Console(width=160)
    console.print(summary(usages))
    if not kernel:
        console.print(compile_times(recorded, {one.key: usage for one, usage in zip(launches, usages, strict=True)}))
    faults = [usage for usage in usages if usage.fault]
    for usage in faults:
        console.print(f"{usage.kernel}, {usage.problem}, sm_{usage.arch}: {usage.fault}", style="red")
    typer.echo(f"{len(usages)} programs, {len(faults)} of them break a limit")
    raise typer.Exit(bool(faults))


if __name__ == "__main__":
    typer.run(main)
