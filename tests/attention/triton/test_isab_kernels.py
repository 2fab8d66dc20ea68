"""The whole fused block against the oracle, forward and every gradient."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch

from settx_fast import functional
from settx_fast.attention.triton import gpu, traces
from settx_fast.attention.triton.aggregate import tiles
from settx_fast.attention.triton.small import forward as small
from settx_fast.testing import VARIANTS, Shape, make_inputs
from tests.attention.triton.block_case import assert_block_matches_oracle, assert_copies_of_a_set_change_nothing, step

# 4 · 5 · 32 ≤ 32 · (32 + 5) absorbs, 4 · 20 · 32 > 32 · (32 + 20) projects; M is no power of two
ABSORBED = Shape(3, 70, 32, 32, 4, 5)
PROJECTED = Shape(2, 40, 32, 32, 4, 20)


@pytest.fixture(autouse=True)
def _larger_tiles() -> None:
    """Tiles of the tensor-core rules; the interpreter multiplies alike at any precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if not torch.cuda.is_available() else before)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_matches_the_oracle_absorbed_and_ragged(variant: str, device: torch.device) -> None:
    """Lengths: full, an empty set, one that ends inside a tile."""
    assert_block_matches_oracle(replace(ABSORBED, options=VARIANTS[variant]), device, lengths=[70, 0, 37])


@pytest.mark.parametrize("variant", ["plain", "tabular", "rms"])
def test_projected_variants_match_the_oracle(variant: str, device: torch.device) -> None:
    assert_block_matches_oracle(replace(PROJECTED, options=VARIANTS[variant]), device, lengths=[40, 19])


@pytest.mark.parametrize(
    "shape", [ABSORBED, replace(PROJECTED, options=VARIANTS["tabular"])], ids=["absorbed", "projected"]
)
def test_inducing_points_read_only_the_context(shape: Shape, device: torch.device) -> None:
    """One ends inside a tile, one is empty, one is longer than its set."""
    assert_block_matches_oracle(replace(shape, batch=3, elements=40), device, lengths=[40, 33, 19], context=[21, 0, 30])


@pytest.mark.parametrize("elements", [0, 1, 2, 257])
def test_any_number_of_elements(elements: int, device: torch.device) -> None:
    """None, one, fewer than a tile, several tiles and one element more."""
    assert_block_matches_oracle(Shape(2, elements, 16, 16, 2, 3), device)


@pytest.mark.parametrize(
    ("dim_in", "dim", "heads"),
    [(3, 32, 2), (1, 16, 1), (20, 80, 2), (16, 32, 4)],
    ids=["points", "scalars", "head-40", "head-8"],
)
def test_widths_that_are_no_power_of_two(dim_in: int, dim: int, heads: int, device: torch.device) -> None:
    assert_block_matches_oracle(Shape(2, 33, dim_in, dim, heads, 3), device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [ABSORBED, replace(PROJECTED, options=VARIANTS["tabular"])], ids=["absorbed", "projected"]
)
def test_half_precision(shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    assert_block_matches_oracle(shape, device, dtype)


def test_strided_elements_give_the_numbers_of_contiguous_ones(device: torch.device) -> None:
    """Every other row of a transposed (N, B, C) tensor."""
    inputs = make_inputs(Shape(2, 50, 16, 16, 2, 3), device=device)
    room = torch.randn(100, 2, 16, device=device)
    view = room.transpose(0, 1)[:, ::2]
    view.copy_(inputs.x.detach())
    expected = functional.induced_set_attention(*inputs[:6], impl="triton")
    assert torch.equal(functional.induced_set_attention(view, *inputs[1:6], impl="triton"), expected)


def test_packed_sets_give_the_numbers_of_padded_ones(device: torch.device) -> None:
    inputs = make_inputs(Shape(3, 40, 16, 16, 2, 3), device=device)
    lengths = [40, 0, 13]
    padded = step(inputs, "triton", lengths=torch.tensor(lengths, device=device))
    rows = [x[:n].detach() for x, n in zip(inputs.x, lengths, strict=True)]
    jagged = torch.nested.nested_tensor(rows, layout=torch.jagged, device=device, requires_grad=True)
    out = functional.induced_set_attention(jagged, *inputs[1:6], impl="triton")
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(3, 40, 16, generator=generator).to(device)
    out.values().backward(torch.cat([g[:n] for g, n in zip(grad, lengths, strict=True)]))
    for name, value in (("out", out), ("x", jagged.grad)):
        for got, want, n in zip(value.unbind(), padded[name], lengths, strict=True):
            torch.testing.assert_close(got, want[:n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [replace(ABSORBED, batch=1), replace(PROJECTED, batch=1)], ids=["absorbed", "projected"]
)
def test_same_inputs_give_the_same_bits(shape: Shape, device: torch.device) -> None:
    inputs = make_inputs(shape, device=device)
    first, second = step(inputs, "triton"), step(inputs, "triton")
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    "shape", [replace(ABSORBED, batch=1), replace(PROJECTED, batch=1)], ids=["absorbed", "projected"]
)
def test_programs_that_share_a_set_agree_with_one_that_does_not(shape: Shape, device: torch.device) -> None:
    """Five pieces of three tiles: some are empty."""
    inputs = make_inputs(shape, device=device)
    whole = step(inputs, "triton")
    with mock.patch.object(tiles, "splits", return_value=5):
        pieces = step(inputs, "triton")
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_score_gaps_beyond_the_range_of_exp_do_not_overflow(device: torch.device) -> None:
    inputs = make_inputs(Shape(1, 40, 16, 16, 2, 3), device=device)
    sharp = inputs._replace(
        weights_a=inputs.weights_a._replace(w_k=(inputs.weights_a.w_k * 300).detach().requires_grad_())
    )
    for name, value in step(sharp, "triton").items():
        assert value.isfinite().all(), name


def test_a_set_and_copies_of_it_give_the_same_rows_and_gradients(device: torch.device) -> None:
    assert_copies_of_a_set_change_nothing(Shape(1, 30, 16, 16, 2, 3), device, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has an order of its own")
@pytest.mark.parametrize("variant", ["original", "prenorm-projected"])
def test_the_order_of_products_on_sm_90_matches_the_oracle_too(variant: str, device: torch.device) -> None:
    with mock.patch.object(gpu, "of", return_value=gpu.Gpu(90, gpu.SHARED_MEMORY[90], "")):
        assert_block_matches_oracle(Shape(2, 70, 16, 16, 2, 3, VARIANTS[variant]), device, torch.bfloat16, [70, 37])


@pytest.mark.parametrize("layout", ["of a mean over elements", "transposed"])
def test_output_gradients_of_any_layout_are_read_right(layout: str, device: torch.device) -> None:
    inputs = make_inputs(Shape(2, 40, 16, 16, 2, 3), device=device)
    grad = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(3)).to(device).mT
    if layout == "of a mean over elements":
        grad = grad[:, :1].expand(-1, 40, -1)
    results = []
    for each in (grad, grad.contiguous()):
        fresh = inputs.to(torch.float32)
        functional.induced_set_attention(*fresh[:6], impl="triton").backward(each)
        results.append([p.grad for p in fresh.parameters().values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("variant", ["original", "tabular"])
def test_many_small_sets_go_from_end_to_end_in_one_launch(variant: str, device: torch.device) -> None:
    """Bounds lowered so that three sets are many: the same numbers, and the backward takes what one launch kept."""
    shape = Shape(3, 40, 16, 16, 2, 3, VARIANTS[variant])
    with (
        mock.patch.object(small, "PROGRAMS", 1),
        mock.patch.object(traces, "small_forward", wraps=small.small_forward) as launched,
    ):
        # exact fp32 products, a device's default, take several launches
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        assert_block_matches_oracle(shape, device, dtype, lengths=[40, 0, 13], context=[25, 0, 13])
    assert launched.call_count == 1
