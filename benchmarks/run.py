"""Every number from one command: subjects beside their peers, checked, timed in turns, written as they come.

    python -m benchmarks.run [--quick] [--only SUBJECT[:SHAPE]] [--device cuda] [--packages PYTHON]

A peer takes part where its package is installed; the table says who was left out and why. Readings go to
benchmarks/results/<machine>.csv, a line each, replaced by newer ones of the same subject, shape, provider, dtype and
mode; `python -m benchmarks.plot` makes figures and pages of them. Ratios within a run are what to read: a busy machine
slows all alike.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from dataclasses import replace
from math import isnan
from pathlib import Path

import torch

from benchmarks import attention, machine, models, readings, sampling, startup, suite, training
from benchmarks.machine import Machine
from benchmarks.readings import Reading
from benchmarks.suite import Field, LeftOut, Setting, Subject
from benchmarks.table import print_table

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (
        *attention.subjects(), *models.subjects(), *sampling.subjects(), *training.subjects(), *startup.subjects(),
    )
}  # fmt: skip


def main() -> None:
    options = _parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    setting = _setting(options)
    path = options.out or readings.file_of(setting.limits.name)
    print(f"{_described(setting.limits)} ({setting.dtype_name}) → {path}", flush=True)
    readings.upsert(path, _limits(setting))
    end, failed = time.monotonic() + options.until, []
    for subject, shapes in _plan(options.only, setting):
        found = []
        for shape in shapes:
            if time.monotonic() > end:
                print(f"left out after {options.until:.0f} s: {subject.name}, {shape}")
                continue
            if options.resume and _is_there(path, subject, shape):
                continue
            print(f"… {subject.name}, {shape}", file=sys.stderr, flush=True)
            field, new = _measure(subject, shape, setting)
            readings.upsert(path, new)
            failed += [f"{subject.name}, {shape}, {name}: {why}" for name, why in field.wrong.items()]
            found.append((shape, field, new))
        if found:
            show(subject, found)
    if failed:
        sys.exit("wrong numbers, not timed:\n" + "\n".join(failed))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few shapes and rounds, compilers once: minutes on two cores")
    add("--eager", action="store_true", help="without torch.compile of the peers")
    add("--only", action="append", default=[], metavar="SUBJECT[:SHAPE]",
        help=f"repeatable, with * and ?; subjects: {', '.join(SUBJECTS)}")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on a CPU, bfloat16 on a GPU")
    add("--threads", type=int, help="on a CPU")
    add("--seconds", type=float, help="for the rounds of a shape; default: 3, quick 0.5")
    add("--packages", default="", metavar="PYTHON", help="an interpreter with benchmarks/scm_packages.txt")
    add("--out", type=Path, metavar="CSV", help="default: benchmarks/results/<machine>.csv")
    add("--resume", action="store_true", help="leave out what the file has of this commit")
    add("--until", type=float, default=float("inf"), help="begin no shape after so many seconds")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA GPU that torch can use, found none (settx-fast doctor says why)")
    for text in options.only:
        if not fnmatch.filter(SUBJECTS, text.partition(":")[0]):
            parser.error(f"--only: expected one of {', '.join(SUBJECTS)}, got {text!r}")
    return options


def _setting(options: argparse.Namespace) -> Setting:
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if options.device == "cuda" else "float32"))
    budget = options.seconds if options.seconds is not None else (0.5 if options.quick else 3.0)
    return Setting(
        device, dtype, machine.measure(device, dtype), options.quick, options.eager, budget, options.packages
    )


def _described(limits: Machine) -> str:
    copies, multiplies = limits.bytes_per_second / 1e9, limits.flop_per_second / 1e9
    return f"{limits.name}: copies {copies:,.0f} GB/s, multiplies {multiplies:,.0f} GFLOP/s"


def _limits(setting: Setting) -> list[Reading]:
    limits = setting.limits
    found = []
    for shape, unit, speed in (
        ("copies", "GB/s", limits.bytes_per_second / 1e9),
        ("multiplies", "GFLOP/s", limits.flop_per_second / 1e9),
    ):
        key = ("machine", shape, limits.name, setting.dtype_name, "wall")
        reading = Reading(*key, unit, speed, speed, speed, 5)
        found.append(replace(reading, versions=readings.versions(), commit=readings.commit(), date=suite.today()))
    return found


def _plan(only: list[str], setting: Setting) -> list[tuple[Subject, list[str]]]:
    """Subjects and shapes to measure; a shape that is asked for by name is measured in a quick run too."""
    plan = []
    for subject in SUBJECTS.values():
        shapes = subject.chosen(setting)
        if only:
            asked = [t.partition(":")[2] for t in only if fnmatch.fnmatch(subject.name, t.partition(":")[0])]
            known = list(subject.shapes(setting))
            shapes = [s for s in known if any((s in shapes) if not a else fnmatch.fnmatch(s, a) for a in asked)]
        if shapes:
            plan.append((subject, shapes))
    return plan


def _is_there(path: Path, subject: Subject, shape: str) -> bool:
    return any(
        r.subject == subject.name and r.shape == shape and r.commit == readings.commit() for r in readings.load(path)
    )


def _measure(subject: Subject, shape: str, setting: Setting) -> tuple[Field, list[Reading]]:
    try:
        field = subject.prepare(setting, shape)
    except LeftOut as why:
        return Field(absent={"all": str(why)}), []
    if not field.contestants:
        return field, []
    return field, suite.measure(subject, shape, field, setting)


def show(subject: Subject, found: list[tuple[str, Field, list[Reading]]]) -> None:
    """A table of a subject: every provider of every shape, or why it is not there."""
    lines = []
    for shape, field, new in found:
        for r in new:
            name = r.provider if r.mode == "wall" else f"{r.provider} ({r.mode})"
            lines.append([
                r.shape, name, f"{r.median:.4g}", f"{r.q1:.4g} … {r.q3:.4g}", _number(r.ratio, ".2f"),
                _number(r.fraction, ".0%"), _number(r.memory, ",.0f"),
            ])  # fmt: skip
        for name, why in (field.absent | {n: f"WRONG: {w}" for n, w in field.wrong.items()}).items():
            lines.append([shape, name, "", why, "", "", ""])
    print()
    columns = ("shape", "provider", subject.unit, "quartiles", "× the first", "of floor", "extra MiB")
    print_table(f"{subject.title} [{subject.name}]", columns, _unrepeated(lines), left=2)
    sys.stdout.flush()


def _number(value: float, form: str) -> str:
    return "" if isnan(value) else format(value, form)


def _unrepeated(lines: list[list[str]]) -> list[list[str]]:
    return [line if i == 0 or line[0] != lines[i - 1][0] else ["", *line[1:]] for i, line in enumerate(lines)]


if __name__ == "__main__":
    main()
