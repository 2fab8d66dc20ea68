"""Where the GPU's time goes: milliseconds by kernel of an ISAB's forward and training step, with torch.profiler.

python -m benchmarks.profile [--out CSV] [--device cpu] SHAPE…
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.attention import shapes_of
from benchmarks.blocks import PROVIDERS, Problem
from benchmarks.readings import file_of
from benchmarks.table import print_table
from settx_fast.testing import SHAPES, make_inputs

CALLS = 5
COLUMNS = ("shape", "pass", "kernel", "launches", "gpu_ms")


def by_kernel(run: Callable[[], object], cuda: bool) -> list[tuple[str, float, float]]:
    """Name, launches and milliseconds a call of every kernel (on a CPU: every operator), the longest first."""
    run()
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        for _ in range(CALLS):
            run()
        if cuda:
            torch.cuda.synchronize()
    found = []
    for event in profiled.key_averages():
        micros = event.self_device_time_total if cuda else event.self_cpu_time_total
        if micros:
            found.append((event.key, event.count / CALLS, micros / CALLS / 1e3))
    return sorted(found, key=lambda each: -each[2])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.split("\n")[0])
    parser.add_argument("shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, metavar="CSV", help="default: benchmarks/results/<gpu>-kernels.csv")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA GPU that torch can use, found none")
    dtype, rows = torch.bfloat16 if cuda else torch.float32, []
    for name in options.shapes:
        inputs = make_inputs(shapes_of(cuda)[name], dtype=dtype, device=options.device)
        for training, passes in ((False, "forward"), (True, "forward + backward")):
            way = PROVIDERS["settx_fast"](Problem("isab", inputs, training))
            for kernel, launches, ms in by_kernel(way.train if training else way.infer, cuda):
                rows.append((name, passes, kernel, f"{launches:g}", f"{ms:.4f}"))
    where = options.out or file_of(f"{torch.cuda.get_device_name() if cuda else 'cpu'} kernels")
    where.parent.mkdir(parents=True, exist_ok=True)
    with where.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    print_table(f"Time by kernel → {where}", COLUMNS, rows, left=3)


if __name__ == "__main__":
    main()
