"""ISAB beside its peers: correct first, then time, memory and distance from the machine's floor.

python -m benchmarks.isab --device cpu --shape large
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.contenders import Run, contenders
from benchmarks.machine import Machine, floor_seconds, interleaved, measure
from benchmarks.table import print_table
from settx_fast.testing import CPU_SHAPES, SHAPES, Inputs, assert_close_to_oracle, make_inputs

RESULTS = Path(__file__).parent / "results"
# float32 gradients of two correct implementations differ where a ReLU's input is within rounding of zero
GRADIENT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Row:
    """One line of the table and of the CSV file."""

    machine: str
    shape: str
    dtype: str
    what: str
    contender: str
    milliseconds: float
    speedup: float  # over the original
    floor_fraction: float
    extra_mib: float  # peak memory beyond inputs, output and their gradients


def main() -> None:
    options = _parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    target, known = torch.device(options.device), SHAPES if options.device == "cuda" else CPU_SHAPES
    kind = getattr(torch, options.dtype or ("bfloat16" if options.device == "cuda" else "float32"))
    first = [name for name in options.compiled if name != "all"]
    names = options.shape or [*first, *(name for name in known if name not in first)]
    if options.probe:
        print(_probe_cpu_memory(make_inputs(known[names[0]], dtype=kind), options.probe))
        return
    end = time.monotonic() + options.until
    machine = measure(target, kind)
    rows: list[Row] = []
    for number, name in enumerate(names):
        if time.monotonic() > end:
            print(f"left out after {options.until:.0f} s: {', '.join(names[number:])}")
            break
        inputs = make_inputs(known[name], dtype=kind, device=target)
        compiled = name in options.compiled or "all" in options.compiled
        rows += _benchmark(name, inputs, contenders(inputs, compiled=compiled), machine, options.seconds)
        _write(rows, machine)  # what is measured stays, whatever happens to the next shape
    _show(rows, machine)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isab",
        description="Time ISAB forward and forward + backward on named shapes, check it first, write results/*.csv.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="repeatable; default: all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on cpu")
    parser.add_argument(
        "--compiled", nargs="*", default=[], metavar="SHAPE", help="also torch.compile of the peers; 'all' shapes"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="least time for each group of measurements")
    parser.add_argument("--until", type=float, default=math.inf, help="begin no shape after so many seconds")
    parser.add_argument("--threads", type=int, help="threads on a CPU")
    parser.add_argument("--probe", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.compiled) - set(SHAPES) - {"all"}:
        parser.error(f"--compiled: expected some of {sorted(SHAPES)} or all, got {sorted(unknown)}")
    return options


def _benchmark(name: str, inputs: Inputs, runs: dict[str, Run], machine: Machine, budget: float) -> list[Row]:
    _check(name, inputs, runs)
    rows = []
    for what in ("forward", "forward + backward"):
        step = _forward if what == "forward" else _train
        calls = {contender: partial(step, run, inputs) for contender, run in runs.items()}
        times = interleaved(calls, inputs.x.device, budget)
        floor = floor_seconds(inputs, machine, backward=step is _train)
        for contender, taken in times.items():
            memory = _extra_mib(name, inputs, contender, calls[contender]) if step is _train else math.nan
            speedup = times["original"] / taken
            kind = str(inputs.x.dtype).removeprefix("torch.")
            rows.append(Row(machine.name, name, kind, what, contender, taken * 1e3, speedup, floor / taken, memory))
    return rows


def _forward(run: Run, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return run(inputs)


def _train(run: Run, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    out = run(inputs)
    return out, *torch.autograd.grad(out, list(inputs.parameters().values()), torch.ones_like(out))


def _check(name: str, inputs: Inputs, runs: dict[str, Run]) -> None:
    """Raise AssertionError unless outputs and gradients of all contenders on one set are right."""
    small = _first_set(inputs, 4096)
    oracle = _train(runs["original"], small.to(torch.float64))
    reference = _train(runs["original"], small)
    least_scale = 1e-3 * max(gradient.norm() for gradient in oracle[1:])  # that of b_k is zero, without a scale
    for contender, run in runs.items():
        results = _train(run, small)
        assert_close_to_oracle(results[0], reference[0], oracle[0], f"{name}, {contender}")
        for parameter, ours, theirs, exact in zip(
            small.parameters(), results[1:], reference[1:], oracle[1:], strict=True
        ):
            scale = exact.norm().clamp(min=least_scale)
            error, allowed = ((t.double() - exact).norm() / scale for t in (ours, theirs))
            if error > 2 * allowed + GRADIENT_TOLERANCE:
                raise AssertionError(f"{name}, {contender}: gradient of {parameter} is off by {error:.1e}")


def _first_set(inputs: Inputs, size: int) -> Inputs:
    """The same problem for the first elements of the first set."""
    lengths = None if inputs.lengths is None else inputs.lengths[:1].clamp(max=size)
    return inputs._replace(x=inputs.x[:1, :size].detach().requires_grad_(), lengths=lengths)


def _extra_mib(name: str, inputs: Inputs, contender: str, call: Callable[[], object]) -> float:
    if inputs.x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before - _results(inputs)) / 2**20
    kind = str(inputs.x.dtype).removeprefix("torch.")
    command = [sys.executable, "-m", "benchmarks.isab", "--shape", name, "--dtype", kind, "--probe", contender]
    command += ["--threads", str(torch.get_num_threads())] + (["--compiled", name] if "compiled" in contender else [])
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _probe_cpu_memory(inputs: Inputs, contender: str) -> float:
    """Peak resident MiB of one training step beyond what is resident before it; Linux counts and resets the peak."""
    run = contenders(inputs, compiled="compiled" in contender)[contender]
    _train(run, _first_set(inputs, 64))
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    _train(run, inputs)
    return _status("VmHWM") / 1024 - before / 1024 - _results(inputs) / 2**20


def _results(inputs: Inputs) -> int:
    """Bytes of the output and of the gradients of output and set, which every contender holds at the end."""
    rows, dim_in = inputs.x.shape[:-1].numel(), inputs.x.shape[-1]
    return inputs.x.element_size() * rows * (2 * inputs.inducing.shape[-1] + dim_in)


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def _show(rows: list[Row], machine: Machine) -> None:
    limits = (
        f"copies {machine.bytes_per_second / 1e9:.0f} GB/s, multiplies {machine.flop_per_second / 1e9:,.0f} GFLOP/s"
    )
    lines = []
    for row in rows:
        memory = "" if math.isnan(row.extra_mib) else f"{row.extra_mib:,.0f}"
        numbers = f"{row.milliseconds:.2f}", f"{row.speedup:.2f}", f"{row.floor_fraction:.0%}", memory
        lines.append((row.shape, row.what, row.contender, *numbers))
    columns = ("shape", "pass", "contender", "ms", "× original", "of floor", "extra MiB")
    print_table(f"ISAB on {machine.name} ({limits})", columns, lines, left=3)


def _write(rows: list[Row], machine: Machine) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"isab-{re.sub(r'[^a-z0-9]+', '-', machine.name.lower()).strip('-')}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
            for row in rows
        )


if __name__ == "__main__":
    main()
