"""Inducing points that read only the first rows of a set: the context, which the other rows never influence."""

import pytest
import torch

from settx_fast import ISAB, functional
from settx_fast.functional import Impl
from settx_fast.testing import VARIANTS, Inputs, Shape, make_inputs

IMPLS: tuple[Impl, ...] = ("reference", "blockwise", "composed")
# of 90 rows: some, none, one, all
CONTEXT = torch.tensor([37, 0, 1, 90])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 rows: a set and its context end in different tiles."""
    monkeypatch.setattr("settx_fast.attention.blockwise.tiles.ELEMENTS_PER_TILE", 1)


def _inputs(variant: str) -> Inputs:
    return make_inputs(Shape(4, 90, 8, 8, 2, 3, VARIANTS[variant]), dtype=torch.float64)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_gradients_are_those_of_the_two_blocks_one_by_one(variant: str, impl: Impl) -> None:
    inputs = _inputs(variant)
    x, inducing, a, spec_a, b, spec_b, _ = inputs
    rows = []
    for elements, length in zip(x, CONTEXT.tolist(), strict=True):
        latents = functional.attention_block(inducing, elements[None, :length], a, spec_a, impl="reference")
        rows.append(functional.attention_block(elements[None], latents, b, spec_b, impl="reference"))
    expected = torch.cat(rows)
    out = functional.induced_set_attention(*inputs[:6], context_lengths=CONTEXT, impl=impl)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=out.dtype)
    parameters = list(inputs.parameters().values())
    gradients = (torch.autograd.grad(y, parameters, upstream) for y in (out, expected))
    for actual, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, exact)


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_past_the_context_change_no_other_row(impl: Impl) -> None:
    inputs = _inputs("tabular")
    other = inputs.x.detach().clone()
    other[:, 50:] = 7.0
    one, two = (
        functional.induced_set_attention(x, *inputs[1:6], context_lengths=50, impl=impl) for x in (inputs.x, other)
    )
    assert torch.equal(one[:, :50], two[:, :50])
    assert not torch.equal(one[:, 50:], two[:, 50:])


@pytest.mark.parametrize("impl", IMPLS)
def test_context_is_cut_where_a_set_ends(impl: Impl) -> None:
    inputs, lengths = _inputs("original"), torch.tensor([20, 90, 0, 60])
    shorter = torch.minimum(lengths, torch.tensor(50))
    out, expected = (
        functional.induced_set_attention(*inputs[:6], lengths=lengths, context_lengths=context, impl=impl)
        for context in (50, shorter)
    )
    assert torch.equal(out, expected)
    assert not out[0, 20:].any()


def test_module_takes_a_number_or_one_per_set_and_compiles_whole() -> None:
    layer, x = ISAB(5, 8, 2, 3, ln=True), torch.randn(2, 30, 5)
    out = layer(x, context_lengths=12)
    assert torch.equal(out, layer(x, context_lengths=torch.tensor([12, 12], dtype=torch.int32)))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, context_lengths=12), out)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"context_lengths": 31}, ValueError, "context_lengths: expected a number in 0..30, got 31"),
        ({"context_lengths": -1}, ValueError, "context_lengths: expected a number in 0..30, got -1"),
        ({"context_lengths": 1.5}, TypeError, "context_lengths: expected an int or an int tensor"),
        ({"context_lengths": torch.tensor([3])}, ValueError, r"context_lengths: expected shape \(2,\)"),
        ({"context_lengths": torch.tensor([3, 40])}, ValueError, "context_lengths: expected values in 0..30"),
        ({"context_lengths": torch.tensor([3.0, 4.0])}, TypeError, "context_lengths: expected an int32 or int64"),
        ({"context_lengths": 3, "mask": torch.ones(2, 30, dtype=torch.bool)}, ValueError, "no mask beside it"),
    ],
)
def test_bad_context_is_named(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ISAB(5, 8, 2, 3)(torch.randn(2, 30, 5), **arguments)


def test_jagged_sets_have_no_context() -> None:
    jagged = torch.nested.nested_tensor([torch.randn(4, 5), torch.randn(2, 5)], layout=torch.jagged)
    with pytest.raises(ValueError, match="context_lengths: expected padded sets"):
        ISAB(5, 8, 2, 3)(jagged, context_lengths=2)
