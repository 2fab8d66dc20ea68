"""A batch of sets as every implementation receives it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sets(NamedTuple):
    """Elements of B sets, padded or packed.

    Padded: `rows` (B, N, C); set b is its first `lengths[b]` rows (int64, on the device of rows; None: all N).
    Packed: `rows` (R, C) and `offsets` (B + 1,) int64; set b is rows[offsets[b] : offsets[b + 1]], lengths is None.
    Rows past a length may hold anything, NaN included.
    """

    rows: Tensor
    lengths: Tensor | None = None
    offsets: Tensor | None = None

    @property
    def packed(self) -> bool:
        """Rows lie set after set."""
        return self.offsets is not None

    @property
    def num_sets(self) -> int:
        """B."""
        return self.rows.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def longest(self) -> int:
        """An upper bound of the elements of one set."""
        return self.rows.shape[-2]

    @property
    def width(self) -> int:
        """C."""
        return self.rows.shape[-1]

    def valid(self) -> Tensor | None:
        """(B, N) bool, True for an element of padded sets; None when all are."""
        if self.lengths is None:
            return None
        return torch.arange(self.rows.shape[1], device=self.rows.device) < self.lengths[:, None]

    def cleaned(self) -> tuple[Tensor, Tensor | None]:
        """Rows of padded sets with zeros outside, and the (B, N, 1) mask of the elements (None: all)."""
        valid = self.valid()
        if valid is None:
            return self.rows, None
        return self.rows.masked_fill(~valid[..., None], 0), valid[..., None]

    def cut(self) -> Sets:
        """Padded sets without rows past the longest, and without lengths where all are equal, if the host can tell."""
        if self.lengths is None or not len(self.lengths) or not is_readable(self.lengths):
            return self
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        return Sets(self.rows[:, :longest], None if shortest == longest else self.lengths)

    def padded(self) -> Sets:
        """The same sets, padded to the longest with zeros and lengths; reads the offsets on the host."""
        if self.offsets is None:
            return self
        lengths = self.offsets.diff()
        size = int(lengths.max()) if len(lengths) else 0
        valid = torch.arange(size, device=self.rows.device) < lengths[:, None]
        rows = self.rows.new_zeros(len(lengths), size, self.rows.shape[1])
        return Sets(rows.masked_scatter(valid[..., None], self.rows), lengths)

    def packed_like(self, rows: Tensor) -> Tensor:
        """Padded `rows` (B, N, D) of these sets in the layout of these sets."""
        if self.offsets is None:
            return rows
        lengths = self.offsets.diff()
        return rows[torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]]


def is_readable(tensor: Tensor) -> bool:
    """Whether values are in reach of the host: they are read where that costs nothing."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not (torch._C._functorch.is_batchedtensor(tensor) or torch.jit.is_tracing())
