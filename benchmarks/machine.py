"""What the machine allows, measured in the same run, and what an ISAB needs at least of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from settx_fast.testing import Inputs


@dataclass(frozen=True)
class Machine:
    """Name and measured limits of a device."""

    name: str
    bytes_per_second: float  # copy, read + written
    flop_per_second: float  # matrix product in the dtype of the benchmark


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Copy a large array, multiply large matrices, take the best of some."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{_cpu_name()}, {torch.get_num_threads()} threads"
    source = torch.zeros(2**28 if cuda else 2**26, device=device)
    target = torch.empty_like(source)
    copy = min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    side = 8192 if cuda else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    multiply = min(seconds(lambda: a @ a, device) for _ in range(5))
    return Machine(name, 2 * 4 * source.numel() / copy, 2 * side**3 / multiply)


def floor_seconds(inputs: Inputs, machine: Machine, *, backward: bool) -> float:
    """The least time for one ISAB (DESIGN.md, section 7): bytes moved or matrix products, whichever takes longer."""
    sets, size, dim_in = inputs.x.shape
    rows = sets * size if inputs.lengths is None else int(inputs.lengths.sum())
    dim, heads, inducing = inputs.inducing.shape[2], inputs.spec_a.num_heads, inputs.inducing.shape[1]
    elements = 7 * dim_in + 2 * dim if backward else 2 * dim_in + dim
    absorbed = heads * inducing * dim_in <= dim * (dim_in + inducing)
    aggregate = 4 * heads * inducing * dim_in if absorbed else 4 * dim_in * dim + 4 * inducing * dim
    spec = inputs.spec_b
    layers = 4 * dim * spec.ffn_dim if spec.ffn_dim else 2 * dim * dim
    projection = 2 * dim * dim if spec.output_projection else 0
    flop = aggregate + 2 * dim_in * dim + 4 * inducing * dim + projection + layers
    moved = rows * elements * inputs.x.element_size() / machine.bytes_per_second
    return max(moved, rows * flop * (3 if backward else 1) / machine.flop_per_second)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time of one call, work on the device included."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1e3


def interleaved(
    runs: Mapping[str, Callable[[], object]], device: torch.device, budget: float, *, at_least: int = 5
) -> dict[str, float]:
    """Median seconds of each, taken in turns (A B C A B C …) so that a noisy machine treats all alike."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    while len(next(iter(times.values()))) < at_least or time.perf_counter() - start < budget:
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    return {name: median(taken) for name, taken in times.items()}


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
