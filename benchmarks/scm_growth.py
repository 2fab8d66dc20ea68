"""How the sampler's cost grows with datasets, rows and edges.

    python -m benchmarks.scm_growth

Writes benchmarks/results/scm-growth.csv and .svg: medians of rounds that alternate between all sizes, with the slope of
time over size on logarithmic axes (1: the cost is proportional); for edges a straight line, as variables cost too.
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from functools import partial

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.scm import LINEAR, RESULTS
from benchmarks.scm_contestants import timed
from settx_fast import scm

ROUNDS = 25
DENSE = 100  # variables, where edges grow


@dataclass(frozen=True)
class Point:
    """A batch to time and its size along one axis."""

    axis: str
    size: float
    prior: scm.Prior
    datasets: int
    rows: int


def points() -> list[Point]:
    """One axis grows at a time, from a batch of 200 datasets × 1,000 rows × 20 variables."""
    found = [Point("datasets", n, LINEAR, n, 1000) for n in (20, 50, 100, 200, 500, 1000)]
    found += [Point("rows", n, LINEAR, 50, n) for n in (500, 1000, 2000, 5000, 10_000, 20_000)]
    for degree in (2, 8, 16, 24, 32, 40):
        prior = scm.Prior(DENSE, scm.ErdosRenyi(expected_in_degree=degree), weight=0.1, target_environments=0)
        edges = scm.sample(prior, 50, 1, seed=1).adjacency.sum((1, 2)).double().mean()
        found.append(Point("edges", float(edges), prior, 50, 1000))
    return found


def measure(found: list[Point]) -> list[float]:
    """Median seconds of every point, one thread, into memory that is there: the system's zeroing is not our cost."""
    draws = []
    for p in found:
        out = torch.from_numpy(np.empty((p.datasets, p.rows, p.prior.max_variables), np.float32))
        draws.append(timed(partial(scm.sample, p.prior, p.datasets, p.rows, seed=1, num_threads=1, out=out)))
    for draw in draws:
        draw()
    taken = [[draw() for draw in draws] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*taken, strict=True)]


def fit(axis: str, sizes: np.ndarray, seconds: np.ndarray) -> tuple[str, np.ndarray]:
    """What the fit says, and the fitted seconds."""
    if axis == "edges":
        slope, constant = np.polyfit(sizes, seconds, 1)
        fitted = slope * sizes + constant
        rest = 1 - ((seconds - fitted) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
        per_edge = 1e12 * slope / (50 * 1000)
        return f"a straight line, R² = {rest:.3f}; {per_edge:.0f} ps per row and edge", fitted
    slope, constant = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return f"slope {slope:.2f}", np.exp(slope * np.log(sizes) + constant)


def draw_figure(found: list[Point], seconds: list[float]) -> list[str]:
    """Write the figure; the fits in words."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scm-growth"
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    words = []
    for panel, axis in zip(panels, ("datasets", "rows", "edges"), strict=True):
        chosen = [(p.size, s) for p, s in zip(found, seconds, strict=True) if p.axis == axis]
        sizes, times = (np.array(column) for column in zip(*chosen, strict=True))
        said, fitted = fit(axis, sizes, times)
        words.append(f"{axis}: {said}")
        panel.plot(sizes, 1e3 * fitted, color="0.7", label=said)
        panel.plot(sizes, 1e3 * times, "o", color="C0")
        panel.set(xlabel=f"{axis} per dataset" if axis != "datasets" else axis, ylabel="ms, one thread")
        if axis != "edges":
            panel.set(xscale="log", yscale="log")
        else:
            panel.set(xlim=(0, None), ylim=(0, None))
        panel.legend(frameon=False, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "scm-growth.svg", metadata={"Date": None})
    return words


def main() -> None:
    """Measure, fit, draw, save."""
    torch.set_num_threads(1)
    found = points()
    seconds = measure(found)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "scm-growth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["axis", "size", "ms"])
        writer.writerows((p.axis, f"{p.size:g}", f"{1e3 * s:.4g}") for p, s in zip(found, seconds, strict=True))
    print(*draw_figure(found, seconds), sep="\n")


if __name__ == "__main__":
    main()
