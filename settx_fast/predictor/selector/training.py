"""Training of the selector on files of examples: a plain loop that can be interrupted after any epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.decision import ERM, mean_regret, over_erm
from settx_fast.predictor.selector.examples import Examples, batches
from settx_fast.predictor.selector.network import LEVELS, Guess, NetworkConfig, Seen, SelectorNetwork

TEMPERATURE = 0.1  # of the choice whose expected regret is learned, in log risk
SHARES = {"risk": 1.0, "level": 0.2, "regret": 2.0, "interval": 0.5, "role": 0.3}
MOST_RATIO = 3.0  # |log| of a risk over ERM's


@dataclass(frozen=True)
class Schedule:
    """epochs over the files, datasets in a batch, peak learning rate (AdamW, one cycle), weight decay, seed."""

    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0


def train(
    kinds: Sequence[Examples],
    config: NetworkConfig,
    schedule: Schedule,
    checkpoint: Path,
    progress: Callable[[str], None] = print,
    validation: Examples | None = None,
) -> SelectorNetwork:
    """A network trained on examples of several sizes; goes on from `checkpoint`, which is written after every epoch.

    Raises ValueError if the checkpoint is of another network.
    """
    _check(checkpoint, config)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(schedule.seed)
    network = SelectorNetwork(config)
    if not checkpoint.exists():  # which would hold the units too
        network.standardise(max(kinds, key=len).descriptors)
    optimizer = torch.optim.AdamW(
        network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    steps = sum(-(-len(kind) // schedule.batch_size) for kind in kinds)
    cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps * schedule.epochs))
    for epoch in range(_restore(checkpoint, network, optimizer, cycle), schedule.epochs):
        torch.manual_seed(schedule.seed + epoch)  # of dropout
        network.train()
        total = 0.0
        for examples in batches(kinds, schedule.batch_size, schedule.seed + epoch):
            cost = loss(network(Seen(examples.descriptors)), examples)
            optimizer.zero_grad()
            cost.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            cycle.step()
            total += float(cost.detach())
        _keep(checkpoint, config, network, optimizer, cycle, epoch + 1)
        line = f"epoch {epoch + 1} of {schedule.epochs}: loss {total / steps:.4f}"
        progress(line + _validated(network, validation))
    return network.eval()


def _pace(step: int, steps: int) -> float:
    """Share of the peak learning rate: up in a tenth of the steps, down along a cosine."""
    return min(1.0, 10 * (step + 1) / steps) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def loss(guess: Guess, examples: Examples) -> Tensor:
    """What is learned: risks over ERM's, their level, the regret of choosing by them, intervals, roles.

    Risks over ERM's by the likelihood of a normal whose deviation is learned too: where nobody can know, errors count
    for little (`settx-fast compare` holds it against other losses).
    """
    truth = examples.log_risk
    offset = guess.log_risk - truth
    level = F.huber_loss(offset.mean(1), torch.zeros_like(offset[:, 0]))
    ratio = over_erm(truth).clamp(-MOST_RATIO, MOST_RATIO)
    against = (over_erm(guess.log_risk) - ratio) / guess.doubt.exp()
    risk = (0.5 * against.square() + guess.doubt)[:, torch.arange(offset.shape[1]) != ERM].mean()
    choice = (-guess.log_risk / TEMPERATURE).softmax(1)
    regret = (choice * (truth - truth.min(1, keepdim=True).values)).sum(1).mean()
    error = truth[..., None] - guess.quantiles
    levels = error.new_tensor(LEVELS)
    interval = torch.maximum(levels * error, (levels - 1) * error).sum(-1).mean()
    known = examples.role >= 0
    role = F.cross_entropy(guess.roles.mT, examples.role, ignore_index=-1, reduction="none")
    role = (role.sum(1) / known.sum(1).clamp(min=1)).mean()
    costs = {"risk": risk, "level": level, "regret": regret, "interval": interval, "role": role}
    return torch.stack([SHARES[name] * cost for name, cost in costs.items()]).sum()


@torch.no_grad()
def guesses(network: SelectorNetwork | Committee, examples: Examples, at_once: int = 1024) -> Guess:
    """What a network, or several together, guess for all examples."""
    network.eval()
    parts = [network(Seen(examples.part(slice(i, i + at_once)).descriptors)) for i in range(0, len(examples), at_once)]
    return Guess(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _validated(network: SelectorNetwork, validation: Examples | None) -> str:
    if validation is None:
        return ""
    found = guesses(network, validation)
    return f", regret {100 * float(mean_regret(validation.log_risk, found.log_risk.argmin(1))):.2f} %"


def _check(checkpoint: Path, config: NetworkConfig) -> None:
    if not checkpoint.exists():
        return
    kept = torch.load(checkpoint, weights_only=True)["config"]
    if kept != vars(config):
        raise ValueError(f"checkpoint: expected {vars(config)}, got {kept} in {checkpoint}")


def _restore(checkpoint: Path, *parts: Any) -> int:
    if not checkpoint.exists():
        return 0
    kept = torch.load(checkpoint, weights_only=True)
    for part, state in zip(parts, kept["parts"], strict=True):
        part.load_state_dict(state)
    return int(kept["epoch"])


def _keep(checkpoint: Path, config: NetworkConfig, *rest: Any) -> None:
    *parts, epoch = rest
    unfinished = checkpoint.with_suffix(".part")
    torch.save({"config": vars(config), "parts": [part.state_dict() for part in parts], "epoch": epoch}, unfinished)
    os.replace(unfinished, checkpoint)
