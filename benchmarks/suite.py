"""What a benchmark is made of: subjects, their shapes, the contestants of a shape, and how they are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from math import isnan, nan

import torch

from benchmarks import machine
from benchmarks.machine import Machine
from benchmarks.readings import Reading, commit, versions

SCALES = {"s": 1.0, "ms": 1e3, "µs": 1e6, "datasets/s": 1.0, "Mvalues/s": 1e-6, "Gvalues/s": 1e-9}


class LeftOut(Exception):  # noqa: N818 - no error: what is missing is said and the rest goes on
    """Why a provider does not take part."""


@dataclass(frozen=True)
class Setting:
    """Where and how thoroughly a run measures; `packages` is an interpreter that has the SCM packages."""

    device: torch.device
    dtype: torch.dtype
    limits: Machine
    quick: bool = False
    eager: bool = False  # leave out what torch.compile compiles
    budget: float = 3.0  # seconds for the rounds of a shape
    packages: str = ""

    @property
    def dtype_name(self) -> str:
        """As in "float32"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def on_cuda(self) -> bool:
        """Whether a GPU is measured."""
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Contestant:
    """One way to do a shape's work, checked already.

    run: does it once. units: how many (values, datasets) a call yields, where the subject counts a rate. seconds: takes
    a sample by a clock of its own. shape: where contestants differ by that. memory: whether its peak is to be taken.
    """

    name: str
    run: Callable[[], object]
    units: float = 1.0
    seconds: Callable[[], float] | None = None
    shape: str = ""
    memory: bool = False
    graph: bool = False


@dataclass
class Field:
    """All who do the work of one shape, the one that others are compared with first.

    absent: who does not take part, and why. wrong: whose numbers were wrong. moved, flop: bytes and operations that the
    work needs by formula. limit: the contestant whose speed is the machine's. results_mib: memory that all hold at the
    end. pause: seconds between contestants, for threads that spin. samples: seconds taken already, by name.
    """

    contestants: list[Contestant] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    moved: float = nan
    flop: float = nan
    limit: str = ""
    results_mib: float = 0.0
    pause: float = 0.0
    samples: dict[str, list[float]] = field(default_factory=dict)
    dtype: str = ""
    rounds: int = 0  # 0: as many as the budget allows


@dataclass(frozen=True)
class Subject:
    """Something that is measured: `prepare` checks all contestants of a shape and returns them."""

    name: str
    title: str
    unit: str
    shapes: Callable[[Setting], Iterable[str]]
    prepare: Callable[[Setting, str], Field]
    quick: tuple[str, ...] = ()  # the shapes of a quick run

    def chosen(self, setting: Setting) -> list[str]:
        """The shapes that a run measures."""
        known = list(self.shapes(setting))
        return [name for name in known if not setting.quick or name in self.quick]


def measure(subject: Subject, shape: str, found: Field, setting: Setting) -> list[Reading]:
    """Time all contestants in turns (A B C A B C …), so that a noisy machine treats all alike."""
    readings = []
    for mode, samplers in _modes(found, setting):
        taken = found.samples or _interleaved(samplers, found, setting)
        readings += list(_readings(subject, shape, mode, found, taken, setting))
    return readings


def today() -> str:
    """The date, as in "2026-01-31"."""
    return date.today().isoformat()


def _modes(found: Field, setting: Setting) -> Iterator[tuple[str, dict[str, Callable[[], float]]]]:
    yield "wall", {_key(c): c.seconds or machine.sampler_of(c.run, setting.device) for c in found.contestants}
    graphs = {}
    for c in found.contestants if setting.on_cuda else ():
        if c.graph:
            try:
                graphs[_key(c)] = machine.sampler_of(machine.captured(c.run, setting.device), setting.device)
            except RuntimeError as error:
                found.absent[f"{c.name} (graph)"] = f"not captured: {str(error).splitlines()[0][:80]}"
    if graphs:
        yield "graph", graphs


def _key(c: Contestant) -> str:
    return f"{c.name}, {c.shape}" if c.shape else c.name


def _interleaved(samplers: Mapping[str, Callable[[], float]], found: Field, setting: Setting) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {key: [] for key in samplers}
    least = found.rounds or (3 if setting.quick else 7)
    start, rounds = time.perf_counter(), 0
    while rounds < least or (not found.rounds and time.perf_counter() - start < setting.budget):
        for key, sample in samplers.items():
            _spin(found.pause)
            taken[key].append(sample())
        rounds += 1
    return taken


def _spin(pause: float) -> None:
    """Let the last contestant's threads stop spinning; busily, as after a sleep two threads would share a core."""
    end = time.perf_counter() + pause
    while time.perf_counter() < end:
        pass


def _readings(
    subject: Subject, shape: str, mode: str, found: Field, taken: Mapping[str, list[float]], setting: Setting
) -> Iterator[Reading]:
    scale, rate = SCALES[subject.unit], subject.unit.endswith("/s")
    present = [c for c in found.contestants if _key(c) in taken]
    costs = {_key(c): [s / c.units for s in taken[_key(c)]] for c in present}  # seconds a unit
    first = costs[_key(present[0])]
    floor = _floor(found, costs, setting)
    for c in present:
        cost = costs[_key(c)]
        values = sorted(scale / s if rate else scale * s for s in cost)
        q1, middle, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        key = (subject.name, c.shape or shape, c.name, found.dtype or setting.dtype_name, mode)
        ratio = statistics.median(a / b for a, b in zip(first, cost, strict=True))
        reading = Reading(
            *key, subject.unit, q1, middle, q3, len(values), ratio, bytes=found.moved, flop=found.flop,
            versions=versions(), commit=commit(), date=today(),
        )  # fmt: skip
        if not isnan(floor):
            reading = replace(
                reading, floor=scale / floor if rate else scale * floor, fraction=floor / statistics.median(cost)
            )
        if c.memory and mode == "wall":
            reading = replace(reading, memory=max(0.0, machine.peak_mib(c.run, setting.device) - found.results_mib))
        yield reading


def _floor(found: Field, costs: Mapping[str, list[float]], setting: Setting) -> float:
    """Seconds a unit that the machine needs at least."""
    if found.limit:
        return next((statistics.median(cost) for key, cost in costs.items() if key.startswith(found.limit)), nan)
    return nan if isnan(found.moved) else setting.limits.floor_seconds(found.moved, found.flop)
