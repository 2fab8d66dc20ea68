"""A first call compiles all that it launches before anything runs, and no later call of its kind does so again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from settx_fast import functional
from settx_fast.attention.triton import launch
from settx_fast.testing import TABULAR, Shape, make_inputs

RAGGED = torch.tensor([7, 20])


@dataclass
class Kernel:
    """Stands for a kernel: notes whether it was compiled or run."""

    name: str
    log: list[str]

    def run(self, *args: object, grid: tuple[int], warmup: bool, **options: object) -> None:
        self.log.append(f"{'compile' if warmup else 'run'} {self.name}")


@pytest.fixture
def _compiling() -> Iterator[None]:
    with mock.patch.object(launch, "is_compiled_for", return_value=True):
        yield


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def call(log: list[str]) -> Callable[..., None]:
    """Launches two kernels."""

    def launched(rows: torch.Tensor, specs: str = "", weights: tuple[torch.Tensor, ...] = ()) -> None:
        for name in "ab":
            launch.launch(Kernel(name, log), 1, rows)

    return launch.side_by_side(launched)


TOGETHER = ["compile a", "compile b", "run a", "run b"]


@pytest.mark.usefixtures("_compiling")
def test_a_first_call_compiles_everything_before_anything_runs(call: Callable[..., None], log: list[str]) -> None:
    call(torch.zeros(2, 5, 3))
    assert log == TOGETHER


@pytest.mark.usefixtures("_compiling")
def test_other_sizes_of_a_bucket_compile_nothing_again(call: Callable[..., None], log: list[str]) -> None:
    for sizes in [(2, 5, 3), (2, 8, 3), (2, 7, 3)]:
        call(torch.zeros(sizes))
    assert log == [*TOGETHER, "run a", "run b", "run a", "run b"]


@pytest.mark.usefixtures("_compiling")
@pytest.mark.parametrize(
    "other",
    [
        (torch.zeros(2, 9, 3),),
        (torch.zeros(3, 5, 3),),
        (torch.zeros(2, 5, 4),),
        (torch.zeros(2, 5, 3, dtype=torch.float16),),
        (torch.zeros(2, 5, 3), "another block"),
        (torch.zeros(2, 5, 3), "", (torch.zeros(8, 3),)),
    ],
    ids=["elements", "sets", "width", "dtype", "spec", "weights"],
)
def test_arguments_of_another_kind_are_compiled_for(other: tuple, call: Callable[..., None], log: list[str]) -> None:
    call(torch.zeros(2, 5, 3))
    call(*other)
    assert log == [*TOGETHER, *TOGETHER]


@pytest.mark.usefixtures("_compiling")
def test_another_precision_of_products_is_compiled_for(call: Callable[..., None], log: list[str]) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            call(torch.zeros(2, 5, 3))
    finally:
        torch.set_float32_matmul_precision(before)
    assert log == [*TOGETHER, *TOGETHER]


def test_nothing_is_compiled_ahead_where_kernels_are_interpreted(call: Callable[..., None], log: list[str]) -> None:
    call(torch.zeros(2, 5, 3))
    assert log == ["run a", "run b"]


@pytest.mark.usefixtures("_compiling")
def test_after_a_failed_first_call_kernels_run_again(log: list[str]) -> None:
    @launch.side_by_side
    def failing(rows: torch.Tensor) -> None:
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        failing(torch.zeros(2, 5, 3))
    launch.launch(Kernel("a", log), 1)
    assert log == ["run a"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="notes what the interpreter would launch")
@pytest.mark.usefixtures("_compiling")
@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        (Shape(2, 20, 16, 16, 2, 4), None),
        (Shape(2, 20, 16, 16, 2, 4, TABULAR), RAGGED),
        (Shape(300, 20, 16, 16, 2, 4), None),  # enough for the kernel of small sets
    ],
    ids=["original", "tabular-ragged", "small"],
)
def test_a_training_step_launches_nothing_that_was_not_compiled_before(
    shape: Shape, lengths: torch.Tensor | None
) -> None:
    inputs = make_inputs(shape, dtype=torch.float16)
    log: list[tuple[bool, str]] = []

    def note(kernel: InterpretedFunction, *args: object, grid: object, warmup: bool, **constants: object) -> None:
        log.append((warmup, f"{kernel.fn.__name__} {constants}"))

    with mock.patch.object(InterpretedFunction, "run", note):
        out = functional.induced_set_attention(*inputs[:6], lengths=lengths, impl="triton")
        forward = len(log)
        out.backward(torch.empty_like(out))
    for part in (log[:forward], log[forward:]):
        compiled = [kernel for warmup, kernel in part if warmup]
        assert compiled
        assert part == [*((True, kernel) for kernel in compiled), *((False, kernel) for kernel in compiled)]
