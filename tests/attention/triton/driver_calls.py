"""Hold what a driver of no-ops is handed by all three ways to launch a plan against each other: python driver_calls.py.

Triton's interpreter must be off: a process of its own, which ends with status 0 where all is well.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from benchmarks.no_driver import pretending
from settx_fast.attention.triton import launchers, plans, traces
from settx_fast.attention.triton.launchers import FORMATS, POINTER, Step
from settx_fast.testing import TABULAR, Shape, make_inputs

MAX_CALLS, MAX_PARAMS, MAX_BYTES = 512, 256, 4096
SHAPES = {
    "original": Shape(2, 600, 16, 16, 2, 4),
    "tabular": Shape(2, 40, 16, 16, 2, 4, {**TABULAR, "ffn_dim": 16}),
}


class Call(ctypes.Structure):
    _fields_ = [
        ("function", ctypes.c_uint64), ("stream", ctypes.c_uint64), ("context", ctypes.c_uint64),
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint), ("bytes", ctypes.c_uint),
        ("params", ctypes.c_ubyte * MAX_BYTES),
    ]  # fmt: skip


class Listener:
    """Reads what the driver keeps."""

    def __init__(self, driver: ctypes.CDLL) -> None:
        self.keeps, self.count, self.error = (
            ctypes.c_int.in_dll(driver, f"no_driver_{name}") for name in ("keeps", "count", "error")
        )
        self._num_params = (ctypes.c_int * MAX_CALLS).in_dll(driver, "no_driver_num_params")
        self._sizes = (ctypes.c_ubyte * MAX_PARAMS * MAX_CALLS).in_dll(driver, "no_driver_sizes")
        self._calls = (Call * MAX_CALLS).in_dll(driver, "no_driver_calls")

    def listen(self, steps: list[Step], run: Callable[[], object]) -> list[tuple[Any, ...]]:
        """Of every call function (0: memory set to zero), grid, block, shared memory, context, parameter bytes."""
        for number, step in enumerate(steps):
            sizes = [] if step.program is None else sizes_of(step)
            self._num_params[number] = len(sizes)
            self._sizes[number][: len(sizes)] = sizes
        self.keeps.value, self.count.value = 1, 0
        run()
        self.keeps.value = 0
        calls = self._calls[: self.count.value]
        return [(c.function, *c.grid, *c.block, c.shared, c.context, bytes(c.params[: c.bytes])) for c in calls]


def sizes_of(step: Step) -> list[int]:
    """Bytes of the parameters of a launch."""
    kinds = [*launchers._flat(step.program.src.signature.values()), "*i8", "*i8"]
    return [POINTER if kind[0] == "*" else torch.tensor([], dtype=TYPES[FORMATS[kind]]).itemsize for kind in kinds]


TYPES = {"b": torch.int8, "h": torch.int16, "i": torch.int32, "q": torch.int64, "f": torch.float32, "d": torch.float64}
TYPES |= {"B": torch.uint8, "H": torch.int16, "I": torch.int32, "Q": torch.int64}


def plans_of(shape: Shape, lengths: Tensor | None) -> list[tuple[plans.Plan, list[Tensor]]]:
    """Plans of forward and backward, and what they run on."""
    inputs = make_inputs(shape, dtype=torch.bfloat16)
    weights = [*traces.present(inputs.weights_a), *traces.present(inputs.weights_b)]
    specs = f"{inputs.spec_a.text}; {inputs.spec_b.text}"
    given = [t.detach() for t in (inputs.inducing, *weights)]
    rows = inputs.x.detach()
    forward_inputs = [rows, lengths, None, lengths, *given]
    forward = plans.planned(traces.isab, forward_inputs, specs)
    out, saved = forward([t for t in forward_inputs if t is not None])
    backward_inputs = [out, rows, lengths, None, lengths, saved, *given]
    backward = plans.planned(traces.isab_backward, backward_inputs, specs, True)
    return [(p, [t for t in i if t is not None]) for p, i in ((forward, forward_inputs), (backward, backward_inputs))]


def bases_of(plan: plans.Plan, inputs: list[Tensor]) -> list[Tensor]:
    """All that a plan runs on, its own tensors too."""
    found: list[list[Tensor | None]] = []
    launch, plan._launch = plan._launch, found.append  # type: ignore[method-assign]
    plan(inputs)
    plan._launch = launch  # type: ignore[method-assign]
    return [base for base in found[0] if base is not None]


def check(listener: Listener, plan: plans.Plan, inputs: list[Tensor]) -> int:
    """Launch in all ways; how many programs there were."""
    bases = bases_of(plan, inputs)
    kernels = [step for step in plan.steps if step.program is not None]
    python = launchers.python_launcher(plan.steps, len(bases))
    assert plan._native is not None, "the native launcher takes every program of ours"
    native = listener.listen(plan.steps, lambda: plan._native.run(0, [None, *bases, None]))
    zeroed = [call for call in native if not call[0]]
    assert len(zeroed) == len(plan.steps) - len(kernels)
    by_native = [call for call in native if call[0]]
    assert len(by_native) == len(kernels)
    by_python = listener.listen(kernels, lambda: python(0, bases))
    by_triton = listener.listen(kernels, lambda: launchers.run(plan.steps, bases))
    assert by_native == by_python, "the native launcher and Triton's own disagree"
    assert by_python == by_triton, "a plan and the launch code disagree"
    return len(kernels)


def check_a_launch_that_fails(listener: Listener, plan: plans.Plan, inputs: list[Tensor]) -> None:
    listener.error.value = 700
    name = next(step.program.name for step in plan.steps if step.program is not None)
    with pytest.raises(RuntimeError, match=f"launch of {name}: CUDA error 700, no such luck"):
        plan(inputs)
    listener.error.value = 0


def check_addresses(listener: Listener, plan: plans.Plan, inputs: list[Tensor]) -> None:
    _, *bases = bases_of(plan, inputs)
    odd = torch.empty(inputs[0].nbytes + 16, dtype=torch.uint8)
    odd = odd[(8 - odd.data_ptr()) % 16 :]
    assert odd.data_ptr() % 16 == 8
    for run in (plan._native.run, launchers.python_launcher(plan.steps, len(bases) + 1)):
        assert not listener.listen(plan.steps, lambda run=run: run(0, [odd, *bases])), "launched on an odd address"
        assert run(0, [odd, *bases]) is False
    with pytest.raises(ValueError, match="bases: expected"):
        plan._native.run(0, bases)
    with pytest.raises(AttributeError, match="data_ptr"):
        plan._native.run(0, [7, *bases])


def check_exchanged_data(listener: Listener, plan: plans.Plan, inputs: list[Tensor]) -> None:
    """The same objects, somewhere else: addresses are asked for in every call."""
    kept, before = [], listener.listen(plan.steps, lambda: plan(inputs))
    for tensor in inputs:
        kept.append(tensor.data)
        tensor.data = tensor.data.clone()
    assert listener.listen(plan.steps, lambda: plan(inputs)) != before
    check(listener, plan, inputs)


def check_a_thread_without_context(listener: Listener, plan: plans.Plan, inputs: list[Tensor]) -> None:
    contexts: set[int] = set()

    def run() -> None:
        contexts.update(call[8] for call in listener.listen(plan.steps, lambda: plan(inputs)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert contexts == {0x100}, contexts


def main() -> None:
    torch.set_num_threads(1)
    with pretending() as driver, torch.no_grad():
        listener = Listener(driver)
        count = 0
        for name, shape in SHAPES.items():
            lengths = torch.tensor([shape.elements, 3]) if name == "tabular" else None
            found = plans_of(shape, lengths)
            count += sum(check(listener, plan, inputs) for plan, inputs in found)
        for other in (check_a_launch_that_fails, check_addresses, check_a_thread_without_context, check_exchanged_data):
            other(listener, *found[0])
    print(f"Triton {triton.__version__}: {count} launches alike")


if __name__ == "__main__":
    main()
