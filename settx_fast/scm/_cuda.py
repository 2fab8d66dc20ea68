"""Tables and rows on a CUDA device: the native module's kernels on torch's memory and torch's current stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from settx_fast.scm._cpu import draw_tables, places_of_parameters
from settx_fast.scm._fields import as_range
from settx_fast.scm._layout import (
    COLUMNS,
    ROWS_ALONE,
    Sizes,
    Tables,
    Wanted,
    addresses_of_rows,
    asked,
    blank_rows,
    bytes_of,
    check_fits,
    memory_of_tables,
    sizes_of,
    tables_in,
)
from settx_fast.scm._native import native, native_prior
from settx_fast.scm.distributions import Constant
from settx_fast.scm.mechanisms import MLP, Linear, Product
from settx_fast.scm.noises import NOISES, noise_code
from settx_fast.scm.prior import Prior

WORTH_ASKING = 1 / 16
"""Share of a device's memory from which a batch is held against what is free: the driver takes its time to say."""

Number = int | Tensor
"""A number, or one int64 on the device, which a captured graph reads anew whenever it replays."""


def why_no_cuda() -> str:
    """Why the sampler cannot run on a CUDA device here, or nothing."""
    return "" if _is_there() else _what_is_missing()


def check_memory_cuda(device: torch.device, sizes: Sizes, num_rows: int, wanted: Wanted = ROWS_ALONE) -> None:
    """Raise ValueError if a batch of these sizes does not fit the device's free memory."""
    needed = bytes_of(sizes, num_rows, wanted)
    if needed > WORTH_ASKING * _memory_of(device) and not _is_capturing(device):
        free = torch.cuda.mem_get_info(device)[0]
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own reserve
        check_fits(needed, free + kept, f"{device}'s free memory")


def draw_tables_cuda(
    device: torch.device, prior: Prior, num_datasets: int, seed: Number, first_index: Number, num_threads: int
) -> Tables:
    """`draw_tables` on a device; numbers of mechanism parameters are counted on the host.

    What rests on pilot rows is drawn on the host and copied. A graph can capture neither, and neither can read numbers
    that lie on the device without waiting for it.
    """
    needs_host = prior.needs_pilot or prior.has_parameters
    _check_capture(device, needs_host, "a prior that is not linear, or rests on pilot rows")
    on_host = (prior, num_datasets, int(seed) % 2**64, int(first_index), num_threads) if needs_host else None
    if on_host and prior.needs_pilot:
        drawn = draw_tables(*on_host)
        assert drawn.memory is not None
        return tables_in(_copy(drawn.memory, device), drawn.sizes)
    sizes, offset = sizes_of(prior, num_datasets), None
    if on_host:
        sizes, counted = places_of_parameters(*on_host)
        offset = _copy(torch.from_numpy(counted), device)
        check_memory_cuda(device, sizes, 0)
    recipe, back_end, place = _recipe(_Same(prior), device), _back_end(), _place(device)
    tables = tables_in(memory_of_tables(device, sizes, zeros=False), sizes)
    assert tables.memory is not None
    scratch = torch.empty(back_end.scratch_to_draw(sizes), dtype=torch.uint8, device=device)
    recipe.keep_for(place[1])
    with _current(device):  # the native module changes the current one
        back_end.draw(
            recipe.record, recipe.image.data_ptr(), _number(seed), _number(first_index),
            (tables.memory.data_ptr(), tables.memory.numel()), tables.addresses, sizes,
            0 if offset is None else offset.data_ptr(), scratch.data_ptr(), *place,
        )  # fmt: skip
    return tables


def evaluate_tables_cuda(
    tables: Tables,
    row_offset: Tensor | None,
    num_rows: int,
    seed: Number,
    prior: Prior,
    wanted: Wanted = ROWS_ALONE,
    out: Tensor | None = None,
) -> dict[str, Tensor]:
    """`evaluate_tables` on the device of the tables, for what `prior` can have drawn; does not wait for the device.

    row_offset: None for `split_rows`.
    """
    sizes, device = tables.sizes, tables.device
    recipe, back_end, place = _recipe(_Same(prior), device), _back_end(), _place(device)
    split = recipe.split(num_rows) if row_offset is None else NO_SPLIT
    if row_offset is None:
        row_offset = torch.empty(sizes.B, sizes.K + 1, dtype=torch.int64, device=device)
    rows = blank_rows(device, sizes, num_rows, wanted, out)
    traits = (*recipe.traits, wanted.rejects)
    num_bytes = _scratch_bytes(back_end.scratch, sizes, num_rows, COLUMNS.index(wanted.columns), traits, place[0])
    scratch = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    value, address = _number(seed)
    with _current(device):
        back_end.evaluate(
            tables.addresses, sizes, addresses_of_rows(rows, row_offset), asked(num_rows, value, wanted), address,
            traits, split, scratch.data_ptr(), *place,
        )  # fmt: skip
    return rows


# ---- What calls share ------------------------------------------------------------------------------------------------


class BackEnd(NamedTuple):
    """The native module's calls."""

    draw: Callable[..., None]
    evaluate: Callable[..., None]
    scratch: Callable[..., int]
    scratch_to_draw: Callable[[Sizes], int]


@lru_cache
def _back_end() -> BackEnd:
    module = native()
    return BackEnd(module.draw_cuda, module.evaluate_cuda, module.scratch_bytes_cuda, module.scratch_bytes_to_draw)


Split = tuple[bool, bool, int]
"""Whether rows are to be split; by share; the rows that all datasets want in their target environments, or −1."""

NO_SPLIT: Split = (False, False, -1)

Traits = tuple[bool, bool, int, bool]
"""Whether all mechanisms are linear; whether all noise is Gaussian; units of the widest network of several layers."""


class Recipe:
    """What all calls for a prior on a device share."""

    def __init__(self, prior: Prior, device: torch.device) -> None:
        self.record: Any = native_prior(prior)
        self.image = _image(prior, device)
        self.traits = traits_of(prior)
        self.target_share = prior.target_share
        self._streams: set[int] = set()

    def split(self, num_rows: int) -> Split:
        """As `split_rows`."""
        share = self.target_share
        fixed = round(share.value * num_rows) if isinstance(share, Constant) else -1
        return True, share is not None, fixed

    def keep_for(self, stream: int) -> None:
        """Let the image live until what the stream has to do by then is done: it may have been made on another."""
        if stream not in self._streams:
            self.image.record_stream(torch.cuda.current_stream(self.image.device))
            self._streams.add(stream)


class _Same:
    """A prior as the key of a cache: equal to itself alone, which is sooner told than what it says."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def __hash__(self) -> int:
        return id(self.prior)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.prior is other.prior


@lru_cache(maxsize=256)
def _recipe(prior: _Same, device: torch.device) -> Recipe:
    return Recipe(prior.prior, device)


@lru_cache(maxsize=256)
def _scratch_bytes(
    ask: Callable[..., int],
    sizes: Sizes,
    num_rows: int,
    columns: int,
    traits: tuple[bool, bool, int, bool, bool],
    number: int,
) -> int:
    return ask(sizes, num_rows, columns, traits, number)


def traits_of(prior: Prior) -> Traits:
    """What the launches of `prior` depend on."""
    all_linear = all(isinstance(mechanism, Linear) for mechanism in prior.mechanisms)
    all_gaussian = all(NOISES[noise_code(noise)] == "gaussian" for noise in prior.noises)
    return all_linear, all_gaussian, deep_width(prior), has_products(prior)


def deep_width(prior: Prior) -> int:
    """Units of the widest network with several hidden layers that `prior` can draw, or 0."""
    deep = [m for m in prior.mechanisms if isinstance(m, MLP) and as_range(m.layers, "layers", 1, 3)[1] > 1]
    return max((as_range(m.hidden, "hidden", 1, 4096)[1] for m in deep), default=0)


def has_products(prior: Prior) -> bool:
    """Whether `prior` can draw products, which kernels in phases have no registers for."""
    return any(isinstance(mechanism, Product) for mechanism in prior.mechanisms)


@lru_cache(maxsize=64)
def _image(prior: Prior, device: torch.device) -> Tensor:
    """`prior` in the memory of a device; equal priors share it."""
    _check_capture(device, True, "a prior that no batch was sampled from yet")
    record = native_prior(prior)
    host = torch.empty(record.write_image(0, 0), dtype=torch.uint8)
    image = torch.empty_like(host, device=device)
    record.write_image(host.data_ptr(), image.data_ptr())
    image.copy_(host)
    _wait_for(device)  # once for a prior: every stream may read it from now on
    return image


# ---- The device ------------------------------------------------------------------------------------------------------


@lru_cache
def _is_there() -> bool:
    return not _what_is_missing()


def _what_is_missing() -> str:
    devices = native().find_devices()
    if not devices.built_with_cuda:
        return "the native module was built without CUDA; install settx_fast where nvcc is found"
    if not torch.cuda.is_available():
        return f"torch finds no CUDA device; CUDA says: {devices.problem or 'none'}"
    if devices.count == 0:
        return f"torch finds a CUDA device, the native module's own runtime does not: {devices.problem or 'none'}"
    return ""


@lru_cache
def _memory_of(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory


def _place(device: torch.device) -> tuple[int, int]:
    """The device's number and the stream that torch uses on it now."""
    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream


def _current(device: torch.device) -> torch.cuda.device:
    return torch.cuda.device(device)


def _wait_for(device: torch.device) -> None:
    torch.cuda.current_stream(device).synchronize()


def _number(given: Number) -> tuple[int, int]:
    """A number, and the address to read it from instead, or 0."""
    return (0, given.data_ptr()) if isinstance(given, Tensor) else (given, 0)


def _is_capturing(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _check_capture(device: torch.device, needs_the_host: bool, what: str) -> None:
    if needs_the_host and _is_capturing(device):
        raise RuntimeError(
            f"sample: a graph cannot capture the models of {what}: sample them before, and capture `resample`"
        )


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True)
