"""Speed of the SCM sampler against vectorised NumPy and the machine's own limit, in one run.

    python -m benchmarks.scm [--quick]

Every case is checked before it is timed. A timing is the median of rounds that alternate between all contestants, so
that a busy machine slows them alike; the ratios are what to read.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from settx_fast import scm
from settx_fast.scm import reference
from settx_fast.scm._native import native

DATASETS, ROWS, VARIABLES = 200, 1000, 20
RESULTS = Path(__file__).parent / "results"
LINEAR = scm.Prior(num_variables=VARIABLES, graph=scm.ErdosRenyi(expected_in_degree=2), target_environments=0)
HIDDEN = 100


@dataclass(frozen=True)
class Contestant:
    """One way to draw `values` numbers, and the one that its speed is compared with."""

    case: str
    name: str
    draw: Callable[[], object]
    values: int
    against: str | None = None


# Contestants ----------------------------------------------------------------------------------------------------------


def numpy_linear(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """A loop over datasets: one standard_normal and one product with (I − W)⁻¹ each, in NumPy's double precision."""
    rng = np.random.default_rng(0)
    mixing = [np.linalg.inv(np.eye(VARIABLES) - w) for w in batch.weights[:, 0].numpy().astype(np.float64)]
    return lambda: [rng.standard_normal((ROWS, VARIABLES)) @ matrix for matrix in mixing]


def numpy_linear_single(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """The same in single precision."""
    rng = np.random.default_rng(0)
    identity = np.eye(VARIABLES, dtype=np.float32)
    mixing = [np.linalg.inv(identity - w) for w in batch.weights[:, 0].numpy()]
    return lambda: [rng.standard_normal((ROWS, VARIABLES), dtype=np.float32) @ matrix for matrix in mixing]


def torch_linear(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """bmm(randn, (I − W)⁻¹) over all datasets at once."""
    mixing = torch.linalg.inv(torch.eye(VARIABLES) - batch.weights[:, 0])
    return lambda: list(torch.bmm(torch.randn(len(mixing), ROWS, VARIABLES), mixing).numpy())


def numpy_mlp(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """A loop over datasets and variables: two matrix products and one tanh for all rows."""
    rng = np.random.default_rng(0)
    plans = [_mlp_plan(batch, b) for b in range(len(batch))]

    def draw_one(plan: list[tuple]) -> np.ndarray:
        x = rng.standard_normal((ROWS, VARIABLES))
        for v, parents, weights, W, bias, c in plan:
            x[:, v] += np.tanh((x[:, parents] * weights) @ W.T + bias) @ c
        return x

    return lambda: [draw_one(plan) for plan in plans]


def _mlp_plan(batch: scm.Batch, b: int) -> list[tuple]:
    parameters, plan = batch.mechanism_parameters.numpy().astype(np.float64), []
    order = batch.order[b].tolist()
    for v in order:
        parents = [p for p in order if batch.adjacency[b, p, v]]
        if parents:
            start = int(batch.mechanism_offset[b, 0, v])
            _, [(W, bias)], c = reference.unpack_mlp(parameters[start:], len(parents))
            plan.append((v, parents, batch.weights[b, 0, parents, v].numpy(), W, bias, c))
    return plan


def machine_limit(num_threads: int) -> Callable[[], None]:
    """As many Philox normals as a batch has values, written to memory and nothing else."""
    count = DATASETS * ROWS * VARIABLES
    out = np.empty(count, np.float32)
    return lambda: native().fill_noise(0, (0.0, 0.0, 0.0), 1, 0, 0, {"noise": out}, count, num_threads, "best")


# Checks ---------------------------------------------------------------------------------------------------------------


def check(prior: scm.Prior, num_datasets: int) -> scm.Batch:
    """The batch to time, after bits and moments are known to be right."""
    batch = scm.sample(prior, num_datasets, ROWS, seed=1, num_threads=1)
    two = scm.sample(prior, num_datasets, ROWS, seed=1, num_threads=2)
    assert torch.equal(batch.values, two.values), "threads change bits"
    for b in range(3):
        exact = reference.evaluate(batch, b)
        assert np.abs(batch.values[b].numpy() - exact).max() < 1e-4 * np.abs(exact).max(), (
            "values differ from the oracle"
        )
    return batch


def check_contestant(draw: Callable[[], Sequence], batch: scm.Batch) -> None:
    """Standard deviations of ours and theirs agree within sampling error, dataset by dataset."""
    theirs = np.stack([np.asarray(x).std(0) for x in draw()])
    ours = batch.values.numpy().std(1)
    assert np.abs(theirs / ours - 1).max() < 0.3, "standard deviations differ"


# Timing ---------------------------------------------------------------------------------------------------------------


def time_all(contestants: list[Contestant], rounds: int) -> dict[tuple[str, str], float]:
    """Median seconds of each contestant, over rounds in which each draws once."""
    seconds: dict[tuple[str, str], list[float]] = {(c.case, c.name): [] for c in contestants}
    for contestant in contestants:
        contestant.draw()
    for _ in range(rounds):
        for contestant in contestants:
            start = time.perf_counter()
            contestant.draw()
            seconds[contestant.case, contestant.name].append(time.perf_counter() - start)
    return {key: statistics.median(times) for key, times in seconds.items()}


def ours(case: str, prior: scm.Prior, datasets: int, threads: int, against: str | None) -> Contestant:
    """Our sampler on `threads` threads."""
    name = f"settx_fast, {threads} thread{'s' if threads > 1 else ''}"
    values = datasets * ROWS * VARIABLES
    return Contestant(
        case, name, lambda: scm.sample(prior, datasets, ROWS, seed=1, num_threads=threads), values, against
    )


def linear_contestants() -> list[Contestant]:
    """Linear Gaussian, and the limit of this machine."""
    batch = check(LINEAR, DATASETS)
    case, values = "linear gaussian", DATASETS * ROWS * VARIABLES
    rivals: dict[str, Callable[[scm.Batch], Callable[[], Sequence]]] = {
        "numpy": numpy_linear,
        "numpy float32": numpy_linear_single,
        "torch bmm": torch_linear,
    }
    result = [ours(case, LINEAR, DATASETS, threads, "numpy") for threads in (1, 2)]
    for name, rival in rivals.items():
        draw = rival(batch)
        check_contestant(draw, batch)
        result.append(Contestant(case, name, draw, values))
    limits = [Contestant(case, f"limit, {n} thread{'s' if n > 1 else ''}", machine_limit(n), values) for n in (1, 2)]
    return result + limits


def mlp_contestants() -> list[Contestant]:
    """One hidden layer of 100 tanh units."""
    prior = scm.Prior(
        num_variables=VARIABLES, mechanism=scm.MLP(hidden=HIDDEN), target_environments=0, graph=LINEAR.graph
    )
    datasets = DATASETS // 10
    batch = check(prior, datasets)
    case, values = f"mlp {HIDDEN} tanh", datasets * ROWS * VARIABLES
    rival = numpy_mlp(batch)
    check_contestant(rival, batch)
    result = [ours(case, prior, datasets, threads, "numpy") for threads in (1, 2)]
    return [*result, Contestant(case, "numpy", rival, values)]


# Report ---------------------------------------------------------------------------------------------------------------


def report(contestants: list[Contestant], seconds: dict[tuple[str, str], float]) -> list[dict[str, object]]:
    """One record per contestant: millions of values per second, and times the one it is compared with."""
    rates = {(c.case, c.name): c.values / seconds[c.case, c.name] / 1e6 for c in contestants}
    records = []
    for c in contestants:
        rate = rates[c.case, c.name]
        ratio = rate / rates[c.case, c.against] if c.against else None
        limit = rates.get((c.case, c.name.replace("settx_fast", "limit"))) if c.against else None
        records.append(
            {
                "case": c.case,
                "contestant": c.name,
                "Mvalues/s": round(rate, 2),
                "× numpy": round(ratio, 2) if ratio else "",
                "of limit": round(rate / limit, 2) if limit else "",
                "ms": round(1e3 * seconds[c.case, c.name], 3),
            }
        )
    return records


def show(records: list[dict[str, object]]) -> None:
    """The records as a table."""
    table = Table(title=f"{DATASETS} datasets × {ROWS} rows × {VARIABLES} variables, ER, expected in-degree 2")
    for column in records[0]:
        table.add_column(column, justify="left" if column in ("case", "contestant") else "right")
    for record in records:
        table.add_row(*(str(value) for value in record.values()))
    Console().print(table)


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
    quick = parser.parse_args().quick
    torch.set_num_threads(2)
    records = []
    for contestants, rounds in ((linear_contestants(), 31), (mlp_contestants(), 9)):
        records += report(contestants, time_all(contestants, 3 if quick else rounds))
    show(records)
    if not quick:
        print(f"saved {save(records)}")


if __name__ == "__main__":
    main()
