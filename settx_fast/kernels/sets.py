"""Where the elements of the sets lie: padded rows, maybe with lengths, or rows packed set after set."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class SetView:
    """B sets of rows: padded `x` (B, N, C), or packed `x` (rows, C) with `offsets` (B + 1,) int64.

    The last axis is contiguous, the other strides are free. Set b holds the first `lengths[b]` rows of a padded x (all
    without lengths). `longest` bounds the rows of a set; of packed rows any upper bound will do. Kernels take
    `arguments` in this order, then address rows with `first_row`.
    """

    x: Tensor
    offsets: Tensor | None = None
    lengths: Tensor | None = None

    @property
    def packed(self) -> bool:
        """Rows lie set after set."""
        return self.offsets is not None

    @property
    def num_sets(self) -> int:
        """B."""
        return self.x.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def longest(self) -> int:
        """An upper bound of the rows of one set."""
        return self.x.shape[-2]

    @property
    def width(self) -> int:
        """C."""
        return self.x.shape[-1]

    @property
    def set_stride(self) -> int:
        """Elements from one set to the next, of padded rows."""
        return 0 if self.packed else self.x.stride(0)

    @property
    def row_stride(self) -> int:
        """Elements from one row to the next."""
        return self.x.stride(-2)

    def like(self, y: Tensor) -> SetView:
        """The same sets over other rows, such as the output's."""
        return SetView(y, self.offsets, self.lengths)

    @property
    def arguments(self) -> tuple[Tensor, int, int, int, Tensor | None, Tensor | None]:
        """x_ptr, x_set_stride, x_row_stride, N, offsets_ptr, lengths_ptr (None where absent)."""
        return self.x, self.set_stride, self.row_stride, self.longest, self.offsets, self.lengths


@triton.jit
def set_length(b, N, offsets_ptr, lengths_ptr):
    """Rows of set b (int64)."""
    if offsets_ptr is not None:
        length = (tl.load(offsets_ptr + b + 1) - tl.load(offsets_ptr + b)).to(tl.int64)
    elif lengths_ptr is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths_ptr + b), 0), N).to(tl.int64)
    else:
        length = (b * 0 + N).to(tl.int64)
    return length


@triton.jit
def first_row(b, set_stride, row_stride, offsets_ptr):
    """Where row 0 of set b (int64) begins, in elements, int64."""
    if offsets_ptr is not None:  # noqa: SIM108
        start = tl.load(offsets_ptr + b).to(tl.int64) * row_stride
    else:
        start = b * set_stride
    return start
