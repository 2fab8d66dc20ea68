"""Which loss and which penalty bring a choice of framework closest to its objective, regret, under one budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from settx_fast import scm
from settx_fast.predictor.decisions.evaluation import (
    FOR_TRAINING,
    HELD_OUT,
    ROWS,
    SOURCES,
    TRAINING_ROWS,
    VARIABLES,
    drawn,
)
from settx_fast.predictor.losses import LOSSES, Loss, loss_named, penalty
from settx_fast.predictor.selector.decision import ERM, mean_regret
from settx_fast.predictor.selector.descriptors import flat
from settx_fast.predictor.selector.examples import Examples
from settx_fast.predictor.selector.measure import best_fixed, clipped_ratios

PENALTIES = {"none": (0.0, 0.0), "l1": (1.0, 0.0), "l2": (0.0, 1.0), "elastic": (0.5, 0.5)}
"""Shares of the two penalties' strengths."""

COLLAPSED = 0.1
"""A network whose predictions vary by less than this share of the truth's deviation is called constant."""

HIDDEN = 128
LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Budget:
    """Of every training: steps of `batch_size` datasets; strengths of the penalties on the sums over weights."""

    steps: int = 600
    batch_size: int = 128
    l1: float = 3e-5
    l2: float = 3e-4


@dataclass(frozen=True)
class Run:
    """One training. regret: geometric mean on held-out datasets of the framework of least predicted risk.

    r2: of the log risks over ERM's, pooled over frameworks; spread: standard deviation of these predictions over
    datasets, over that of the truth, the mean over frameworks; top: share of the framework that is chosen most.
    """

    loss: str
    penalty: str
    seed: int
    regret: float
    r2: float
    spread: float
    top: float

    @property
    def is_constant(self) -> bool:
        """Whether it predicts nearly the same for every dataset."""
        return self.spread < COLLAPSED


@dataclass(frozen=True)
class Study:
    """All runs, and what needs no training on the same held-out datasets."""

    runs: tuple[Run, ...]
    budget: Budget
    training: int
    held_out: int
    always_erm: float
    best_fixed: float

    def regrets(self, loss: str, penalty: str) -> list[float]:
        """Of all seeds."""
        return [run.regret for run in self.runs if (run.loss, run.penalty) == (loss, penalty)]

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(asdict(self), indent=2)


def compare(
    work: Path,
    losses: Sequence[str],
    penalties: Sequence[str],
    seeds: int,
    *,
    budget: Budget | None = None,
    num_training: int = 3072,
    num_datasets: int = 768,
    progress: Callable[[str], None] = print,
) -> Study:
    """Train a network of two hidden layers on the selector's descriptors, once for each loss, penalty and seed.

    Datasets are those of `evaluate`, kept in `work`. Raises ValueError for an unknown loss or penalty.
    """
    for loss in losses:
        loss_named(loss)
    unknown = [name for name in penalties if name not in PENALTIES]
    if unknown:
        raise ValueError(f"penalty: expected one of {', '.join(PENALTIES)}, got {unknown[0]!r}")
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    budget, prior = budget or Budget(), scm.presets.recurring(VARIABLES, SOURCES)
    training = drawn(work, "training", prior, num_training, TRAINING_ROWS, FOR_TRAINING, progress)
    held_out = drawn(work, "held out", prior, num_datasets, (ROWS, ROWS), HELD_OUT, progress)
    data = _Data.of(training, held_out)
    runs = []
    for loss in losses:
        for name in penalties:
            for seed in range(seeds):
                progress(f"Training with {loss}, penalty {name}, seed {seed} …")
                runs.append(_run(data, loss, name, seed, budget))
    truth, fixed = held_out.log_risk, best_fixed(training)
    always = [float(mean_regret(truth, torch.full((len(truth),), f))) for f in (ERM, fixed)]
    return Study(tuple(runs), budget, len(training), len(held_out), *always)


def confidence(values: Sequence[float], level: float = 0.9) -> tuple[float, float]:
    """Mean, and half the width of Student's confidence interval; infinite for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("inf")
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(student.ppf(0.5 + level / 2, len(values) - 1)) * error


@dataclass(frozen=True)
class _Data:
    """Standardised inputs, and log risks over ERM's (B, F)."""

    inputs: Tensor
    targets: Tensor
    held_out_inputs: Tensor
    held_out: Examples

    @classmethod
    def of(cls, training: Examples, held_out: Examples) -> _Data:
        inputs = [flat(examples.descriptors) for examples in (training, held_out)]
        mean, deviation = inputs[0].mean(0), inputs[0].std(0).clamp(min=1e-3)
        seen, unseen = ((values - mean) / deviation for values in inputs)
        return cls(seen.clamp(-10, 10), clipped_ratios(training), unseen.clamp(-10, 10), held_out)


def _run(data: _Data, loss: str, penalty_name: str, seed: int, budget: Budget) -> Run:
    torch.manual_seed(seed)
    kind, frameworks = LOSSES[loss], data.targets.shape[1]
    network = nn.Sequential(
        nn.Linear(data.inputs.shape[1], HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, frameworks * kind.outputs),
        nn.Unflatten(1, (frameworks, kind.outputs)),
    )
    _train(network, data, kind, penalty_name, budget)
    with torch.no_grad():
        predicted = kind.band(network(data.held_out_inputs), torch.ones(())).centre
    return _measured(predicted, data.held_out, loss, penalty_name, seed)


def _train(network: nn.Module, data: _Data, loss: Loss, penalty_name: str, budget: Budget) -> None:
    l1, l2 = (share * strength for share, strength in zip(PENALTIES[penalty_name], (budget.l1, budget.l2), strict=True))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=budget.steps)
    for _ in range(budget.steps):
        rows = torch.randint(len(data.inputs), (budget.batch_size,))
        cost = loss.cost(network(data.inputs[rows]), data.targets[rows]).mean()
        optimizer.zero_grad()
        (cost + penalty(network.parameters(), l1, l2)).backward()
        optimizer.step()
        schedule.step()


def _measured(predicted: Tensor, examples: Examples, loss: str, penalty_name: str, seed: int) -> Run:
    truth = clipped_ratios(examples)
    others = torch.arange(truth.shape[1]) != ERM
    residual = (predicted - truth)[:, others].square().sum()
    around = (truth - truth.mean(0))[:, others].square().sum()
    chosen = predicted.argmin(1)
    return Run(
        loss,
        penalty_name,
        seed,
        regret=float(mean_regret(examples.log_risk, chosen)),
        r2=float(1 - residual / around),
        spread=float((predicted.std(0) / truth.std(0).clamp(min=1e-6))[others].mean()),
        top=float(chosen.bincount().max()) / len(chosen),
    )
