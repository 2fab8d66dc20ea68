"""Tables and rows on the host, by the native module's threads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._fields import check, is_int
from settx_fast.scm._layout import (
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
from settx_fast.scm.prior import Prior

HOST = torch.device("cpu")

WORTH_ASKING = 1 << 26
"""Bytes from which a batch is held against the free memory: the system takes its time to say."""


def count_parameters(prior: Prior, num_datasets: int, seed: int, first_index: int, num_threads: int) -> np.ndarray:
    """(B,) int64: numbers of mechanism parameters of datasets first_index, first_index + 1, …"""
    if not prior.has_parameters:
        return np.zeros(num_datasets, np.int64)
    return native().count_parameters(native_prior(prior), seed, first_index, num_datasets, num_threads, "best")


def places_of_parameters(
    prior: Prior, num_datasets: int, seed: int, first_index: int, num_threads: int
) -> tuple[Sizes, np.ndarray]:
    """Sizes of a batch, and where the parameters of every dataset begin, (B,) int64."""
    counts = count_parameters(prior, num_datasets, seed, first_index, num_threads)
    ends = counts.cumsum()
    return sizes_of(prior, num_datasets, int(ends[-1])), ends - counts


def draw_tables(
    prior: Prior, num_datasets: int, seed: int, first_index: int, num_threads: int, path: str = "best"
) -> Tables:
    """The tables of datasets first_index, first_index + 1, …; `path` names an instruction set."""
    sizes, offset = places_of_parameters(prior, num_datasets, seed, first_index, num_threads)
    check_memory(sizes, 0)
    tables = tables_in(memory_of_tables(HOST, sizes), sizes)
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


def check_memory(sizes: Sizes, num_rows: int, wanted: Wanted = ROWS_ALONE) -> None:
    """Raise ValueError if a batch of these sizes does not fit the memory that this machine has left."""
    needed = bytes_of(sizes, num_rows, wanted)
    if needed > WORTH_ASKING:
        check_fits(needed, available_memory(), "this machine's free memory")


def available_memory() -> int:
    """Bytes that can be had without swapping: Linux's estimate, elsewhere all memory."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def threads(num_threads: int | None) -> int:
    """`num_threads`, or as many as torch uses."""
    if num_threads is None:
        return torch.get_num_threads()
    check(is_int(num_threads) and 1 <= num_threads <= 1024, "num_threads", "None or an int in 1…1024", num_threads)
    return num_threads
