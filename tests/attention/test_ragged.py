"""Ragged sets: lengths, masks and jagged tensors mean the same, and what is outside a set does not exist."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from settx_fast import ISAB, PMA, SAB, DeepSet, SetTransformer, functional
from settx_fast.functional import Impl
from settx_fast.testing import VARIANTS, Shape, make_inputs

IMPLS: tuple[Impl, ...] = ("reference", "blockwise", "composed")
LENGTHS = torch.tensor([90, 0, 7, 1, 33])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 rows: some sets span two, others share one."""
    monkeypatch.setattr("settx_fast.attention.blockwise.tiles.ELEMENTS_PER_TILE", 1)


def _jagged(sets: list[Tensor]) -> Tensor:
    return torch.nested.nested_tensor(sets, layout=torch.jagged)


def _shuffled_mask(lengths: Tensor, size: int) -> Tensor:
    """A mask with as many elements per set as `lengths`, anywhere."""
    ranks = torch.rand(len(lengths), size, generator=torch.Generator().manual_seed(7)).argsort(1)
    return ranks < lengths[:, None]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_lengths_mask_and_jagged_equal_a_loop_over_sets(variant: str, impl: Impl) -> None:
    inputs = make_inputs(Shape(5, 90, 8, 8, 2, 3, VARIANTS[variant]), dtype=torch.float64)
    x, rest = inputs.x.detach(), inputs[1:6]
    mask = _shuffled_mask(LENGTHS, 90)
    sets = [row[m] for row, m in zip(x, mask, strict=True)]
    alone = [functional.induced_set_attention(elements[None], *rest, impl="reference")[0] for elements in sets]
    front = torch.zeros_like(x)
    for row, elements in zip(front, sets, strict=True):
        row[: len(elements)] = elements
    by_mask = functional.induced_set_attention(x, *rest, mask=mask, impl=impl)
    by_lengths = functional.induced_set_attention(front, *rest, lengths=LENGTHS, impl=impl)
    by_jagged = functional.induced_set_attention(_jagged(sets), *rest, impl=impl)
    assert by_jagged.is_nested
    for index, expected in enumerate(alone):
        torch.testing.assert_close(by_mask[index, mask[index]], expected)
        torch.testing.assert_close(by_lengths[index, : LENGTHS[index]], expected)
        torch.testing.assert_close(by_jagged.unbind()[index], expected)
        assert not by_mask[index, ~mask[index]].any()
        assert not by_lengths[index, LENGTHS[index] :].any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_padding_never_reaches_an_output_or_a_gradient(poison: float, variant: str, impl: Impl) -> None:
    inputs = make_inputs(Shape(5, 90, 8, 8, 2, 3, VARIANTS[variant]), dtype=torch.float64)
    outside = torch.arange(90) >= LENGTHS[:, None]
    results = []
    for filler in (0.0, poison):
        x = inputs.x.detach().masked_fill(outside[..., None], filler).requires_grad_()
        out = functional.induced_set_attention(x, *inputs[1:6], lengths=LENGTHS, impl=impl)
        weights = [p for name, p in inputs.parameters().items() if name != "x"]
        results.append([out, *torch.autograd.grad(out.square().sum() + out.sum(), [x, *weights])])
    for clean, poisoned in zip(*results, strict=True):
        assert clean.isfinite().all()
        assert torch.equal(clean, poisoned)
    assert not results[1][1][outside].any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 5, 3), (0, 0, 3)])
def test_no_elements_or_no_sets_are_no_error(shape: tuple[int, ...], impl: Impl) -> None:
    layer = ISAB(3, 8, 2, 4, ln=True, impl=impl)
    x = torch.randn(shape, requires_grad=True)
    out = layer(x)
    assert out.shape == (*shape[:2], 8)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.shape == x.shape
    pooled = PMA(3, 1, 2, impl=impl)(x)
    assert pooled.shape == (shape[0], 2, 3)
    assert pooled.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_an_empty_set_adds_nothing_to_its_reader(impl: Impl) -> None:
    layer = PMA(4, 2, 3, impl=impl)
    q = layer.mab.fc_q(layer.S)
    expected = q + torch.relu(layer.mab.fc_o(q))
    out = layer(torch.full((1, 6, 4), math.nan), lengths=torch.tensor([0]))
    torch.testing.assert_close(out, expected)


MODELS = {
    "ISAB": lambda: ISAB(4, 8, 2, 3, ln=True),
    "SAB": lambda: SAB(4, 8, 2, ln=True),
    "PMA": lambda: PMA(4, 2, 3),
    "SetTransformer": lambda: SetTransformer(4, 2, 3, num_inds=3, dim_hidden=8, num_heads=2, ln=True),
    "DeepSet": lambda: DeepSet(4, 2, 3, dim_hidden=8),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_module_reads_ragged_sets_like_a_loop(name: str) -> None:
    model = MODELS[name]().double()
    sets = [torch.randn(n, 4, dtype=torch.float64) for n in (5, 1, 12)]
    padded = torch.full((3, 12, 4), math.nan, dtype=torch.float64)
    for row, elements in zip(padded, sets, strict=True):
        row[: len(elements)] = elements
    lengths = torch.tensor([5, 1, 12], dtype=torch.int32)
    by_jagged, by_lengths = model(_jagged(sets)), model(padded, lengths=lengths)
    by_mask = model(padded, mask=torch.arange(12) < lengths[:, None])
    for index, elements in enumerate(sets):
        expected = model(elements[None])[0]
        size = len(expected)
        for out in (by_jagged.unbind()[index], by_lengths[index, :size], by_mask[index, :size]):
            torch.testing.assert_close(out, expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 150), impl=st.sampled_from(IMPLS))
def test_order_is_kept_by_isab_and_ignored_by_pooling(seed: int, size: int, impl: Impl) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, size, 4, generator=generator, dtype=torch.float64)
    order = torch.randperm(size, generator=generator)
    inputs = make_inputs(Shape(2, size, 4, 8, 2, 3), dtype=torch.float64, seed=seed)
    out, permuted = (functional.induced_set_attention(rows, *inputs[1:6], impl=impl) for rows in (x, x[:, order]))
    torch.testing.assert_close(permuted, out[:, order])
    pool = PMA(4, 2, 3, impl=impl).double()
    torch.testing.assert_close(pool(x[:, order]), pool(x))


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 200), min_size=1, max_size=6), impl=st.sampled_from(("blockwise", "composed")))
def test_any_mixture_of_sizes_matches_the_reference(lengths: list[int], impl: Impl) -> None:
    inputs = make_inputs(Shape(len(lengths), max(lengths), 4, 8, 2, 3), dtype=torch.float64)
    results = []
    for each in (impl, "reference"):
        out = functional.induced_set_attention(*inputs[:6], lengths=torch.tensor(lengths), impl=each)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(inputs.parameters().values()))])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lengths": torch.tensor([1, 2, 3])}, ValueError, r"lengths of x: expected shape \(2,\) on cpu, got \(3,\)"),
        ({"lengths": torch.tensor([1, 6])}, ValueError, r"expected values in 0..5, got \[1, 6\]"),
        ({"lengths": torch.tensor([-1, 2])}, ValueError, "expected values in 0..5"),
        ({"lengths": torch.tensor([1.0, 2.0])}, TypeError, "expected an int32 or int64 tensor, got torch.float32"),
        ({"lengths": [1, 2]}, TypeError, "expected an int32 or int64 tensor, got list"),
        ({"mask": torch.ones(2, 5)}, TypeError, "mask of x: expected a bool tensor, got torch.float32"),
        ({"mask": torch.ones(2, 4).bool()}, ValueError, r"expected shape \(2, 5\) on cpu, got \(2, 4\)"),
        ({"mask": torch.ones(2, 5).bool(), "lengths": torch.tensor([1, 2])}, ValueError, "lengths or a mask, got both"),
    ],
)
def test_misuse_is_named(arguments: dict[str, Tensor], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ISAB(3, 8, 2, 2)(torch.randn(2, 5, 3), **arguments)


def test_lengths_beside_a_jagged_tensor_are_refused() -> None:
    with pytest.raises(ValueError, match="no lengths or mask beside a jagged"):
        ISAB(3, 8, 2, 2)(_jagged([torch.randn(2, 3)]), lengths=torch.tensor([2]))
