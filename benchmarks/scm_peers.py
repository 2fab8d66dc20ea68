"""Ways to draw what the sampler draws: ours, vectorised NumPy and torch, the machine's limit, and the packages."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.suite import Contestant
from settx_fast import scm
from settx_fast.scm import reference
from settx_fast.scm._native import native

Draw = Callable[[], object]
Rival = Callable[[scm.Batch], Callable[[], Sequence[np.ndarray]]]
OURS = "settx_fast, {} thread{}"
REUSED = OURS + ", out="
TABULAR = "tabular_stream, {} thread{}"
LIMIT = "limit, {} thread{}"


def ours(prior: scm.Prior, datasets: int, rows: int, units: int) -> list[Contestant]:
    """Our sampler on one and on two threads, all that a batch holds included."""
    return [Contestant(OURS.format(n, "s" * (n > 1)), _sample(prior, datasets, rows, n), units) for n in (1, 2)]


def reused(prior: scm.Prior, datasets: int, rows: int) -> list[Contestant]:
    """The same into memory that is there already, as that of the limit is."""
    out = torch.from_numpy(np.empty((datasets, rows, prior.max_variables), np.float32))  # in huge pages, unlike torch's
    draws = {n: _sample(prior, datasets, rows, n, out=out) for n in (1, 2)}
    return [Contestant(REUSED.format(n, "s" * (n > 1)), draw, out.numel()) for n, draw in draws.items()]


def _sample(prior: scm.Prior, datasets: int, rows: int, threads: int, out: torch.Tensor | None = None) -> Draw:
    return partial(scm.sample, prior, datasets, rows, seed=1, num_threads=threads, out=out)


def tabular(prior: scm.Prior, datasets: int, rows: int) -> list[Contestant]:
    """Micro-batches of classification problems on one and on two threads, one after the other, nothing drawn ahead."""
    return [Contestant(TABULAR.format(n, "s" * (n > 1)), _deal(prior, datasets, rows, n), datasets) for n in (1, 2)]


def _deal(prior: scm.Prior, datasets: int, rows: int, threads: int) -> Draw:
    stream = scm.tabular_stream(prior, datasets, seed=1, num_rows=rows, prefetch=0, num_threads=threads)
    batches = iter(stream)

    def deal() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        batch = next(batches)
        torch.set_num_threads(before)
        assert bool((batch.num_classes >= 2).all())

    return deal


def limits(values: int) -> list[Contestant]:
    """As many Philox normals as a batch has values, written to memory and nothing else."""
    out = np.empty(values, np.float32)

    def draw(threads: int) -> Draw:
        return lambda: native().fill_noise(0, (0.0, 0.0, 0.0), 1, 0, 0, out, threads, "best")

    return [Contestant(LIMIT.format(n, "s" * (n > 1)), draw(n), values) for n in (1, 2)]


# NumPy and torch, given the SCMs of a batch ---------------------------------------------------------------------------


def numpy_linear(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """A loop over datasets: one standard_normal and one product with (I − W)⁻¹ each, in NumPy's double precision."""
    rng, (_, rows, variables) = np.random.default_rng(0), batch.values.shape
    mixing = [np.linalg.inv(np.eye(variables) - w) for w in batch.weights[:, 0].numpy().astype(np.float64)]
    return lambda: [rng.standard_normal((rows, variables)) @ matrix for matrix in mixing]


def numpy_linear_single(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """The same in single precision."""
    rng, (_, rows, variables) = np.random.default_rng(0), batch.values.shape
    identity = np.eye(variables, dtype=np.float32)
    mixing = [np.linalg.inv(identity - w) for w in batch.weights[:, 0].numpy()]
    return lambda: [rng.standard_normal((rows, variables), dtype=np.float32) @ matrix for matrix in mixing]


def torch_linear(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """bmm(randn, (I − W)⁻¹) over all datasets at once."""
    _, rows, variables = batch.values.shape
    mixing = torch.linalg.inv(torch.eye(variables) - batch.weights[:, 0])
    return lambda: list(torch.bmm(torch.randn(len(mixing), rows, variables), mixing).numpy())


def numpy_standardised(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
    """A loop over datasets and variables: one product with the parents, then mean and standard deviation."""
    rng, (_, rows, variables) = np.random.default_rng(0), batch.values.shape
    plans = [
        [(v, np.flatnonzero(batch.adjacency[b, :, v]), batch.weights[b, 0, :, v].numpy()) for v in order]
        for b, order in enumerate(batch.order.tolist())
    ]

    def draw_one(plan: list[tuple]) -> np.ndarray:
        x = rng.standard_normal((variables, rows))
        for v, parents, weights in plan:
            x[v] += weights[parents] @ x[parents]
            x[v] = (x[v] - x[v].mean()) / x[v].std()
        return x.T

    return lambda: [draw_one(plan) for plan in plans]


def numpy_network(function: Callable[[np.ndarray], np.ndarray]) -> Rival:
    """A loop over datasets and variables: two matrix products and one tanh or sine for all rows."""

    def prepare(batch: scm.Batch) -> Callable[[], list[np.ndarray]]:
        rng, (_, rows, variables) = np.random.default_rng(0), batch.values.shape
        plans = [_network_plan(batch, b) for b in range(len(batch))]

        def draw_one(plan: list[tuple]) -> np.ndarray:
            x = rng.standard_normal((rows, variables))
            for v, parents, weights, W, bias, c in plan:
                x[:, v] += function((x[:, parents] * weights) @ W.T + bias) @ c
            return x

        return lambda: [draw_one(plan) for plan in plans]

    return prepare


def _network_plan(batch: scm.Batch, b: int) -> list[tuple]:
    parameters, plan = batch.mechanism_parameters.numpy().astype(np.float64), []
    order = batch.order[b].tolist()
    for v in order:
        parents = [p for p in order if batch.adjacency[b, p, v]]
        if parents:
            start = int(batch.mechanism_offset[b, 0, v])
            _, [(W, bias)], c = reference.unpack_mlp(parameters[start:], len(parents))
            plan.append((v, parents, batch.weights[b, 0, parents, v].numpy(), W, bias, c))
    return plan


# Checks ---------------------------------------------------------------------------------------------------------------


def check_ours(prior: scm.Prior, datasets: int, rows: int) -> scm.Batch:
    """The batch to time, after its bits and values are known to be right."""
    batch = scm.sample(prior, datasets, rows, seed=1, num_threads=1)
    two = scm.sample(prior, datasets, rows, seed=1, num_threads=2)
    assert torch.equal(batch.values, two.values), "threads change bits"
    for b in range(3):
        exact = reference.evaluate(batch, b)
        error = np.abs(batch.values[b].numpy() - exact).max()
        assert error < 1e-4 * np.abs(exact).max(), f"values differ from the oracle by {error}"
    return batch


def check_spread(name: str, spread: Sequence[np.ndarray], batch: scm.Batch) -> None:
    """Standard deviations of ours and theirs agree within sampling error, dataset by dataset."""
    mine = batch.values[: len(spread)].numpy().std(1)
    worst = np.abs(np.stack(spread) / mine - 1).max()
    assert worst < 0.3, f"{name}: standard deviations differ by {worst:.0%}"


def checked(name: str, draw: Callable[[], Sequence[np.ndarray]], batch: scm.Batch) -> Contestant:
    """A contestant that draws the SCMs of `batch`."""
    check_spread(name, [np.asarray(x).std(0) for x in draw()], batch)
    return Contestant(name, draw, batch.values.numel())


# Packages -------------------------------------------------------------------------------------------------------------


class Packages:
    """The packages of `scm_packages`, in a process of their own that draws when it is asked, and ends with this one."""

    def __init__(self, python: str, batch: scm.Batch) -> None:
        with tempfile.TemporaryDirectory() as directory:
            problem = Path(directory) / "problem.npz"
            np.savez(problem, weights=batch.weights[:, 0].numpy().astype(np.float64))
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.scm_packages", str(problem)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=Path(__file__).parents[1],
            )
            self.told: list[dict[str, Any]] = json.loads(self._answer())

    def contestants(self, case: str, batch: scm.Batch | None) -> list[Contestant]:
        """Those of a case that could be imported; their spread is that of `batch`, where they draw the same SCMs."""
        found = []
        for told in self.told:
            if told["case"] != case or told["problem"]:
                continue
            assert told["finite"], f"{told['name']}: values that are not finite"
            if batch is not None and not told["own_scms"]:
                check_spread(told["name"], [np.asarray(x) for x in told["std"]], batch)
            units = told["datasets"] if batch is None else told["values"]
            draw = partial(self._draw, (case, told["name"]))
            found.append(Contestant(told["name"], draw, units, seconds=draw))
        return found

    def absent(self, case: str) -> dict[str, str]:
        """Those of a case that could not be imported or run, and why."""
        return {told["name"]: told["problem"] for told in self.told if told["case"] == case and told["problem"]}

    def _draw(self, key: tuple[str, str]) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(key) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the packages' process ended with {self._process.wait()}")
        return answer
