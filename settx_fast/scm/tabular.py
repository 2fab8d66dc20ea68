"""What tabular foundation models pretrain on: features, classes or a number to predict, and a split of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._counters import uniforms
from settx_fast.scm._fields import as_range, check, is_int
from settx_fast.scm._learner import REASONS, Learnt, learnt
from settx_fast.scm._learner_rows import standardised
from settx_fast.scm._predictability import surprise
from settx_fast.scm.observation import Missing
from settx_fast.scm.prior import Prior
from settx_fast.scm.sampler import MAX_INDEX, check_request, check_seed
from settx_fast.scm.streaming import Dealt, check_drawing, place_of, rows_of_batch

Task = Literal["classification", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

BLOCK = 1 << 16
"""Numbers of datasets that a micro-batch may use: micro-batch m has those from m · BLOCK on."""

MAX_BATCH = 1000
MAX_CLASSES = 1000
MAX_COLUMNS = 16
TRIES_PER_DATASET, TRIES = 64, 256

COPIES = 4
"""Of a batch that are held at once."""

SPLIT = 101
"""Purpose of random numbers, of a micro-batch."""


@dataclass(frozen=True, eq=False, repr=False)
class TabularBatch:
    """A micro-batch: B datasets of R rows and up to C columns, the first `train_size` rows of each to learn from.

    X              (B, R, C)  float32  features; 0 in columns beyond `num_features`, NaN where a value is missing
    y              (B, R)     int64    classes 0 … num_classes − 1, each on both sides of the split; or float32 for a
                                       regression, mean 0 and variance 1 over the first rows
    num_features   (B,)       int64    columns of each dataset, none constant over the first rows
    num_classes    (B,)       int64    0 for a regression
    feature_index  (B, C)     int64    the variable of the SCM that a column shows, or a function of it; −1 beyond
                                       `num_features`
    index          (B,)       int64    of the dataset in `sample(prior, …, seed=seed, first_index=index)`, its SCM
    train_size     int                 rows to learn from, of every dataset
    """

    X: Tensor
    y: Tensor
    num_features: Tensor
    num_classes: Tensor
    feature_index: Tensor
    index: Tensor
    train_size: int

    @property
    def memory(self) -> list[Tensor]:
        """Its tensors."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def to(self, device: str | torch.device, non_blocking: bool = False) -> TabularBatch:
        """The same batch with its tensors on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TabularBatch:
        """The same batch in pinned memory, as a DataLoader asks for."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> TabularBatch:
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in vars(self).items() if name != "train_size"}
        return TabularBatch(**changed, train_size=self.train_size)

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        datasets, rows, columns = self.X.shape
        kind = "classes" if self.y.dtype == torch.int64 else "numbers"
        return (
            f"TabularBatch({datasets} datasets × {rows} rows × {columns} columns, {kind}, train_size={self.train_size})"
        )


@dataclass(eq=False)
class TabularStream(Dealt[TabularBatch]):
    """Micro-batches of one rank, without end: see `tabular_stream`, which makes it.

    Every iteration starts at `first_batch`, which `load_state_dict` moves.
    """

    START = "first_batch"
    first_batch: int
    train_size: tuple[float, float]
    max_classes: int
    standardise: bool
    predictable: float | None
    columns_per_variable: tuple[int, int]

    @property
    def _per_batch(self) -> int:
        return 1

    @torch.no_grad()
    def batch(self, step: int) -> TabularBatch:
        """Micro-batch number `step` of this rank, as an iteration gives it.

        Raises RuntimeError if hardly any dataset of the prior is of use.
        """
        number = self.first_batch + self._number(step)
        rows, train_size = self._sizes(number)
        failures = Counter[str]()
        tensors, failed = self._drawn(number * BLOCK, self.batch_size, rows, train_size, failures)
        drawn, gaps = self.batch_size, failed.nonzero()[:, 0]
        while len(gaps):
            if drawn >= TRIES_PER_DATASET * self.batch_size + TRIES:
                raise RuntimeError(_too_few(drawn, self.batch_size - len(gaps), failures))
            count = 2 * len(gaps)
            others, failed = self._drawn(number * BLOCK + drawn, count, rows, train_size, failures)
            good = (~failed).nonzero()[: len(gaps), 0]
            for name, tensor in tensors.items():
                tensor[gaps[: len(good)]] = others[name][good]
            drawn, gaps = drawn + count, gaps[len(good) :]
        return TabularBatch(**tensors, train_size=train_size)

    def _sizes(self, number: int) -> tuple[int, int]:
        """Rows of a micro-batch, and how many of them are to learn from."""
        rows = rows_of_batch(self.num_rows, self.seed, number)
        share = float(uniforms(self.seed, np.array([number]), SPLIT, 1)[0, 0])
        low, high = self.train_size
        if isinstance(low, int) and isinstance(high, int):
            return rows, low + int(share * (high - low + 1))
        return rows, min(max(round((low + share * (high - low)) * rows), 2), rows - 2)

    def _drawn(
        self, first_index: int, count: int, rows: int, train_size: int, failures: Counter[str]
    ) -> tuple[dict[str, Any], Tensor]:
        """Tensors of a `TabularBatch` by name, and (B,) which datasets are of no use; why is counted."""
        batch = self._sample(count, rows, first_index)
        found = learnt(
            batch, self.seed, train_size, self.max_classes, self.standardise, self.num_threads,
            self.columns_per_variable,
        )  # fmt: skip
        tensors = found._asdict() | {"index": batch.index.clone()}
        failure = tensors.pop("failure")
        if self.predictable is not None:
            is_noise = self._p_value(found, train_size) >= self.predictable
            failure = torch.where(is_noise & (failure < 0), len(REASONS), failure)
        failures.update((*REASONS, "an unpredictable target")[reason] for reason in failure.tolist() if reason >= 0)
        return tensors, failure >= 0

    def _p_value(self, found: Learnt, train_size: int) -> Tensor:
        may_miss = self.prior.loses_values
        X = found.X if self.standardise else standardised(found.X, train_size, may_miss)
        return surprise(X.nan_to_num(0.0) if may_miss else X, found.y, found.num_features, found.num_classes)

    def _check_start(self, start: object) -> None:
        check_start(self.prior, self.batch_size, self.num_rows[0], start)


def tabular_stream(
    prior: Prior,
    batch_size: int,
    seed: int,
    rank: int | None = None,
    world_size: int | None = None,
    *,
    num_rows: int | tuple[int, int],
    train_size: float | tuple[float, float] = (0.1, 0.9),
    task: Task = "classification",
    max_classes: int = 10,
    standardise: bool = True,
    predictable: float | None = None,
    columns_per_variable: int | tuple[int, int] = 1,
    first_batch: int = 0,
    prefetch: int = 2,
    device: str | torch.device = "cpu",
    num_threads: int | None = None,
) -> TabularStream:
    """What tabular foundation models pretrain on: micro-batches of `batch_size` datasets, without end.

    The datasets are those of `sample`. Their target is the variable to predict, their columns are the other variables
    that are seen, in random order, without those that are constant over the rows to learn from. Rows of several
    environments are mixed. Datasets that explode, have no such column or a useless target are passed over and made up
    for: micro-batch m holds the first that are of use from index m · 65,536 on. A dataset is a pure function of (prior,
    seed, its index) and of the options below, the same bits for any batch_size, number of threads and device.

    batch_size   1 to 1,000 datasets that share the number of rows and the split
    num_rows     of each dataset; (low, high): the same within a micro-batch, log-uniform over them
    train_size   rows to learn from: a share or (low, high) of shares, uniform; or whole numbers of rows
    task         "classification": the target is cut at those of random rows into 2 classes for half of the datasets, 2
                 to max_classes for the others, a cut left out where a class would not be on both sides of the split; a
                 target that has `Levels` keeps them, or is passed over. Codes are in random order. "regression": the
                 target itself
    max_classes  at most 1,000; of a classification
    standardise  X by mean and standard deviation of the rows to learn from, within ±100; the target of a regression
                 always is
    predictable  None, or a p-value, say 0.05: datasets are passed over unless ridge regression on 64 random features
                 predicts the target of rows that it has not seen better than the mean does, at that level. Rounding can
                 decide only where the p-value is that number to 5 digits; it costs about as much as the rest, on a CPU
                 by torch's threads
    columns_per_variable
                 of X, an int or (low, high) within 1…16, uniform for every variable: the first shows it as it is,
                 others a random function of slope · u + shift, u the variable standardised: its size, square, positive
                 part, sign as 0 or 1, remainder of or nearest whole number (levels); without those that are constant
    first_batch  number of the first micro-batch
    rank, world_size, prefetch, device, num_threads as in `stream`; the micro-batches are dealt likewise, in a
    `DataLoader(stream, batch_size=None, num_workers=n)` too, and `state_dict` and `load_state_dict` go on.

    Raises ValueError naming field, expected and got; iterating, RuntimeError where hardly any dataset is of use.

    Yields `TabularBatch`es; X is (batch_size, rows, C) float32, C = prior.max_variables − 1, times the most columns of
    a variable.
    """
    place = place_of(rank, world_size)
    low, high = as_range(num_rows, "num_rows", 4, 1 << 32)
    check(is_int(batch_size) and 1 <= batch_size <= MAX_BATCH, "batch_size", f"an int in 1…{MAX_BATCH}", batch_size)
    check_seed(seed)
    check_start(prior, batch_size, low, first_batch)
    _check_target(prior)
    split = _as_train_size(train_size, low)
    check(task in TASKS, "task", f"one of {TASKS}", task)
    fits = is_int(max_classes) and 2 <= max_classes <= MAX_CLASSES
    check(fits, "max_classes", f"an int in 2…{MAX_CLASSES}", max_classes)
    check(isinstance(standardise, bool), "standardise", "True or False", standardise)
    is_level = predictable is None or (isinstance(predictable, float) and 0 < predictable < 1)
    check(is_level, "predictable", "None or a number in (0, 1)", predictable)
    columns = as_range(columns_per_variable, "columns_per_variable", 1, MAX_COLUMNS)
    where = check_drawing(prior, COPIES * columns[1] * batch_size, high, device, prefetch, num_threads)
    classes = int(max_classes) if task == "classification" else 0
    level = None if predictable is None else float(predictable)
    return TabularStream(
        prior, int(batch_size), int(seed), *place, (low, high), prefetch, where, num_threads, int(first_batch), split,
        classes, standardise, level, columns,
    )  # fmt: skip


# ---- Checks ----------------------------------------------------------------------------------------------------------


def check_start(prior: Prior, batch_size: int, num_rows: int, start: object) -> None:
    """Raise ValueError unless micro-batches of `prior` can be drawn from number `start` on."""
    check_request(prior, batch_size, num_rows, 0)
    most = MAX_INDEX // BLOCK
    check(is_int(start) and 0 <= start < most, "first_batch", f"an int in 0…{most - 1}", start)


def _check_target(prior: Prior) -> None:
    at_least_two = "at least 2 variables, one of them the target"
    check(prior.max_variables >= 2, "prior.num_variables", at_least_two, prior.num_variables)
    losses = [o for o in prior.observation if isinstance(o, Missing) and o.on_target]
    check(not losses, "prior.observation", "a target that is never missing (on_target=False)", losses)


def _as_train_size(given: Any, rows: int) -> tuple[float, float]:
    low, high = given if isinstance(given, tuple) and len(given) == 2 else (given, given)
    if is_int(low) and is_int(high):
        fits = 2 <= low <= high <= rows - 2
    else:
        fits = isinstance(low, float) and isinstance(high, float) and 0 < low <= high < 1
    expected = f"a share or (low, high) of shares within (0, 1), or ints in 2…{rows - 2}, two fewer than rows"
    check(fits, "train_size", expected, given)
    return low, high


def _too_few(drawn: int, of_use: int, failures: Counter[str]) -> str:
    others = ", ".join(f"{reason} ({number})" for reason, number in failures.most_common())
    return f"prior: expected datasets of use, got {of_use} among {drawn}; others have {others}"
