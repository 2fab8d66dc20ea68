"""TabICL's column embedder, first and second version, and its classifier, on our blocks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.compat.comparison import DTYPES, assert_same, client, far

layers = client("tabicl", "tabicl._model.layers")
encoders = client("tabicl", "tabicl._model.encoders")
compat = client("tabicl", "settx_fast.compat")

V1: dict[str, Any] = {"ssmax": False}
BLOCKS: dict[str, dict[str, Any]] = {
    "v1": V1,
    "v2": {"ssmax": True},
    "v2, norms without biases": {"ssmax": True, "bias_free_ln": True},
    "ssmax": {"ssmax": "ssmax"},
    "ssmax-mlp": {"ssmax": "ssmax-mlp"},
    "ssmax-mlp-elementwise": {"ssmax": "ssmax-mlp-elementwise"},
    "qassmax-mlp": {"ssmax": "qassmax-mlp"},
    "norms after, relu": {"norm_first": False, "activation": "relu"},
}
SKIPPED = -100.0


def _block(name: str, dtype: torch.dtype) -> nn.Module:
    return far(layers.InducedSelfAttentionBlock(32, 4, 48, 5, **BLOCKS[name])).to(dtype)


def _columns(dtype: torch.dtype, skipped: bool = False) -> Tensor:
    """Two tables of three columns; a column of one is skipped."""
    x = torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)
    if skipped:
        x[1, 2] = SKIPPED
    return x.requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("train_size", [None, 23])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_patched_block_computes_the_same(name: str, train_size: int | None, dtype: torch.dtype) -> None:
    theirs = _block(name, dtype)
    ours = compat.patch_tabicl(copy.deepcopy(theirs))
    x = _columns(dtype, skipped=True)
    pairs = [(x, x), *zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert_same(lambda: ours(x, train_size), lambda: theirs(x, train_size), pairs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_copied_weights_compute_the_same(name: str, dtype: torch.dtype) -> None:
    theirs = _block(name, dtype)
    ours, x = compat.from_tabicl(theirs), _columns(dtype)
    pairs = [(x, x), (ours.mab1.fc_o.weight, theirs.multihead_attn2.linear1.weight)]
    if name == "v2":
        pairs.append((ours.scaling.query[0].weight, theirs.multihead_attn1.attn.ssmax_layer.query_mlp[0].weight))
    assert_same(lambda: ours(x, context_lengths=23), lambda: theirs(x, 23), pairs)


def test_a_context_that_is_kept_gives_the_same() -> None:
    theirs = _block("v2", torch.float64)
    ours, x = compat.from_tabicl(theirs), _columns(torch.float64)
    hidden = ours.encode(x[..., :23, :])
    torch.testing.assert_close(ours.decode(x[..., 23:, :], hidden), theirs(x, 23)[..., 23:, :])
    with pytest.raises(ValueError, match="query_scale: expected None"):
        ours(x, query_scale=torch.ones(1))


def test_contexts_of_several_sizes_have_factors_of_their_own() -> None:
    theirs = _block("v2", torch.float64)
    ours, x = compat.from_tabicl(theirs), _columns(torch.float64)[0]
    out = ours(x, context_lengths=torch.tensor([23, 7, 40]))
    for column, size in enumerate((23, 7, 40)):
        torch.testing.assert_close(out[column], theirs(x[column : column + 1], size)[0])
    masked = ours(x, mask=torch.arange(40) < torch.tensor([23, 7, 40])[:, None])
    torch.testing.assert_close(masked[1, :7], theirs(x[1:2, :7])[0])


def test_a_patched_embedder_keeps_its_cache() -> None:
    """What TabICL caches of a context stays its own, and predicts the same."""
    theirs = far(encoders.SetTransformer(2, 32, 4, 48, 5, ssmax=True)).double()
    ours = compat.patch_tabicl(copy.deepcopy(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    kv_cache, x = client("tabicl", "tabicl._model.kv_cache"), _columns(torch.float64).detach()
    for model in (theirs, ours):
        cache = kv_cache.KVCache()
        first = model.forward_with_cache(x, cache, 23, store_cache=True)
        torch.testing.assert_close(first, theirs(x, 23))
        again = model.forward_with_cache(x[..., 23:, :], cache, use_cache=True, store_cache=False)
        torch.testing.assert_close(again, theirs(x, 23)[..., 23:, :])
    copied = compat.from_tabicl(theirs)
    torch.testing.assert_close(copied(x, context_lengths=23), theirs(x, 23))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A small TabICL 2 with random weights, saved as its classifier reads it."""
    tabicl = client("tabicl", "tabicl._model.tabicl")
    config = {
        "max_classes": 4, "embed_dim": 32, "col_num_blocks": 2, "col_nhead": 4, "col_num_inds": 8,
        "row_num_blocks": 1, "row_nhead": 4, "row_num_cls": 2, "icl_num_blocks": 2, "icl_nhead": 4,
    }  # fmt: skip
    model = far(tabicl.TabICL(**config))
    path = tmp_path_factory.mktemp("tabicl") / "random.ckpt"
    torch.save({"config": config, "state_dict": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("kv_cache", [False, "kv"])
def test_the_classifier_gives_the_same_probabilities(checkpoint: Any, kv_cache: Any) -> None:
    tabicl = client("tabicl")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 6)), rng.integers(0, 3, 120)
    X[:, 0] += y
    classifier = tabicl.TabICLClassifier(
        n_estimators=4, model_path=checkpoint, device="cpu", random_state=0, kv_cache=kv_cache
    )
    probabilities = []
    for patched in (False, True):
        classifier.fit(X[:90], y[:90])
        if patched:
            compat.patch_tabicl(classifier.model_)
            assert sum(type(m).__name__ == "FastBlock" for m in classifier.model_.modules()) == 2
        probabilities.append(classifier.predict_proba(X[90:]))
    theirs, ours = probabilities
    assert theirs.std(0).max() > 1e-3
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: compat.patch_tabicl(nn.Linear(2, 2)), ValueError, "expected InducedSelfAttentionBlocks of tabicl"),
        (lambda: compat.from_tabicl(nn.Linear(2, 2)), TypeError, "module: expected InducedSelfAttentionBlock or"),
        (
            lambda: compat.patch_tabicl(layers.InducedSelfAttentionBlock(8, 2, 8, 3, dropout=0.1)),
            ValueError,
            "dropout: expected 0, got 0.1",
        ),
        (
            lambda: compat.patch_tabicl(layers.InducedSelfAttentionBlock(8, 2, 8, 3, activation=torch.tanh)),
            ValueError,
            "activation: expected gelu or relu",
        ),
    ],
)
def test_misuse_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
