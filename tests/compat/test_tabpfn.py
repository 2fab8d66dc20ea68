"""The feature distribution embedders of TabPFN 3 and 3.5 on our blocks."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compat.comparison import DTYPES, SMALL_TABPFN, assert_same, client, far

v3 = client("tabpfn", "tabpfn.architectures.tabpfn_v3")
v3_5 = client("tabpfn", "tabpfn.architectures.tabpfn_v3_5")
compat = client("tabpfn", "settx_fast.compat")
VERSIONS = {"3": v3, "3.5": v3_5}


def _block(version: str, dtype: torch.dtype, *, scaled: bool = True, gains: bool = True) -> nn.Module:
    home = VERSIONS[version]
    block = home.InducedSelfAttentionBlock(
        emsize=32, nhead=4, num_inducing_points=5, dim_feedforward=48,
        norm_factory=partial(home._DtypeMatchingRMSNorm, elementwise_affine=gains),
        softmax_scaling_layer=home.SoftmaxScalingMLP(4, 8, 16) if scaled else None,
    )  # fmt: skip
    return far(block).to(dtype)


def _table(dtype: torch.dtype) -> Tensor:
    """Two tables of 40 rows and 3 columns."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 40, 3, 32, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_train", [None, 23])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_patched_block_computes_the_same(
    version: str, scaled: bool, num_train: int | None, dtype: torch.dtype
) -> None:
    theirs = _block(version, dtype, scaled=scaled)
    ours = compat.patch_tabpfn(copy.deepcopy(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = _table(dtype)
    pairs = [(x, x), *zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert_same(lambda: ours(x, num_train)[0], lambda: theirs(x, num_train)[0], pairs)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_kept_of_a_context_is_the_same(version: str) -> None:
    theirs = _block(version, torch.float64)
    ours = compat.patch_tabpfn(copy.deepcopy(theirs))
    x = _table(torch.float64).detach()
    with torch.no_grad():
        (out, hidden), (expected, exact) = (block(x, 23, return_hidden=True) for block in (ours, theirs))
        again, chunked = ours(x[:, 23:], cached_hidden=hidden)[0], ours(x.clone(), 23, 4)[0]
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(hidden, exact)
    torch.testing.assert_close(again, expected[:, 23:])
    torch.testing.assert_close(chunked, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("version", VERSIONS)
def test_copied_weights_compute_the_same(version: str, dtype: torch.dtype) -> None:
    theirs = _block(version, dtype)
    ours, x = compat.from_tabpfn(theirs), _table(dtype)
    pairs = [
        (x, x),
        (ours.mab0.ln0_k.weight, theirs.cross_attn_block1.layernorm_kv.weight),
        (ours.mab1.fc_v.weight, theirs.cross_attn_block2.attn.v_projection.weight),
        (ours.scaling.base[2].bias, theirs.cross_attn_block1.attn.softmax_scaling_layer.base_mlp[2].bias),
    ]
    assert_same(lambda: ours(x.transpose(1, 2), context_lengths=23).transpose(1, 2), lambda: theirs(x, 23)[0], pairs)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_model_computes_the_same(version: str) -> None:
    home = VERSIONS[version]
    config, _ = home.parse_config(dict(SMALL_TABPFN))
    model = far(home.get_architecture(config)).eval()
    x = torch.randn(30, 1, 5, generator=torch.Generator().manual_seed(2))
    y = torch.arange(20).remainder(3).float()[:, None]
    with torch.no_grad():
        expected = model(x.clone(), y, task_type="multiclass")
        names = list(model.state_dict())
        out = compat.patch_tabpfn(model)(x.clone(), y, task_type="multiclass")
    assert list(model.state_dict()) == names
    assert expected.std(0).max() > 1e-3
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: compat.patch_tabpfn(nn.Linear(2, 2)), ValueError, "expected InducedSelfAttentionBlocks of tabpfn"),
        (lambda: compat.from_tabpfn(nn.Linear(2, 2)), TypeError, "module: expected InducedSelfAttentionBlock"),
        (lambda: compat.from_tabpfn(_block("3", torch.float32, gains=False)), ValueError, "norm: expected gains"),
    ],
)
def test_misuse_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
