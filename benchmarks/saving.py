"""Where a CPU's training step is faster by recomputing (blockwise) than by saving (composed), and what is chosen.

Ratios of one run, each of a step of the one and a step of the other in turn, in processor time of all threads: machines
are shared. Above 1 saving is faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import quantiles

import torch
from torch import Tensor

from benchmarks.table import print_table
from settx_fast import functional
from settx_fast.attention.choice import choose, saved_bytes
from settx_fast.functional import Impl
from settx_fast.testing import TABULAR, Inputs, Shape, make_inputs

ORIGINAL = {"norm": "layer"}
SETS = [
    ("original, 32 inducing points", Shape(20, 1000, 128, 128, 4, 32, ORIGINAL)),
    ("original, 32 inducing points", Shape(16, 2000, 128, 128, 4, 32, ORIGINAL)),
    ("original, 32 inducing points", Shape(4, 16_384, 128, 128, 4, 32, ORIGINAL)),
    ("original, 128 inducing points", Shape(16, 2000, 128, 128, 4, 128, ORIGINAL)),
    ("tabular, 32 inducing points", Shape(8, 2000, 128, 128, 8, 32, TABULAR)),
    ("tabular, 128 inducing points", Shape(32, 256, 128, 128, 8, 128, TABULAR)),
    ("tabular, 128 inducing points", Shape(20, 1000, 128, 128, 8, 128, TABULAR)),
    ("tabular, 128 inducing points", Shape(2, 16_384, 128, 128, 8, 128, TABULAR)),
    ("narrow, 16 inducing points", Shape(32, 1000, 16, 64, 4, 16, ORIGINAL)),
    ("a set over itself", Shape(8, 512, 128, 128, 4, 1, ORIGINAL)),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name, shape in SETS:
        inputs = make_inputs(shape)
        step = _over_itself if name == "a set over itself" else _isab
        low, middle, high = quantiles(_ratios(step, inputs, options.pairs), n=4)
        mib = saved_bytes(inputs.x, shape.spec, shape.dim) / 2**20
        sizes = f"{shape.batch} × {shape.elements:,}"
        rows.append((name, sizes, f"{mib:,.0f}", f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}", _choice(name, inputs)))
    columns = ("block", "sets × elements", "saved MiB", "quartile", "recompute ÷ save", "quartile", "chosen")
    print_table(f"Training steps on {options.threads} thread(s)", columns, rows)


def _ratios(step: Callable[[Inputs, Impl], object], inputs: Inputs, pairs: int) -> list[float]:
    for impl in ("composed", "blockwise"):
        step(inputs, impl)  # warm
    ratios = []
    for _ in range(pairs):
        start = time.process_time()
        step(inputs, "composed")
        between = time.process_time()
        step(inputs, "blockwise")
        ratios.append((time.process_time() - between) / (between - start))
    return ratios


def _isab(inputs: Inputs, impl: Impl) -> tuple[Tensor, ...]:
    out = functional.induced_set_attention(*inputs[:6], impl=impl)
    return torch.autograd.grad(out, list(inputs.parameters().values()), torch.ones_like(out))


def _over_itself(inputs: Inputs, impl: Impl) -> tuple[Tensor, ...]:
    out = functional.attention_block(inputs.x, inputs.x, inputs.weights_a, inputs.spec_a, impl=impl)
    return torch.autograd.grad(out, [inputs.x, inputs.weights_a.w_q, inputs.weights_a.w_o], torch.ones_like(out))


def _choice(name: str, inputs: Inputs) -> str:
    a, b = (inputs.weights_a, inputs.spec_a), (inputs.weights_b, inputs.spec_b)
    if name == "a set over itself":
        chosen = choose(None, inputs.x, inputs.x.shape[1], a)
    else:
        chosen = choose(None, inputs.x, inputs.inducing.shape[1], a, b)
    return str(getattr(chosen, "__name__", chosen)).rsplit(".", 1)[-1]


if __name__ == "__main__":
    main()
