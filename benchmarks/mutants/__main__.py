"""Plant every mistake of the table in a copy of the sources, run the tests nearest to it, and say what survives.

The copy and what was found lie in build/mutants. What was found is kept, so that an interrupted run goes on, and only
what has changed since (the mistake, its file, its tests) is tried again. Tests that fail without any mistake are said.
A mistake under csrc/ builds the native module again, without CUDA and for one instruction set.

Exits with 1 where less than 95 % are noticed, or a mistake that is not has no explanation.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.mutants.table import ROOT, Mistake, mistakes

PLACE = ROOT / "build" / "mutants"
TREE, NATIVE, FOUND = PLACE / "tree", PLACE / "native", PLACE / "found.json"
ENOUGH = 0.95
TIMEOUT = 600.0  # of the tests of one mistake; a mistake that hangs them is noticed
PYTEST = ("-x", "-q", "--timeout", "300")
PRELOADED = ("torch", "numpy", "scipy.stats", "pandas", "hypothesis", "typer", "rich.console")  # once for all tests


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="mistakes that hold TEXT in their area, file or name"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="a sample: the first of every N")
    parser.add_argument("--list", action="store_true", help="say which there are, and plant none")
    parser.add_argument("--again", action="store_true", help="forget what was found")
    arguments = parser.parse_args()
    chosen = [each for each in mistakes() if arguments.only in f"{each.area} {each.file} {each.holds}"]
    chosen = chosen[:: arguments.every]
    if problems := [f"{each.holds}: {problem}" for each in chosen if (problem := each.problem())]:
        sys.exit("\n".join(problems))
    if arguments.list:
        print(*(f"{each.area:10} {each.file}: {each.holds}" for each in chosen), f"{len(chosen)} mistakes", sep="\n")
        return 0
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another process plants mistakes in {PLACE}: wait for it")
        return try_all(chosen, arguments.again)


def try_all(chosen: list[Mistake], again: bool) -> int:
    """Plant one after the other; the exit code."""
    copy_sources()
    sys.dont_write_bytecode = True  # two mistakes of one second and one size would share it
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in PRELOADED:
        import_module(name)
    found = Found({} if again or not FOUND.exists() else json.loads(FOUND.read_text()))
    for number, each in enumerate(chosen, 1):
        start = time.monotonic()
        known = found.get(each.key) if found.get(each.key) != "broken" else None  # perhaps only on a busy machine
        outcome = known or found.keep(each.key, try_out(each, found))
        took = "kept" if known else f"{time.monotonic() - start:.0f} s"
        print(f"{number:3}/{len(chosen)} {outcome:9} {each.area}: {each.holds} ({took})", flush=True)
    return report(chosen, found)


class Found(dict[str, str]):
    """What was found, by key, on disk as soon as it is known."""

    def keep(self, key: str, outcome: str) -> str:
        """Add one and return it."""
        self[key] = outcome
        FOUND.with_suffix(".part").write_text(json.dumps(self, indent=0))
        FOUND.with_suffix(".part").replace(FOUND)
        return outcome


def copy_sources() -> None:
    """Bring the copy to the state of the checkout: files that git tracks or would, and the native module."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "settx_fast").glob("_native*.so")}
    for path in list(TREE.rglob("*")) if TREE.exists() else []:
        if path.is_file() and str(path.relative_to(TREE)) not in wanted:
            path.unlink()
    for name in wanted:
        source, target = ROOT / name, TREE / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def try_out(mistake: Mistake, found: Found) -> str:
    """noticed, survived, or broken where its tests fail without it."""
    if mistake.is_native:
        build()
    if not is_sound(mistake, found):
        return "broken"
    with planted(mistake):
        if mistake.is_native and not build():
            return "noticed"
        return run_tests(mistake)


def is_sound(mistake: Mistake, found: Found) -> bool:
    """Whether its tests pass without it; asked once for the same tests of the same tree."""
    key = f"sound {digest_of_sources()} {mistake.is_native} {mistake.tests}"
    return found.get(key) == "survived" or found.keep(key, run_tests(mistake)) == "survived"


@cache
def digest_of_sources() -> str:
    """Changes when anything does that tests may depend on."""
    digest = hashlib.sha256()
    for path in sorted(path for part in ("settx_fast", "csrc", "tests") for path in (TREE / part).rglob("*.*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def planted(mistake: Mistake) -> Iterator[None]:
    """The copy with one mistake."""
    path = TREE / mistake.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mistake.old, mistake.new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def run_tests(mistake: Mistake) -> str:
    """noticed where a test fails or nothing ends in time, survived where none does; an error where none was run."""
    arguments = [*PYTEST, *shlex.split(mistake.tests)]
    if mistake.is_native:
        arguments += ["--native", str(next(NATIVE.glob("_native*.so")))]
    output = PLACE / "output.txt"
    code = wait_for(fork_pytest(arguments, output))
    if code is not None and code > pytest.ExitCode.INTERRUPTED:
        sys.exit(f"{mistake.holds}: {mistake.tests} ran no test\n{output.read_text()[-3000:]}")
    return "survived" if code == pytest.ExitCode.OK else "noticed"


def fork_pytest(arguments: list[str], output: Path) -> int:
    """Pytest on the copy in a process of its own, which need not import again what is not ours; its id."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.chdir(TREE)
    os.environ |= {"PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1"}
    sys.path[:] = [str(TREE), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    for name in list(sys.modules):
        if name.split(".")[0] in ("benchmarks", "settx_fast"):
            del sys.modules[name]
    code: int = pytest.ExitCode.INTERNAL_ERROR
    try:
        code = pytest.main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait_for(process: int) -> int | None:
    """The exit code of a process, or None where it took too long or was killed."""
    deadline = time.monotonic() + TIMEOUT
    status = None
    while status is None and time.monotonic() < deadline:
        found, ended = os.waitpid(process, os.WNOHANG)
        status = ended if found else None
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # with what a broken test left behind, which would keep the lock
    if status is None:
        os.waitpid(process, 0)
    code = -1 if status is None else os.waitstatus_to_exitcode(status)
    return code if code >= 0 else None


def build() -> bool:
    """Whether the native module of the copy can be built."""
    if not (NATIVE / "build.ninja").exists():
        pybind = subprocess.run([sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True)
        options = {
            "SETTX_CUDA": "OFF", "SETTX_VECTOR_PATHS": "OFF", "CMAKE_INTERPROCEDURAL_OPTIMIZATION": "OFF",
            "Python_EXECUTABLE": sys.executable, "pybind11_DIR": pybind.stdout.strip(),
        }  # fmt: skip
        configure = ["cmake", "-S", str(TREE), "-B", str(NATIVE), "-G", "Ninja"]
        run_tool([*configure, *(f"-D{name}={value}" for name, value in options.items())]).check_returncode()
    return run_tool(["cmake", "--build", str(NATIVE), "--target", "_native"]).returncode == 0


def run_tool(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A tool of the environment that runs this."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def report(chosen: list[Mistake], found: Found) -> int:
    """Say what survived and why; the exit code."""
    by_outcome: dict[str, list[Mistake]] = {"noticed": [], "survived": [], "broken": []}
    for each in chosen:
        by_outcome[found[each.key]].append(each)
    noticed, survived, broken = (by_outcome[name] for name in ("noticed", "survived", "broken"))
    for each in survived:
        why = each.explained or "NOT EXPLAINED"
        print(f"\nsurvived: {each.holds}\n  {each.file}: {each.old!r} → {each.new!r}\n  {why}")
    for each in broken:
        print(f"\nfails without a mistake: {each.tests}")
    tried = len(noticed) + len(survived)
    share = len(noticed) / max(1, tried)
    print(f"\n{len(noticed)} of {tried} mistakes noticed ({share:.1%}); {len(broken)} could not be tried")
    return int(share < ENOUGH or bool(broken) or any(not each.explained for each in survived))


if __name__ == "__main__":
    sys.exit(main())
