"""What only a device can show: sizes past 2³¹ and 65,535, streams and graphs, the real compiler, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from settx_fast import ISAB, SetTransformer, functional
from settx_fast.testing import TABULAR, Inputs, Shape, assert_close_to_oracle, make_inputs
from tests.attention.triton.block_case import assert_block_matches_oracle, assert_copies_of_a_set_change_nothing, step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

LAYER = Shape(4, 3001, 128, 128, 4, 32)
COLUMN = Shape(3, 1501, 128, 128, 8, 128, TABULAR)


@pytest.fixture(autouse=True)
def _room() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def isab(inputs: Inputs, x: Tensor | None = None, **ragged: Tensor) -> Tensor:
    return functional.induced_set_attention(inputs.x if x is None else x, *inputs[1:6], impl="triton", **ragged)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("shape", [LAYER, COLUMN], ids=["layer", "column"])
def test_fp32_follows_pytorchs_switch_to_its_precision(shape: Shape, precision: str, device: torch.device) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert_block_matches_oracle(shape, device)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [LAYER, COLUMN], ids=["layer", "column"])
def test_real_sizes_match_the_oracle_in_half_precision(shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    assert_block_matches_oracle(shape, device, dtype, lengths=[shape.elements, 0, 777, 64][: shape.batch])


def test_a_set_of_more_than_2_to_the_31_numbers(device: torch.device) -> None:
    """Copies of one set, 2³¹ + 2¹⁹ numbers in all: every copy's rows and gradients are those of the set alone."""
    size = 2**13
    assert_copies_of_a_set_change_nothing(Shape(1, size, 64, 64, 4, 16), device, 2**31 // (64 * size) + 1)


def test_sets_of_more_than_2_to_the_31_numbers_in_all(device: torch.device) -> None:
    """The last of 2¹² + 1 sets of 2¹³ elements lies past 2³¹ numbers."""
    inputs = make_inputs(Shape(1, 2**13, 64, 64, 4, 16), dtype=torch.bfloat16, device=device)
    x = inputs.x.detach().expand(2**12 + 1, -1, -1).contiguous().requires_grad_()
    out = isab(inputs, x)
    out.backward(torch.ones_like(out))
    assert torch.equal(out[-1], out[0])
    assert torch.equal(x.grad[-1], x.grad[0])
    # another batch, another split of the elements, another order of sums
    same, exact = (
        functional.induced_set_attention(*inputs.to(kind)[:6], impl="reference")
        for kind in (torch.bfloat16, torch.float64)
    )
    assert_close_to_oracle(out[-1:], same, exact)


@pytest.mark.parametrize("batch", [65_536, 70_001])
def test_more_sets_than_a_grid_has_places_in_y(batch: int, device: torch.device) -> None:
    inputs = make_inputs(Shape(batch, 3, 16, 16, 2, 3), device=device)
    out = isab(inputs)
    out.square().sum().backward()
    for b in (0, 65_534, 65_535, batch - 1):
        x = inputs.x[b : b + 1].detach().requires_grad_()
        alone = functional.induced_set_attention(x, *inputs[1:6], impl="reference")
        alone.square().sum().backward()
        torch.testing.assert_close(out[b : b + 1], alone, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(inputs.x.grad[b : b + 1], x.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [LAYER, COLUMN, Shape(4096, 128, 64, 64, 4, 16)], ids=["layer", "column", "small"])
def test_ten_runs_give_the_same_bits(shape: Shape, device: torch.device) -> None:
    inputs = make_inputs(shape, dtype=torch.bfloat16, device=device)
    first = step(inputs, "triton")
    for _ in range(9):
        again = step(inputs, "triton")
        assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_many_small_sets_match_the_reference(device: torch.device) -> None:
    inputs = make_inputs(Shape(4096, 128, 64, 64, 4, 16), dtype=torch.bfloat16, device=device)
    lengths = torch.randint(0, 129, (4096,), device=device, generator=torch.Generator(device).manual_seed(1))
    results = {kind: functional.induced_set_attention(*inputs.to(kind)[:6], lengths=lengths, impl="reference")
               for kind in (torch.bfloat16, torch.float64)}  # fmt: skip
    assert_close_to_oracle(isab(inputs, lengths=lengths), results[torch.bfloat16], results[torch.float64])


RAGGED: dict[str, Callable[[int, int], dict[str, Tensor]]] = {
    "full": lambda sets, size: {},
    "lengths": lambda sets, size: {"lengths": torch.arange(sets, device="cuda") * size // sets},
    "mask": lambda sets, size: {"mask": torch.arange(sets * size, device="cuda").view(sets, size) % 3 > 0},
}


@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("shape", [LAYER, COLUMN], ids=["layer", "column"])
def test_a_training_step_never_waits_for_the_device(shape: Shape, ragged: str, device: torch.device) -> None:
    inputs = make_inputs(shape, dtype=torch.bfloat16, device=device)
    sets = RAGGED[ragged](shape.batch, shape.elements)
    isab(inputs, **sets).sum().backward()  # compiled, loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        isab(inputs, **sets).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("ragged", RAGGED)
def test_a_graph_captures_a_training_step(ragged: str, device: torch.device) -> None:
    inputs = make_inputs(LAYER, dtype=torch.bfloat16, device=device)
    sets, leaves = RAGGED[ragged](LAYER.batch, LAYER.elements), list(inputs.parameters().values())

    def train() -> tuple[Tensor, ...]:
        out = isab(inputs, **sets)
        return out, *torch.autograd.grad(out, leaves, torch.ones_like(out))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            train()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = train()
    with torch.no_grad():
        inputs.x.normal_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, train(), strict=True))


def test_a_compiled_model_serves_every_size_and_trains_like_an_eager_one(device: torch.device) -> None:
    torch.manual_seed(0)
    model = SetTransformer(16, 2, 5, num_inds=16, dim_hidden=64, num_heads=4, ln=True).to(device)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for size in (500, 333, 1000):
        x = torch.randn(8, size, 16, device=device)
        with torch._dynamo.config.patch(error_on_recompile=size != 500):
            out = compiled(x)
        torch.testing.assert_close(out, model(x), rtol=1e-3, atol=1e-4)
        grads = torch.autograd.grad(out.square().sum(), list(model.parameters()))
        expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
        torch.testing.assert_close(grads, expected, rtol=1e-2, atol=1e-3)


def test_automatic_choice_takes_the_kernels(device: torch.device) -> None:
    layer, x = ISAB(16, 32, 4, 8, ln=True).to(device), torch.randn(2, 100, 16, device=device)
    forced = ISAB(16, 32, 4, 8, ln=True, impl="triton").to(device)
    forced.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), forced(x))


def test_more_sets_keep_a_twentieth_of_what_the_reference_keeps_of_them(device: torch.device) -> None:
    """What 16 more sets add to a training step's memory; temporaries of fixed size add nothing."""
    extra = {impl: _extra_bytes(32, impl, device) - _extra_bytes(16, impl, device) for impl in ("triton", "reference")}
    assert extra["triton"] <= 0.05 * extra["reference"]


def _extra_bytes(batch: int, impl: Any, device: torch.device) -> int:
    """The peak of a training step beyond its inputs and results."""
    inputs = make_inputs(Shape(batch, 16_384, 128, 128, 4, 32), dtype=torch.bfloat16, device=device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = functional.induced_set_attention(*inputs[:6], impl=impl)
    torch.autograd.grad(out, list(inputs.parameters().values()), torch.ones_like(out))
    return torch.cuda.max_memory_allocated() - before - out.nbytes * 2 - inputs.x.nbytes


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_another_device_than_the_current_one() -> None:
    inputs = make_inputs(Shape(2, 100, 16, 16, 2, 3), device="cuda:0")
    other = inputs.to(torch.device("cuda:1"))
    with torch.cuda.device(0):
        assert torch.equal(isab(other).cpu(), isab(inputs).cpu())
