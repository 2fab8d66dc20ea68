"""One tidy CSV a machine: a line for every reading, written as it comes, replaced by a newer one of the same key."""

from __future__ import annotations

import csv
import math
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
KEY = ("subject", "shape", "provider", "dtype", "mode")
NUMBERS = ("q1", "median", "q3", "ratio", "memory", "floor", "fraction", "bytes", "flop")
VERSIONS = ("torch", "triton", "numpy")


@dataclass(frozen=True)
class Reading:
    """What one provider took for one shape of one subject.

    mode: "wall", or "graph" for a replayed CUDA graph. q1, median, q3 over rounds, in `unit` (a rate where it ends in
    "/s"). ratio: how many times faster than the subject's first provider, median over rounds. memory: peak MiB beyond
    inputs and results. floor: what the machine allows, in `unit`, and fraction: of it. bytes, flop: needed by formula.
    """

    subject: str
    shape: str
    provider: str
    dtype: str
    mode: str
    unit: str
    q1: float
    median: float
    q3: float
    rounds: int
    ratio: float = math.nan
    memory: float = math.nan
    floor: float = math.nan
    fraction: float = math.nan
    bytes: float = math.nan
    flop: float = math.nan
    versions: str = ""
    commit: str = ""
    date: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What a newer reading replaces."""
        return tuple(getattr(self, name) for name in KEY)

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")


def file_of(machine: str) -> Path:
    """Where the readings of a machine are kept."""
    return RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', machine.lower()).strip('-')}.csv"


def machines() -> dict[str, Readings]:
    """The readings of every machine that has some, by its name, GPUs last."""
    found = {}
    for path in sorted(RESULTS.glob("*.csv")):
        with path.open() as file:
            is_ours = file.readline().startswith(",".join(KEY[:3]))
        rows = load(path) if is_ours else []
        for limit in rows:
            if limit.subject == "machine":
                found[limit.provider] = Readings(limit.provider, rows)
    return dict(sorted(found.items(), key=lambda item: item[1].is_gpu))


class Readings:
    """The readings of one machine, to be asked."""

    def __init__(self, machine: str, rows: list[Reading]) -> None:
        self.machine = machine
        self._rows = {row.key: row for row in rows}

    def rows(self) -> list[Reading]:
        """All of them."""
        return list(self._rows.values())

    def of(self, subject: str, *, shape: str | None = None, mode: str = "wall") -> list[Reading]:
        """Those of a subject, and of a shape of it, in the order of the file."""
        rows = self._rows.values()
        return [r for r in rows if r.subject == subject and r.mode == mode and shape in (None, r.shape)]

    def one(self, subject: str, shape: str, provider: str, mode: str = "wall") -> Reading | None:
        """That of a provider, where it is there."""
        return next((r for r in self.of(subject, shape=shape, mode=mode) if r.provider == provider), None)

    def shapes(self, subject: str) -> list[str]:
        """The shapes of a subject."""
        return list(dict.fromkeys(r.shape for r in self.of(subject)))

    def providers(self, subject: str) -> list[str]:
        """All who take part in a subject."""
        return list(dict.fromkeys(r.provider for r in self.of(subject)))

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU's."""
        return not re.search(r"\d threads?$", self.machine)

    @property
    def source(self) -> str:
        """Versions, commits and dates of the readings, in words."""
        rows = self._rows.values()
        dates = sorted({r.date for r in rows})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        return f"{next(iter(rows)).versions}; tree {', '.join(sorted({r.commit for r in rows}))}; {when}"


def load(path: Path) -> list[Reading]:
    """All readings of a file, in its order; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_reading(row) for row in csv.DictReader(file)]


def upsert(path: Path, new: Iterable[Reading]) -> None:
    """Replace or add readings; the file is whole at every moment, so that a killed run keeps what it wrote."""
    kept = {reading.key: reading for reading in load(path)}
    kept |= {reading.key: reading for reading in new}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Reading)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(reading) for reading in kept.values())
    os.replace(partial, path)


def _row(reading: Reading) -> dict[str, object]:
    row = asdict(reading)
    return row | {name: "" if math.isnan(row[name]) else f"{row[name]:.4g}" for name in NUMBERS}


def _reading(row: dict[str, str]) -> Reading:
    numbers = {name: float(row[name]) if row[name] else math.nan for name in NUMBERS}
    return Reading(**(row | numbers | {"rounds": int(row["rounds"])}))  # type: ignore[arg-type]


@cache
def versions() -> str:
    """What was installed, as "torch 2.13.0, …"."""
    return ", ".join(f"{name} {found}" for name in VERSIONS if (found := version_of(name)))


def version_of(package: str) -> str:
    """The installed version, empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def commit() -> str:
    """The short hash of the tree, with a + where code differs from it; "unknown" outside a repository."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "settx_fast", "csrc", "benchmarks/*.py")
        return git("rev-parse", "--short=7", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
