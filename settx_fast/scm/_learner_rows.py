"""The steps of a learner's view that go over rows: on the host by the native module's threads, elsewhere by torch.

Both give the same bits: whatever is summed is summed by halves, row to row, and all else is exact or element by
element. On the host torch's own threads would spin between steps, in the way of the sampler's.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from settx_fast.scm._layout import allocate
from settx_fast.scm._learner_views import Views, seen_by
from settx_fast.scm._native import native

CLIP = 100.0
"""A standardised value lies no further out."""


class Steps(Protocol):
    """What is asked of B datasets of R rows and V variables, the first rows of which are to learn from."""

    def survey(self) -> tuple[Tensor, Tensor, Tensor]:
        """(B, V) extremes over the rows to learn from without missing values, ∞ and −∞ if none is left; all finite?"""

    def show(self, columns: Tensor, count: Tensor, standardise: bool) -> Tensor:
        """(B, R, C) the columns (B, C), 0 beyond count (B,); standardised: by the rows to learn from, within ±CLIP."""

    def view(self, views: Views) -> DrawnRows:
        """The columns that `views` makes, rows in the order that they are shown in."""

    def classify(self, x: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R) by how many sorted cuts (B, L) x lies, and (B, L + 1, 2) of how many rows: to learn from, others."""

    def recode(self, classes: Tensor, code: Tensor) -> Tensor:
        """(B, R) the code (B, L + 1) of every class; `classes` are lost."""


class DrawnRows(NamedTuple):
    """values (B, R, V) float32; is_missing (B, R, V) or None; order (B, R) of the rows or None; the first to learn."""

    values: Tensor
    is_missing: Tensor | None
    order: Tensor | None
    train_size: int

    def steps(self, num_threads: int) -> Steps:
        """For the device that they lie on."""
        return NativeSteps(self, num_threads) if self.values.device.type == "cpu" else TorchSteps(self)


class NativeSteps:
    """On the host."""

    def __init__(self, rows: DrawnRows, num_threads: int) -> None:
        self._rows, self._num_threads = rows, num_threads
        where = [0 if t is None else t.data_ptr() for t in rows[:3]]
        self._drawn = (*rows.values.shape, rows.train_size), where

    def survey(self) -> tuple[Tensor, Tensor, Tensor]:
        """As `Steps` says."""
        shape = (len(self._rows.values), self._rows.values.shape[2])
        found = torch.empty(shape), torch.empty(shape), torch.empty(shape, dtype=torch.bool)
        native().survey(self._drawn, [t.data_ptr() for t in found], self._num_threads)
        return found

    def show(self, columns: Tensor, count: Tensor, standardise: bool) -> Tensor:
        """As `Steps` says."""
        columns, values = columns.contiguous(), self._rows.values
        X = allocate(values.device, (*values.shape[:2], columns.shape[1]), torch.float32)
        chosen, clip = (columns.data_ptr(), count.data_ptr(), columns.shape[1]), CLIP if standardise else 0.0
        native().show(self._drawn, *chosen, clip, X.data_ptr(), self._num_threads)
        return X

    def view(self, views: Views) -> DrawnRows:
        """As `Steps` says."""
        X, u = (self.show(views.variable, views.number, standardise) for standardise in (False, True))
        is_missing = None if self._rows.is_missing is None else allocate(X.device, X.shape, torch.bool)
        functions = [t.contiguous() for t in views[1:4]]
        columns = [0 if t is None else t.data_ptr() for t in (u, X, is_missing)]
        native().view(tuple(X.shape), [t.data_ptr() for t in functions], columns, self._num_threads)
        return DrawnRows(X, is_missing, None, self._rows.train_size)

    def classify(self, x: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
        """As `Steps` says."""
        cuts, classes = cuts.contiguous(), torch.empty(x.shape, dtype=torch.int64)
        counts = torch.zeros(len(x), cuts.shape[1] + 1, 2, dtype=torch.int64)
        where = [t.data_ptr() for t in (x, cuts, classes, counts)]
        native().classify((*x.shape, cuts.shape[1], self._rows.train_size), *where, self._num_threads)
        return classes, counts

    def recode(self, classes: Tensor, code: Tensor) -> Tensor:
        """As `Steps` says."""
        code, sizes = code.contiguous(), (*classes.shape, code.shape[1] - 1, self._rows.train_size)
        native().recode(sizes, code.data_ptr(), classes.data_ptr(), self._num_threads)
        return classes


class TorchSteps:
    """Wherever torch runs."""

    def __init__(self, rows: DrawnRows) -> None:
        values, is_missing, order, self._train_size = rows
        self._may_miss = is_missing is not None
        is_finite = values.isfinite() if is_missing is None else values.isfinite() | is_missing
        self._is_finite = is_finite.all(1)
        self._values = values if order is None else values.gather(1, order[:, :, None].expand_as(values))

    def survey(self) -> tuple[Tensor, Tensor, Tensor]:
        """As `Steps` says."""
        train = self._values[:, : self._train_size]
        is_missing = train.isnan()
        low, high = (train.masked_fill(is_missing, end) for end in (torch.inf, -torch.inf))
        return low.amin(1), high.amax(1), self._is_finite

    def show(self, columns: Tensor, count: Tensor, standardise: bool) -> Tensor:
        """As `Steps` says."""
        X = self._values.gather(2, columns[:, None].expand(-1, self._values.shape[1], -1))
        if standardise:
            X = standardised(X, self._train_size, self._may_miss)
        is_padding = torch.arange(X.shape[2], device=X.device) >= count[:, None]
        return X.masked_fill_(is_padding[:, None], 0.0)

    def view(self, views: Views) -> DrawnRows:
        """As `Steps` says."""
        X = seen_by(views, *(self.show(views.variable, views.number, standardise) for standardise in (False, True)))
        return DrawnRows(X, X.isnan() if self._may_miss else None, None, self._train_size)

    def classify(self, x: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
        """As `Steps` says."""
        classes = torch.searchsorted(cuts, x)
        is_test = torch.arange(x.shape[1], device=x.device) >= self._train_size
        counts = torch.zeros(len(x), 2 * cuts.shape[1] + 2, dtype=torch.int64, device=x.device)
        counts.scatter_add_(1, 2 * classes + is_test, torch.ones_like(classes))
        return classes, counts.unflatten(1, (-1, 2))

    def recode(self, classes: Tensor, code: Tensor) -> Tensor:
        """As `Steps` says."""
        return code.gather(1, classes)


def standardised(X: Tensor, train_size: int, may_miss: bool = False) -> Tensor:
    """(B, R, C) by mean and standard deviation of the first rows, missing values left out, within ±CLIP."""
    train = X[:, :train_size]
    is_there = ~train.isnan() if may_miss else torch.ones_like(train, dtype=torch.bool)
    count = is_there.sum(1).to(X.dtype)  # a tensor: by a number a device multiplies with its reciprocal
    X = X - (sum_of_rows(train.where(is_there, 0.0)) / count)[:, None]
    squares = (X[:, :train_size].square()).where(is_there, 0.0)
    variance = sum_of_rows(squares) / (count - 1)
    root = variance.double().sqrt().to(X.dtype)  # some libraries round a root in float32 otherwise
    X *= torch.where(variance > 0, root.reciprocal(), 0.0)[:, None]
    return X.clamp_(-CLIP, CLIP)


def sum_of_rows(x: Tensor) -> Tensor:
    """(B, R, C) → (B, C), by halves; x is lost."""
    number = x.shape[1] // 2
    rest = x[:, -1].clone() if x.shape[1] % 2 else torch.zeros_like(x[:, 0])
    half = x[:, :number].add_(x[:, number : 2 * number])
    while number > 1:
        if number % 2:
            rest += half[:, number - 1]
        number //= 2
        half[:, :number] += half[:, number : 2 * number]
    return rest.add_(half[:, 0])
