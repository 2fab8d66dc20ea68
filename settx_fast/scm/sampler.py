"""Datasets from structural causal models: `sample`, and `resample` of the same models."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from settx_fast.scm._cpu import check_memory, draw_tables, evaluate_tables, threads
from settx_fast.scm._cuda import (
    check_memory_cuda,
    draw_tables_cuda,
    evaluate_tables_cuda,
    why_no_cuda,
)
from settx_fast.scm._fields import check, is_int
from settx_fast.scm._layout import Wanted, rows_of_one_environment, sizes_of, split_rows
from settx_fast.scm.batch import MOST_ATTEMPTS, Batch
from settx_fast.scm.evaluation import check_rows, evaluate_again, wanted_of
from settx_fast.scm.prior import Prior

MAX_INDEX = 1 << 48


def sample(
    prior: Prior,
    num_datasets: int,
    num_rows: int,
    *,
    seed: int | Tensor,
    first_index: int | Tensor = 0,
    device: str | torch.device = "cpu",
    num_threads: int | None = None,
    return_noise: bool = False,
    out: Tensor | None = None,
) -> Batch:
    """Draw datasets first_index … first_index + num_datasets − 1 of the stream named by (prior, seed).

    A dataset is a pure function of (prior, seed, its index, num_rows): the same bits for any number of threads, any
    split into batches and any processor. Rows are split over the environments as evenly as possible, or by
    `prior.target_share`. num_threads: None for as many as torch uses. return_noise: keep the exogenous noise as
    `Batch.noise`. out: a contiguous float32 tensor (num_datasets, num_rows, prior.max_variables) that `values` are
    written to and then are; what it held is lost.

    device: where the batch is drawn and stays. On a CUDA device all work goes to torch's current stream, and nothing
    waits for it. A graph can capture the call if the prior is linear, rests on no pilot rows, and was sampled before.
    seed and first_index may there be tensors of one int64, which a graph reads anew whenever it replays.

    Raises ValueError naming field, expected and got, before anything is allocated.

    Returns a `Batch`, whose values are (num_datasets, num_rows, V) float32.
    """
    where = check_device(device)
    seed_there = _check_number_there(seed, "seed", where)
    first_there = _check_number_there(first_index, "first_index", where)
    check_request(prior, num_datasets, num_rows, 0 if first_there else first_index)
    num_datasets, num_rows = int(num_datasets), int(num_rows)  # of NumPy
    if not first_there:
        first_index = int(first_index)
    if not seed_there:
        check_seed(seed)
        seed = int(seed)
    check(isinstance(return_noise, bool), "return_noise", "True or False", return_noise)
    workers, wanted = threads(num_threads), wanted_of(prior, return_noise)
    check_batch_memory(where, prior, num_datasets, num_rows, wanted)
    if out is not None:
        check_out(out, (num_datasets, num_rows, prior.max_variables), where)
    if where.type == "cuda":
        tables = draw_tables_cuda(where, prior, num_datasets, seed, first_index, workers)
        rows = evaluate_tables_cuda(tables, None, num_rows, seed, prior, wanted, out)
    else:
        assert isinstance(seed, int)
        assert isinstance(first_index, int)
        tables = draw_tables(prior, num_datasets, seed, first_index, workers)
        offset = split_rows(tables.tensors, num_rows, prior)
        rows = evaluate_tables(tables, offset, num_rows, seed, workers, wanted=wanted, out=out)
    return Batch.of_tables(tables.tensors, prior=prior, seed=seed, **rows)


def resample(
    batch: Batch,
    num_rows: int,
    *,
    seed: int | Tensor,
    environments: int | Tensor | None = None,
    observed: bool = True,
    attempt: Tensor | None = None,
    num_threads: int | None = None,
) -> Batch:
    """Fresh rows from the SCMs of `batch`; with `seed=batch.seed` and as many rows, the exogenous noise is the same.

    environments: None splits the rows over environments as `batch` does; a number, or one per dataset (B,) int64,
    draws every row from that environment. observed: as `batch.values`, in the same units; without, as the SCM has them.
    attempt: (B, num_rows) int16, those of `Batch.attempt` to take instead of selecting rows anew. Tensors that are
    given are checked first, which waits for a CUDA device; otherwise a graph can capture the call there. There `seed`
    may be a tensor of one int64, which a graph reads anew whenever it replays. Mechanisms and noises are taken for such
    as `batch.prior` can draw.

    Raises ValueError naming field, expected and got, before anything is allocated.
    """
    check(isinstance(batch, Batch), "batch", "an scm.Batch", type(batch).__name__)
    check_rows(num_rows, 1 if environments is not None else batch.bias.shape[1])
    num_rows = int(num_rows)
    if not _check_number_there(seed, "seed", batch.device):
        check_seed(seed)
        seed = int(seed)
    check(isinstance(observed, bool), "observed", "True or False", observed)
    if attempt is not None:
        _check_attempt(attempt, batch, num_rows, observed)
    offset = None
    if environments is not None:
        offset = rows_of_one_environment(_as_environments(batch, environments), batch.bias.shape[1], num_rows)
    rows = evaluate_again(
        batch.tables, batch.prior, num_rows, seed=seed, noise=batch.noise is not None, row_offset=offset,
        observed=observed, attempt=attempt, num_threads=num_threads,
    )  # fmt: skip
    return replace(batch, **rows, seed=seed)


def check_device(device: str | torch.device) -> torch.device:
    """The device, with its number if it has one; ValueError unless the sampler runs there."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    check(found.type in ("cpu", "cuda"), "device", "'cpu', 'cuda' or 'cuda:' and a number", str(device))
    if found.type == "cpu":
        return found
    reason = why_no_cuda()
    check(not reason, "device", f"'cpu' ({reason})", str(device))
    count, index = torch.cuda.device_count(), torch.cuda.current_device() if found.index is None else found.index
    check(index < count, "device", f"'cuda:{count - 1}' at most", str(device))
    return torch.device("cuda", index)


def _check_number_there(given: object, name: str, device: torch.device) -> bool:
    """Whether a number lies on the device; ValueError if it is a tensor that does not fit."""
    if not isinstance(given, Tensor):
        return False
    expected = f"an int, or on a CUDA device one int64 there, here {device}"
    fits = device.type == "cuda" and given.device == device and given.dtype == torch.int64 and given.numel() == 1
    check(fits, name, expected, f"{given.dtype} {tuple(given.shape)} on {given.device}")
    return True


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


def check_batch_memory(
    device: torch.device, prior: Prior, num_datasets: int, num_rows: int, wanted: Wanted | None = None
) -> None:
    """Raise ValueError if a batch does not fit the memory that `device` has."""
    sizes, wanted = sizes_of(prior, num_datasets), wanted or wanted_of(prior, noise=False)
    if device.type == "cuda":
        check_memory_cuda(device, sizes, num_rows, wanted)
    else:
        check_memory(sizes, num_rows, wanted)


def check_seed(seed: object) -> None:
    """Raise ValueError unless `seed` is an int of 64 bits."""
    check(is_int(seed) and 0 <= seed < 1 << 64, "seed", "an int in 0…2⁶⁴ − 1", seed)


def check_request(prior: Prior, num_datasets: int, num_rows: int, first_index: object) -> None:
    """Raise ValueError unless that many datasets of `prior` can be drawn from `first_index` on."""
    check(isinstance(prior, Prior), "prior", "an scm.Prior", prior)
    check(is_int(num_datasets) and num_datasets >= 1, "num_datasets", "an int ≥ 1", num_datasets)
    check_rows(num_rows, prior.max_environments)
    check(is_int(first_index) and first_index >= 0, "first_index", "an int ≥ 0", first_index)
    last = int(first_index) + int(num_datasets)  # type: ignore[call-overload]
    check(last <= MAX_INDEX, "first_index + num_datasets", f"at most 2⁴⁸ = {MAX_INDEX}", last)


def _check_attempt(attempt: object, batch: Batch, num_rows: int, observed: bool) -> None:
    selects = observed and batch.prior.rejects_rows
    check(selects, "attempt", "None where no row is selected", attempt)
    shape = (len(batch), num_rows)
    check(isinstance(attempt, Tensor), "attempt", f"None or an int16 tensor {shape}", attempt)
    assert isinstance(attempt, Tensor)
    fits = attempt.dtype == torch.int16 and tuple(attempt.shape) == shape and attempt.is_contiguous()
    got = f"{attempt.dtype} {tuple(attempt.shape)} with strides {attempt.stride()}"
    check(fits, "attempt", f"a contiguous torch.int16 {shape}", got)
    check(attempt.device == batch.device, "attempt.device", str(batch.device), str(attempt.device))
    least, most = (int(end) for end in attempt.aminmax())
    check(least >= 0 and most <= MOST_ATTEMPTS, "attempt", f"numbers in 0…{MOST_ATTEMPTS}", f"{least}…{most}")


def _as_environments(batch: Batch, environments: int | Tensor) -> Tensor:
    expected = "an int or int64 (B,)"
    check(is_int(environments) or isinstance(environments, Tensor), "environments", expected, environments)
    given = torch.as_tensor(environments, device=batch.device)
    check(given.dtype == torch.int64 and given.ndim <= 1, "environments", expected, environments)
    check(
        given.ndim == 0 or len(given) == len(batch),
        "environments",
        f"one for each of {len(batch)}",
        len(given.view(-1)),
    )
    known = (given >= 0) & (given < batch.num_environments)
    check(
        bool(known.all()), "environments", f"below num_environments = {batch.num_environments.tolist()}", environments
    )
    return given.expand(len(batch))
