"""What the machine allows, measured in the same run, and how time and memory of a call are taken."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

BURST = 0.02  # seconds that a sample lasts at least: short calls are repeated


@dataclass(frozen=True)
class Machine:
    """Name and measured limits of a device."""

    name: str
    bytes_per_second: float  # copy, read + written
    flop_per_second: float  # matrix product in the dtype of the benchmark

    def floor_seconds(self, moved: float, flop: float) -> float:
        """The least time to move so many bytes and to do so many operations, whichever takes longer."""
        return max(moved / self.bytes_per_second, flop / self.flop_per_second)


def name_of(device: torch.device) -> str:
    """The GPU's name, or the processor's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' * (threads > 1)}"


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Copy a large array, multiply large matrices, take the best of some."""
    cuda = device.type == "cuda"
    source = torch.zeros(2**28 if cuda else 2**26, device=device)
    target = torch.empty_like(source)
    copy = min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    side = 8192 if cuda else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    multiply = min(seconds(lambda: a @ a, device) for _ in range(5))
    return Machine(name_of(device), 2 * 4 * source.numel() / copy, 2 * side**3 / multiply)


def seconds(run: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Time of one of so many calls in a row, work on the device included."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1e3 / calls


def sampler_of(run: Callable[[], object], device: torch.device, burst: float = BURST) -> Callable[[], float]:
    """Warm the call up; the result takes one sample of its seconds, over as many calls as fill the burst.

    On a CPU a sample begins with a call that does not count: others leave caches and the heap as they need them.
    """
    run()
    calls = max(1, min(1000, round(burst / max(1e-9, seconds(run, device)))))

    def sample() -> float:
        if device.type != "cuda":
            run()
        return seconds(run, device, calls)

    return sample


def captured(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """A replay of the call as a CUDA graph."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def peak_mib(run: Callable[[], object], device: torch.device) -> float:
    """Peak memory of a warm call beyond what is there before it; on a CPU Linux counts pages, and resets its peak."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what an earlier call freed counts as there
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") / 1024 - before / 1024


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
