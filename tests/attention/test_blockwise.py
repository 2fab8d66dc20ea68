"""The CPU path and the composed path against the oracle, and what the CPU path saves for its backward."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from settx_fast import BlockSpec, BlockWeights, functional
from settx_fast.attention.blockwise import library
from settx_fast.functional import Impl
from settx_fast.testing import VARIANTS, Inputs, Shape, assert_step_close_to_oracle, make_inputs, make_weights

ISAB_SHAPES = {
    "one tile of several sets": Shape(5, 37, 16, 16, 4, 3),
    "absorbed, many tiles": Shape(2, 331, 16, 16, 2, 4),
    "projected, many tiles": Shape(2, 200, 16, 16, 4, 40),
}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 rows, so that sets of some hundred elements span several."""
    monkeypatch.setattr("settx_fast.attention.blockwise.tiles.ELEMENTS_PER_TILE", 1)


def _isab(inputs: Inputs, impl: Impl) -> dict[str, Tensor]:
    """Output and every gradient by name."""
    out = functional.induced_set_attention(*inputs[:6], lengths=inputs.lengths, impl=impl)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    parameters = inputs.parameters()
    gradients = torch.autograd.grad(out, list(parameters.values()), upstream)
    return {"out": out} | dict(zip(parameters, gradients, strict=True))


def _compare(inputs: Inputs) -> None:
    ours, reference = _isab(inputs, "blockwise"), _isab(inputs, "reference")
    oracle = _isab(inputs.to(torch.float64), "reference")
    for name in [name for name in ours if name.endswith("b_k")]:  # zero but for rounding: no scale to compare with
        assert ours.pop(name).abs().max() <= 1e-3 * ours[name.replace("b_k", "b_v")].abs().max(), name
    assert_step_close_to_oracle(ours, reference, oracle)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", ISAB_SHAPES)
def test_isab_and_every_gradient_match_the_oracle(shape: str, variant: str) -> None:
    _compare(make_inputs(replace(ISAB_SHAPES[shape], options=VARIANTS[variant])))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", ISAB_SHAPES)
def test_composed_isab_and_every_gradient_match_the_reference(shape: str, variant: str) -> None:
    """In fp64: the accuracy of the library's fp32 attention is not ours."""
    inputs = make_inputs(replace(ISAB_SHAPES[shape], options=VARIANTS[variant]), dtype=torch.float64)
    torch.testing.assert_close(_isab(inputs, "composed"), _isab(inputs, "reference"))


@pytest.mark.parametrize(("inducing", "stages"), [(4, 0), (6, 2)])
def test_pytorchs_attention_reads_tiles_whose_scores_outnumber_features(
    inducing: int, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, called = make_inputs(Shape(1, 60, 16, 16, 4, inducing)), []
    for name in ("forward", "backward"):
        real = getattr(library, name)
        monkeypatch.setattr(library, name, lambda *args, real=real, name=name: (called.append(name), real(*args))[1])
    _isab(inputs, "blockwise")
    assert called.count("backward") == stages
    assert called.count("forward") == stages + stages // 2  # of stage B once more, for its backward


def test_tiles_that_write_scores_are_cut_by_scores_and_others_by_features(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, per_row = sys.modules["settx_fast.attention.blockwise.aggregate"], []
    real = stage.tiles  # type: ignore[attr-defined]
    monkeypatch.setattr(stage, "tiles", lambda sets, elements: (per_row.append(elements), real(sets, elements))[1])
    for inducing, width in ((32, 2), (40, 16)):  # absorbed, whose backward writes scores, and projected
        _isab(make_inputs(Shape(1, 60, width, 16, 4, inducing)), "blockwise")
    assert per_row == [2, 4 * 32, 16, 16]


def test_library_calls_read_no_row_past_the_context() -> None:
    inputs = make_inputs(Shape(3, 60, 16, 16, 4, 5))
    x, inducing, *blocks = inputs[:6]
    with FlopCounterMode(display=False) as whole:
        functional.induced_set_attention(*inputs[:6], context_lengths=20, impl="composed")
    with FlopCounterMode(display=False) as parts:
        hidden = functional.attention_block(inducing, x[:, :20], *blocks[:2], impl="composed")
        functional.attention_block(x, hidden, *blocks[2:], impl="composed")
    assert whole.get_total_flops() == parts.get_total_flops() > 0


@pytest.mark.parametrize(("dim_in", "dim", "heads"), [(1, 8, 1), (3, 40, 5), (70, 24, 3)])
def test_odd_widths_match_the_oracle(dim_in: int, dim: int, heads: int) -> None:
    _compare(make_inputs(Shape(3, 50, dim_in, dim, heads, 7)))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_its_dtype_allows(dtype: torch.dtype) -> None:
    _compare(make_inputs(Shape(2, 150, 16, 16, 4, 5), dtype=dtype))


def test_half_precision_never_overflows_in_scores() -> None:
    """Scores are fp32: a million-fold score is large in fp16 and no problem here."""
    inputs = make_inputs(Shape(1, 20, 4, 8, 2, 3), dtype=torch.float16)
    weights = inputs.weights_a._replace(w_k=inputs.weights_a.w_k * 100, w_q=inputs.weights_a.w_q * 100)
    out = functional.induced_set_attention(inputs.x * 10, inputs.inducing * 10, weights, *inputs[3:6], impl="blockwise")
    assert out.isfinite().all()


BLOCK_SIZES = {
    "shared short query, long key": (1, 3, 90),
    "short query, long key": (2, 3, 90),
    "long query, short key": (2, 90, 3),
    "both long": (2, 90, 90),
}


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("impl", ["blockwise", "composed"])
@pytest.mark.parametrize("variant", ["plain", "tabular"])
@pytest.mark.parametrize("sizes", BLOCK_SIZES)
def test_any_block_matches_the_reference(sizes: str, variant: str, impl: Impl) -> None:
    batch, num_queries, num_keys = BLOCK_SIZES[sizes]
    spec, generator = BlockSpec(4, **VARIANTS[variant]), torch.Generator().manual_seed(2)
    weights = make_weights(spec, 16, 16, 16, generator)
    w = BlockWeights(**{name: t.double() for name, t in weights._asdict().items() if t is not None})
    query, key = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((batch, num_queries, 16), (2, num_keys, 16))
    )
    results = []
    for each in (impl, "reference"):
        out = functional.attention_block(query, key, w, spec, impl=each)
        results.append([out, *torch.autograd.grad(out.square().sum(), [query, key])])
    torch.testing.assert_close(*results)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("impl", ["blockwise", "composed"])
@pytest.mark.parametrize("variant", ["plain", "tabular"])
@pytest.mark.parametrize("num_queries", [3, 90])
def test_keys_past_a_length_count_in_no_block_and_an_empty_set_adds_nothing(
    num_queries: int, variant: str, impl: Impl
) -> None:
    spec, generator = BlockSpec(4, **VARIANTS[variant]), torch.Generator().manual_seed(2)
    weights = make_weights(spec, 16, 16, 16, generator)
    w = BlockWeights(**{name: t.double() for name, t in weights._asdict().items() if t is not None})
    query = torch.randn(3, num_queries, 16, generator=generator, dtype=torch.float64)
    key = torch.randn(3, 5, 16, generator=generator, dtype=torch.float64)
    results = []
    for each in (impl, "reference"):
        inputs = [t.clone().requires_grad_() for t in (query, key)]
        out = functional.attention_block(*inputs, w, spec, key_lengths=torch.tensor([5, 2, 0]), impl=each)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    torch.testing.assert_close(*results)
    assert not results[0][2][1, 2:].any()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("inducing", [2, 20])  # absorbed and projected
def test_gradients_are_those_of_finite_differences(variant: str, inducing: int) -> None:
    inputs = make_inputs(Shape(2, 70, 4, 4, 2, inducing, VARIANTS[variant]), dtype=torch.float64)
    names = list(inputs.parameters())

    def isab(*tensors: Tensor) -> Tensor:
        named = dict(zip(names, tensors, strict=True))
        blocks = [
            BlockWeights(**{k.removeprefix(f"{side}."): t for k, t in named.items() if k.startswith(f"{side}.")})
            for side in "ab"
        ]
        x, inducing, (a, b) = named["x"], named["inducing"], blocks
        lengths = torch.tensor([70, 5])
        return functional.induced_set_attention(
            x, inducing, a, inputs.spec_a, b, inputs.spec_b, lengths=lengths, impl="blockwise"
        )

    assert torch.autograd.gradcheck(isab, list(inputs.parameters().values()), fast_mode=True)


def test_nothing_of_set_size_is_saved_but_the_set() -> None:
    inputs = make_inputs(Shape(2, 997, 8, 16, 4, 5))
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        functional.induced_set_attention(*inputs[:6], impl="blockwise")
    long = [t for t in saved if 997 in t.shape]
    assert {t.untyped_storage().data_ptr() for t in long} == {inputs.x.untyped_storage().data_ptr()}
    assert max(t.numel() for t in saved if 997 not in t.shape) < 997


def test_rows_that_need_no_gradient_change_no_other_gradient() -> None:
    inputs = make_inputs(Shape(2, 30, 8, 8, 2, 3))
    with_rows = _isab(inputs, "blockwise")
    inputs.x.requires_grad_(False)
    out = functional.induced_set_attention(*inputs[:6], impl="blockwise")
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    names = [name for name in inputs.parameters() if name != "x"]
    gradients = torch.autograd.grad(out, [inputs.parameters()[name] for name in names], upstream)
    for name, gradient in zip(names, gradients, strict=True):
        assert torch.equal(gradient, with_rows[name]), name


SIDES_WITHOUT_GRADIENT = {"long query": (90, 3), "keys of a short query": (3, 90), "keys of a shared query": (3, 90)}


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("variant", ["prenorm-projected", "tabular", "rms"])
@pytest.mark.parametrize("side", SIDES_WITHOUT_GRADIENT)
def test_data_that_need_no_gradient_change_none_of_a_block(side: str, variant: str) -> None:
    """The norm before a block learns from the rows that it reads, whether or not they want a gradient."""
    num_queries, num_keys = SIDES_WITHOUT_GRADIENT[side]
    spec, generator = BlockSpec(4, **VARIANTS[variant]), torch.Generator().manual_seed(2)
    weights = make_weights(spec, 16, 16, 16, generator)
    w = weights.map(lambda t: t.double().requires_grad_())
    shared = side == "keys of a shared query"
    query = torch.randn(1 if shared else 2, num_queries, 16, generator=generator, dtype=torch.float64)
    key = torch.randn(2, num_keys, 16, generator=generator, dtype=torch.float64)
    data, parameters = (query if side == "long query" else key), [t for t in w if t is not None]
    results = []
    for wants in (True, False):
        data.requires_grad_(wants)
        out = functional.attention_block(query, key, w, spec, impl="blockwise")
        results.append(torch.autograd.grad(out.sin().sum(), parameters))
    torch.testing.assert_close(*results, rtol=0, atol=0)
    out = functional.attention_block(query, key, w, spec, impl="reference")
    torch.testing.assert_close(results[1], torch.autograd.grad(out.sin().sum(), parameters))


@pytest.mark.parametrize("impl", ["reference", "composed", "blockwise"])
def test_the_slope_of_relu_at_zero_is_zero(impl: Impl) -> None:
    """As PyTorch's. A hidden layer of zeros is then one that learns nothing."""
    spec = BlockSpec(2)
    weights = make_weights(spec, 8, 8, 8, torch.Generator().manual_seed(2))
    w = weights._replace(w_o=torch.zeros(8, 8), b_o=torch.zeros(8)).map(lambda t: t.requires_grad_())
    out = functional.attention_block(torch.randn(2, 30, 8), torch.randn(2, 3, 8), w, spec, impl=impl)
    gradients = torch.autograd.grad(out.sum(), [w.w_o, w.b_o, w.w_q])
    assert [bool(g.any()) for g in gradients] == [False, False, True]


def test_the_same_call_gives_the_same_bits() -> None:
    inputs = make_inputs(Shape(3, 300, 8, 16, 4, 5))
    first, second = _isab(inputs, "blockwise"), _isab(inputs, "blockwise")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_strided_sets_are_read_as_they_lie() -> None:
    inputs = make_inputs(Shape(3, 40, 6, 8, 2, 3))
    expected = functional.induced_set_attention(*inputs[:6], impl="blockwise")
    strided = inputs.x.detach().transpose(0, 1).contiguous().transpose(0, 1)
    out = functional.induced_set_attention(strided, *inputs[1:6], impl="blockwise")
    torch.testing.assert_close(out, expected)


def test_small_training_batches_and_large_ones_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(Shape(3, 40, 6, 8, 2, 3), dtype=torch.float64)
    outputs = []
    for limit in (0, 2**30):
        monkeypatch.setattr("settx_fast.attention.choice.SAVED_BYTES", limit)
        outputs.append(functional.induced_set_attention(*inputs[:6]))
    assert str(outputs[0].grad_fn) != str(outputs[1].grad_fn)
    torch.testing.assert_close(*outputs)
