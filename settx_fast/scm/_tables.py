"""Tables of SCMs: their layout, drawing them, and turning them into rows; all by the native module."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._fields import check, is_int
from settx_fast.scm._native import native, native_prior
from settx_fast.scm.distributions import Constant
from settx_fast.scm.prior import Prior

HOST = torch.device("cpu")


class Sizes(NamedTuple):
    """B datasets, V variables, K environments, P mechanism parameters, L levels of a variable."""

    B: int
    V: int
    K: int
    P: int
    L: int


Shape = Callable[[Sizes], tuple[int, ...]]

LAYOUT: dict[str, tuple[Shape, torch.dtype]] = {
    "index": (lambda s: (s.B,), torch.int64),
    "num_variables": (lambda s: (s.B,), torch.int64),
    "num_environments": (lambda s: (s.B,), torch.int64),
    "is_target_environment": (lambda s: (s.B, s.K), torch.bool),
    "target_share": (lambda s: (s.B,), torch.float32),
    "target_index": (lambda s: (s.B,), torch.int64),
    "adjacency": (lambda s: (s.B, s.V, s.V), torch.bool),
    "order": (lambda s: (s.B, s.V), torch.int64),
    "weights": (lambda s: (s.B, s.K, s.V, s.V), torch.float32),
    "bias": (lambda s: (s.B, s.K, s.V), torch.float32),
    "noise_scale": (lambda s: (s.B, s.K, s.V), torch.float32),
    "hard": (lambda s: (s.B, s.K, s.V), torch.bool),
    "intervention": (lambda s: (s.B, s.K, s.V), torch.int8),
    "noise_kind": (lambda s: (s.B, s.V), torch.int64),
    "noise_parameters": (lambda s: (s.B, s.V, 5), torch.float32),
    "noise_effect": (lambda s: (s.B, s.V), torch.int64),
    "mechanism": (lambda s: (s.B, s.V), torch.int64),
    "mechanism_offset": (lambda s: (s.B, s.K, s.V), torch.int64),
    "mechanism_parameters": (lambda s: (s.P,), torch.float32),
    "centre": (lambda s: (s.B, s.V), torch.float32),
    "gain": (lambda s: (s.B, s.V), torch.float32),
    "column_centre": (lambda s: (s.B, s.V), torch.float32),
    "column_gain": (lambda s: (s.B, s.V), torch.float32),
    "is_hidden": (lambda s: (s.B, s.V), torch.bool),
    "accept_variable": (lambda s: (s.B, s.K, 2), torch.int64),
    "accept_slope": (lambda s: (s.B, s.K, 2), torch.float32),
    "accept_intercept": (lambda s: (s.B, s.K, 2), torch.float32),
    "error_scale": (lambda s: (s.B, s.V), torch.float32),
    "num_levels": (lambda s: (s.B, s.V), torch.int64),
    "thresholds": (lambda s: (s.B, s.V, s.L), torch.float32),
    "codes": (lambda s: (s.B, s.V, s.L), torch.float32),
    "loss_cause": (lambda s: (s.B, s.V), torch.int64),
    "loss_rate": (lambda s: (s.B, s.V), torch.float32),
    "loss_slope": (lambda s: (s.B, s.V), torch.float32),
    "loss_intercept": (lambda s: (s.B, s.V), torch.float32),
}
"""Shape and dtype of every table of a batch, in the order in which the native module is told where they lie."""

Columns = Literal["raw", "given", "standardised"]
COLUMNS: tuple[Columns, ...] = get_args(Columns)
"""What becomes of finished columns: nothing; the tables' units; or units found first from the source rows."""


AS_NUMPY: dict[torch.dtype, type[np.generic]] = {
    torch.int64: np.int64,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.bool: np.bool_,
    torch.float32: np.float32,
}


class Tables(NamedTuple):
    """SCMs: every table of `LAYOUT`, where it lies, and their memory if the tables of a dtype share it."""

    sizes: Sizes
    tensors: dict[str, Tensor]
    addresses: list[int]
    memory: list[Tensor] | None = None


class Place(NamedTuple):
    """Of a table among those of its dtype: `first` is the number of its first element."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    first: int


@lru_cache  # a stream asks for the same sizes again and again
def _places(sizes: Sizes) -> tuple[dict[torch.dtype, int], list[Place]]:
    """Elements of every dtype, and the places of all tables."""
    ends: dict[torch.dtype, int] = {}
    places = []
    for name, (shape_of, dtype) in LAYOUT.items():
        shape, first = shape_of(sizes), ends.get(dtype, 0)
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        places.append(Place(name, dtype, shape, stride, first))
        ends[dtype] = first + math.prod(shape)
    return ends, places


def allocate(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, zeros: bool = False) -> Tensor:
    """Memory. On the host NumPy's: it asks for huge pages, and its zeros come from the system untouched."""
    if device.type != "cpu":
        return (torch.zeros if zeros else torch.empty)(shape, dtype=dtype, device=device)
    return torch.from_numpy((np.zeros if zeros else np.empty)(shape, AS_NUMPY[dtype]))


def blank_memory(device: torch.device, sizes: Sizes) -> list[Tensor]:
    """Zeros for all tables, in a piece for every dtype: few for a device to allocate."""
    return [allocate(device, (count,), dtype, zeros=True) for dtype, count in _places(sizes)[0].items()]


def tables_in(memory: list[Tensor], sizes: Sizes) -> Tables:
    """The tables that lie in such memory."""
    pieces = {piece.dtype: (piece, piece.data_ptr()) for piece in memory}
    tensors, addresses = {}, []
    for name, dtype, shape, stride, first in _places(sizes)[1]:
        piece, address = pieces[dtype]
        tensors[name] = piece.as_strided(shape, stride, first)
        addresses.append(address + first * dtype.itemsize)
    return Tables(sizes, tensors, addresses, memory)


def tables_of(tensors: Mapping[str, Tensor]) -> Tables:
    """Tables from wherever they lie; ValueError unless each is as `LAYOUT` has it, on one device."""
    for name, dimensions in (("bias", 3), ("codes", 3), ("mechanism_parameters", 1)):
        check(tensors[name].ndim == dimensions, f"batch.{name}", f"{dimensions} dimensions", tuple(tensors[name].shape))
    B, K, V = tensors["bias"].shape
    sizes = Sizes(B, V, K, len(tensors["mechanism_parameters"]), tensors["codes"].shape[2])
    expected_device, found = tensors["bias"].device, {}
    for name, dtype, shape, *_ in _places(sizes)[1]:
        table = tensors[name]
        as_expected = table.dtype == dtype and table.shape == shape and table.device == expected_device
        expected, got = f"{dtype} {shape} on {expected_device}", f"{table.dtype} {tuple(table.shape)} on {table.device}"
        check(as_expected, f"batch.{name}", expected, got)
        found[name] = table.contiguous()
    return Tables(sizes, found, [table.data_ptr() for table in found.values()])


def count_parameters(prior: Prior, num_datasets: int, seed: int, first_index: int, num_threads: int) -> np.ndarray:
    """(B,) int64: numbers of mechanism parameters of datasets first_index, first_index + 1, …"""
    if not prior.has_parameters:
        return np.zeros(num_datasets, np.int64)
    return native().count_parameters(native_prior(prior), seed, first_index, num_datasets, num_threads, "best")


class Wanted(NamedTuple):
    """What is asked of an evaluation beside the rows of the SCM.

    columns   what becomes of finished columns
    observed  rows are accepted, errors added, levels made
    loses     values are lost too, and `is_missing` says which
    rejects   rows may be drawn again, and `attempt` says how often each was
    attempt   (B, R) int16: the attempts to take instead of deciding
    noise     the exogenous noise
    """

    columns: Columns = "raw"
    observed: bool = False
    loses: bool = False
    rejects: bool = False
    attempt: Tensor | None = None
    noise: bool = False


ROWS_ALONE = Wanted()
WORTH_ASKING = 1 << 26
"""Bytes from which a batch is held against the free memory: the system takes its time to say."""


def draw_tables(
    prior: Prior, num_datasets: int, seed: int, first_index: int, num_threads: int, path: str = "best"
) -> Tables:
    """The tables of datasets first_index, first_index + 1, …; `path` names an instruction set."""
    counts = count_parameters(prior, num_datasets, seed, first_index, num_threads)
    ends = counts.cumsum()
    sizes, offset = sizes_of(prior, num_datasets, int(ends[-1])), ends - counts
    check_memory(sizes, 0)
    tables = tables_in(blank_memory(HOST, sizes), sizes)
    torch.arange(first_index, first_index + num_datasets, out=tables.tensors["index"])
    native().draw(native_prior(prior), seed, tables.addresses, offset.ctypes.data, sizes, num_threads, path)
    return tables


def evaluate_tables(
    tables: Tables,
    row_offset: Tensor,
    num_rows: int,
    seed: int,
    num_threads: int,
    path: str = "best",
    wanted: Wanted = ROWS_ALONE,
    out: Tensor | None = None,
) -> dict[str, Tensor]:
    """`values` (in `out` if given), `environment` and what is wanted; row_offset (B, K + 1): where environments lie.

    Units that are found are written into the tables `column_centre` and `column_gain`.
    """
    check_memory(tables.sizes, num_rows, wanted)
    rows = blank_rows(HOST, tables.sizes, num_rows, wanted, out)
    where = addresses_of_rows(rows, row_offset)
    native().evaluate(tables.addresses, tables.sizes, where, asked(num_rows, seed, wanted), num_threads, path)
    return rows


def blank_rows(
    device: torch.device, sizes: Sizes, num_rows: int, wanted: Wanted, out: Tensor | None
) -> dict[str, Tensor]:
    """Memory for all that an evaluation writes."""
    per_row, per_value = (sizes.B, num_rows), (sizes.B, num_rows, sizes.V)
    rows = {
        "values": allocate(device, per_value, torch.float32) if out is None else out,
        "environment": allocate(device, per_row, torch.int64),
    }
    if wanted.loses:
        rows["is_missing"] = allocate(device, per_value, torch.bool, zeros=True)
    if wanted.rejects:
        given = wanted.attempt
        rows["attempt"] = allocate(device, per_row, torch.int16, zeros=True) if given is None else given
    if wanted.noise:
        rows["noise"] = allocate(device, per_value, torch.float32)
    return rows


def addresses_of_rows(rows: Mapping[str, Tensor], row_offset: Tensor) -> list[int]:
    """Where they lie, in the native module's order; 0 for what is not wanted."""
    names = ("values", "environment", "is_missing", "attempt", "noise")
    return [row_offset.data_ptr(), *(rows[name].data_ptr() if name in rows else 0 for name in names)]


def asked(num_rows: int, seed: int, wanted: Wanted) -> tuple[int, int, int, bool, bool]:
    """What is asked of an evaluation, in the native module's terms."""
    return num_rows, seed, COLUMNS.index(wanted.columns), wanted.observed, wanted.attempt is not None


def split_rows(tables: Mapping[str, Tensor], num_rows: int, prior: Prior) -> Tensor:
    """row_offset (B, K + 1): equal shares for all environments, or `target_share` for the target environments.

    Within a group of environments the first i of n get ⌊i · rows / n⌋ rows; every environment gets one at least.
    """
    is_target, num_environments = tables["is_target_environment"], tables["num_environments"][:, None]
    number = torch.arange(is_target.shape[1] + 1, device=is_target.device).minimum(num_environments)
    if prior.target_share is None:
        return number * num_rows // num_environments
    targets = is_target.sum(1, keepdim=True)
    sources = num_environments - targets
    if isinstance(prior.target_share, Constant):
        wanted = torch.full_like(targets, round(prior.target_share.value * num_rows))
    else:
        wanted = (tables["target_share"].double() * num_rows).round().long()[:, None]
    target_rows = wanted.clamp(min=targets).minimum(num_rows - sources)
    source_rows = num_rows - target_rows
    in_sources = number.minimum(sources) * source_rows // sources
    return in_sources + (number - sources).clamp(min=0) * target_rows // targets


def rows_of_one_environment(environment: Tensor, num_environments: int, num_rows: int) -> Tensor:
    """row_offset (B, K + 1) that gives all rows of dataset b to environment[b]."""
    return (torch.arange(num_environments + 1, device=environment.device) > environment[:, None]) * num_rows


def bytes_of(sizes: Sizes, num_rows: int, wanted: Wanted = ROWS_ALONE) -> int:
    """What a batch takes in memory."""
    of_value, of_row = 4 + wanted.loses + 4 * wanted.noise, 8 + 2 * wanted.rejects
    of_tables = sum(dtype.itemsize * count for dtype, count in _places(sizes)[0].items())
    return of_tables + sizes.B * num_rows * (of_value * sizes.V + of_row)


def sizes_of(prior: Prior, num_datasets: int, num_parameters: int = 0) -> Sizes:
    """Those of a batch of `prior`."""
    return Sizes(num_datasets, prior.max_variables, prior.max_environments, num_parameters, prior.max_levels)


def check_memory(sizes: Sizes, num_rows: int, wanted: Wanted = ROWS_ALONE) -> None:
    """Raise ValueError if a batch of these sizes does not fit the memory that this machine has left."""
    needed = bytes_of(sizes, num_rows, wanted)
    if needed > WORTH_ASKING:
        check_fits(needed, available_memory(), "this machine's free memory")


def check_fits(needed: int, available: int, where: str) -> None:
    """Raise ValueError unless `needed` bytes are available."""
    if needed > available:
        raise ValueError(
            f"num_datasets, num_rows: expected a batch within {where} of {available / 1e9:.1f} GB, "
            f"got {needed / 1e9:.1f} GB"
        )


def available_memory() -> int:
    """Bytes that can be had without swapping: Linux's estimate, elsewhere all memory."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def check_out(out: object, shape: tuple[int, int, int], device: torch.device) -> None:
    """Raise ValueError unless values of that shape can be written to `out` as they are."""
    check(isinstance(out, Tensor), "out", "None or a tensor", type(out).__name__)
    assert isinstance(out, Tensor)
    check(out.layout == torch.strided and not out.is_nested, "out.layout", "torch.strided, not nested", out.layout)
    check(out.dtype == torch.float32, "out.dtype", "torch.float32", out.dtype)
    here = out.device.type == device.type and device.index in (None, out.device.index)
    check(here, "out.device", repr(str(device)), str(out.device))
    check(tuple(out.shape) == shape, "out.shape", f"(num_datasets, num_rows, variables) = {shape}", tuple(out.shape))
    check(out.is_contiguous() and not out.is_neg(), "out.stride()", "a contiguous tensor", out.stride())
    check(not out.requires_grad, "out.requires_grad", "False", out.requires_grad)


def check_seed(seed: object) -> None:
    """Raise ValueError unless `seed` is an int of 64 bits."""
    check(is_int(seed) and 0 <= seed < 1 << 64, "seed", "an int in 0…2⁶⁴ − 1", seed)  # type: ignore[operator]


def threads(num_threads: int | None) -> int:
    """`num_threads`, or as many as torch uses."""
    if num_threads is None:
        return torch.get_num_threads()
    check(is_int(num_threads) and 1 <= num_threads <= 1024, "num_threads", "None or an int in 1…1024", num_threads)
    return num_threads
