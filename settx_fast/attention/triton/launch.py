"""Launch kernels, and compile those that a first call launches side by side: one after another takes too long."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from triton import AsyncCompileMode

_compile_only: ContextVar[bool] = ContextVar("compile_only", default=False)


def launch(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    """Run `programs` programs of a kernel, or only compile it; options are the kernel's constants and Triton's."""
    # Triton's default for the fusion of multiply and add will change
    kernel.run(*args, grid=(programs,), warmup=_compile_only.get(), enable_fp_fusion=True, **options)


def side_by_side(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make a call compile all that it launches at once when it first meets arguments of a `kind`.

    What it then computes is thrown away. Compilers leave the interpreter's lock, so that threads suffice.
    """
    met: set[Hashable] = set()

    @wraps(call)
    def prepared(first: Tensor, *rest: Any) -> Any:
        if is_compiled_for(first.device):
            met_now = (torch.get_float32_matmul_precision(), *map(kind, (first, *rest)))
            if met_now not in met:
                met.add(met_now)
                compile_only(call, first, *rest)
        return call(first, *rest)

    return prepared


def is_compiled_for(device: torch.device) -> bool:
    """Whether Triton compiles kernels for a device; elsewhere it interprets them."""
    return device.type == "cuda"


def kind(arg: Any) -> Hashable:
    """Equal where arguments launch the same programs, but for rare exceptions: sizes count by powers of two.

    Widths count exactly. A list of tensors is known by its first, as the specs beside it tell the others.
    """
    if isinstance(arg, Tensor):
        vector = arg.ndim == 1
        sizes = arg.shape if vector else arg.shape[:-1]
        return arg.dtype, arg.device, *((size - 1).bit_length() for size in sizes), None if vector else arg.shape[-1]
    return tuple(map(kind, arg[:1])) if isinstance(arg, list | tuple) else arg


def compile_only(call: Callable[..., Any], *args: Any) -> Any:
    """Result of a call, without sense where kernels compute it: they are compiled side by side and do not run."""
    token = _compile_only.set(True)
    try:
        # what does not compile here fails again, and says so, where it is launched
        with ThreadPoolExecutor() as pool, AsyncCompileMode(pool, ignore_errors=True):
            return call(*args)
    finally:
        _compile_only.reset(token)
