"""Calls whose metadata has been met before go past the checks and the choice, straight to what they led to.

Metadata is read on every call; no object is known again by its identity. What is out of the ordinary (a compiler, a
transform, a mode, a profiler, a subclass, weights that are not contiguous) has no shortcut.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from settx_fast.attention.derivatives import is_transformed

MAX_CALLS = 512


class Table:
    """A bounded table that forgets what was not asked for the longest."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Hashable) -> Any:
        """What was put there, or None."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: Hashable, value: Any) -> None:
        """Keep a value, and forget another where the table is full."""
        with self._lock:
            self._found[key] = value
            if len(self._found) > self._size:
                self._found.popitem(last=False)


CALLS = Table(MAX_CALLS)


CASTABLE = frozenset({torch.float32, torch.float16, torch.bfloat16})


def cast_of(device: torch.device) -> torch.dtype | None:
    """What autocast casts to on a device, None where it is off."""
    return torch.get_autocast_dtype(device.type) if is_autocast_on(device) else None


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is on for a device; the meta device has none, and PyTorch raises where it is asked."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def unobserved() -> bool:
    """Whether neither a compiler, a transform, a mode nor a profiler looks on."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or is_transformed()
        or torch.autograd._profiler_enabled()
        or torch._C._get_tracing_state()
    )


def plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether no tensor is of a subclass that sees operators."""
    return all(t is None or type(t) is Tensor or type(t) is Parameter for t in tensors)


def key_of(x: Tensor, lengths: Tensor | None, tensors: Sequence[Tensor | None], *static: Hashable) -> Hashable | None:
    """What decides how a call on x is computed, or None where there is no shortcut.

    `tensors` are the parameters, None for one that is not there; `static` is what else the call says.
    """
    if torch.compiler.is_compiling() or not unobserved():
        return None
    if (type(x) is not Tensor and type(x) is not Parameter) or x.layout is not torch.strided or x.is_nested:
        return None
    if x.dim() != 3:
        return None
    dtype, device = x.dtype, x.device
    cast = cast_of(device)
    kind = dtype if cast is None or tensors[0] is None else tensors[0].dtype  # of the parameters
    if cast is not None and not {dtype, kind} <= CASTABLE:
        return None
    sizes = None
    if lengths is not None:
        # values on a CPU are checked, other types converted
        if type(lengths) is not Tensor or lengths.dtype is not torch.int64 or lengths.device != device:
            return None
        if device.type == "cpu" or not lengths.is_contiguous():
            return None
        sizes = lengths.shape
    shapes: list[Hashable] = []
    for t in tensors:
        if t is None:
            shapes.append(None)
        elif (
            (type(t) is not Parameter and type(t) is not Tensor)
            or t.dtype is not kind
            or t.device != device
            or not t.is_contiguous()
        ):
            return None
        else:
            shapes.append(t.shape)
    precision = torch.get_float32_matmul_precision()
    return static, precision, cast, kind, dtype, device, x.shape, x.stride(), sizes, tuple(shapes)
