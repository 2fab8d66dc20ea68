"""Where the elements of the sets lie: padded rows with lengths or a mask, or rows packed set after set."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class SetView:
    """B sets of rows: padded `x` (B, N, C), or packed `x` (rows, C) with `offsets` (B + 1,) int64.

    The last axis is contiguous, the other strides are free. Set b holds its first `lengths[b]` rows (all without
    lengths), of a padded x only those where `mask[b]` is true. `longest` bounds the rows of a set; of packed rows any
    upper bound will do. Kernels take `arguments` in this order, then address rows with `first_row`.
    """

    x: Tensor
    offsets: Tensor | None = None
    lengths: Tensor | None = None
    mask: Tensor | None = None

    @property
    def packed(self) -> bool:
        return self.offsets is not None

    @property
    def num_sets(self) -> int:
        return self.x.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def longest(self) -> int:
        return self.x.shape[-2]

    @property
    def width(self) -> int:
        return self.x.shape[-1]

    @property
    def num_rows(self) -> int:
        """Rows that have an address, padding included."""
        return self.x.shape[0] if self.packed else self.x.shape[0] * self.x.shape[1]

    @property
    def partial(self) -> bool:
        """True where some addressed rows may lie outside every set (a kernel must not leave theirs unwritten)."""
        return self.lengths is not None or self.mask is not None

    @property
    def set_stride(self) -> int:
        return 0 if self.packed else self.x.stride(0)

    @property
    def row_stride(self) -> int:
        return self.x.stride(-2)

    def like(self, y: Tensor) -> SetView:
        """The same sets over other rows, such as the output's."""
        return SetView(y, self.offsets, self.lengths, self.mask)

    @property
    def arguments(self) -> tuple[Tensor, int, int, int, Tensor | None, Tensor | None, Tensor | None]:
        """x_ptr, x_set_stride, x_row_stride, N, offsets_ptr, lengths_ptr, mask_ptr (None where absent)."""
        mask = None if self.mask is None else self.mask.contiguous()
        return self.x, self.set_stride, self.row_stride, self.longest, self.offsets, self.lengths, mask


@triton.jit
def set_length(b, N, offsets_ptr, lengths_ptr):
    """Rows of set b, b int64."""
    length = (b * 0 + N).to(tl.int64)
    if offsets_ptr is not None:
        length = tl.load(offsets_ptr + b + 1) - tl.load(offsets_ptr + b)
    if lengths_ptr is not None:
        length = tl.minimum(length, tl.maximum(tl.load(lengths_ptr + b), 0).to(tl.int64))
    return length


@triton.jit
def first_row(b, set_stride, row_stride, offsets_ptr):
    """Where row 0 of set b begins, in elements, int64; b int64."""
    if offsets_ptr is not None:
        return tl.load(offsets_ptr + b) * row_stride
    else:
        return b * set_stride


@triton.jit
def is_element(rows, b, length, N, mask_ptr):
    """Which rows (int64, counted from the set's first) are elements of set b."""
    inside = (rows >= 0) & (rows < length)
    if mask_ptr is not None:
        inside = inside & (tl.load(mask_ptr + b * N + rows, mask=inside, other=0) != 0)
    return inside
