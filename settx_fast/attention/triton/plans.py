"""Plans: the launches of an operator noted once, on tensors without storage, and then made of addresses alone.

A tensor argument becomes a place: bytes behind the beginning of an input, of a result, of the one buffer in which the
operator's other outputs lie, or of the one in which its temporaries do. A later call with arguments of the same
metadata allocates these, and launches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from settx_fast.attention.shortcuts import Calls, Seen, Table, plain
from settx_fast.attention.triton import gpu, launch
from settx_fast.attention.triton.launch import Launch
from settx_fast.attention.triton.launchers import (
    Place,
    PythonLauncher,
    Step,
    hooked,
    mapped,
    native_launcher,
    python_launcher,
    run,
)

ALIGNMENT = 256
MAX_PLANS = 512


class Traced(NamedTuple):
    """What a traced call makes: results, each with memory of its own, and outputs that share one buffer, in order.

    `inside` says which of the tensors that it read lie in an input, one after another, by the input's number.
    """

    results: list[Tensor]
    shared: Sequence[Tensor] = ()
    inside: Mapping[int, list[Tensor]] = MappingProxyType({})
    dtype: torch.dtype = torch.uint8  # of the buffer


Trace = Callable[..., Traced]
"""Launches what an operator does on a list of inputs, given what else it is called with."""


class Layout:
    """Where storages lie: in which base, and how many bytes behind its beginning."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, int]] = {}
        self._found: dict[int, tuple[Tensor, Place]] = {}  # a tensor is an argument of many launches
        self.sizes: list[int] = []  # bytes of every base so far

    def base(self, tensors: Sequence[Tensor] = ()) -> int:
        """A base more, with the storages of tensors in it, one after another, aligned."""
        self.sizes.append(0)
        self.put(len(self.sizes) - 1, tensors)
        return len(self.sizes) - 1

    def put(self, base: int, tensors: Sequence[Tensor]) -> None:
        """Storages behind those that a base has already; one that has a place keeps it."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if not storage.nbytes():
                self._places[storage._cdata] = 0, 0  # anywhere: nobody reads it
            elif storage._cdata not in self._places:
                self._places[storage._cdata] = base, self.sizes[base]
                self.sizes[base] += aligned(storage.nbytes())

    def share(self, base: int, launches: Sequence[Launch]) -> None:
        """Storages of launches that have no place yet: two of them lie in the same bytes where no launch is between

        the first and the last of both, the earlier ones as far to the front as they can.
        """
        used: dict[int, tuple[int, int, int]] = {}  # bytes, first and last launch
        for number, step in enumerate(launches):
            for tensor in tensors_of(step.args):
                storage = tensor.untyped_storage()
                if not storage.nbytes():
                    self._places[storage._cdata] = 0, 0  # anywhere: nobody reads it
                elif storage._cdata not in self._places:
                    first = used.get(storage._cdata, (0, number, 0))[1]
                    used[storage._cdata] = aligned(storage.nbytes()), first, number
        placed: list[tuple[int, int, int]] = []  # start, end and last launch
        for storage_id, (size, first, last) in used.items():  # in order of their first launch
            start = 0
            for begin, end, until in sorted(placed):
                if until >= first and begin < start + size and start < end:
                    start = end
            self._places[storage_id] = base, start
            placed.append((start, start + size, last))
            self.sizes[base] = max(self.sizes[base], start + size)

    def place(self, tensor: Tensor) -> Place:
        """The place of a tensor."""
        if id(tensor) not in self._found:
            self._found[id(tensor)] = tensor, self._place(tensor)
        return self._found[id(tensor)][1]

    def _place(self, tensor: Tensor) -> Place:
        base, start = self._places[tensor.untyped_storage()._cdata]
        start += int(tensor.storage_offset()) * tensor.element_size()
        return Place(base, start, tensor.dtype, tuple(tensor.shape), tensor.stride())


def aligned(size: Any) -> Any:
    """Bytes that a storage takes in a buffer."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


class Cut:
    """How contiguous outputs lie in a buffer of their type."""

    def __init__(self, places: Sequence[Place], size: int) -> None:
        self.size = size  # elements
        self._sizes: list[int] = []
        self._parts: list[tuple[int, tuple[int, ...] | None]] = [(0, None)] * len(places)
        end = 0
        for number in sorted(range(len(places)), key=lambda number: places[number].start):
            place = places[number]
            start, count = place.start // place.dtype.itemsize, torch.Size(place.shape).numel()
            if start > end:
                self._sizes.append(start - end)
            # vectors are what a split gives
            self._parts[number] = len(self._sizes), None if len(place.shape) == 1 else place.shape
            self._sizes.append(count)
            end = start + count
        if size > end:
            self._sizes.append(size - end)

    def __call__(self, flat: Tensor) -> list[Tensor]:
        """The outputs, in order."""
        parts = torch.unsafe_split_with_sizes(flat, self._sizes)
        # sizes one by one: PyTorch takes twice as long to read a tuple, thrice for a torch.Size
        return [parts[i] if shape is None else parts[i].view(*shape) for i, shape in self._parts]


@dataclass(frozen=True)
class Noted:
    """A call noted: its launches, the places of tensors and what it makes."""

    launches: list[Launch]
    layout: Layout
    results: list[Tensor]
    shared: Sequence[Tensor]
    dtype: torch.dtype  # of the buffer
    buffer: int | None  # the base of the shared outputs
    scratch: int | None  # the base of the temporaries

    @property
    def buffer_size(self) -> int:
        """Elements of the buffer."""
        return 0 if self.buffer is None else self.layout.sizes[self.buffer] // self.dtype.itemsize

    @property
    def make_buffer(self) -> Callable[..., Tensor]:
        """What allocates the buffer: bytes that nobody writes are zero, so that the same inputs give the same."""
        gaps = any(t.untyped_storage().nbytes() % ALIGNMENT for t in self.shared)
        return torch.zeros if self.dtype == torch.uint8 and gaps else torch.empty

    @property
    def cut(self) -> Cut:
        """Where the shared outputs lie."""
        return Cut([self.layout.place(t) for t in self.shared], self.buffer_size)


def note(trace: Trace, inputs: Sequence[Tensor | None], *static: Hashable) -> Noted:
    """Note what `trace` launches on tensors with the metadata of `inputs`."""
    metas = [None if t is None else without_storage(t) for t in inputs]
    with launch.noted() as launches:
        traced = trace(metas, *static)
    layout = Layout()
    bases = [None if meta is None else layout.base([meta]) for meta in metas]
    for result in traced.results:
        layout.base([result])
    for number, tensors in traced.inside.items():
        if (base := bases[number]) is not None:
            layout.sizes[base] = 0
            layout.put(base, tensors)
    buffer = layout.base(traced.shared) if traced.shared else None
    last = layout.base()
    layout.share(last, launches)
    scratch = last if layout.sizes[last] else None
    if scratch is None:
        layout.sizes.pop()
    return Noted(launches, layout, traced.results, traced.shared, traced.dtype, buffer, scratch)


def without_storage(tensor: Tensor) -> Tensor:
    """A tensor of the same metadata on the meta device."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors among arguments, which may be nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from tensors_of(each)


class Plan:
    """The launches of one operator for arguments of one metadata on one device."""

    def __init__(self, call: Noted, device: torch.device, *, native: bool = True) -> None:
        layout = call.layout
        compiled = launch.is_compiled_for(device)
        programs = launch.compile_side_by_side(call.launches) if compiled else [None] * len(call.launches)
        self.steps = [
            Step(replace(step, args=mapped(step.args, Tensor, layout.place)), program)
            for step, program in zip(call.launches, programs, strict=True)
        ]
        self.cut = call.cut
        self._device = device
        self._results = [(tuple(t.shape), t.stride(), t.dtype) for t in call.results]
        self._buffer = None if call.buffer is None else (call.buffer_size, call.dtype, call.make_buffer)
        self._scratch = None if call.scratch is None else layout.sizes[call.scratch]
        self._stream = stream_of(device)
        self._native: Any = None
        self._python: PythonLauncher | None = None
        if compiled:
            bases = len(layout.sizes)
            self._native = native_launcher(self.steps, bases, device.index or 0) if native else None
            self._python = python_launcher(self.steps, bases) if self._native is None else None

    @property
    def num_bytes(self) -> int:
        """What a call allocates beside its results."""
        size, dtype, _ = self._buffer or (0, torch.uint8, None)
        return size * dtype.itemsize + (self._scratch or 0)

    def __call__(self, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        """Results, then the buffer of the other outputs where there are any."""
        first = inputs[0]
        assert first is not None
        new = first.new_empty_strided
        made = [new(shape, stride, dtype=dtype) for shape, stride, dtype in self._results]
        if self._buffer is not None:
            size, dtype, make = self._buffer
            made.append(make(size, dtype=dtype, device=self._device))
        bases = [*inputs, *made]
        if self._scratch is not None:
            bases.append(new((self._scratch,), (1,), dtype=torch.uint8))
        self._launch(bases)
        return made

    def _launch(self, tensors: list[Tensor | None]) -> None:
        if self._native is not None and not hooked() and self._native.run(self._stream(), tensors):
            return
        bases = [tensor for tensor in tensors if tensor is not None]
        with torch.cuda.device_of(bases[0]):  # Triton launches on the current device
            if self._python is not None and not hooked() and self._python(self._stream(), bases):
                return
            run(self.steps, bases)


def stream_of(device: torch.device) -> Callable[[], int]:
    """What tells PyTorch's current stream of a device."""
    if device.type != "cuda":
        return lambda: 0
    return partial(torch._C._cuda_getCurrentRawStream, device.index)


PLANS, MET = Table(MAX_PLANS), Calls(MAX_PLANS)  # by a key of all metadata, and by what is quicker to ask


def met(trace: Trace, inputs: Sequence[Tensor | None], *static: Hashable) -> Plan | None:
    """The plan of a call if plain tensors of its metadata came to `planned` before."""
    found: Plan | None = MET.find(_seen(trace, inputs, static))
    return found


def planned(trace: Trace, inputs: Sequence[Tensor | None], *static: Hashable) -> Plan:
    """The plan of a call, noted and compiled when arguments of its metadata come for the first time."""
    found = met(trace, inputs, *static)
    if found is None:
        found = _planned(trace, inputs, *static)
        if plain(inputs):
            MET.keep(_seen(trace, inputs, static), found)
    return found


def _seen(trace: Trace, inputs: Sequence[Tensor | None], static: tuple[Hashable, ...]) -> Seen:
    said = (trace, static, torch.get_float32_matmul_precision(), [t is None for t in inputs])
    return Seen([t for t in inputs if t is not None], said)


def _planned(trace: Trace, inputs: Sequence[Tensor | None], *static: Hashable) -> Plan:
    device = next(t.device for t in inputs if t is not None)
    kinds = [None if t is None else (t.shape, t.stride(), t.dtype) for t in inputs]
    key = (trace, static, device, torch.get_float32_matmul_precision(), *kinds)
    plan = PLANS.get(key)
    if plan is None:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext(), gpu.standing_in(gpu.of(device)):
            plan = Plan(note(trace, inputs, *static), device)
        PLANS.put(key, plan)
    return plan
