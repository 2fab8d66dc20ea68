"""Datasets of a batch as a learner of tables sees them: columns in random order, classes, and which are of use.

The bits of a dataset depend neither on its neighbours nor on threads nor on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._counters import uniforms
from settx_fast.scm._cpu import threads
from settx_fast.scm._learner_rows import DrawnRows, Steps
from settx_fast.scm._learner_views import drawn_views
from settx_fast.scm.batch import Batch

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


def learnt(
    batch: Batch,
    seed: int,
    train_size: int,
    max_classes: int,
    standardise: bool,
    num_threads: int | None = None,
    columns: tuple[int, int] = (1, 1),
) -> Learnt:
    """What a learner is shown of a batch; max_classes 0: numbers to predict; columns: of a variable."""
    index = batch.index.cpu().numpy()
    steps = _rows(batch, seed, index, train_size).steps(threads(num_threads))
    low, high, is_finite = steps.survey()
    is_tame = is_finite.all(1) & ((low > -LARGEST) & (high < LARGEST) | (low > high)).all(1)
    is_feature = _features(batch, high - low > SMALLEST)
    if columns == (1, 1):
        place, num_features = _features_first(batch, is_feature, seed, index)
        seen, variable = steps, place
    else:
        views = drawn_views(is_feature, seed, index, columns)
        seen = steps.view(views).steps(threads(num_threads))
        place, num_features = _varying_first(seen, views.number)
        variable = views.variable.gather(1, place)
    X = seen.show(place, num_features, standardise)
    is_target = torch.ones_like(num_features)
    target = steps.show(batch.target_index[:, None], is_target, standardise=not max_classes).squeeze(2)
    if max_classes:
        y, num_classes = _classes(batch, steps, target, seed, index, max_classes)
        is_useful = num_classes >= 2
    else:
        y, num_classes = target, torch.zeros_like(num_features)
        low, high, is_finite = DrawnRows(y[:, :, None], None, None, train_size).steps(threads(num_threads)).survey()
        is_useful = (is_finite & (low < high))[:, 0]
    failure = torch.full_like(num_features, -1)
    for reason, holds in reversed(list(enumerate((~is_tame, num_features == 0, ~is_useful)))):
        failure = torch.where(holds, reason, failure)
    is_padding = torch.arange(variable.shape[1], device=variable.device) >= num_features[:, None]
    return Learnt(X, y, num_features, num_classes, variable.masked_fill(is_padding, -1), failure)


# ---- Rows and columns ------------------------------------------------------------------------------------------------


def _rows(batch: Batch, seed: int, index: np.ndarray, train_size: int) -> DrawnRows:
    """The batch's, those of several environments in random order."""
    order = None
    if batch.prior.max_environments > 1:
        key = uniforms(seed, index, ROWS, batch.values.shape[1])
        order = torch.from_numpy(key.argsort(axis=1, kind="stable")).to(batch.device)
    return DrawnRows(batch.values, batch.is_missing, order, train_size)


def _features(batch: Batch, varies: Tensor) -> Tensor:
    """(B, V) which variables are columns: those that are seen and vary, (B, V), but for the target."""
    is_target = torch.arange(varies.shape[1], device=varies.device) == batch.target_index[:, None]
    return batch.visible_mask & ~is_target & varies


def _features_first(batch: Batch, is_feature: Tensor, seed: int, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """(B, V − 1) variables in random order, those first that are features, (B, V); (B,) how many are."""
    is_target = torch.arange(is_feature.shape[1], device=is_feature.device) == batch.target_index[:, None]
    key = _draws(batch, seed, index, COLUMNS, is_feature.shape[1])
    order = torch.where(is_feature, key, 2.0 + is_target).argsort(dim=1, stable=True)
    return order[:, :-1], is_feature.sum(1)


def _varying_first(seen: Steps, count: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) places of columns, those first that vary, among the first count (B,); (B,) how many do."""
    low, high, _ = seen.survey()
    varies = (high - low > SMALLEST) & (torch.arange(low.shape[1], device=low.device) < count[:, None])
    return (~varies).long().argsort(dim=1, stable=True), varies.sum(1)


def _draws(batch: Batch, seed: int, index: np.ndarray, purpose: int, count: int) -> Tensor:
    return torch.from_numpy(uniforms(seed, index, purpose, count)).to(batch.device)


# ---- Classes ---------------------------------------------------------------------------------------------------------


def _classes(
    batch: Batch, steps: Steps, target: Tensor, seed: int, index: np.ndarray, max_classes: int
) -> tuple[Tensor, Tensor]:
    """(B, R) int64 codes without gaps, in random order, and (B,) their number; 0 or 1: of no use.

    Numbers are cut at those of random rows, and a cut goes where a class would not occur on both sides of the split. A
    target of levels keeps them all, or is of no use.
    """
    cuts = _cuts(batch, target, seed, index, max_classes)
    is_levelled = batch.num_levels.gather(1, batch.target_index[:, None]) > 0
    if batch.prior.max_levels:
        cuts = torch.where(is_levelled, _between_levels(batch, cuts.shape[1]), cuts)
    raw, counts = steps.classify(target, cuts)
    code, number = _merged(counts)
    if batch.prior.max_levels:
        kept, levels = _kept(counts, max_classes)
        code, number = torch.where(is_levelled, kept, code), torch.where(is_levelled[:, 0], levels, number)
    key = _draws(batch, seed, index, CLASSES, code.shape[1])
    is_class = torch.arange(code.shape[1], device=code.device) < number[:, None]
    shuffled = torch.where(is_class, key, 2.0).argsort(dim=1, stable=True)
    return steps.recode(raw, shuffled.gather(1, code)), number


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
