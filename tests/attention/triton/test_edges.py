"""Decisions and values at an edge, where a mistake would change few numbers or none on the sizes that tests have."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from test_aggregate import assert_block, make_block, problem

from settx_fast import functional
from settx_fast.attention.block import BlockSpec
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import plans, traces
from settx_fast.attention.triton.aggregate import backward, tiles
from settx_fast.attention.triton.aggregate.tiles import Backward, Problem, backward_config
from settx_fast.attention.triton.small.forward import is_small
from settx_fast.testing import VARIANTS, make_weights


@pytest.mark.parametrize("num_sets", [1024, 5000])
def test_a_program_adds_up_several_sets_only_where_they_share_queries(num_sets: int) -> None:
    asked = problem(num_sets=num_sets, longest=64)
    assert backward_config(asked, shared_queries=True).group > 1
    assert backward_config(asked, shared_queries=False).group == 1


@pytest.mark.parametrize("variant", ["original", "tabular"])
@pytest.mark.parametrize("batch", [1, 3], ids=["shared", "own"])
def test_gradients_of_so_many_sets_match_the_oracle(
    batch: int, variant: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is lowered to what three sets pass, so that shared queries are grouped and others are not."""
    monkeypatch.setattr(tiles, "PROGRAMS", 1)
    groups = []

    def noted(asked: Problem, shared: bool) -> Backward:
        groups.append(backward_config(asked, shared).group)
        return backward_config(asked, shared)

    spec = BlockSpec(2, **VARIANTS[variant])
    tensors = make_block(spec, batch, 40, 16, 45, 16, 16, device)
    with mock.patch.object(backward, "backward_config", noted):
        assert_block(tensors, spec, key_lengths=torch.tensor([45, 0, 17], device=device))
    assert all(group > 1 if batch == 1 else group == 1 for group in groups)
    assert groups


def test_packed_sets_are_never_small() -> None:
    asked = problem(num_sets=4096, longest=128, C=64, D=64, H=4, M=16)
    rows = torch.empty(4096, 128, 64, device="meta")
    assert is_small(Sets(rows), asked)
    assert not is_small(Sets(torch.empty(200, 64, device="meta"), offsets=torch.empty(4097, device="meta")), asked)


def test_plans_tell_devices_apart() -> None:
    """Another GPU needs programs of its own."""
    block = BlockSpec(2)
    weights = make_weights(block, 16, 16, 16, torch.Generator())
    tensors = [
        torch.empty(2, 5, 16),
        None,
        None,
        torch.empty(2, 3, 16),
        torch.empty(2, 3, 16),
        *traces.present(weights),
    ]
    found = [
        plans.planned(traces.broadcast, [None if t is None else t.to(device) for t in tensors], block.text)
        for device in ("cpu", "meta", "cpu")
    ]
    assert found[0] is found[2]
    assert found[0] is not found[1]


@pytest.mark.parametrize("sizes", [(30, 3), (3, 30)], ids=["long query", "short query"])
def test_the_slope_of_relu_at_zero_is_zero(sizes: tuple[int, int], device: torch.device) -> None:
    """As PyTorch's. A hidden layer of zeros is then one that learns nothing."""
    spec, generator = BlockSpec(2), torch.Generator().manual_seed(2)
    weights = make_weights(spec, 16, 16, 16, generator)._replace(w_o=torch.zeros(16, 16), b_o=torch.zeros(16))
    w = weights.map(lambda t: t.to(device).requires_grad_())
    query, key = (torch.randn(2, n, 16, generator=generator).to(device) for n in sizes)
    out = functional.attention_block(query, key, w, spec, impl="triton")
    gradients = torch.autograd.grad(out.sum(), [w.w_o, w.b_o, w.w_q])
    assert [bool(g.any()) for g in gradients] == [False, False, True]
