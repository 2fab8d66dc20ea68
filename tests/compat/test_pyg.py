"""PyTorch Geometric's blocks and aggregation as ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compat.comparison import DTYPES, assert_same, client, far

aggr = client("torch_geometric", "torch_geometric.nn.aggr")
utils = client("torch_geometric", "torch_geometric.nn.aggr.utils")
compat = client("torch_geometric", "settx_fast.compat")


def _draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


BLOCKS = {
    "SetAttentionBlock": lambda ln: utils.SetAttentionBlock(16, 4, ln),
    "InducedSetAttentionBlock": lambda ln: utils.InducedSetAttentionBlock(16, 3, 4, ln),
    "PoolingByMultiheadAttention": lambda ln: utils.PoolingByMultiheadAttention(16, 2, 4, ln),
}


def _weight(module: nn.Module, end: str) -> Tensor:
    return next(p for name, p in module.named_parameters() if name.endswith(end))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_of_theirs_is_one_of_ours(name: str, layer_norm: bool, dtype: torch.dtype) -> None:
    theirs = far(BLOCKS[name](layer_norm).to(dtype))
    ours = compat.from_pyg(theirs)
    x, sizes = _draw(3, 20, 16, dtype=dtype), torch.tensor([20, 7, 1])
    mask = torch.arange(20) < sizes[:, None]
    pairs = [(_weight(ours, "fc_o.weight"), _weight(theirs, "lin.weight"))] if "Pooling" not in name else []
    pairs += [(_weight(ours, "fc_p.weight"), _weight(theirs, "out_proj.weight")), (x, x)]
    inside = mask[..., None] if "Pooling" not in name else torch.ones(1)
    assert_same(lambda: ours(x, mask=mask) * inside, lambda: theirs(x, mask) * inside, pairs)
    assert_same(lambda: ours(x), lambda: theirs(x), pairs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_their_attention_of_two_sets_is_a_mab(dtype: torch.dtype) -> None:
    theirs = far(utils.MultiheadAttentionBlock(16, 4).to(dtype))
    ours = compat.from_pyg(theirs)
    query, key = _draw(2, 5, 16, dtype=dtype), _draw(2, 30, 16, dtype=dtype)
    assert_same(lambda: ours(query, key), lambda: theirs(query, key), [(query, query), (key, key)])


INDEX = torch.tensor([0] * 7 + [2] * 30 + [3] + [5] * 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("by", ["index", "ptr", "unsorted index"])
def test_the_aggregation_is_theirs_without_padding(
    by: str, concat: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = far(aggr.SetTransformerAggregation(16, 2, 2, 1, 4, concat, True).to(dtype))
    ours = compat.from_pyg(theirs)
    assert isinstance(ours, aggr.Aggregation)
    x = _draw(len(INDEX), 16, dtype=dtype)
    order = torch.arange(len(INDEX)) if by != "unsorted index" else torch.randperm(len(INDEX))
    given: dict[str, Any] = {"index": INDEX[order]}
    if by == "ptr":
        given = {"ptr": torch.tensor([0, 7, 7, 37, 38, 38, 42, 42])}  # the last set is empty
    expected = theirs(x, INDEX, dim_size=7)
    with monkeypatch.context() as patched:
        patched.setattr(aggr.Aggregation, "to_dense_batch", None)
        pairs = [(x, x), (_weight(ours, "lin.weight"), _weight(theirs, "pma.lin.weight"))]
        assert_same(lambda: ours(x[order], **given, dim_size=7), lambda: expected, pairs)


def test_a_new_aggregation_has_their_arguments_and_trains() -> None:
    layer = compat.SetTransformerAggregation(8, num_seed_points=3, heads=2, layer_norm=True)
    x = torch.randn(9, 8)
    out = layer(x, torch.tensor([0, 0, 0, 1, 1, 1, 1, 3, 3]))
    assert out.shape == (4, 24)
    torch.testing.assert_close(out[0], layer(x[:3]).squeeze(0))
    empty = layer(x[:0], x[:0, 0].long(), dim_size=1)
    torch.testing.assert_close(out[2], empty.squeeze(0))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    before = layer.pma.lin.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.pma.lin.weight, before)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: a(torch.ones(3, 8), torch.tensor([0, 1, 5]), dim_size=4), ValueError, "dim_size"),
        (lambda a: a(torch.ones(3, 8, 8), torch.tensor([0, 1, 5])), ValueError, "two-dimensional"),
        (lambda a: a.forward(torch.ones(3, 8)), ValueError, "index: expected index or ptr"),
        (lambda _: compat.from_pyg(nn.Linear(3, 3)), TypeError, "module: expected MultiheadAttentionBlock or"),
    ],
)
def test_misuse_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(compat.SetTransformerAggregation(8))
