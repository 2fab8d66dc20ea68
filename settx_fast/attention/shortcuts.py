"""Calls whose metadata has been met before go past the checks and the choice, straight to what they led to.

Metadata is read on every call; no object is known again by its identity. What is out of the ordinary (a compiler, a
transform, a mode, a profiler, a subclass, weights that are not contiguous) has no shortcut.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from settx_fast.attention.derivatives import is_transformed, is_wrapped

MAX_CALLS = 512
MAX_OF_SHAPE = 8


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


class Seen(NamedTuple):
    """What is known of a call before it is checked."""

    tensors: list[Tensor]  # those that are there, the elements first
    said: tuple[Any, ...]  # all else that decides how the call is computed


class Kept(NamedTuple):
    """What a call came to, and how one like it is known."""

    is_like: Callable[..., bool]  # asked of its tensors
    said: tuple[Any, ...]
    outcome: Any


class Calls:
    """What calls came to, by the metadata of their tensors; bounded."""

    def __init__(self, size: int) -> None:
        self._kept = Table(size)  # by the shape of the first tensor and the number of all

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, call: Seen) -> Any:
        """What a call like this one came to, or None."""
        tensors, said = call
        for kept in self._kept.get((tensors[0].shape, len(tensors))) or ():
            if kept.said == said and kept.is_like(*tensors):
                return kept.outcome
        return None

    def keep(self, call: Seen, outcome: Any) -> None:
        """Remember what a call came to, unless calls like it cannot be known again, as where it says a tensor twice."""
        tensors, said = call
        is_like = likeness(tensors)
        if is_like(*tensors):
            key = tensors[0].shape, len(tensors)
            older = self._kept.get(key) or ()
            self._kept.put(key, (Kept(is_like, said, outcome), *older[: MAX_OF_SHAPE - 1]))


def likeness(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """Whether tensors have the type, dtype, device, shape, strides and flags of these, asked in one call."""
    try:
        from torch._C._dynamo.guards import TensorGuards

        sizes: Any = [list(t.shape) for t in tensors]
        strides: Any = [list(t.stride()) for t in tensors]
        return TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    except (ImportError, TypeError):  # private to PyTorch: another version may have none, or other arguments
        return slow_likeness(tensors)


def slow_likeness(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """`likeness` in Python."""

    def kinds(tensors: Sequence[Tensor]) -> list[Hashable]:
        return [
            (type(t), t.dtype, t.device, t.shape, t.stride(), t.requires_grad, t.is_conj(), is_wrapped(t))
            for t in tensors
        ]

    known = kinds(tensors)
    return lambda *given: kinds(given) == known


CALLS = Calls(MAX_CALLS)


CASTABLE = frozenset({torch.float32, torch.float16, torch.bfloat16})


def cast_of(device: torch.device) -> torch.dtype | None:
    """What autocast casts to on a device, None where it is off."""
    return torch.get_autocast_dtype(device.type) if is_autocast_on(device) else None


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is on for a device; the meta device has none, and PyTorch raises where it is asked."""
    kind = device.type  # takes longer than all else here
    return kind != "meta" and torch.is_autocast_enabled(kind)


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
    """Whether no tensor is of a subclass that sees operators, or of a transform, which it may have outlived."""
    return all(t is None or ((type(t) is Tensor or type(t) is Parameter) and not is_wrapped(t)) for t in tensors)


def seen(x: Tensor, lengths: Tensor | None, parameters: list[Tensor], *said: Hashable) -> Seen | None:
    """A call, None where it must go the ordinary way; `said`: which parameters these are, and what else it says."""
    if not unobserved() or (type(x) is not Tensor and type(x) is not Parameter) or x.is_nested:
        return None
    tensors = [x, *parameters] if lengths is None else [x, lengths, *parameters]
    return Seen(tensors, (said, lengths is None, torch.get_float32_matmul_precision(), cast_of(x.device)))


def has_shortcut(x: Tensor, lengths: Tensor | None, parameters: list[Tensor]) -> bool:
    """Whether calls like this one, which was checked, need no more than their metadata to be checked again."""
    if x.layout is not torch.strided or x.dim() != 3:
        return False
    cast, kind = cast_of(x.device), parameters[0].dtype
    if not {x.dtype, kind} <= CASTABLE if cast is not None else kind is not x.dtype:
        return False
    # lengths on a CPU are checked by value, other types converted
    if lengths is not None and (
        type(lengths) is not Tensor
        or lengths.dtype is not torch.int64
        or lengths.device != x.device
        or lengths.device.type == "cpu"
        or not lengths.is_contiguous()
    ):
        return False
    alike = all(t.dtype is kind and t.device == x.device and t.is_contiguous() for t in parameters)
    return alike and plain([x, *parameters])
