"""Speed of the SCM sampler against NumPy, torch, the SCM packages of PyPI and the machine's own limit, in one run.

    python -m benchmarks.scm [--quick] [--packages PYTHON]

Every case is checked before it is timed. A timing is the median of rounds that alternate between all contestants of the
case, so that a busy machine slows them alike; the ratios are what to read.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import scm_contestants as contest
from benchmarks.scm_contestants import LIMIT, OURS, REUSED, Contestant, Packages
from settx_fast import scm
from settx_fast.scm._native import native
from settx_fast.scm.mechanisms import FunctionName

DATASETS, ROWS, VARIABLES = 200, 1000, 20
PAUSE, BURST = 0.25, 0.1  # seconds; some OpenMP threads spin for 0.2 after their work
RESULTS = Path(__file__).parent / "results"
LINEAR = scm.Prior(VARIABLES, scm.ErdosRenyi(expected_in_degree=2), target_environments=0)
# The hyperparameters of TabICL's default MLP prior: 2 to 100 features, the target a random network of all of them. Ours
# differs: at most 3 hidden layers (there mostly 2 to 6); sizes uniform over the range, hence on average wider
# (there truncated normals, small ones likelier); no dropout of weights, no noise between the layers, no Zipf and no
# categorical causes; a number to predict instead of classes.
ACTIVATIONS: tuple[FunctionName, ...] = get_args(FunctionName)
TABULAR = scm.Prior(
    num_variables=(3, 101),
    graph=scm.Pattern("collider"),
    mechanism=scm.MLP(hidden=(4, 130), layers=(2, 3), activation=ACTIVATIONS),
    weight=scm.LogUniform(0.01, 10.0, signed=True),
    bias=scm.Normal(0.0, 1.0),
    noise=("gaussian", "uniform", "mixture"),
    noise_scale=scm.LogUniform(0.01, 1.0),
    target_environments=0,
    target="inner",
)


def settle() -> None:
    """Let the last contestant's threads stop spinning; busily, as after a sleep two threads would share a core."""
    end = time.perf_counter() + PAUSE
    while time.perf_counter() < end:
        pass


def in_a_loop(contestant: Contestant) -> float:
    """Seconds per call over a burst of calls, the first left out: by then two threads have a core each."""
    taken = [contestant.seconds()]
    while sum(taken) < BURST:
        taken.append(contestant.seconds())
    return statistics.mean(taken[1:] or taken)


@dataclass(frozen=True)
class Case:
    """What is drawn, by whom, in how many rounds; `unit` is what is counted."""

    name: str
    contestants: list[Contestant]
    rounds: int
    unit: str = "Mvalues/s"

    def rates(self, rounds: int) -> dict[str, float]:
        """Units per second of every contestant, from medians over rounds in which each has one burst."""
        seconds: dict[str, list[float]] = {c.name: [] for c in self.contestants}
        for c in self.contestants:
            c.seconds()
        for _ in range(rounds):
            for c in self.contestants:
                settle()
                seconds[c.name].append(in_a_loop(c))
        scale = 1.0 if self.unit == "datasets/s" else 1e-6
        return {c.name: scale * c.units / statistics.median(seconds[c.name]) for c in self.contestants}


# Cases ----------------------------------------------------------------------------------------------------------------


def same_scms(
    name: str,
    prior: scm.Prior,
    datasets: int,
    rivals: Mapping[str, contest.Rival],
    packages: Packages,
    rounds: int,
) -> Case:
    """A case in which NumPy and those packages that take SCMs are given ours."""
    batch = contest.check_ours(prior, datasets, ROWS)
    found = contest.ours(prior, datasets, ROWS, batch.values.numel())
    found += [contest.checked(rival, prepare(batch), batch) for rival, prepare in rivals.items()]
    return Case(name, found + packages.contestants(name, batch), rounds)


def all_cases(packages: Packages) -> list[Case]:
    """Linear Gaussian, internally standardised, two networks, and a whole prior."""
    linear = {
        "numpy": contest.numpy_linear,
        "numpy float32": contest.numpy_linear_single,
        "torch bmm": contest.torch_linear,
    }
    standardised = replace(LINEAR, standardisation="internal")
    mlp = replace(LINEAR, mechanism=scm.MLP(hidden=100))
    fourier = replace(LINEAR, mechanism=scm.Fourier(100))
    few = DATASETS // 10
    cases = [
        same_scms("linear gaussian", LINEAR, DATASETS, linear, packages, 11),
        same_scms(
            "internally standardised linear",
            standardised,
            DATASETS,
            {"numpy": contest.numpy_standardised},
            packages,
            9,
        ),
        same_scms("mlp 100", mlp, few, {"numpy": contest.numpy_network(np.tanh)}, packages, 7),
        same_scms("fourier 100", fourier, few, {"numpy": contest.numpy_network(np.sin)}, packages, 7),
    ]
    cases[0].contestants.extend(contest.reused(LINEAR, DATASETS, ROWS))
    cases[0].contestants.extend(contest.limits(DATASETS * ROWS * VARIABLES))
    for name in ("mlp prior", "other priors"):
        found = contest.ours(TABULAR, 64, 1024, 64) + packages.contestants(name, None)
        cases.append(Case(name, found, 2, "datasets/s"))
    return cases


# Report ---------------------------------------------------------------------------------------------------------------


def records_of(case: Case, rates: dict[str, float]) -> list[dict[str, object]]:
    """One record per contestant: its rate, and how many times faster ours is on two threads."""
    best = rates[OURS.format(2, "s")]
    return [
        {"case": case.name, "contestant": name, "rate": f"{rate:.4g}", "unit": case.unit, "ours": f"{best / rate:.2f}"}
        for name, rate in rates.items()
    ]


def summary(case: Case, rates: dict[str, float]) -> str:
    """The ratios that the sampler is held to."""
    one, two = rates[OURS.format(1, "")], rates[OURS.format(2, "s")]
    facts = [f"two threads {two / one:.2f} × one"]
    if "numpy" in rates:
        facts.append(f"{two / rates['numpy']:.1f} × NumPy")
    packages = {n: r for n, r in rates.items() if not n.startswith(("settx_fast", "limit", "numpy", "torch"))}
    if packages:
        best = max(packages, key=packages.__getitem__)
        facts.append(f"{two / packages[best]:.0f} × the best package ({best})")
    if LIMIT.format(2, "s") in rates:
        possible = rates[LIMIT.format(2, "s")] / rates[LIMIT.format(1, "")]
        facts[0] += f" (the limit's: {possible:.2f})"
    for n, s in ((1, ""), (2, "s")):
        if LIMIT.format(n, s) in rates:
            share = rates[REUSED.format(n, s)] / rates[LIMIT.format(n, s)]
            facts.append(f"{share:.0%} of the limit on {n} thread{s}, into memory that is there")
    return f"{case.name}: {', '.join(facts)}"


def show(records: list[dict[str, object]]) -> None:
    """The records as a table."""
    what = f"{ROWS} rows × {VARIABLES} variables, ER, expected in-degree 2"
    table = Table(title=f"{what}; priors: 1024 rows, 2–100 features")
    for column, title in zip(records[0], ("case", "contestant", "rate", "", "ours is … ×"), strict=True):
        table.add_column(title, justify="left" if column in ("case", "contestant", "unit") else "right")
    for record in records:
        table.add_row(*(str(value) for value in record.values()))
    Console(width=120).print(table)


def save(records: list[dict[str, object]]) -> Path:
    """Write benchmarks/results/scm.csv with what the machine is."""
    machine = f"{platform.machine()}, {native().path_names()[-1]}, torch {torch.__version__}, numpy {np.__version__}"
    path = RESULTS / "scm.csv"
    RESULTS.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*records[0], "machine"])
        writer.writeheader()
        writer.writerows(record | {"machine": machine} for record in records)
    return path


def main() -> None:
    """Check, time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing saved")
    parser.add_argument("--packages", metavar="PYTHON", default=sys.executable, help="interpreter with the packages")
    options = parser.parse_args()
    torch.set_num_threads(2)
    packages = Packages(options.packages, contest.check_ours(LINEAR, DATASETS, ROWS))
    records, facts = [], []
    for case in all_cases(packages):
        rates = case.rates(2 if options.quick else case.rounds)
        records += records_of(case, rates)
        facts.append(summary(case, rates))
    packages.close()
    show(records)
    print(*facts, *(f"not here: {absent}" for absent in packages.absent), sep="\n")
    if not options.quick:
        print(f"saved {save(records)}")


if __name__ == "__main__":
    main()
