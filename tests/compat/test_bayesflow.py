"""BayesFlow's SetTransformer and its blocks as modules of PyTorch alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compat.comparison import DTYPES, assert_same, client

keras = client("keras")
dtypes = client("keras", "keras.src.backend.common.dtypes")
transformers = client("bayesflow", "bayesflow.networks.summary.transformers")
attention = client("bayesflow", "bayesflow.networks.summary.transformers.attention")
compat = client("bayesflow", "settx_fast.compat")

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "biases": {"use_bias": True, "glu_variant": "geglu"},
    "reglu": {"glu_variant": "reglu", "layer_norm": False},
    "liglu": {"glu_variant": "liglu"},
}


@pytest.fixture(autouse=True)
def with_gradients(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    # Keras rounds fp64 to fp32 on this backend, whatever the dtype of its layers
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    with torch.enable_grad():
        yield
    keras.config.set_dtype_policy("float32")


def _made(layer: Any, *inputs: Tensor, size: float = 1.0) -> Any:
    """The layer with weights far from the initial ones; without norms large ones would saturate every softmax."""
    with torch.no_grad():
        layer(*inputs)
    generator = torch.Generator().manual_seed(4)
    for weight in layer.weights:
        if "float" in str(weight.dtype):  # seeds of dropout have none
            value = weight.value.data
            width = value.shape[0] if value.dim() > 1 else 9
            value.copy_(
                size * torch.randn(value.shape, generator=generator, dtype=value.dtype) / width**0.5 + (value == 1)
            )
    return layer


def _x(dtype: torch.dtype, size: int = 30, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, size, width, generator=generator, dtype=dtype).requires_grad_()


def _inputs(dtype: torch.dtype) -> Tensor:
    keras.config.set_dtype_policy(str(dtype).removeprefix("torch."))
    return _x(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_inducing_points", [None, 6])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_set_transformer_is_theirs(options: str, num_inducing_points: int | None, dtype: torch.dtype) -> None:
    x = _inputs(dtype)
    theirs = transformers.SetTransformer(
        summary_dim=7, embed_dims=(16, 24), num_heads=(2, 4), num_seeds=3, seed_dim=10,
        num_inducing_points=num_inducing_points, **OPTIONS[options],
    )  # fmt: skip
    ours = compat.from_bayesflow(_made(theirs, x.detach(), size=0.4 if options == "reglu" else 1.0))
    pairs = [(x, x), (ours.projector.bias, theirs.output_projector.bias.value)]
    assert_same(lambda: ours(x), lambda: theirs(x), pairs)
    assert {p.dtype for p in ours.parameters()} == {dtype}


BLOCKS = {
    "MultiHeadAttention": lambda: attention.MultiHeadAttention(16, 2),
    "SetAttention": lambda: attention.SetAttention(16, 2),
    "InducedSetAttention": lambda: attention.InducedSetAttention(6, 16, 2),
    "PoolingByMultiHeadAttention": lambda: attention.PoolingByMultiHeadAttention(3, 16, 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_theirs(name: str, dtype: torch.dtype) -> None:
    x = _inputs(dtype)
    inputs = (_x(dtype, 4, 9), x) if name == "MultiHeadAttention" else (x,)
    theirs = _made(BLOCKS[name](), *(each.detach() for each in inputs))
    ours = compat.from_bayesflow(theirs)
    assert_same(lambda: ours(*inputs), lambda: theirs(*inputs), [(each, each) for each in inputs])


def test_sets_of_several_sizes_are_read_one_by_one() -> None:
    x = _inputs(torch.float64)
    theirs = _made(transformers.SetTransformer(5, (16,), (2,), num_inducing_points=4), x.detach())
    ours = compat.from_bayesflow(theirs)
    sizes = torch.tensor([30, 11, 4])
    expected = torch.cat([theirs(x[b : b + 1, :size]) for b, size in enumerate(sizes.tolist())])
    torch.testing.assert_close(ours(x, lengths=sizes), expected)
    torch.testing.assert_close(ours(x, mask=torch.arange(30) < sizes[:, None]), expected)


def test_it_drops_weights_of_attention_while_training() -> None:
    x = _inputs(torch.float64)
    ours = compat.from_bayesflow(_made(attention.SetAttention(16, 2, dropout=0.5), x.detach()))
    assert torch.equal(ours(x), ours(x))
    ours.train()
    assert not torch.equal(ours(x), ours(x))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: compat.from_bayesflow(nn.Linear(2, 2)), TypeError, "module: expected SetTransformer or"),
        (lambda: compat.from_bayesflow(transformers.SetTransformer()), ValueError, "expected weights, which it has"),
    ],
)
def test_misuse_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
