"""Training of the selector on files of examples: a plain loop that can be interrupted after any epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from settx_fast.predictor.selector.decision import mean_regret
from settx_fast.predictor.selector.examples import Examples, batches, joined, read
from settx_fast.predictor.selector.network import LEVELS, Guess, NetworkConfig, Seen, SelectorNetwork

TEMPERATURE = 0.1  # of the choice whose expected regret is learned, in log risk
SHARES = {"risk": 1.0, "regret": 2.0, "interval": 0.5, "role": 0.1}
FILES_FOR_UNITS = 8


@dataclass(frozen=True)
class Schedule:
    """epochs over the files, datasets in a batch, peak learning rate (AdamW, one cycle), weight decay, seed."""

    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0


def train(
    files: Sequence[Path],
    config: NetworkConfig,
    schedule: Schedule,
    checkpoint: Path,
    progress: Callable[[str], None] = print,
    validation: Examples | None = None,
) -> SelectorNetwork:
    """A network trained on files of examples; goes on from `checkpoint`, which is written after every epoch.

    Raises ValueError if the checkpoint is of another network.
    """
    torch.manual_seed(schedule.seed)
    network = SelectorNetwork(config)
    network.standardise(joined([read(file) for file in files[:FILES_FOR_UNITS]]).descriptors)
    optimizer = torch.optim.AdamW(network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    steps = sum(1 for file in files for _ in range(0, len(read(file)), schedule.batch_size))
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=max(steps * schedule.epochs, 2), pct_start=0.1
    )
    first = _restore(checkpoint, config, network, optimizer, cycle)
    for epoch in range(first, schedule.epochs):
        network.train()
        total, count = 0.0, 0
        for examples in batches(files, schedule.batch_size, schedule.seed + epoch):
            cost = loss(network(Seen(examples.descriptors)), examples)
            optimizer.zero_grad()
            cost.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            cycle.step()
            total, count = total + float(cost.detach()), count + 1
        _keep(checkpoint, config, network, optimizer, cycle, epoch + 1)
        progress(f"epoch {epoch + 1} of {schedule.epochs}: loss {total / count:.4f}{_validated(network, validation)}")
    return network.eval()


def loss(guess: Guess, examples: Examples) -> Tensor:
    """What is learned: risks beside each other and their level, the regret of choosing by them, intervals, roles."""
    truth = examples.log_risk
    offset = guess.log_risk - truth
    level = offset.mean(1, keepdim=True)
    risk = F.huber_loss(offset - level, torch.zeros_like(offset)) + 0.2 * F.huber_loss(level, torch.zeros_like(level))
    choice = (-guess.log_risk / TEMPERATURE).softmax(1)
    regret = (choice * (truth - truth.min(1, keepdim=True).values)).sum(1).mean()
    error = truth[..., None] - guess.quantiles
    levels = error.new_tensor(LEVELS)
    interval = torch.maximum(levels * error, (levels - 1) * error).sum(-1).mean()
    role = F.cross_entropy(guess.roles.flatten(0, 1), examples.role.flatten(), ignore_index=-1)
    costs = {"risk": risk, "regret": regret, "interval": interval, "role": role}
    return torch.stack([SHARES[name] * cost for name, cost in costs.items()]).sum()


@torch.no_grad()
def guesses(network: SelectorNetwork, examples: Examples, at_once: int = 1024) -> Guess:
    """The network's guesses for all examples."""
    network.eval()
    parts = [network(Seen(examples.part(slice(i, i + at_once)).descriptors)) for i in range(0, len(examples), at_once)]
    return Guess(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _validated(network: SelectorNetwork, validation: Examples | None) -> str:
    if validation is None:
        return ""
    found = guesses(network, validation)
    return f", regret {100 * float(mean_regret(validation.log_risk, found.log_risk.argmin(1))):.2f} %"


def _restore(checkpoint: Path, config: NetworkConfig, *parts: torch.nn.Module | object) -> int:
    if not checkpoint.exists():
        return 0
    kept = torch.load(checkpoint, weights_only=True)
    if kept["config"] != vars(config):
        raise ValueError(f"checkpoint: expected {vars(config)}, got {kept['config']} in {checkpoint}")
    for part, state in zip(parts, kept["parts"], strict=True):
        part.load_state_dict(state)  # type: ignore[attr-defined]
    return int(kept["epoch"])


def _keep(checkpoint: Path, config: NetworkConfig, *rest: object) -> None:
    *parts, epoch = rest
    states = [part.state_dict() for part in parts]  # type: ignore[attr-defined]
    unfinished = checkpoint.with_suffix(".part")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"config": vars(config), "parts": states, "epoch": epoch}, unfinished)
    os.replace(unfinished, checkpoint)
