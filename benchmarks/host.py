"""Microseconds of a thread that an ISAB takes, without a GPU: all of it but the driver's own work, beside eager code.

Ours runs from `nn.ISAB` to the launches with a driver of no-ops (`no_driver`), on the named shape. The original's eager
operations run on the CPU, where there is nothing to launch: on one set of one element, with heads as narrow as they
come, so that what is left is what PyTorch takes for its operations and their derivatives. A function of as many
parameters that does nothing shows what of our step is autograd's own. Runs alternate, and the least of all counts.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.blocks import PROVIDERS, Problem
from benchmarks.no_driver import pretending
from benchmarks.table import print_table
from settx_fast import nn
from settx_fast.testing import SHAPES, Shape, make_inputs

ROUNDS, CALLS = 15, 20
NEVER_MAPPED = 1 << 30  # bytes


def layer_and_rows(shape: Shape) -> tuple[nn.ISAB, Tensor]:
    """A layer and its input in bf16."""
    options = dict(shape.options)
    layer = nn.ISAB(
        shape.dim_in, shape.dim, shape.heads, shape.inducing, impl="triton", dtype=torch.bfloat16, **options
    )  # fmt: skip
    return layer, torch.zeros(shape.batch, shape.elements, shape.dim_in, dtype=torch.bfloat16, requires_grad=True)


def original(shape: Shape) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """A call of the original's operations on next to no numbers, and what it is differentiated by."""
    heads = shape.heads
    tiny = replace(shape, batch=1, elements=1, dim_in=heads, dim=heads, inducing=1)
    if tiny.spec.ffn_dim is not None:
        tiny = replace(tiny, options={**tiny.options, "ffn_dim": heads})
    inputs = make_inputs(tiny)
    way = PROVIDERS["original"](Problem("isab", inputs, True))
    return way.forward, way.leaves


class Nothing(torch.autograd.Function):
    """A function in autograd's graph that keeps its inputs and has gradients of all, cut out of one tensor."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Something."""
        ctx.save_for_backward(*tensors)
        return tensors[0].new_empty(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Anything."""
        tensors = ctx.saved_tensors
        flat = grad.new_empty(sum(t.numel() for t in tensors))
        parts = torch.unsafe_split_with_sizes(flat, [t.numel() for t in tensors])
        return tuple(part.view(*t.shape) for part, t in zip(parts, tensors, strict=True))


def step(call: Callable[[], Tensor], tensors: list[Tensor]) -> Callable[[], object]:
    """Forward and backward."""
    grad = torch.zeros_like(call())

    def run() -> None:
        call().backward(grad)
        for tensor in tensors:
            tensor.grad = None

    return run


def least(forwards: dict[str, Callable[[], object]], steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Microseconds that calls take, forwards outside autograd: the least over rounds, in which all take turns."""
    found = dict.fromkeys([*forwards, *steps], float("inf"))
    for _ in range(ROUNDS):
        for calls in (forwards, steps):
            with torch.set_grad_enabled(calls is steps):  # around many calls: it takes microseconds itself
                for name, call in calls.items():
                    found[name] = min(found[name], mean_time(call))
    return found


def mean_time(call: Callable[[], object]) -> float:
    """Microseconds of one of CALLS calls in a row."""
    call()
    start = time.thread_time()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.thread_time() - start) / CALLS


def measure(shape: Shape) -> dict[str, float]:
    """Microseconds of forward and training step, ours and eager, of autograd alone, and what a backward launches."""
    eager, weights = original(shape)
    with pretending() as driver:
        layer, x = layer_and_rows(shape)
        call = lambda: layer(x)  # noqa: E731
        parameters = [x, *layer.parameters()]
        times = least(
            {"forward_us": call, "eager_forward_us": eager},
            {
                "step_us": step(call, parameters),
                "autograd_step_us": step(lambda: Nothing.apply(*parameters), parameters),
                "eager_step_us": step(eager, weights),
            },
        )
        return times | {"backward_launches": launches_of(driver, step(call, parameters)) - launches_of(driver, call)}


def launches_of(driver: ctypes.CDLL, call: Callable[[], object]) -> int:
    """How often a call has the driver launch a program."""
    keeps, count = (ctypes.c_int.in_dll(driver, f"no_driver_{name}") for name in ("keeps", "count"))
    keeps.value, count.value = 1, 0
    call()
    keeps.value = 0
    return count.value


def memory_as_a_gpu_keeps_it() -> None:
    """Large blocks come from memory that is there already, as from PyTorch's allocator on a GPU."""
    trim_threshold, map_max = -1, -4
    ctypes.CDLL(None).mallopt(map_max, 0)
    ctypes.CDLL(None).mallopt(trim_threshold, NEVER_MAPPED)


def main(
    shape: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SHAPES)}; default: dataset, hidden.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where figures go as JSON.")] = None,
) -> None:
    """Measure host time on named shapes and print it."""
    if unknown := set(shape or ()) - set(SHAPES):
        raise typer.BadParameter(f"shape: expected some of {sorted(SHAPES)}, got {sorted(unknown)}")
    torch.set_num_threads(1)
    memory_as_a_gpu_keeps_it()
    found = {name: measure(replace(SHAPES[name], ragged=False)) for name in shape or ("dataset", "hidden")}
    columns = list(next(iter(found.values())))
    rows = [[name, *(f"{figures[column]:.0f}" for column in columns)] for name, figures in found.items()]
    print_table("Host time, µs of the thread (least of interleaved runs)", ["shape", *columns], rows)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
