"""Three ways to make the launches of a plan: by native code, by Triton's own launcher, and by Triton's `run`.

The first two take programs that are compiled already, for addresses that are multiples of 16. The third
takes everything, interpreted kernels and hooks on launches too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs

from settx_fast.attention.triton.launch import Launch

# Versions of Triton whose programs take their arguments in order and then two pointers to scratch memory.
KNOWN_TRITON = ((3, 6), (3, 9))
FORMATS = {
    "i1": "b", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u1": "B", "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
    "fp32": "f", "f32": "f", "fp64": "d",
}  # fmt: skip
POINTER = 8  # bytes


class Place(NamedTuple):
    """A tensor argument: where it begins, in bytes behind the beginning of base number `base`, and how it lies."""

    base: int
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing, the address of which is 0."""
        return 0 in self.shape

    def of(self, bases: Sequence[Tensor]) -> Tensor:
        """The tensor."""
        base = bases[self.base]
        offset = (base.storage_offset() * base.element_size() + self.start) // self.dtype.itemsize
        tensor = torch.empty(0, dtype=self.dtype, device=base.device)
        return tensor.set_(base.untyped_storage(), offset, self.shape, self.stride)


class Step(NamedTuple):
    """A launch with places for tensors, and its compiled program (None for memory set to zero)."""

    launch: Launch
    program: Any

    @property
    def bytes(self) -> int:
        """How many are set to zero."""
        (place,) = self.launch.args
        return torch.Size(place.shape).numel() * place.dtype.itemsize

    def arguments(self) -> Iterator[tuple[Any, Any]]:
        """Every argument's type, as Triton compiled it, and value."""
        named = dict(zip([p.name for p in self.launch.kernel.params], self.launch.args, strict=False))
        named |= self.launch.options
        return ((kind, named.get(name)) for name, kind in self.program.src.signature.items())


def mapped(value: Any, kind: type | tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """A value, perhaps nested, with what is of a kind replaced."""
    if isinstance(value, kind):
        return function(value)
    if not isinstance(value, tuple):
        return value
    parts = [mapped(each, kind, function) for each in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def run(steps: Sequence[Step], bases: Sequence[Tensor]) -> None:
    """Launch as the launch code would on tensors."""
    for launch, _ in steps:
        args = mapped(launch.args, Place, lambda place: place.of(bases))
        Launch(launch.kernel, launch.programs, args, launch.options).run()


def hooked() -> bool:
    """Whether somebody listens to Triton's launches."""
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return any(hook is not None and getattr(hook, "calls", True) for hook in hooks)


PythonLauncher = Callable[[int, Sequence[Tensor]], bool]


def python_launcher(steps: Sequence[Step], num_bases: int) -> PythonLauncher:
    """One generated function of a stream and tensors that calls Triton's own launchers.

    False, with nothing launched, where an address is no multiple of 16.
    """
    names: dict[str, Any] = {}
    lines = []
    for number, step in enumerate(steps):
        if step.launch.kernel is None:
            names[f"place{number}"] = step.launch.args[0]
            lines.append(f"place{number}.of(tensors).zero_()")
            continue
        program = step.program
        names |= {f"run{number}": program.run, f"at{number}": program.function, f"how{number}": program.packed_metadata}
        given = ", ".join(_source(kind, value) for kind, value in step.arguments())
        where = f"{step.launch.programs}, 1, 1, stream, at{number}, how{number}, None, None, None"
        lines.append(f"run{number}({where}, {given})")
    bases = "".join(f"b{i}, " for i in range(num_bases))
    body = "\n    ".join(["def call(stream, addresses, tensors):", f"{bases}= addresses", *lines])
    exec(body, names)
    call = names["call"]

    def launch(stream: int, tensors: Sequence[Tensor]) -> bool:
        addresses = [tensor.data_ptr() for tensor in tensors]
        if any(address % 16 for address in addresses):
            return False
        call(stream, addresses, tensors)
        return True

    return launch


def _source(kind: Any, value: Any) -> str:
    """An argument in the source of a generated call."""
    if isinstance(kind, tuple):
        return "(" + "".join(f"{_source(k, v)}, " for k, v in zip(kind, value, strict=True)) + ")"
    if kind == "constexpr":
        return "None"
    if kind[0] != "*":
        return repr(value)
    return "0" if value.empty else f"b{value.base} + {value.start}"


def native_launcher(steps: Sequence[Step], num_bases: int, device: int) -> Any:
    """The native module's `LaunchPlan`, or None where it is not built or cannot launch one of the programs."""
    make = _native_plans()
    if make is None or not all(step.program is None or _is_plain(step.program) for step in steps):
        return None
    return make(device, num_bases, [_entry(step) for step in steps])


@cache
def _native_plans() -> Any:
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    if not KNOWN_TRITON[0] <= version <= KNOWN_TRITON[1]:
        return None
    try:
        return import_module("settx_fast._native").LaunchPlan
    except ImportError:
        return None


def _is_plain(program: Any) -> bool:
    """Whether a program asks for nothing but a grid, arguments and shared memory."""
    meta = program.metadata
    special = "global_scratch_size", "profile_scratch_size", "launch_cooperative_grid", "launch_pdl"
    known = all(kind[0] == "*" or kind in FORMATS for kind in _flat(program.src.signature.values()))
    return known and meta.num_ctas == 1 and not any(getattr(meta, name) for name in special)


def _flat(kinds: Any) -> Iterator[str]:
    for kind in kinds:
        if isinstance(kind, tuple):
            yield from _flat(kind)
        elif kind != "constexpr":
            yield kind


def _entry(step: Step) -> tuple[Any, ...]:
    """A step as the native module takes it."""
    launch, program = step
    if program is None:
        (place,) = launch.args
        return "memory set to zero", 0, 0, 0, 0, step.bytes, b"", [], [(0, place.base, place.start)]
    parameters, offsets, patches = _parameters(step)
    program.run  # noqa: B018, loads the program
    meta = program.metadata
    threads = meta.warp_size * meta.num_warps
    return (
        program.name, program.function, launch.programs, threads, meta.shared, 0, bytes(parameters), offsets, patches,
    )  # fmt: skip


def _parameters(step: Step) -> tuple[bytearray, list[int], list[tuple[int, int, int]]]:
    """The bytes of all parameters, where each begins, and where addresses go: (at, base, start)."""
    parameters, offsets, patches = bytearray(), [], []

    def add(kind: Any, value: Any) -> None:
        if isinstance(kind, tuple):
            for each in zip(kind, value, strict=True):
                add(*each)
        elif kind != "constexpr":
            data = bytes(POINTER) if kind[0] == "*" else struct.pack(f"<{FORMATS[kind]}", value)
            parameters.extend(bytes(-len(parameters) % len(data)))
            offsets.append(len(parameters))
            if kind[0] == "*" and value is not None and not value.empty:
                patches.append((len(parameters), value.base, value.start))
            parameters.extend(data)

    for kind, value in step.arguments():
        add(kind, value)
    for _ in ("global scratch memory", "profile"):
        add("*i8", None)
    return parameters, offsets, patches
