"""Speed of the SCM sampler on a CUDA GPU against torch.randn on the same card and the CPU's sampler, in one run.

    python -m benchmarks.scm_gpu

Bits are compared with the CPU before anything is timed. Batches have values of 1 GiB or more where memory is what is
measured; timings are by CUDA events, medians of rounds that alternate between all contestants.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.table import print_table
from settx_fast import scm

ROUNDS, SEED = 15, 1
RESULTS = Path(__file__).parent / "results"
LARGE = (14_000, 1000, 20)  # datasets, rows, variables: 1.04 GiB
GRAPH = scm.ErdosRenyi(expected_in_degree=2)


@dataclass(frozen=True)
class Case:
    """A prior, how many datasets and rows are drawn at once, and whether only rows are (models drawn before)."""

    name: str
    prior: scm.Prior
    datasets: int
    rows: int
    rows_only: bool = False


def prior(variables: int, mechanism: scm.mechanisms.Mechanism | None = None) -> scm.Prior:
    return scm.Prior(variables, GRAPH, mechanism or scm.Linear(), target_environments=0)


CASES = (
    Case("linear, rows alone", prior(LARGE[2]), *LARGE[:2], rows_only=True),
    Case("linear", prior(LARGE[2]), *LARGE[:2]),
    Case("linear, 100 variables", prior(100), 2800, 1000),
    Case("linear, small batch", prior(20), 64, 1000),
    Case("MLP of 100 units", prior(20, scm.MLP(100)), 1000, 1000),
    Case("MLP of 2 × 100 units", prior(20, scm.MLP(100, layers=2)), 200, 1000),
    Case("100 Fourier features", prior(20, scm.Fourier(100)), 1000, 1000),
    Case("random preset", scm.presets.random(), 4000, 1000),
)


def check(case: Case) -> None:
    """The first datasets have the bits of the CPU."""
    ours = scm.sample(case.prior, 20, 300, seed=SEED, device="cuda").values.cpu()
    theirs = scm.sample(case.prior, 20, 300, seed=SEED).values
    assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32)), f"{case.name}: other bits than the CPU"


def contestant(case: Case) -> Callable[[], object]:
    """Draws the case once."""
    if not case.rows_only:
        return lambda: scm.sample(case.prior, case.datasets, case.rows, seed=SEED, device="cuda")
    batch = scm.sample(case.prior, case.datasets, case.rows, seed=SEED, device="cuda")
    return lambda: scm.resample(batch, case.rows, seed=SEED)


def seconds(draw: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    draw()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def compare(case: Case) -> dict[str, object]:
    """The case, and as many normals from torch.randn, in turn."""
    shape = (case.datasets, case.rows, case.prior.max_variables)
    contestants = (contestant(case), lambda: torch.randn(shape, device="cuda"))
    for draw in contestants:
        draw()
    rounds = [[seconds(draw) for draw in contestants] for _ in range(ROUNDS)]
    ours, randn = (statistics.median(times) for times in zip(*rounds, strict=True))
    values = case.datasets * case.rows * case.prior.max_variables
    return {
        "case": case.name,
        "datasets": case.datasets,
        "rows": case.rows,
        "ms": round(1e3 * ours, 3),
        "datasets/s": round(case.datasets / ours),
        "Gvalues/s": round(values / ours / 1e9, 2),
        "torch.randn Gvalues/s": round(values / randn / 1e9, 2),
        "of torch.randn": round(randn / ours, 2),
    }


def main() -> None:
    """Check, time, print, save."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks.scm_gpu: expected a CUDA GPU that torch can use, found none")
    for case in CASES:
        check(case)
    records = [compare(case) for case in CASES]
    print_table(torch.cuda.get_device_name(), list(records[0]), [[*map(str, r.values())] for r in records])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"scm-{torch.cuda.get_device_name().lower().replace(' ', '-')}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)
    print(f"saved {path}")


if __name__ == "__main__":
    main()
