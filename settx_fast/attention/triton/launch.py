"""Launch kernels, or note what would be launched: a plan does it again and again from what was noted, see `plans`.

Between launches stands no operation of PyTorch: what sets memory to zero, converts or adds is a launch as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton import AsyncCompileMode

from settx_fast.attention.triton.primitives import add_kernel, cast_kernel

_BLOCK = 1024


@dataclass(frozen=True)
class Launch:
    """One launch: a kernel, how many programs, its arguments and Triton's; without a kernel, memory set to zero."""

    kernel: Any
    programs: int
    args: tuple[Any, ...]
    options: Mapping[str, Any]

    def run(self, warmup: bool = False) -> Any:
        """Launch, or only compile: returns the compiled program or its future (None where kernels are interpreted)."""
        if self.kernel is None:
            return None if warmup else self.args[0].zero_()
        # Triton's default for the fusion of multiply and add will change
        options = {"enable_fp_fusion": True, **self.options}
        return self.kernel.run(*self.args, grid=(self.programs,), warmup=warmup, **options)


_noted: ContextVar[list[Launch] | None] = ContextVar("noted", default=None)


def launch(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    """Run `programs` programs of a kernel; options are the kernel's constants and Triton's."""
    step = Launch(kernel, programs, args, options)
    noted = _noted.get()
    if noted is None:
        step.run()
    else:
        noted.append(step)


def zero(tensor: Tensor) -> Tensor:
    """The tensor, whose elements lie without gaps, set to zero."""
    launch(None, 1, tensor)
    return tensor


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The contiguous tensor in a dtype: itself where it has it."""
    if tensor.dtype == dtype:
        return tensor
    out = torch.empty_like(tensor, dtype=dtype)
    size = tensor.numel()
    launch(cast_kernel, triton.cdiv(size, _BLOCK), tensor, out, size, BLOCK=_BLOCK, num_warps=4)
    return out


def add_(total: Tensor, part: Tensor) -> None:
    """Add a vector to another."""
    size = total.shape[0]
    launch(add_kernel, triton.cdiv(size, _BLOCK), total, part, size, BLOCK=_BLOCK, num_warps=4)


@contextmanager
def noted() -> Iterator[list[Launch]]:
    """What would be launched meanwhile; nothing is."""
    launches: list[Launch] = []
    token = _noted.set(launches)
    try:
        yield launches
    finally:
        _noted.reset(token)


def is_compiled_for(device: torch.device) -> bool:
    """Whether Triton compiles kernels for a device; elsewhere it interprets them."""
    return device.type == "cuda"


def compile_side_by_side(launches: list[Launch]) -> list[Any]:
    """The compiled programs of launches, None for memory set to zero: one after another takes too long.

    Compilers leave the interpreter's lock, so that threads suffice. Raises what compiling a kernel raises.
    """
    with ThreadPoolExecutor() as pool, AsyncCompileMode(pool, ignore_errors=True):
        programs = [step.run(warmup=True) for step in launches]
    return [program.result() if hasattr(program, "result") else program for program in programs]
