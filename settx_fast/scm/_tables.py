"""Tables of SCMs: their layout, drawing them, and turning them into rows; all by the native module."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._fields import check, is_int
from settx_fast.scm._native import native, native_prior
from settx_fast.scm.distributions import Constant
from settx_fast.scm.prior import Prior


class Sizes(NamedTuple):
    """B datasets, V variables, K environments, P mechanism parameters, L levels of a variable."""

    B: int
    V: int
    K: int
    P: int
    L: int


Shape = Callable[[Sizes], tuple[int, ...]]

LAYOUT: dict[str, tuple[Shape, type[np.generic]]] = {
    "index": (lambda s: (s.B,), np.int64),
    "num_variables": (lambda s: (s.B,), np.int64),
    "num_environments": (lambda s: (s.B,), np.int64),
    "is_target_environment": (lambda s: (s.B, s.K), np.bool_),
    "target_share": (lambda s: (s.B,), np.float32),
    "target_index": (lambda s: (s.B,), np.int64),
    "adjacency": (lambda s: (s.B, s.V, s.V), np.bool_),
    "order": (lambda s: (s.B, s.V), np.int64),
    "weights": (lambda s: (s.B, s.K, s.V, s.V), np.float32),
    "bias": (lambda s: (s.B, s.K, s.V), np.float32),
    "noise_scale": (lambda s: (s.B, s.K, s.V), np.float32),
    "hard": (lambda s: (s.B, s.K, s.V), np.bool_),
    "intervention": (lambda s: (s.B, s.K, s.V), np.int8),
    "noise_kind": (lambda s: (s.B, s.V), np.int64),
    "noise_parameters": (lambda s: (s.B, s.V, 5), np.float32),
    "noise_effect": (lambda s: (s.B, s.V), np.int64),
    "mechanism": (lambda s: (s.B, s.V), np.int64),
    "mechanism_offset": (lambda s: (s.B, s.K, s.V), np.int64),
    "mechanism_parameters": (lambda s: (s.P,), np.float32),
    "centre": (lambda s: (s.B, s.V), np.float32),
    "gain": (lambda s: (s.B, s.V), np.float32),
    "column_centre": (lambda s: (s.B, s.V), np.float32),
    "column_gain": (lambda s: (s.B, s.V), np.float32),
    "is_hidden": (lambda s: (s.B, s.V), np.bool_),
    "accept_variable": (lambda s: (s.B, s.K, 2), np.int64),
    "accept_slope": (lambda s: (s.B, s.K, 2), np.float32),
    "accept_intercept": (lambda s: (s.B, s.K, 2), np.float32),
    "error_scale": (lambda s: (s.B, s.V), np.float32),
    "num_levels": (lambda s: (s.B, s.V), np.int64),
    "thresholds": (lambda s: (s.B, s.V, s.L), np.float32),
    "codes": (lambda s: (s.B, s.V, s.L), np.float32),
    "loss_cause": (lambda s: (s.B, s.V), np.int64),
    "loss_rate": (lambda s: (s.B, s.V), np.float32),
    "loss_slope": (lambda s: (s.B, s.V), np.float32),
    "loss_intercept": (lambda s: (s.B, s.V), np.float32),
}
"""Shape and dtype of every table of a batch."""

Arrays = dict[str, np.ndarray]

Columns = Literal["raw", "given", "standardised"]
COLUMNS: tuple[Columns, ...] = get_args(Columns)
"""What becomes of finished columns: nothing; the tables' units; or units found first from the source rows."""


def count_parameters(prior: Prior, num_datasets: int, seed: int, first_index: int, num_threads: int) -> np.ndarray:
    """(B,) int64: numbers of mechanism parameters of datasets first_index, first_index + 1, …"""
    counts = np.zeros(num_datasets, np.int64)
    if prior.has_parameters:
        arrays = {"num_parameters": counts}
        native().count_parameters(native_prior(prior), seed, first_index, arrays, num_datasets, num_threads, "best")
    return counts


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
) -> Arrays:
    """The tables of datasets first_index, first_index + 1, …; `path` names an instruction set."""
    counts = count_parameters(prior, num_datasets, seed, first_index, num_threads)
    ends = counts.cumsum()
    sizes = sizes_of(prior, num_datasets, int(ends[-1]))
    check_memory(sizes, 0)
    arrays = _zeros(sizes)
    arrays["index"][:] = np.arange(first_index, first_index + num_datasets)
    offset = {"parameter_offset": ends - counts}
    native().draw(native_prior(prior), seed, arrays | offset, sizes, num_threads, path)
    return arrays


def _zeros(sizes: Sizes) -> Arrays:
    """Tables of zeros in one piece of memory. NumPy's comes from the system untouched; all threads write torch's."""
    bytes_, places = _places(sizes)
    block = np.zeros(bytes_, np.uint8)
    return {name: np.ndarray(shape, dtype, block, first) for name, shape, dtype, first in places}


@lru_cache  # a stream asks for the same sizes again and again
def _places(sizes: Sizes) -> tuple[int, list[tuple[str, tuple[int, ...], type[np.generic], int]]]:
    """Bytes of all tables, and where each begins: aligned for any type, and elsewhere than an empty one before it."""
    end, places = 0, []
    for name, (shape, dtype) in LAYOUT.items():
        places.append((name, shape(sizes), dtype, end))
        end += (np.dtype(dtype).itemsize * math.prod(shape(sizes)) // 8 + 1) * 8
    return end, places


def as_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """The same memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def as_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """The same memory."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def evaluate_tables(
    tables: Arrays,
    row_offset: np.ndarray,
    num_rows: int,
    seed: int,
    num_threads: int,
    path: str = "best",
    wanted: Wanted = ROWS_ALONE,
    out: Tensor | None = None,
) -> Arrays:
    """`values` (in `out` if given), `environment` and what is wanted; row_offset (B, K + 1): where environments lie.

    Units that are found are written into the tables `column_centre` and `column_gain`.
    """
    B, K, V = tables["bias"].shape
    sizes = Sizes(B, V, K, len(tables["mechanism_parameters"]), tables["codes"].shape[2])
    check_memory(sizes, num_rows, wanted)
    rows = {  # NumPy asks for huge pages, torch does not
        "values": np.empty((B, num_rows, V), np.float32) if out is None else out.numpy(),
        "environment": np.empty((B, num_rows), np.int64),
    }
    if wanted.loses:
        rows["is_missing"] = np.zeros((B, num_rows, V), np.bool_)
    if wanted.rejects:
        rows["attempt"] = np.zeros((B, num_rows), np.int16) if wanted.attempt is None else wanted.attempt.numpy()
    if wanted.noise:
        rows["noise"] = np.empty((B, num_rows, V), np.float32)
    how = (COLUMNS.index(wanted.columns), wanted.observed, wanted.attempt is not None)
    arrays = tables | rows | {"row_offset": row_offset}
    native().evaluate(arrays, sizes, num_rows, seed, *how, num_threads, path)
    return rows


def split_rows(tables: Mapping[str, Any], num_rows: int, prior: Prior) -> Any:
    """row_offset (B, K + 1): equal shares for all environments, or `target_share` for the target environments.

    Within a group of environments the first i of n get ⌊i · rows / n⌋ rows; every environment gets one at least.
    Arrays of arrays, tensors of tensors.
    """
    is_target, num_environments = tables["is_target_environment"], tables["num_environments"]
    K, on_host = is_target.shape[1], isinstance(is_target, np.ndarray)
    number = np.arange(K + 1) if on_host else torch.arange(K + 1, device=is_target.device)
    number = (np if on_host else torch).minimum(number, num_environments[:, None])
    if prior.target_share is None:
        return number * num_rows // num_environments[:, None]
    if on_host:
        names = ("is_target_environment", "num_environments", "target_share")
        return split_rows(as_tensors({name: tables[name] for name in names}), num_rows, prior).numpy()
    targets = is_target.sum(1, keepdim=True)
    sources = num_environments[:, None] - targets
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
    return _places(sizes)[0] + sizes.B * num_rows * (of_value * sizes.V + of_row)


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
