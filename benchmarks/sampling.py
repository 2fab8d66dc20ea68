"""Subjects of the SCM sampler: by mechanism beside NumPy, torch, the SCM packages and the machine's limit; by size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import get_args

import numpy as np
import torch

from benchmarks import scm_peers as peers
from benchmarks.suite import Contestant, Field, LeftOut, Setting, Subject
from settx_fast import scm
from settx_fast.scm.mechanisms import FunctionName

DATASETS, ROWS, VARIABLES, SEED = 200, 1000, 20, 1
PAUSE = 0.25  # seconds; some OpenMP threads spin for 0.2 after their work
GRAPH = scm.ErdosRenyi(expected_in_degree=2)
DENSE = 100  # variables, where edges grow


def prior(variables: int = VARIABLES, mechanism: scm.mechanisms.Mechanism | None = None) -> scm.Prior:
    """What most shapes draw from."""
    return scm.Prior(variables, GRAPH, mechanism or scm.Linear(), target_environments=0)


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
# Trees in place of networks, as in its tree prior: there layers of a few boosted trees, mostly 2 to 6 deep, here one
# layer of more, oblivious ones.
TREES = replace(TABULAR, mechanism=scm.Trees(number=(2, 16), depth=(2, 4)))
RIVALS: dict[str, Mapping[str, peers.Rival]] = {
    "linear": {
        "numpy": peers.numpy_linear,
        "numpy float32": peers.numpy_linear_single,
        "torch bmm": peers.torch_linear,
    },
    "standardised": {"numpy": peers.numpy_standardised},
    "MLP of 100 units": {"numpy": peers.numpy_network(np.tanh)},
    "100 Fourier features": {"numpy": peers.numpy_network(np.sin)},
}
PRIORS = {
    "linear": prior(),
    "standardised": replace(prior(), standardisation="internal"),
    "MLP of 100 units": prior(mechanism=scm.MLP(100)),
    "100 Fourier features": prior(mechanism=scm.Fourier(100)),
}
WHOLE = {"MLP prior": TABULAR, "tree prior": TREES, "other priors": TABULAR}


# On a CPU -------------------------------------------------------------------------------------------------------------


def _mechanism(setting: Setting, name: str) -> Field:
    """NumPy and those packages that take SCMs are given ours."""
    _need_native()
    datasets = DATASETS if name in ("linear", "standardised") else DATASETS // 10
    batch = peers.check_ours(PRIORS[name], datasets, ROWS)
    found = Field(rounds=3 if setting.quick else 11, pause=PAUSE, dtype="float32")
    for rival, prepare in RIVALS[name].items():
        found.contestants.append(peers.checked(rival, prepare(batch), batch))
    found.contestants += _of_packages(found, setting, name, batch)
    found.contestants += peers.ours(PRIORS[name], datasets, ROWS, batch.values.numel())
    if name == "linear":
        found.contestants += peers.reused(PRIORS[name], datasets, ROWS)
        found.contestants += peers.limits(datasets * ROWS * VARIABLES)
        found.limit = peers.LIMIT.format(2, "s")
    return found


def _whole(setting: Setting, name: str) -> Field:
    """Whole priors, SCMs and all, in datasets a second."""
    _need_native()
    found = Field(rounds=2 if setting.quick else 3, pause=PAUSE, dtype="float32")
    others = _of_packages(found, setting, name, None)
    ours = [*peers.ours(WHOLE[name], 64, 1024, 64)[1:], *peers.tabular(WHOLE[name], 64, 1024)]
    found.contestants = [*ours, *others]
    return found


def _of_packages(found: Field, setting: Setting, name: str, batch: scm.Batch | None) -> list[Contestant]:
    if not setting.packages:
        found.absent["SCM packages"] = "no interpreter that has them (--packages; benchmarks/scm_packages.txt)"
        return []
    packages = _packages(setting.packages)
    found.absent |= packages.absent(name)
    return packages.contestants(name, batch)


@cache
def _packages(python: str) -> peers.Packages:
    return peers.Packages(python, peers.check_ours(PRIORS["linear"], DATASETS, ROWS))


def _need_native() -> None:
    try:
        from settx_fast.scm._native import native

        native()
    except ImportError as error:
        raise LeftOut(f"the native module is not built ({error})") from None


# By size, on one thread -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A batch along one axis, from 200 datasets × 1,000 rows × 20 variables on."""

    axis: str
    size: float
    prior: scm.Prior
    datasets: int
    rows: int


def sizes(axis: str) -> list[Size]:
    """The batches of an axis."""
    if axis == "datasets":
        return [Size(axis, n, prior(), n, 1000) for n in (20, 50, 100, 200, 500, 1000)]
    if axis == "rows":
        return [Size(axis, n, prior(), 50, n) for n in (500, 1000, 2000, 5000, 10_000, 20_000)]
    found = []
    for degree in (2, 8, 16, 24, 32, 40):
        dense = scm.Prior(DENSE, scm.ErdosRenyi(expected_in_degree=degree), weight=0.1, target_environments=0)
        edges = scm.sample(dense, 50, 1, seed=SEED).adjacency.sum((1, 2)).double().mean()
        found.append(Size(axis, float(edges), dense, 50, 1000))
    return found


def _growth(setting: Setting, axis: str) -> Field:
    """Into memory that is there already: the system's zeroing is not our cost."""
    _need_native()
    found = Field(rounds=3 if setting.quick else 25, dtype="float32")
    for s in sizes(axis):
        out = torch.from_numpy(np.empty((s.datasets, s.rows, s.prior.max_variables), np.float32))
        draw = partial(scm.sample, s.prior, s.datasets, s.rows, seed=SEED, num_threads=1, out=out)
        found.contestants.append(Contestant("settx_fast", draw, shape=f"{axis}={s.size:g}"))
    return found


# On a GPU -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A prior, how many datasets and rows are drawn at once, and whether only rows are (models drawn before)."""

    prior: scm.Prior
    datasets: int
    rows: int
    rows_only: bool = False


@cache
def cuda_cases() -> dict[str, Case]:
    """Batches with values of 1 GiB where memory is what is measured."""
    return {
        "linear, rows alone": Case(prior(), 14_000, ROWS, rows_only=True),
        "linear": Case(prior(), 14_000, ROWS),
        "linear, 100 variables": Case(prior(100), 2800, ROWS),
        "linear, small batch": Case(prior(), 64, ROWS),
        "MLP of 100 units": Case(prior(mechanism=scm.MLP(100)), 1000, ROWS),
        "MLP of 2 × 100 units": Case(prior(mechanism=scm.MLP(100, layers=2)), 200, ROWS),
        "100 Fourier features": Case(prior(mechanism=scm.Fourier(100)), 1000, ROWS),
        "random preset": Case(scm.presets.random(), 4000, ROWS),
    }


def _on_cuda(setting: Setting, name: str) -> Field:
    """Beside as many normals from torch.randn, and fewer datasets of the CPU's sampler, whose bits must be the same."""
    _need_native()
    case = cuda_cases()[name]
    ours, theirs = (scm.sample(case.prior, 20, 300, seed=SEED, device=d).values.cpu() for d in ("cuda", "cpu"))
    shape = (case.datasets, case.rows, case.prior.max_variables)
    few = min(case.datasets, 64)
    found = Field(limit="torch.randn", rounds=15, dtype="float32")
    cpu = partial(scm.sample, case.prior, few, case.rows, seed=SEED)
    found.contestants.append(Contestant("settx_fast on the CPU", cpu, few * shape[1] * shape[2]))
    if not torch.equal(ours.view(torch.int32), theirs.view(torch.int32)):
        found.wrong["settx_fast"] = "other bits than the CPU"
    else:
        found.contestants.append(Contestant("settx_fast", _draw(case), float(np.prod(shape))))
    randn: Callable[[], object] = partial(torch.randn, shape, device="cuda")
    found.contestants.append(Contestant("torch.randn", randn, float(np.prod(shape))))
    return found


def _draw(case: Case) -> Callable[[], object]:
    if not case.rows_only:
        return partial(scm.sample, case.prior, case.datasets, case.rows, seed=SEED, device="cuda")
    batch = scm.sample(case.prior, case.datasets, case.rows, seed=SEED, device="cuda")
    return partial(scm.resample, batch, case.rows, seed=SEED)


def subjects() -> Iterator[Subject]:
    """The sampler on the device at hand, whole priors, growth."""
    yield Subject(
        "sampler",
        "SCM sampler: 1,000 rows × 20 variables, expected in-degree 2",
        "Mvalues/s",
        lambda s: cuda_cases() if s.on_cuda else PRIORS,
        lambda s, name: _on_cuda(s, name) if s.on_cuda else _mechanism(s, name),
        (*PRIORS, "linear, small batch"),
    )
    yield Subject(
        "sampler-priors",
        "Whole priors of tabular models: 1,024 rows, 2 to 100 features",
        "datasets/s",
        lambda s: () if s.on_cuda else WHOLE,
        _whole,
        tuple(WHOLE)[:1],
    )
    yield Subject(
        "sampler-growth",
        "SCM sampler on one thread, by datasets, rows and edges",
        "ms",
        lambda s: () if s.on_cuda else ("datasets", "rows", "edges"),
        _growth,
        ("datasets",),
    )
