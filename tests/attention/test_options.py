"""Options of blocks that came after the original's: what they mean, in every implementation, and what refuses them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from settx_fast import ISAB, MAB, PMA, SAB, BlockSpec, BlockWeights, DeepSet, functional
from settx_fast.attention.choice import why_not_triton
from settx_fast.functional import Impl
from settx_fast.testing import COMPOSED, LOWERED, Inputs, Shape, make_inputs, make_weights

ALL = LOWERED | COMPOSED
SCALES = {"none": 0, "one for all": 1, "one each": 3}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 rows: sets of 70 end in the second."""
    monkeypatch.setattr("settx_fast.attention.blockwise.tiles.ELEMENTS_PER_TILE", 1)


def _problem(options: dict[str, Any], inducing: int = 3) -> Inputs:
    return make_inputs(Shape(3, 70, 8, 8, 2, inducing, options), dtype=torch.float64)


def _scale(kind: str, inducing: int = 3) -> Tensor | None:
    if SCALES[kind] == 0:
        return None
    generator = torch.Generator().manual_seed(8)
    return (0.5 + torch.rand(SCALES[kind], inducing, 8, generator=generator, dtype=torch.float64)).requires_grad_()


def _norm(x: Tensor, kind: str, gain: Tensor | None, shift: Tensor | None) -> Tensor:
    if kind == "none":
        return x
    if kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain
    return x if shift is None else x + shift


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.T + (0 if bias is None else bias)


def textbook(query: Tensor, key: Tensor, w: BlockWeights, spec: BlockSpec, scale: Tensor | None) -> Tensor:
    """One set (N, C) each, head by head, from the definitions."""
    read_q, read_k = query, key
    if spec.norm_first:
        read_q = _norm(query, spec.norm, w.g0, w.b0)
        read_k = _norm(key, spec.norm, w.g0_k, w.b0_k) if spec.key_norm else _norm(key, spec.norm, w.g0, w.b0)
    q, k, v = _linear(read_q, w.w_q, w.b_q), _linear(read_k, w.w_k, w.b_k), _linear(read_k, w.w_v, w.b_v)
    dim = q.shape[1]
    head, attended = dim // spec.num_heads, []
    for start in range(0, dim, head):
        part = slice(start, start + head)
        q_h, k_h = _norm(q[:, part], spec.qk_norm, w.g_q, w.s_q), _norm(k[:, part], spec.qk_norm, w.g_k, w.s_k)
        q_h = q_h if scale is None else q_h * scale[:, part]
        scores = (q_h @ k_h.T / math.sqrt(head if spec.scale == "head" else dim)).exp()
        attended.append(scores / scores.sum(1, keepdim=True) @ v[:, part])
    added = torch.cat(attended, 1)
    added = added if w.w_p is None else _linear(added, w.w_p, w.b_p)
    added = _norm(added, spec.norm, w.g_p, w.s_p) if spec.post_norm else added
    out = (q if spec.residual == "projected" else query) + added
    if not spec.norm_first:
        out = _norm(out, spec.norm, w.g0, w.b0)
    read = _norm(out, spec.norm, w.g1, w.b1) if spec.norm_first else out
    gate = {
        "swiglu": lambda x: x * x.sigmoid(), "geglu": nn.GELU(), "reglu": nn.ReLU(), "liglu": lambda x: x,
    }  # fmt: skip
    hidden = _linear(read, w.w_o, w.b_o)
    if w.w_g is not None:
        hidden = gate[spec.activation](_linear(read, w.w_g, w.b_g)) * hidden
    else:
        hidden = nn.GELU()(hidden) if spec.activation == "gelu" else nn.ReLU()(hidden)
    more = hidden if w.w_o2 is None else _linear(hidden, w.w_o2, w.b_o2)
    more = _norm(more, spec.norm, w.g_o, w.s_o) if spec.post_norm else more
    out = out + more
    return out if spec.norm_first else _norm(out, spec.norm, w.g1, w.b1)


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("name", ALL)
def test_the_oracle_is_the_definition(name: str, kind: str) -> None:
    inputs, scale = _problem(ALL[name]), _scale(kind)
    latents = torch.stack(
        [
            textbook(
                inputs.inducing[0], x, inputs.weights_a, inputs.spec_a, None if scale is None else scale[b % len(scale)]
            )
            for b, x in enumerate(inputs.x)
        ]
    )
    rows = zip(inputs.x, latents, strict=True)
    expected = torch.stack([textbook(x, h, inputs.weights_b, inputs.spec_b, None) for x, h in rows])
    out = functional.induced_set_attention(*inputs[:6], query_scale=scale, impl="reference")
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)


def _step(inputs: Inputs, scale: Tensor | None, impl: Impl | None, **ragged: Any) -> list[Tensor | None]:
    out = functional.induced_set_attention(*inputs[:6], query_scale=scale, impl=impl, **ragged)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=out.dtype)
    wanted = [*inputs.parameters().values(), *([] if scale is None else [scale])]
    return [out.detach(), *torch.autograd.grad(out, wanted, upstream)]


# few inducing points are absorbed into the elements, many are not
@pytest.mark.parametrize("inducing", [3, 40])
@pytest.mark.parametrize("ragged", ["full", "context and lengths"])
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize(
    ("name", "impl"), [(name, "composed") for name in ALL] + [(name, "blockwise") for name in [*LOWERED]]
)
def test_output_and_every_gradient_match_the_oracle(
    name: str, impl: Impl, kind: str, ragged: str, inducing: int
) -> None:
    inputs, scale = _problem(ALL[name], inducing), _scale(kind, inducing)
    given: dict[str, Any] = {}
    if ragged != "full":
        given = {"lengths": torch.tensor([70, 50, 0]), "context_lengths": torch.tensor([20, 66, 1])}
    actual, expected = (_step(inputs, scale, each, **given) for each in (impl, "reference"))
    for found, exact in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_through_its_modules_a_block_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    mab = MAB(8, 8, 8, 2, **ALL[name], dtype=torch.float64)
    for parameter in mab.parameters():
        nn.init.normal_(parameter)
    query, key = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 9, 8, dtype=torch.float64)
    scale, lengths = torch.rand(2, 5, 8, dtype=torch.float64), torch.tensor([9, 4])
    expected = mab(query, key, key_lengths=lengths, query_scale=scale)
    seen: list[nn.Module] = []
    mab.fc_v.register_forward_hook(lambda module, *_: seen.append(module))
    torch.testing.assert_close(mab(query, key, key_lengths=lengths, query_scale=scale), expected)
    assert seen
    assert mab.extra_repr() == str(BlockSpec(2, **ALL[name]))


@pytest.mark.parametrize("name", ["modern", "norm of heads", "swiglu", "norm after"])
def test_a_scripted_block_computes_the_same(name: str) -> None:
    mab = MAB(8, 8, 8, 2, **ALL[name]).eval()
    query, key, scale = torch.randn(2, 5, 8), torch.randn(2, 9, 8), torch.rand(1, 5, 8)
    scripted = torch.jit.script(mab)
    torch.testing.assert_close(scripted(query, key, query_scale=scale), mab(query, key, query_scale=scale))


@pytest.mark.parametrize("name", ALL)
def test_modules_have_the_parameters_of_their_options(name: str) -> None:
    spec = BlockSpec(2, **ALL[name])
    layer = ISAB(8, 8, 2, 3, **ALL[name])
    assert len(list(layer.mab0.parameters())) == len(spec.weight_names)
    layer(torch.randn(2, 6, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_keys_with_a_norm_of_their_own_may_have_another_width() -> None:
    spec, generator = BlockSpec(2, "rms", True, key_norm=True), torch.Generator().manual_seed(1)
    weights = make_weights(spec, 6, 5, 8, generator)
    query, key = torch.randn(2, 4, 6, generator=generator), torch.randn(2, 7, 5, generator=generator)
    expected = functional.attention_block(query, key, weights, spec, impl="reference")
    torch.testing.assert_close(functional.attention_block(query, key, weights, spec), expected)
    with pytest.raises(ValueError, match="keys of another width than the queries have a norm of their own"):
        functional.attention_block(query, key, weights, spec, impl="blockwise")


def test_many_queries_may_have_factors() -> None:
    inputs = _problem({"norm": "layer"})
    scale = torch.rand(3, 70, 8, dtype=torch.float64)
    block = (inputs.x, inputs.x[:, :5], inputs.weights_b, inputs.spec_b)
    expected = functional.attention_block(*block, query_scale=scale, impl="reference")
    torch.testing.assert_close(functional.attention_block(*block, query_scale=scale), expected)
    with pytest.raises(ValueError, match="the longer sets are queries with factors"):
        functional.attention_block(*block, query_scale=scale, impl="blockwise")


def test_weights_of_attention_know_the_factors() -> None:
    inputs = _problem(COMPOSED["norm of heads"])
    scale = torch.zeros(1, 3, 8, dtype=torch.float64)
    given = (inputs.inducing, inputs.x, inputs.weights_a, inputs.spec_a)
    read = functional.attention_weights(*given, query_scale=scale)
    torch.testing.assert_close(read, torch.full_like(read, 1 / 70))
    assert functional.attention_weights(*given).std() > 0.01


def _far(layer: nn.Module) -> Any:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layer.double()


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("ragged", ["full", "lengths", "mask", "context", "contexts"])
def test_several_leading_dimensions_are_as_one(ragged: str, hooked: bool) -> None:
    layer = _far(ISAB(5, 8, 2, 3, ln=True))
    if hooked:
        layer.mab0.fc_k.register_forward_hook(lambda *_: None)
    x, sizes = torch.randn(2, 3, 9, 5, dtype=torch.float64), torch.tensor([[9, 4, 1], [0, 5, 2]])
    scale = torch.rand(2, 3, 3, 8, dtype=torch.float64)
    given = {
        "full": {}, "lengths": {"lengths": sizes}, "mask": {"mask": torch.arange(9).flip(0) < sizes[..., None]},
        "context": {"context_lengths": 4}, "contexts": {"context_lengths": sizes},
    }[ragged]  # fmt: skip
    flat = {name: t.flatten(0, 1) if isinstance(t, Tensor) else t for name, t in given.items()}
    expected = layer(x.flatten(0, 1), **flat, query_scale=scale.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(layer(x, **given, query_scale=scale), expected)


def test_pooling_and_self_attention_take_several_leading_dimensions() -> None:
    x, sizes = torch.randn(2, 3, 9, 8, dtype=torch.float64), torch.tensor([[9, 4, 1], [0, 5, 2]])
    for layer in (_far(PMA(8, 2, 4)), _far(SAB(8, 8, 2)), _far(DeepSet(8, 4, 2, 6))):
        flat = layer(x.flatten(0, 1), lengths=sizes.flatten())
        torch.testing.assert_close(layer(x, lengths=sizes), flat.unflatten(0, (2, 3)))


@pytest.mark.parametrize("impl", ["composed", "blockwise", "reference"])
def test_inducing_points_may_be_every_sets_own(impl: Impl) -> None:
    inputs = _problem({"norm": "layer"})
    own = torch.randn(3, 3, 8, dtype=torch.float64, requires_grad=True)
    out = functional.induced_set_attention(inputs.x, own, *inputs[2:6], impl=impl)
    parts = [
        functional.induced_set_attention(inputs.x[b : b + 1], own[b : b + 1], *inputs[2:6], impl="reference")
        for b in range(3)
    ]
    torch.testing.assert_close(out, torch.cat(parts))
    gradients = [torch.autograd.grad(each.square().sum(), own)[0] for each in (out, torch.cat(parts))]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_context_is_read_once_and_asked_often(hooked: bool) -> None:
    layer = _far(ISAB(5, 8, 2, 3, ln=True))
    if hooked:
        layer.mab1.fc_v.register_forward_hook(lambda *_: None)
    context, x = torch.randn(2, 20, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    scale = torch.rand(1, 3, 8, dtype=torch.float64)
    hidden = layer.encode(context, query_scale=scale)
    assert hidden.shape == (2, 3, 8)
    together = layer(torch.cat([context, x], 1), context_lengths=20, query_scale=scale)
    torch.testing.assert_close(layer.decode(x, hidden), together[:, 20:])
    torch.testing.assert_close(layer.decode(context, hidden), together[:, :20])
    lengths = torch.tensor([20, 7])
    shorter = layer.decode(x[1:], layer.encode(context[1:, :7]))
    torch.testing.assert_close(layer.decode(x, layer.encode(context, lengths=lengths))[1:], shorter)


@pytest.mark.parametrize("name", COMPOSED)
def test_what_operators_do_not_know_is_refused_with_the_reason(name: str) -> None:
    inputs = _problem(COMPOSED[name])
    reason = why_not_triton(inputs.x.float(), 3, (inputs.weights_a.map(Tensor.float), inputs.spec_a))
    words = ("head by head", "has a gate", "have a gate", "attention and feed-forward add is normed")
    assert any(word in str(reason) for word in words)
    with pytest.raises(ValueError, match="cannot take this call"):
        functional.induced_set_attention(*inputs[:6], impl="blockwise")


_SPECS = [
    ({"key_norm": True}, "key_norm: expected norm_first and a norm"),
    ({"key_norm": True, "norm": "layer"}, "key_norm: expected norm_first"),
    ({"post_norm": True}, "post_norm: expected a norm"),
    ({"norm": "rms", "norm_bias": False}, "norm_bias: expected True where no norm is 'layer'"),
    ({"qk_norm": "batch"}, "qk_norm: expected one of"),
    ({"activation": "glu"}, "activation: expected one of"),
]


@pytest.mark.parametrize(("options", "words"), _SPECS)
def test_an_option_with_nothing_to_act_on_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BlockSpec(2, **options)


_JAGGED = torch.nested.nested_tensor([torch.randn(4, 5), torch.randn(2, 5)], layout=torch.jagged)
_X = torch.randn(2, 6, 5)
_CALLS = [
    (lambda m: m(_X, query_scale=torch.ones(1, 4, 8)), ValueError, r"query_scale: expected shape \(1, 3, 8\) or \(2,"),
    (lambda m: m(_X, query_scale=torch.ones(3, 3, 8)), ValueError, "query_scale: expected shape"),
    (lambda m: m(_X, query_scale=2.0), TypeError, "query_scale: expected a tensor, got float"),
    (lambda m: m(_X, query_scale=torch.ones(1, 3, 8).double()), TypeError, "query_scale: expected torch.float32"),
    (lambda m: m(_X, query_scale=torch.ones(3, 8)), ValueError, "query_scale: expected shape"),
    (lambda m: m.mab1(_JAGGED, torch.ones(2, 3, 8), query_scale=torch.ones(2, 4, 8)), ValueError, "padded queries"),
    (
        lambda m: m.mab1(_X, torch.ones(2, 3, 8), None, torch.ones(2, 6).bool(), query_scale=torch.ones(2, 6, 8)),
        ValueError,
        "query_scale: expected padded queries without a mask",
    ),
    (lambda m: m(torch.ones(2, 2, 6, 5), torch.tensor([6, 6])), ValueError, r"lengths of x: expected shape \(2, 2\)"),
    (lambda m: m(torch.ones(2, 2, 6, 5), mask=torch.ones(4, 6).bool()), ValueError, r"mask of x: .* \(2, 2, 6\)"),
    (
        lambda m: m(torch.ones(2, 2, 6, 5), context_lengths=torch.ones(4).long()),
        ValueError,
        r"context_lengths: expected shape \(2, 2\), got \(4,\)",
    ),
    (
        lambda m: functional.induced_set_attention(
            _X, torch.ones(3, 3, 8), m.mab0.weights, m.mab0.spec, m.mab1.weights, m.mab1.spec
        ),
        ValueError,
        r"inducing: expected shape \(1, M, D\) or \(2, M, D\), got \(3, 3, 8\)",
    ),
    (
        lambda m: functional.attention_weights(m.I, torch.ones(1, 2, 4, 5), m.mab0.weights, m.mab0.spec),
        ValueError,
        "key: expected one leading dimension",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), _CALLS)
def test_misuse_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(ISAB(5, 8, 2, 3))


def test_blocks_of_these_options_compile_whole() -> None:
    layer, x = ISAB(8, 8, 2, 3, **LOWERED["modern"]), torch.randn(2, 3, 30, 8)
    scale = torch.rand(1, 3, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, query_scale=scale), layer(x, query_scale=scale))
