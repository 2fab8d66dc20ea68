"""Rows of models that are drawn already, wherever their tables lie: what `resample` and `Batch.do` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from settx_fast.scm._cpu import evaluate_tables, threads
from settx_fast.scm._cuda import Number, check_memory_cuda, evaluate_tables_cuda
from settx_fast.scm._fields import check, is_int
from settx_fast.scm._layout import Columns, Wanted, split_rows, tables_of
from settx_fast.scm.prior import Prior

ON_REQUEST = ("is_missing", "attempt", "noise")


def evaluate_again(
    tensors: Mapping[str, Tensor],
    prior: Prior,
    num_rows: int,
    *,
    seed: Number,
    noise: bool,
    row_offset: Tensor | None = None,
    observed: bool = True,
    attempt: Tensor | None = None,
    num_threads: int | None = None,
) -> dict[str, Any]:
    """The fields of a batch that hold rows, by name; None for those of `ON_REQUEST` that there are none of.

    tensors: every table of `LAYOUT`. row_offset: (B, K + 1) int64, where rows of environments begin; None splits them
    as the prior says. The other arguments are those of `resample`. Raises ValueError for tables that are not as they
    were drawn.
    """
    tables = tables_of(tensors)
    wanted = wanted_of(prior, noise) if observed else Wanted(noise=noise)
    columns: Columns = "given" if wanted.columns == "standardised" else "raw"
    wanted = wanted._replace(columns=columns, attempt=attempt)
    if tables.tensors["bias"].is_cuda:
        check_memory_cuda(tables.tensors["bias"].device, tables.sizes, num_rows, wanted)
        rows = evaluate_tables_cuda(tables, row_offset, num_rows, seed, prior, wanted)
    else:
        if row_offset is None:
            row_offset = split_rows(tables.tensors, num_rows, prior)
        rows = evaluate_tables(tables, row_offset, num_rows, int(seed) % 2**64, threads(num_threads), wanted=wanted)
    return dict.fromkeys(ON_REQUEST) | rows


def wanted_of(prior: Prior, noise: bool) -> Wanted:
    """What of its rows a batch of `prior` holds."""
    columns: Columns = "standardised" if prior.standardisation == "sample" else "raw"
    return Wanted(columns, prior.is_observed, prior.loses_values, prior.rejects_rows, noise=noise)


def check_rows(num_rows: int, environments: int) -> None:
    """Raise ValueError unless so many rows can be split over up to so many environments."""
    expected = f"an int in 1…2³² that leaves a row for each of up to {environments} environments"
    check(is_int(num_rows) and environments <= num_rows <= 1 << 32, "num_rows", expected, num_rows)
