"""An endless stream of freshly sampled batches: split over ranks and loader workers, resumable, drawn ahead of need."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from settx_fast.scm._cpu import threads
from settx_fast.scm._fields import as_range, check, is_int
from settx_fast.scm.batch import STREAM_VERSION, Batch
from settx_fast.scm.prior import Prior
from settx_fast.scm.sampler import check_batch_memory, check_device, check_request, check_seed, sample

MAX_PREFETCH = 64
T = TypeVar("T")


class Drawn(Protocol):
    """What a stream draws."""

    @property
    def memory(self) -> list[Tensor]:
        """Tensors that share their memory with all others of it."""


D = TypeVar("D", bound=Drawn)


@dataclass(eq=False)
class Dealt(IterableDataset[D]):
    """Batches of one rank, without end: dealt to ranks and loader workers in turn, drawn ahead, resumable.

    Every iteration starts at the attribute that START names, a number of which a batch takes `_per_batch`.
    """

    START: ClassVar[str]
    prior: Prior
    batch_size: int
    seed: int
    rank: int
    world_size: int
    num_rows: tuple[int, int]
    prefetch: int
    device: torch.device
    num_threads: int | None

    _steps_done = 0

    def __iter__(self) -> Iterator[D]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        self._steps_done = 0
        return self._count_steps(self._batches(count(first, stride), 0 if worker else self.prefetch), stride)

    def batch(self, step: int) -> D:
        """Batch number `step` of this rank, as an iteration gives it."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        """Where the running iteration goes on, the same on every rank that has taken as many steps.

        A loader's workers count for themselves: ask torchdata's StatefulDataLoader, or start from there.
        """
        done = self._steps_done * self.world_size * self._per_batch
        return self._identity() | {self.START: getattr(self, self.START) + done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on where `state_dict` was asked, on as many ranks as there are now.

        Raises ValueError if that was another stream: another seed, batch_size or stream_version.
        """
        check(isinstance(state, dict), "state_dict", "what `state_dict` gives", state)
        for name, here in self._identity().items():
            check(state.get(name) == here, f"state_dict[{name!r}]", f"{here} as in this stream", state.get(name))
        self._check_start(state.get(self.START))
        setattr(self, self.START, state[self.START])
        self._steps_done = 0

    @property
    def _per_batch(self) -> int:
        raise NotImplementedError

    def _check_start(self, start: object) -> None:
        raise NotImplementedError

    def _number(self, step: int) -> int:
        """Of batch number `step` of this rank, among those of all ranks."""
        return step * self.world_size + self.rank

    def _sample(self, count: int, num_rows: int, first_index: int) -> Batch:
        return sample(
            self.prior, count, num_rows,
            seed=self.seed, first_index=first_index, device=self.device, num_threads=self.num_threads,
        )  # fmt: skip

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "batch_size": self.batch_size, "stream_version": STREAM_VERSION}

    def _count_steps(self, batches: Iterator[D], stride: int) -> Iterator[D]:
        for batch in batches:
            self._steps_done += stride
            yield batch

    def _batches(self, steps: Iterable[int], depth: int) -> Iterator[D]:
        if depth == 0:
            return map(self.batch, steps)
        if self.device.type == "cuda":
            return _drawn_on_a_side_stream(self.batch, steps, depth, self.device)
        return _drawn_ahead(self.batch, steps, depth)


@dataclass(eq=False)
class Stream(Dealt[Batch]):
    """Batches of one rank, without end: see `stream`, which makes it.

    Every iteration starts at `first_index`, which `load_state_dict` moves.
    """

    START = "first_index"
    first_index: int

    @property
    def _per_batch(self) -> int:
        return self.batch_size

    def batch(self, step: int) -> Batch:
        """Batch number `step` of this rank, as an iteration gives it."""
        first_index = self.first_index + self._number(step) * self.batch_size
        rows = rows_of_batch(self.num_rows, self.seed, first_index // self.batch_size)
        return self._sample(self.batch_size, rows, first_index)

    def _check_start(self, start: object) -> None:
        check_request(self.prior, self.batch_size, self.num_rows[0], start)


def stream(
    prior: Prior,
    batch_size: int,
    seed: int,
    rank: int | None = None,
    world_size: int | None = None,
    *,
    num_rows: int | tuple[int, int],
    first_index: int = 0,
    prefetch: int = 2,
    device: str | torch.device = "cpu",
    num_threads: int | None = None,
) -> Stream:
    """Batches of `batch_size` datasets from `first_index` on, without end: `sample` as an IterableDataset.

    Batches are dealt to the ranks in turn, without communication: all ranks together draw what one process draws.
    In a `DataLoader(stream, batch_size=None, num_workers=n)` the workers share a rank's batches, and their order stays.

    rank, world_size  None: torch.distributed's, if it is initialised, or torchrun's, else a single process
    num_rows          of each dataset; (low, high): the same within a batch, log-uniform over batches
    prefetch          batches drawn ahead of need, by a thread on a CPU, on a side stream on a GPU (0: none); loader
                      workers draw ahead in their own way
    num_threads       None for as many as torch uses

    `state_dict` and `load_state_dict` continue an interrupted stream. An iteration that draws ahead cannot go on in a
    forked process, which iterates anew: it raises RuntimeError there. Raises ValueError naming field, expected and got.
    """
    place = place_of(rank, world_size)
    low, high = as_range(num_rows, "num_rows", 1, 1 << 32)
    check(is_int(batch_size) and batch_size >= 1, "batch_size", "an int ≥ 1", batch_size)
    check_request(prior, batch_size, low, first_index)
    check_seed(seed)
    where = check_drawing(prior, batch_size, high, device, prefetch, num_threads)
    batch_size, seed, first_index = int(batch_size), int(seed), int(first_index)  # of NumPy
    return Stream(prior, batch_size, seed, *place, (low, high), prefetch, where, num_threads, first_index)


def check_drawing(
    prior: Prior, datasets: int, rows: int, device: str | torch.device, prefetch: int, num_threads: int | None
) -> torch.device:
    """The device; raises ValueError unless it holds as many datasets and they can be drawn so."""
    where = check_device(device)
    check(is_int(prefetch) and 0 <= prefetch <= MAX_PREFETCH, "prefetch", f"an int in 0…{MAX_PREFETCH}", prefetch)
    threads(num_threads)
    check_batch_memory(where, prior, datasets, rows)
    return where


def rows_of_batch(num_rows: tuple[int, int], seed: int, number: int) -> int:
    """Rows of batch `number` of a seed: log-uniform between two ends."""
    low, high = num_rows
    share = float(torch.rand((), generator=generator_of(seed, ~number)))
    return round(low * (high / low) ** share)


def generator_of(seed: int, number: int) -> torch.Generator:
    """A generator of its own for every (seed, number)."""
    state = np.random.SeedSequence([seed, number % 2**64]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


# ---- Who draws what, and when ----------------------------------------------------------------------------------------


def place_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world_size): those given, or torch.distributed's, or torchrun's, or of a single process."""
    check((rank is None) == (world_size is None), "rank, world_size", "both or neither", (rank, world_size))
    if rank is None or world_size is None:
        rank, world_size = 0, 1
        if dist.is_available() and dist.is_initialized():
            rank, world_size = dist.get_rank(), dist.get_world_size()
        elif dist.is_available() and dist.is_torchelastic_launched():
            rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    check(is_int(world_size) and world_size >= 1, "world_size", "an int ≥ 1", world_size)
    check(is_int(rank) and 0 <= rank < world_size, "rank", f"an int in 0…{world_size - 1}", rank)
    return rank, world_size


def _drawn_ahead(draw: Callable[[int], T], steps: Iterable[int], depth: int) -> Iterator[T]:
    """draw(step) for every step, up to `depth` of them before they are asked for, by one thread.

    Raises RuntimeError in a process that was forked since: the thread is in the other one.
    """
    pool, waiting, process = ThreadPoolExecutor(1, "scm.stream"), deque[Future[T]](), os.getpid()
    try:
        for step in steps:
            waiting.append(pool.submit(draw, step))
            if len(waiting) > depth:
                yield waiting.popleft().result()
                if os.getpid() != process:
                    raise RuntimeError(
                        f"this iteration over a stream belongs to process {process}, from which process {os.getpid()} "
                        "was forked: iterate over the stream anew, or make it with prefetch=0"
                    )
    finally:
        if os.getpid() == process:
            pool.shutdown(wait=False, cancel_futures=True)


def _drawn_on_a_side_stream(
    draw: Callable[[int], D], steps: Iterable[int], depth: int, device: torch.device
) -> Iterator[D]:
    """The same, with kernels that run beside those of the consumer's stream, which waits for its batch alone."""
    side = torch.cuda.Stream(device)

    def draw_aside(step: int) -> tuple[D, torch.cuda.Event]:
        with torch.cuda.stream(side):
            return draw(step), side.record_event()

    for batch, is_drawn in _drawn_ahead(draw_aside, steps, depth):
        current = torch.cuda.current_stream(device)
        current.wait_event(is_drawn)
        for tensor in batch.memory:
            if tensor.is_cuda:
                tensor.record_stream(current)  # or its memory would be drawn into again before the consumer is done
        yield batch
