"""Scalable softmax, and what is said where a client's package is missing: nothing here needs one."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from settx_fast.compat import QueryScaling, ScaledISAB

MODERN: dict[str, Any] = {
    "norm": "rms", "norm_first": True, "key_norm": True, "residual": "input", "output_projection": True, "bias": False,
    "qk_norm": "rms", "dtype": torch.float64,
}  # fmt: skip


def _scaling(per_feature: bool, aware: bool) -> QueryScaling:
    torch.manual_seed(0)
    outs = (8, 4) if per_feature else (2, 1)
    base = nn.Sequential(nn.Linear(1, 6), nn.GELU(), nn.Linear(6, outs[0])).double()
    return QueryScaling(2, base, nn.Linear(4, outs[1]).double() if aware else None)


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("per_feature", [False, True])
def test_factors_are_the_formula_head_by_head(per_feature: bool, aware: bool) -> None:
    scaling = _scaling(per_feature, aware)
    q, sizes = torch.randn(3, 5, 8, dtype=torch.float64), (7, 1, 0)
    found = scaling(q, torch.tensor(sizes))
    for b, size in enumerate(sizes):
        base = scaling.base(torch.tensor([math.log(max(size, 1))], dtype=torch.float64)).view(2, -1)
        for head, part in enumerate((slice(0, 4), slice(4, 8))):
            expected = base[head].expand(5, 4)
            if scaling.query is not None:
                expected = expected * (1 + torch.tanh(scaling.query(q[b, :, part])))
            torch.testing.assert_close(found[b, :, part], expected)
        torch.testing.assert_close(scaling(q[b : b + 1], size), found[b : b + 1])


def test_the_size_of_the_context_scales_an_isab() -> None:
    """Factors that the query's norm precedes: those of q as the block multiplies it with keys."""
    layer = ScaledISAB(8, 8, 2, 3, scaling=_scaling(True, True), **MODERN)
    x, sizes = torch.randn(2, 9, 8, dtype=torch.float64), torch.tensor([9, 4])
    w = layer.mab0.weights
    q = nn.functional.rms_norm(layer.I, (8,), w.g0, 1e-5) @ w.w_q.T
    q = nn.functional.rms_norm(q.unflatten(-1, (2, 4)), (4,), w.g_q, 1e-5).flatten(-2)
    hidden = layer.mab0(layer.I, x, key_lengths=sizes, query_scale=layer.scaling(q, sizes))
    expected = layer.mab1(x, hidden)
    torch.testing.assert_close(layer(x, context_lengths=sizes), expected)
    torch.testing.assert_close(layer.encode(x, lengths=sizes), hidden)
    valid = torch.arange(9) < sizes[:, None]
    torch.testing.assert_close(layer(x, mask=valid), expected * valid[..., None])
    jagged = torch.nested.nested_tensor([x[0], x[1, :4]], layout=torch.jagged)
    torch.testing.assert_close(layer(jagged).values(), expected[valid])


def test_fewer_digits_of_the_logarithm_may_be_asked_for() -> None:
    exact = _scaling(True, False)
    rounded = QueryScaling(2, exact.base, log_dtype=torch.float32)
    q = torch.randn(1, 3, 8, dtype=torch.float64)
    assert 1e-10 < (exact(q, 7) - rounded(q, 7)).abs().max() < 1e-6


def test_a_scaled_isab_makes_its_own_factors() -> None:
    layer = ScaledISAB(8, 8, 2, 3, scaling=_scaling(True, True), dtype=torch.float64)
    x: Tensor = torch.randn(2, 9, 8, dtype=torch.float64)
    for call in (layer, layer.encode):
        with pytest.raises(ValueError, match="query_scale: expected None"):
            call(x, query_scale=torch.ones(1, 3, 8, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("from_pyg", "torch_geometric"), ("SetTransformerAggregation", "torch_geometric"),
        ("patch_tabicl", "tabicl"), ("from_tabpfn", "tabpfn"), ("from_bayesflow", "bayesflow"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_when_it_is_needed(name: str, package: str) -> None:
    missing = f"import sys; sys.modules[{package!r}] = sys.modules['keras'] = None; import settx_fast.compat as c; "
    found = subprocess.run(
        [sys.executable, "-c", f"{missing} print('imported'); c.{name}"], capture_output=True, text=True, check=False
    )
    assert found.stdout == "imported\n"
    wanted = "keras" if name == "from_bayesflow" else package
    assert f"settx_fast.compat.{name} needs {wanted}, which is not installed: pip install" in found.stderr
