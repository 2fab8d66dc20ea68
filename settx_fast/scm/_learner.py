"""Datasets of a batch as a learner of tables sees them: columns in random order, classes, and which are of use.

Whatever is summed is summed by halves, row to row, and all else is exact or element by element: the bits of a dataset
depend neither on its neighbours nor on threads nor on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._counters import uniforms
from settx_fast.scm._layout import allocate
from settx_fast.scm.batch import Batch

CLIP = 100.0
"""A standardised value lies no further out."""

LARGEST, SMALLEST = 1e15, 1e-15
"""Columns that are larger have no variance in float32; those that vary by less are constant."""

ROWS, COLUMNS, NUMBER_OF_CLASSES, CUTS, CLASSES = range(1, 6)
"""Purposes of random numbers."""

REASONS = ("numbers that explode", "no column that varies", "a target without two values on both sides")


class Learnt(NamedTuple):
    """B datasets, R rows, C columns: see `TabularBatch`. failure (B,): place in `REASONS`, −1 where there is none."""

    X: Tensor
    y: Tensor
    num_features: Tensor
    num_classes: Tensor
    feature_index: Tensor
    failure: Tensor


def learnt(batch: Batch, seed: int, train_size: int, max_classes: int, standardise: bool) -> Learnt:
    """What a learner is shown of a batch; max_classes 0: numbers to predict."""
    index = batch.index.cpu().numpy()
    values, may_miss = _mixed_rows(batch, seed, index), batch.is_missing is not None
    low, high = _extremes(values[:, :train_size], may_miss)
    target = values.gather(2, batch.target_index[:, None, None].expand(-1, values.shape[1], 1)).squeeze(2)
    X = allocate(values.device, (*values.shape[:2], values.shape[2] - 1), torch.float32)
    finite = batch.is_finite if may_miss else sum_of_rows(values, scratch=X).isfinite().all(1)
    is_tame = finite & ((low > -LARGEST) & (high < LARGEST) | (low > high)).all(1)
    order, num_features = _columns(batch, high - low > SMALLEST, seed, index)
    torch.gather(values, 2, order[:, None].expand_as(X), out=X)
    is_padding = torch.arange(X.shape[2], device=X.device) >= num_features[:, None]
    if standardise:
        _standardise(X, train_size, may_miss, values, ~is_padding)
    elif not may_miss:
        X *= (~is_padding)[:, None]
    if may_miss:
        X.masked_fill_(is_padding[:, None], 0.0)
    if max_classes:
        y, num_classes = _classes(batch, target, seed, index, train_size, max_classes)
        is_useful = num_classes >= 2
    else:
        y = standardised(target[:, :, None], train_size).squeeze(2)
        is_useful = y[:, :train_size].ne(y[:, :1]).any(1) & y.isfinite().all(1)
        num_classes = torch.zeros_like(num_features)
    failure = torch.full_like(num_features, -1)
    for reason, holds in reversed(list(enumerate((~is_tame, num_features == 0, ~is_useful)))):
        failure = torch.where(holds, reason, failure)
    return Learnt(X, y, num_features, num_classes, order.masked_fill(is_padding, -1), failure)


def sum_of_rows(x: Tensor, scratch: Tensor | None = None) -> Tensor:
    """(B, R, C) → (B, C), by halves; scratch: contiguous, of as many entries as half of x at least; None: x itself."""
    number = x.shape[1] // 2
    rest = x[:, -1].clone() if x.shape[1] % 2 else torch.zeros_like(x[:, 0])
    if scratch is None:
        half = x[:, :number].add_(x[:, number : 2 * number])
    else:
        half = scratch.view(-1)[: x.shape[0] * number * x.shape[2]].view(-1, number, x.shape[2])
        torch.add(x[:, :number], x[:, number : 2 * number], out=half)
    while number > 1:
        if number % 2:
            rest += half[:, number - 1]
        number //= 2
        half[:, :number] += half[:, number : 2 * number]
    return rest.add_(half[:, 0])


def standardised(X: Tensor, train_size: int, may_miss: bool = False) -> Tensor:
    """(B, R, C) by mean and standard deviation of the first rows, missing values left out, within ±CLIP."""
    X = X.clone()
    _standardise(X, train_size, may_miss, torch.empty_like(X), torch.ones(len(X), X.shape[2], device=X.device))
    return X


def _standardise(X: Tensor, train_size: int, may_miss: bool, scratch: Tensor, keep: Tensor) -> None:
    """The same in place, times keep (B, C); scratch: contiguous, of as many entries as X at least."""
    train = X[:, :train_size]
    squares = scratch.view(-1)[: train.numel()].view(train.shape)
    count: Tensor | int = train_size
    if may_miss:
        count = (~train.isnan()).sum(1)
        total = sum_of_rows(train.nan_to_num(0.0))
    else:
        total = sum_of_rows(train, squares)
    X -= (total / count)[:, None]
    torch.mul(train, train, out=squares)
    if may_miss:
        squares.nan_to_num_(0.0)
    variance = sum_of_rows(squares) / (count - 1)
    X *= (torch.where(variance > 0, variance.sqrt().reciprocal(), 0.0) * keep)[:, None]
    X.clamp_(-CLIP, CLIP)


# ---- Rows and columns ------------------------------------------------------------------------------------------------


def _mixed_rows(batch: Batch, seed: int, index: np.ndarray) -> Tensor:
    """The values, with the rows of several environments in random order."""
    values = batch.values
    if batch.prior.max_environments == 1:
        return values
    order = _draws(batch, seed, index, ROWS, values.shape[1]).argsort(dim=1, stable=True)
    return values.gather(1, order[:, :, None].expand_as(values))


def _columns(batch: Batch, varies: Tensor, seed: int, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """(B, V − 1) variables in random order, those first that are seen and vary, (B, V); (B,) how many do."""
    is_target = torch.arange(varies.shape[1], device=varies.device) == batch.target_index[:, None]
    is_feature = batch.visible_mask & ~is_target & varies
    key = _draws(batch, seed, index, COLUMNS, varies.shape[1])
    order = torch.where(is_feature, key, 2.0 + is_target).argsort(dim=1, stable=True)
    return order[:, :-1], is_feature.sum(1)


def _extremes(x: Tensor, may_miss: bool) -> tuple[Tensor, Tensor]:
    if not may_miss:
        return x.amin(1), x.amax(1)
    is_missing = x.isnan()
    return x.masked_fill(is_missing, torch.inf).amin(1), x.masked_fill(is_missing, -torch.inf).amax(1)


def _draws(batch: Batch, seed: int, index: np.ndarray, purpose: int, count: int) -> Tensor:
    return torch.from_numpy(uniforms(seed, index, purpose, count)).to(batch.device)


# ---- Classes ---------------------------------------------------------------------------------------------------------


def _classes(
    batch: Batch, target: Tensor, seed: int, index: np.ndarray, train_size: int, max_classes: int
) -> tuple[Tensor, Tensor]:
    """(B, R) int64 codes without gaps, in random order, and (B,) their number; 0 or 1: of no use.

    Numbers are cut at those of random rows, and a cut goes where a class would not occur on both sides of the split. A
    target of levels keeps them all, or is of no use.
    """
    cuts = _cuts(batch, target, seed, index, max_classes)
    is_levelled = batch.num_levels.gather(1, batch.target_index[:, None]) > 0
    if batch.prior.max_levels:
        cuts = torch.where(is_levelled, _between_levels(batch, cuts.shape[1]), cuts)
    raw = torch.searchsorted(cuts, target.contiguous())
    is_test = torch.arange(target.shape[1], device=raw.device) >= train_size
    counts = torch.zeros(len(raw), 2 * cuts.shape[1] + 2, dtype=torch.int64, device=raw.device)
    counts = counts.scatter_add_(1, 2 * raw + is_test, torch.ones_like(raw)).unflatten(1, (-1, 2))
    code, number = _merged(counts)
    if batch.prior.max_levels:
        kept, levels = _kept(counts, max_classes)
        code, number = torch.where(is_levelled, kept, code), torch.where(is_levelled[:, 0], levels, number)
    key = _draws(batch, seed, index, CLASSES, code.shape[1])
    is_class = torch.arange(code.shape[1], device=code.device) < number[:, None]
    shuffled = torch.where(is_class, key, 2.0).argsort(dim=1, stable=True)
    return shuffled.gather(1, code).gather(1, raw), number


def _cuts(batch: Batch, target: Tensor, seed: int, index: np.ndarray, max_classes: int) -> Tensor:
    """(B, L) sorted: two classes for half of the datasets, 2 to max_classes for the others; ∞ beyond."""
    half, share = _draws(batch, seed, index, NUMBER_OF_CLASSES, 2).unbind(1)
    number = torch.where(half < 0.5, 2, 2 + (share * (max_classes - 1)).long())
    most = max(max_classes, batch.prior.max_levels) - 1
    row = (_draws(batch, seed, index, CUTS, most) * target.shape[1]).long()
    is_beyond = torch.arange(most, device=target.device) >= number[:, None] - 1
    return target.gather(1, row).masked_fill(is_beyond, torch.inf).sort(1).values


def _between_levels(batch: Batch, width: int) -> Tensor:
    """(B, width) the midpoints between the levels of the target; ∞ beyond."""

    def of_target(table: Tensor) -> Tensor:
        place = batch.target_index.view(-1, *[1] * (table.dim() - 1)).expand(-1, 1, *table.shape[2:])
        return table.gather(1, place)[:, 0]

    codes, number = of_target(batch.codes), of_target(batch.num_levels)[:, None]
    level = of_target(batch.column_gain)[:, None] * (codes - of_target(batch.column_centre)[:, None])
    level = level.masked_fill(torch.arange(level.shape[1], device=level.device) >= number, torch.inf).sort(1).values
    between = (level[:, 1:] + level[:, :-1]) / 2
    return torch.nn.functional.pad(between, (0, width - between.shape[1]), value=torch.inf)


def _merged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) new code of every class, with its neighbours wherever it does not occur on both sides, (B,) how many."""
    codes, number = [], torch.zeros_like(counts[:, 0, 0])
    waiting = torch.zeros_like(counts[:, 0])
    for here in counts.unbind(1):
        waiting = waiting + here
        codes.append(number)
        is_whole = (waiting > 0).all(1)
        number = number + is_whole
        waiting = waiting * ~is_whole[:, None]
    return torch.stack(codes, 1).minimum(number[:, None] - 1).clamp(min=0), number


def _kept(counts: Tensor, max_classes: int) -> tuple[Tensor, Tensor]:
    """The same without merging: all classes that occur, if on both sides and at most max_classes; else 0 of them."""
    occurs = counts.sum(2) > 0
    number = occurs.sum(1)
    is_useful = ((counts > 0).all(2) | ~occurs).all(1) & (number <= max_classes)
    return (occurs.cumsum(1) - 1).clamp(min=0), number * is_useful
