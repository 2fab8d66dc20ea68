"""How a client's module and ours are compared: output and every gradient, in fp64 and fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
DTYPES = [torch.float64, torch.float32]
SMALL_TABPFN: dict[str, Any] = {
    "max_num_classes": 4, "num_buckets": 10, "embed_dim": 32, "dist_embed_num_blocks": 2, "dist_embed_num_heads": 4,
    "dist_embed_num_inducing_points": 6, "feat_agg_num_blocks": 1, "feat_agg_num_heads": 4,
    "feat_agg_num_cls_tokens": 2, "nlayers": 2, "icl_num_heads": 4,
}  # fmt: skip
"""What TabPFN's `parse_config` takes for a model of no more than a test needs."""


def client(name: str, module: str | None = None):  # type: ignore[no-untyped-def]
    """A package of `constraints-clients.txt`; the test is skipped with the reason where it is not installed."""
    reason = f"{name} is not installed: make test-clients"
    with torch.enable_grad():  # bayesflow turns gradients off when it is imported
        return pytest.importorskip(module or name, reason=reason, exc_type=ImportError)


def far(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights far from the initial ones, of which some are zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        width = parameter.shape[-1] if parameter.dim() > 1 else 9
        drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / width**0.5
        parameter.data.copy_(drawn + (parameter.dim() == 1 and parameter.data.eq(1).all()))
    return module


def assert_same(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], parameters: Sequence[tuple[Tensor, Tensor]]
) -> None:
    """Same output, and gradients of pairs of ours and theirs, relative to the largest number of each."""
    a, b = ours(), theirs()
    upstream = torch.randn(b.shape, generator=torch.Generator().manual_seed(5), dtype=b.dtype)
    _assert_close(a, b)
    mine, other = zip(*parameters, strict=True)
    found, exact = torch.autograd.grad(a, mine, upstream), torch.autograd.grad(b, other, upstream)
    for one, two in zip(found, exact, strict=True):
        assert two.abs().max() > 0
        _assert_close(one, two)


def _assert_close(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    error = (a - b).abs().max() / b.abs().max().clamp(min=1)
    assert error <= TOLERANCE[b.dtype], f"{error:.1e}"
