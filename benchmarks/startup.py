"""Subjects that a process of its own measures: the first call, and a call's time on the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.suite import Contestant, Field, LeftOut, Setting, Subject

ROOT = Path(__file__).parents[1]
FIRST = ("original", "SDPA", "original, compiled", "SDPA, compiled", "settx_fast")
ARCHITECTURE = 90  # that kernels are compiled for where there is no GPU


def _first_call(setting: Setting, name: str) -> Field:
    """Seconds of the first training step in a process without caches, imports left out."""
    kernels = name.removeprefix("kernels, ")
    if kernels != name:
        return _kernels(setting, kernels)
    device, dtype = setting.device.type, setting.dtype_name
    found = Field(rounds=1 if setting.quick else 3)
    for provider in FIRST:
        if setting.quick and "compiled" in provider:
            found.absent[provider] = "left to another run"
            continue
        sample = partial(_afresh, (provider, name, device, dtype))
        found.contestants.append(Contestant(provider, sample, seconds=sample))
    return found


def _kernels(setting: Setting, name: str) -> Field:
    """Compiling all kernels of a training step, one after another and as a call does."""
    if find_spec("triton") is None:
        raise LeftOut("triton is not installed")
    found = Field(rounds=1, dtype="bfloat16")
    for way in ("in turn", "side by side"):
        sample = partial(_afresh, (way, name, str(ARCHITECTURE), "bfloat16"))
        provider = "settx_fast" if way == "side by side" else f"settx_fast, {way}"
        found.contestants.append(Contestant(provider, sample, seconds=sample))
    return found


def _afresh(arguments: tuple[str, ...]) -> float:
    with tempfile.TemporaryDirectory() as cache:
        caches = {"TRITON_CACHE_DIR": f"{cache}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
        return float(_python("benchmarks.first_call", *arguments, str(torch.get_num_threads()), **caches).split()[-1])


def _host(setting: Setting, name: str) -> Field:
    """The thread's time in a call, all but the driver's own work; the original's operations on next to no numbers."""
    if setting.on_cuda:
        raise LeftOut("a driver of no-ops stands for the real one: measured where there is no GPU")
    if find_spec("triton") is None:
        raise LeftOut("triton is not installed")
    shape, _, passes = name.partition(", ")
    figures = _host_figures(shape, 1 if setting.quick else 5)
    word = "step_us" if passes == "training" else "forward_us"
    samples = {
        "original": [1e-6 * each[f"eager_{word}"] for each in figures],
        "settx_fast": [1e-6 * each[word] for each in figures],
    }
    return Field([Contestant(each, lambda: None) for each in samples], samples=samples, dtype="bfloat16")


@cache
def _host_figures(shape: str, runs: int) -> list[dict[str, float]]:
    found = []
    for _ in range(runs):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            _python("benchmarks.host", "--shape", shape, "--json", file.name)
            found += json.loads(Path(file.name).read_text()).values()
    return found


def _python(*module: str, **environment: str) -> str:
    """What a module prints, in a process of its own that compiles kernels and does not interpret them."""
    around = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def subjects() -> Iterator[Subject]:
    """First calls and host time."""
    kernels = tuple(f"kernels, {name}" for name in ("dataset", "hidden", "tabular"))

    def shapes(setting: Setting) -> tuple[str, ...]:
        return ("dataset", "hidden") if setting.on_cuda else ("dataset", *kernels)

    yield Subject(
        "first-call", "First training step in a process without caches", "s", shapes, _first_call,
        ("dataset",),
    )  # fmt: skip
    hosts = tuple(f"{shape}, {passes}" for shape in ("dataset", "hidden") for passes in ("forward", "training"))
    yield Subject("host", "Host time of a call (GPU path)", "µs", lambda s: hosts, _host, hosts[:2])
