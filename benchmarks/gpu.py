"""All that a CUDA GPU can prove, in one command of at most seven minutes on 16 cores, the most valuable first.

    python -m benchmarks.gpu [--skip-done DIR] [--limit SECONDS] [--dry-run]

Compiles side by side, times `hidden`, `tabular` and the sampler after a check of each, then tests on the device, then
times the other shapes. Needs no network and no installation, only an environment with torch, triton, numpy and pytest;
for the sampler also nvcc, CMake, a C++ compiler and pybind11. What an environment lacks is said, and only what rests on
it is left out. Readings and logs are written to DIR (default: build/gpu-run) as they come; what passed there is not
done again. `--dry-run` collects every test and imports every benchmark, on any machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import readings
from benchmarks.blocks import COMPILING
from benchmarks.pages import OURS, is_peer
from benchmarks.table import print_table

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 415.0
SHARDS = max(1, min(12, (os.cpu_count() or 1) - 2))  # tests mostly compile, on one core each
PYTEST = ("-m", "pytest", "-vv", "-p", "no:cacheprovider")  # a run that is stopped has named what failed
LAST_WORDS_SECONDS = 3.0
FLOOR_SHARE = 0.3  # of the floor, below which the summary names a shape
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else an access past a tensor hits the allocator's own memory


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

    @property
    def mark(self) -> str:
        """The name of the file that says that it passed."""
        return f"{self.name.replace(' ', '-')}.passed"


PREPARE, CORE, DRAW = "compile and build", "time hidden and tabular", "time the sampler"
KERNELS, SAMPLER = "test the kernels", "test the sampler"


def stages(out: Path) -> Iterator[Stage]:
    """What is run, the most valuable first."""
    python = sys.executable
    timed = (python, "-m", "benchmarks.run", "--device", "cuda", "--out", f"{out / 'readings.csv'}", "--resume")
    core = [f"--only=isab-{word}:{shape}" for shape in ("hidden", "tabular") for word in ("forward", "training")]
    yield Stage(PREPARE, (*warm_up(), build_command()), 130, ("triton", "pybind11"), ("cmake", "nvcc", "c++"))
    yield Stage(CORE, ((*timed, "--seconds", "0.4", *core),), 90, ("triton",))
    yield Stage(DRAW, ((*timed, "--seconds", "0.3", "--only", "sampler"),), 45, after=PREPARE)
    profiled = (python, "-m", "benchmarks.profile", "--out", f"{out / 'kernels.csv'}", "hidden", "tabular")
    yield Stage("profile by kernel", (profiled,), 25, ("triton",))
    tests = (python, *PYTEST, "tests/attention/triton")
    shards = tuple((*tests, "--shard", f"{i}/{SHARDS}") for i in range(SHARDS))
    yield Stage(KERNELS, shards, 150, ("triton", "pytest", "numpy"))
    yield Stage(SAMPLER, ((python, *PYTEST, "tests/scm/test_cuda.py"),), 45, ("pytest",), after=PREPARE)
    watched = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", python, "-m", "benchmarks.gpu_step")
    yield Stage("watch every access to memory", (watched,), 40, ("triton",), ("compute-sanitizer",), "", UNCACHED)
    yield Stage("time the other shapes", ((*timed, "--eager", "--seconds", "0.2", "--only=isab-*"),), 60, ("triton",))
    others = ("set-transformer", "mab-*", "sab-*", "pma-*", "growth-*", "first-call")
    left = (*timed, "--quick", "--eager", "--seconds", "0.2", *(f"--only={name}" for name in others))
    yield Stage("time what is left", (left,), 60, ("triton",))


def warm_up() -> Iterator[tuple[str, ...]]:
    """Fill the compilers' caches, a process each; what fails here fails again, and is said, where it is timed."""
    for shape in ("hidden", "tabular"):
        for provider in (OURS, *COMPILING):
            step = f"timeout 90 {sys.executable} -m benchmarks.gpu_step '{provider}' {shape}"
            yield "sh", "-c", f"{step} > /dev/null 2>&1 || true"


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


def run(stage: Stage, seconds: float, out: Path) -> str:
    """Run a stage's commands, print and keep what they print; the reason why it failed, empty if it passed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | stage.environment
    end = time.monotonic() + seconds
    logs = [out / f"{stage.mark.removesuffix('.passed')}-{i}.log" for i in range(len(stage.commands))]
    running = []
    for command, log in zip(stage.commands, logs, strict=True):
        with log.open("w") as file:
            running.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                )
            )
    reasons = [_ended(process, end, seconds) for process in running]
    for log in logs:
        print(log.read_text()[-4000:], end="", flush=True)
    return next(filter(None, reasons), "")


def _ended(process: subprocess.Popen[bytes], end: float, seconds: float) -> str:
    try:
        code = process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest then says what failed
        with suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session that it was started in, its children included
        process.wait()
        return f"ran past its {seconds:.0f} seconds"
    return f"ended with exit code {code}" if code else ""


def dry_run(stage: Stage) -> str:
    """Collect a stage's tests or import its benchmarks; the reason why that failed, empty if it did not."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in {c[:3]: c for c in stage.commands}.values():
        if "pytest" in command:
            command = (*command, "--collect-only", "-q")
        elif "-m" in command:
            command = (sys.executable, "-c", f"import {command[command.index('-m') + 1]}")
        else:
            continue
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stdout + done.stderr).strip()[-2000:]
    if lacking := missing(stage):
        print(f"   on a device it needs {', '.join(lacking)}, which this environment lacks")
    return ""


def findings(path: Path) -> list[tuple[str, str, str]]:
    """Shapes that are slower than a peer, or below their share of the floor."""
    rows, found = readings.load(path), []
    for ours in (r for r in rows if r.provider == OURS and r.mode == "wall"):
        peers = [r for r in rows if (r.subject, r.shape, r.mode) == (ours.subject, ours.shape, "wall")]
        faster = [r for r in peers if is_peer(r.provider) and r.ratio > ours.ratio]
        if faster:
            best = max(faster, key=lambda r: r.ratio)
            found.append((ours.subject, ours.shape, f"{best.ratio / ours.ratio:.2f} × slower than {best.provider}"))
        graph = [r for r in rows if r.key == (*ours.key[:-1], "graph")]
        fraction = max([ours.fraction, *(r.fraction for r in graph)])
        if fraction < FLOOR_SHARE:
            found.append((ours.subject, ours.shape, f"{fraction:.0%} of its floor, {FLOOR_SHARE:.0%} wanted"))
    return found


def attempt(stage: Stage, left: float, passed: set[str], out: Path, dry: bool) -> str:
    """Do a stage: "passed", or why not."""
    if dry:
        return dry_run(stage) or "passed"
    if (out / stage.mark).exists():
        return "passed before"
    if stage.after and stage.after not in passed:
        return f"left out: '{stage.after}' did not pass"
    if lacking := missing(stage):
        return f"left out: this environment lacks {', '.join(lacking)}"
    if left <= 5:
        return "had no time left"
    reason = run(stage, min(stage.seconds, left), out)
    if not reason:
        (out / stage.mark).touch()
    return reason or "passed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="collect tests and import benchmarks; needs no GPU")
    parser.add_argument("--skip-done", type=Path, metavar="DIR", default=ROOT / "build" / "gpu-run")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, metavar="SECONDS", help="for all stages together")
    options = parser.parse_args()
    dry, out = options.dry_run, options.skip_done.resolve()
    if not dry and not torch.cuda.is_available():
        sys.exit("make gpu: expected a CUDA GPU that torch can use, found none (settx-fast doctor says why)")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{where}, torch {torch.__version__}, Python {sys.version.split()[0]} → {out}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    end, lines = time.monotonic() + options.limit, []
    passed: set[str] = set()
    for stage in stages(out):
        print(f"── {stage.name}", flush=True)
        start = time.monotonic()
        result = attempt(stage, end - start, passed, out, dry)
        print(f"   {result}, {time.monotonic() - start:.0f} s", flush=True)
        lines.append((stage.name, f"{time.monotonic() - start:.0f} s", result.splitlines()[-1]))
        if result.startswith("passed"):
            passed.add(stage.name)
    print_table("\nStages", ("stage", "took", "result"), lines)
    if found := findings(out / "readings.csv"):
        print_table("\nSlower than a peer, or far from the floor", ("subject", "shape", "what"), found, left=3)
    if failed := [name for name, _, result in lines if not result.startswith(("passed", "left out: this"))]:
        sys.exit(f"make gpu: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
