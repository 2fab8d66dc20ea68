"""What a batch is made of in memory: tables of SCMs, and the rows that they are turned into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._fields import check
from settx_fast.scm.distributions import Constant
from settx_fast.scm.prior import Prior

# Tables ---------------------------------------------------------------------------------------------------------------


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
    "row_weight": (lambda s: (s.B, s.K), torch.int64),
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

AS_NUMPY: dict[torch.dtype, type[np.generic]] = {
    torch.int64: np.int64,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.float32: np.float32,
}


class Tables(NamedTuple):
    """SCMs: every table of `LAYOUT`, where it lies, and their memory if they share it."""

    sizes: Sizes
    tensors: Mapping[str, Tensor]
    addresses: list[int]
    memory: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return (self.tensors["index"] if self.memory is None else self.memory).device


class Place(NamedTuple):
    """Of a table in the memory of all: `first` is the number of its first element, counted in its dtype."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    first: int


class Layout(NamedTuple):
    """Where tables of some sizes lie in one piece of memory: bytes in all, the places, and their first bytes."""

    num_bytes: int
    places: dict[str, Place]
    offsets: list[int]


ALIGNMENT = 16


@lru_cache  # a stream asks for the same sizes again and again
def layout_of(sizes: Sizes) -> Layout:
    """Of tables of such sizes."""
    end, places, offsets = 0, {}, []
    for name, (shape_of, dtype) in LAYOUT.items():
        shape = shape_of(sizes)
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        places[name] = Place(name, dtype, shape, stride, end // dtype.itemsize)
        offsets.append(end)
        end += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    return Layout(end, places, offsets)


class LazyTables(Mapping[str, Tensor]):
    """The tables in a piece of memory; each is a tensor once it is asked for."""

    def __init__(self, memory: Tensor, places: dict[str, Place]) -> None:
        self.memory, self._places = memory, places
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            _, dtype, shape, stride, first = self._places[name]
            self._made[name] = self.memory.view(dtype).as_strided(shape, stride, first)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def allocate(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, zeros: bool = False) -> Tensor:
    """Memory. On the host NumPy's: it asks for huge pages, and its zeros come from the system untouched."""
    if device.type != "cpu":
        return (torch.zeros if zeros else torch.empty)(shape, dtype=dtype, device=device)
    return torch.from_numpy((np.zeros if zeros else np.empty)(shape, AS_NUMPY[dtype]))


def memory_of_tables(device: torch.device, sizes: Sizes, zeros: bool = True) -> Tensor:
    """One piece of memory for all tables."""
    return allocate(device, (layout_of(sizes).num_bytes,), torch.uint8, zeros)


def tables_in(memory: Tensor, sizes: Sizes) -> Tables:
    """The tables that lie in such memory."""
    layout, address = layout_of(sizes), memory.data_ptr()
    return Tables(sizes, LazyTables(memory, layout.places), [address + offset for offset in layout.offsets], memory)


def tables_of(tensors: Mapping[str, Tensor]) -> Tables:
    """Tables from wherever they lie; ValueError unless each is as `LAYOUT` has it, on one device."""
    for name, dimensions in (("bias", 3), ("codes", 3), ("mechanism_parameters", 1)):
        check(tensors[name].ndim == dimensions, f"batch.{name}", f"{dimensions} dimensions", tuple(tensors[name].shape))
    B, K, V = tensors["bias"].shape
    sizes = Sizes(B, V, K, len(tensors["mechanism_parameters"]), tensors["codes"].shape[2])
    expected_device, found = tensors["bias"].device, {}
    for name, dtype, shape, *_ in layout_of(sizes).places.values():
        table = tensors[name]
        if not (table.dtype == dtype and table.shape == shape and table.device == expected_device):
            got = f"{table.dtype} {tuple(table.shape)} on {table.device}"
            check(False, f"batch.{name}", f"{dtype} {shape} on {expected_device}", got)
        found[name] = table.contiguous()
    return Tables(sizes, found, [table.data_ptr() for table in found.values()])


def sizes_of(prior: Prior, num_datasets: int, num_parameters: int = 0) -> Sizes:
    """Those of a batch of `prior`."""
    return Sizes(num_datasets, prior.max_variables, prior.max_environments, num_parameters, prior.max_levels)


# Rows -----------------------------------------------------------------------------------------------------------------

Columns = Literal["raw", "given", "standardised"]
COLUMNS: tuple[Columns, ...] = get_args(Columns)
"""What becomes of finished columns: nothing; the tables' units; or units found first from the source rows."""


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
    assert row_offset.is_contiguous()
    return [row_offset.data_ptr(), *(rows[name].data_ptr() if name in rows else 0 for name in names)]


def asked(num_rows: int, seed: int, wanted: Wanted) -> tuple[int, int, int, bool, bool]:
    """What is asked of an evaluation, in the native module's terms."""
    return num_rows, seed, COLUMNS.index(wanted.columns), wanted.observed, wanted.attempt is not None


def split_rows(tables: Mapping[str, Tensor], num_rows: int, prior: Prior) -> Tensor:
    """row_offset (B, K + 1): equal shares for all environments, or `target_share` for the target environments.

    Within a group of environments the first i of n get ⌊i · rows / n⌋ rows, or where `environment_imbalance` is asked
    for one each and the rest by their weights; every environment gets one at least.
    """
    is_target, num_environments = tables["is_target_environment"], tables["num_environments"][:, None]
    number = torch.arange(is_target.shape[1] + 1, device=is_target.device).minimum(num_environments)
    weight = None if prior.environment_imbalance is None else tables["row_weight"]
    if prior.target_share is None:
        return _rows_before(number, num_environments, num_rows, weight)
    targets = is_target.sum(1, keepdim=True)
    sources = num_environments - targets
    if isinstance(prior.target_share, Constant):
        wanted = torch.full_like(targets, round(prior.target_share.value * num_rows))
    else:
        wanted = (tables["target_share"].double() * num_rows).round().long()[:, None]
    target_rows = wanted.clamp(min=targets).minimum(num_rows - sources)
    of_sources, of_targets = (None, None) if weight is None else (weight * ~is_target, weight * is_target)
    in_sources = _rows_before(number.minimum(sources), sources, num_rows - target_rows, of_sources)
    return in_sources + _rows_before((number - sources).clamp(min=0), targets, target_rows, of_targets)


def _rows_before(number: Tensor, count: Tensor, rows: Tensor | int, weight: Tensor | None) -> Tensor:
    """(B, K + 1): rows of the first `number` of `count` environments that share `rows`, evenly or by weight (B, K)."""
    if weight is None:
        return number * rows // count
    before = torch.nn.functional.pad(weight.cumsum(1), (1, 0))  # whole numbers: every device sums them alike
    return number + before * (rows - count) // before[:, -1:]


def rows_of_one_environment(environment: Tensor, num_environments: int, num_rows: int) -> Tensor:
    """row_offset (B, K + 1) that gives all rows of dataset b to environment[b]."""
    return (torch.arange(num_environments + 1, device=environment.device) > environment[:, None]) * num_rows


def bytes_of(sizes: Sizes, num_rows: int, wanted: Wanted = ROWS_ALONE) -> int:
    """What a batch takes in memory."""
    of_value, of_row = 4 + wanted.loses + 4 * wanted.noise, 8 + 2 * wanted.rejects
    return layout_of(sizes).num_bytes + sizes.B * num_rows * (of_value * sizes.V + of_row)


def check_fits(needed: int, available: int, where: str) -> None:
    """Raise ValueError unless `needed` bytes are available."""
    if needed > available:
        raise ValueError(
            f"num_datasets, num_rows: expected a batch within {where} of {available / 1e9:.1f} GB, "
            f"got {needed / 1e9:.1f} GB"
        )
