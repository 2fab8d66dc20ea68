"""TabICL's column stage by its own code and by ours on a CPU: `python -m benchmarks.clients`.

The packages come from build/clients (`make build/clients`). Outputs and gradients are compared before anything is
timed; the two take turns, and ratios are medians of those of neighbours, in processor time of all threads: machines are
shared.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

CLIENTS = Path(__file__).parents[1] / "build" / "clients"
Pass = Callable[[nn.Module], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=3, help="induced blocks of the stage; TabICL 2 has 3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sys.path.append(str(CLIENTS))
    theirs, ours = make_stages(given.blocks)
    x = torch.randn(1, given.columns, given.rows, 128, generator=torch.Generator().manual_seed(0))
    passes = {"forward": forward_of(x), "training step": step_of(x)}
    print(f"TabICL's column stage, {given.rows:,} rows x {given.columns} columns, {given.threads} threads")
    for name, run in passes.items():
        error = max(difference(a, b) for a, b in zip(run(ours), run(theirs), strict=True))
        assert error < 1e-4, f"{name}: results differ by {error:.1e}"
        pairs = [(seconds(run, theirs), seconds(run, ours)) for _ in range(given.rounds)]
        own, our = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name:14} TabICL {own:6.2f} s   ours {our:6.2f} s   {ratio:5.2f} x", flush=True)


def make_stages(blocks: int) -> tuple[nn.Module, nn.Module]:
    """TabICL 2's stack of induced blocks in its released size, with random weights, and the same patched."""
    from tabicl._model.encoders import SetTransformer

    from settx_fast.compat import patch_tabicl

    torch.manual_seed(0)
    theirs = SetTransformer(blocks, 128, 8, 256, 128, ssmax=True)
    for parameter in theirs.parameters():  # zeros of the initialisation would make every block the identity
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return theirs, patch_tabicl(copy.deepcopy(theirs))


def forward_of(x: Tensor) -> Pass:
    """Prediction: four fifths of the rows are the context."""

    @torch.no_grad()
    def run(stage: nn.Module) -> list[Tensor]:
        return [stage(x, train_size=x.shape[-2] * 4 // 5)]

    return run


def step_of(x: Tensor) -> Pass:
    """Output, gradients of the input and of all parameters."""
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def run(stage: nn.Module) -> list[Tensor]:
        given = x.clone().requires_grad_()
        out = stage(given, train_size=x.shape[-2] * 4 // 5)
        return [out.detach(), *torch.autograd.grad(out, [given, *stage.parameters()], upstream)]

    return run


def difference(a: Tensor, b: Tensor) -> float:
    """Relative to the largest number."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def seconds(run: Pass, stage: nn.Module) -> float:
    """Processor time of all threads."""
    start = time.process_time()
    run(stage)
    return time.process_time() - start


if __name__ == "__main__":
    main()
