"""Tables and rows on a CUDA device: the native module's kernels on torch's memory and torch's current stream."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from settx_fast.scm._cpu import draw_tables, places_of_parameters
from settx_fast.scm._fields import as_range
from settx_fast.scm._layout import (
    ROWS_ALONE,
    Sizes,
    Tables,
    Wanted,
    addresses_of_rows,
    asked,
    blank_memory,
    blank_rows,
    bytes_of,
    check_fits,
    sizes_of,
    tables_in,
)
from settx_fast.scm._native import native, native_prior
from settx_fast.scm.mechanisms import MLP
from settx_fast.scm.prior import Prior

WORTH_ASKING = 1 / 16
"""Share of a device's memory from which a batch is held against what is free: the driver takes its time to say."""


def why_no_cuda() -> str:
    """Why the sampler cannot run on a CUDA device here, or nothing."""
    devices = native().find_devices()
    if not devices.built_with_cuda:
        return "the native module was built without CUDA; install settx_fast where nvcc is found"
    if not torch.cuda.is_available():
        return f"torch finds no CUDA device; CUDA says: {devices.problem or 'none'}"
    if devices.count == 0:
        return f"torch finds a CUDA device, the native module's own runtime does not: {devices.problem or 'none'}"
    return ""


def check_memory_cuda(device: torch.device, sizes: Sizes, num_rows: int, wanted: Wanted = ROWS_ALONE) -> None:
    """Raise ValueError if a batch of these sizes does not fit the device's free memory."""
    needed, all_of_it = bytes_of(sizes, num_rows, wanted), torch.cuda.get_device_properties(device).total_memory
    if needed > WORTH_ASKING * all_of_it and not _is_capturing(device):
        free = torch.cuda.mem_get_info(device)[0]
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own reserve
        check_fits(needed, free + kept, f"{device}'s free memory")


def draw_tables_cuda(
    device: torch.device, prior: Prior, num_datasets: int, seed: int, first_index: int, num_threads: int
) -> Tables:
    """`draw_tables` on a device; numbers of mechanism parameters are counted on the host.

    What rests on pilot rows is drawn on the host and copied. A graph can capture neither.
    """
    _check_capture(
        device, prior.needs_pilot or prior.has_parameters, "a prior that is not linear, or rests on pilot rows"
    )
    if prior.needs_pilot:
        drawn = draw_tables(prior, num_datasets, seed, first_index, num_threads)
        assert drawn.memory is not None
        return tables_in([_copy(piece, device) for piece in drawn.memory], drawn.sizes)
    if prior.has_parameters:
        sizes, on_host = places_of_parameters(prior, num_datasets, seed, first_index, num_threads)
        offset = _copy(torch.from_numpy(on_host), device)
    else:
        sizes, offset = sizes_of(prior, num_datasets), torch.zeros(num_datasets, dtype=torch.int64, device=device)
    check_memory_cuda(device, sizes, 0)
    tables = tables_in(blank_memory(device, sizes), sizes)
    torch.arange(first_index, first_index + num_datasets, out=tables.tensors["index"])
    scratch = torch.empty(num_datasets, 2 * sizes.V, dtype=torch.int32, device=device)
    image = _image(prior, device)
    image.record_stream(torch.cuda.current_stream(device))  # it may have been made on another
    given = image.data_ptr(), seed, tables.addresses, offset.data_ptr(), scratch.data_ptr(), sizes
    with torch.cuda.device(device):  # the native module changes the current one
        native().draw_cuda(native_prior(prior), *given, *_place(device))
    return tables


def evaluate_tables_cuda(
    tables: Tables,
    row_offset: Tensor,
    num_rows: int,
    seed: int,
    prior: Prior,
    wanted: Wanted = ROWS_ALONE,
    out: Tensor | None = None,
) -> dict[str, Tensor]:
    """`evaluate_tables` on the device of the tables, for what `prior` can have drawn; does not wait for the device."""
    sizes, device = tables.sizes, row_offset.device
    check_memory_cuda(device, sizes, num_rows, wanted)
    rows = blank_rows(device, sizes, num_rows, wanted, out)
    width, place = deep_width(prior), _place(device)
    hidden = native().hidden_floats_cuda(sizes, num_rows, width, place[0])
    chunks = native().column_chunks_cuda(num_rows) if wanted.columns == "standardised" else 0
    scratch = evaluation_scratch(device, sizes, hidden, chunks)
    where, scratch_at = addresses_of_rows(rows, row_offset), [piece.data_ptr() for piece in scratch]
    given = tables.addresses, sizes, where, asked(num_rows, seed, wanted), scratch_at, width
    with torch.cuda.device(device):
        native().evaluate_cuda(*given, *place)
    return rows


def evaluation_scratch(device: torch.device, sizes: Sizes, hidden: int, chunks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for lists of parents, hidden units of networks, and sums over chunks of rows."""
    parents = torch.empty(sizes.B, sizes.V, sizes.V + 1, dtype=torch.int32, device=device)
    sums = torch.empty(sizes.B, chunks, sizes.V, 3, dtype=torch.float64, device=device)
    return parents, torch.empty(hidden, device=device), sums


def deep_width(prior: Prior) -> int:
    """Units of the widest network with several hidden layers that `prior` can draw, or 0."""
    deep = [m for m in prior.mechanisms if isinstance(m, MLP) and as_range(m.layers, "layers", 1, 3)[1] > 1]
    return max((as_range(m.hidden, "hidden", 1, 4096)[1] for m in deep), default=0)


def _place(device: torch.device) -> tuple[int, int]:
    """The device's number and the stream that torch uses on it now."""
    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream


@lru_cache(maxsize=64)
def _image(prior: Prior, device: torch.device) -> Tensor:
    """`prior` in the memory of a device."""
    _check_capture(device, True, "a prior that no batch was sampled from yet")
    record = native_prior(prior)
    host = torch.empty(record.write_image(0, 0), dtype=torch.uint8)
    image = torch.empty_like(host, device=device)
    record.write_image(host.data_ptr(), image.data_ptr())
    image.copy_(host)
    torch.cuda.current_stream(device).synchronize()  # once for a prior: every stream may read it from now on
    return image


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
