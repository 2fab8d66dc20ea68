"""Quick ratios to the reference in one run, for `pytest benchmarks/ --benchmark-only`: bounds for gross regressions.

Each test times ours with pytest-benchmark and, in turns with it, what it stands beside. The best rounds of both are
compared, which a busy machine changes least. One thread, as two that wait for each other measure the scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks import sampling, scm_peers
from benchmarks.attention import check, shapes_of
from benchmarks.blocks import PROVIDERS, Problem
from settx_fast import scm
from settx_fast.testing import make_inputs

ROUNDS = 7


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ratio(benchmark: Any, ours: Callable[[], object], beside: Callable[[], object]) -> float:
    """How many times faster ours is, the best round of each."""
    taken: list[float] = []

    def before_each() -> None:
        start = time.perf_counter()
        beside()
        taken.append(time.perf_counter() - start)

    benchmark.pedantic(ours, setup=before_each, rounds=ROUNDS, warmup_rounds=1)
    found = min(taken) / min(benchmark.stats.stats.data)
    benchmark.extra_info["ratio"] = round(found, 2)
    return found


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize(("shape", "least"), [("mixture", 0.7), ("dataset", 0.7)])
def test_an_isab_is_not_grossly_slower_than_the_original(
    benchmark: Any, shape: str, least: float, training: bool
) -> None:
    problem = Problem("isab", make_inputs(shapes_of(on_cuda=False)[shape]), training)
    ours, original = (PROVIDERS[name](problem) for name in ("settx_fast", "original"))
    check("settx_fast", problem, ours)
    calls = (ours.train, original.train) if training else (ours.infer, original.infer)
    assert ratio(benchmark, *calls) > least


@pytest.mark.parametrize(("mechanism", "datasets", "least"), [("linear", 60, 1.5), ("MLP of 100 units", 3, 3.0)])
def test_the_sampler_is_much_faster_than_numpy(benchmark: Any, mechanism: str, datasets: int, least: float) -> None:
    batch = scm_peers.check_ours(sampling.PRIORS[mechanism], datasets, 1000)
    numpy = scm_peers.checked("numpy", sampling.RIVALS[mechanism]["numpy"](batch), batch)
    ours = lambda: scm.sample(sampling.PRIORS[mechanism], datasets, 1000, seed=1, num_threads=1)  # noqa: E731
    assert ratio(benchmark, ours, numpy.run) > least
