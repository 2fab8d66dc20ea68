"""All that a CUDA GPU can prove, in one command of at most nine minutes: build, test on the device, then time.

    python -m benchmarks.gpu [--dry-run]

Needs no network and no installation, only an environment with torch, triton, numpy and pytest; for the sampler also
nvcc, CMake, a C++ compiler and pybind11. What an environment lacks is said, and only what rests on it is left out;
nothing is timed that has not passed its tests. `--dry-run` collects every test and imports every benchmark, on any
machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 540.0
SHARDS = max(1, min(12, (os.cpu_count() or 1) - 2))  # tests mostly compile, on one core each
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Stage:
    """Commands that run side by side, what they need and the stage that must have passed before."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    seconds: float
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    after: str = ""
    environment: dict[str, str] = field(default_factory=dict)


KERNELS, BUILD, SAMPLER = "test the kernels on the device", "build the sampler", "test the sampler on the device"


def stages() -> Iterator[Stage]:
    """What is run, the most important first."""
    python, tests = sys.executable, (*PYTEST, "tests/attention/triton")
    shards = tuple((python, *tests, "--shard", f"{i}/{SHARDS}") for i in range(SHARDS))
    timed = (python, "-m", "benchmarks.isab", "--device", "cuda", "--seconds", "1", "--until", "100")
    sanitizer = (
        "compute-sanitizer",
        "--tool",
        "memcheck",
        "--error-exitcode",
        "9",
        python,
        "-m",
        "benchmarks.gpu_step",
    )
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else an access past a tensor hits the allocator's own memory
    yield Stage(KERNELS, shards, 210, ("triton", "pytest", "numpy"))
    yield Stage(BUILD, (build_command(),), 80, ("pybind11",), ("cmake", "nvcc", "c++"))
    yield Stage(SAMPLER, ((python, *PYTEST, "tests/scm/test_cuda.py"),), 60, ("pytest",), after=BUILD)
    yield Stage("time ISAB", ((*timed, "--compiled", "hidden", "tabular"),), 140, ("triton",), after=KERNELS)
    yield Stage(
        "watch every access to memory", (sanitizer,), 40, ("triton",), ("compute-sanitizer",), KERNELS, uncached
    )
    yield Stage("time the sampler", ((python, "-m", "benchmarks.scm_gpu"),), 60, after=SAMPLER)


def build_command() -> tuple[str, ...]:
    """CMake itself, so that no Python build backend is needed; machine code for the GPU at hand alone."""
    configure = [
        "cmake -S . -B build/gpu -DSETTX_CUDA=ON -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$PWD/settx_fast",
        f"-DPython_EXECUTABLE={sys.executable} -Dpybind11_DIR=$({sys.executable} -m pybind11 --cmakedir)",
    ]
    if torch.cuda.is_available():
        configure.append("-DCMAKE_CUDA_ARCHITECTURES={}{}".format(*torch.cuda.get_device_capability()))
    return "sh", "-c", f"{' '.join(configure)} > /dev/null && cmake --build build/gpu --parallel --target _native"


def missing(stage: Stage) -> list[str]:
    """Python packages and programs that a stage needs and this environment lacks."""
    lacking = [name for name in stage.modules if importlib.util.find_spec(name) is None]
    return lacking + [name for name in stage.programs if shutil.which(name) is None]


def run(stage: Stage, seconds: float) -> str:
    """Run a stage's commands, print what they print; the reason why it failed, empty if it passed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | stage.environment
    start, alone = time.monotonic(), len(stage.commands) == 1
    pipe = None if alone else subprocess.PIPE
    running = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        for command in stage.commands
    ]
    reason = ""
    for process in running:
        try:
            output, _ = process.communicate(timeout=max(0.0, seconds - (time.monotonic() - start)))
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            reason = f"ran past its {seconds:.0f} seconds"
        print(output or "", end="", flush=True)
        if process.returncode and not reason:
            reason = f"ended with exit code {process.returncode}"
    return reason


def dry_run(stage: Stage) -> str:
    """Collect a stage's tests or import its benchmark; the reason why that failed, empty if it did not."""
    lacking = missing(stage)
    command = stage.commands[0]
    if "pytest" in command:
        command = (*command, "--collect-only", "-q")
    elif "-m" in command:
        command = (sys.executable, "-c", f"import {command[command.index('-m') + 1]}")
    else:
        return f"needs {', '.join(lacking)}" if lacking else ""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stdout + done.stderr).strip()[-2000:]
    if lacking:
        print(f"   on a device it needs {', '.join(lacking)}, which this environment lacks")
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="collect tests and import benchmarks; needs no GPU")
    dry = parser.parse_args().dry_run
    if not dry and not torch.cuda.is_available():
        sys.exit("make gpu: expected a CUDA GPU that torch can use, found none (settx-fast doctor says why)")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{where}, torch {torch.__version__}, Python {sys.version.split()[0]}", flush=True)
    end, passed, failed = time.monotonic() + LIMIT_SECONDS, set(), []
    for stage in stages():
        print(f"── {stage.name}", flush=True)
        start, left = time.monotonic(), end - time.monotonic()
        lacking = missing(stage)
        if dry:
            reason = dry_run(stage)
        elif stage.after and stage.after not in passed:
            print(f"   left out: '{stage.after}' did not pass")
            continue
        elif lacking:
            print(f"   left out: this environment lacks {', '.join(lacking)}")
            continue
        else:
            reason = run(stage, min(stage.seconds, left)) if left > 0 else "had no time left"
        if reason:
            failed.append(stage.name)
        else:
            passed.add(stage.name)
        print(f"   {reason or 'passed'}, {time.monotonic() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"make gpu: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
