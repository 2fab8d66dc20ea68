"""Under autocast all parameters are cast by one copy, to the numbers and gradients of one cast each."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor

from settx_fast import ISAB, MAB, functional
from settx_fast.attention import casting
from settx_fast.attention.arguments import autocast
from settx_fast.testing import Inputs, Shape, make_inputs


def run(inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of all inputs under autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = functional.induced_set_attention(*inputs[:6], impl="composed")
    return out, list(torch.autograd.grad(out.float().square().sum(), list(inputs.parameters().values())))


def test_values_and_gradients_are_those_of_single_casts() -> None:
    inputs = make_inputs(Shape(2, 9, 16, 16, 2, 3))
    out, grads = run(inputs)
    with mock.patch.object(casting, "_cast", lambda tensors: [autocast(t) for t in tensors]):
        expected, expected_grads = run(inputs)
    assert torch.equal(out, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))
    assert {grad.dtype for grad in grads} == {torch.float32}


def test_one_copy_casts_all_parameters() -> None:
    layer, x = ISAB(16, 16, 2, 3, ln=True, impl="composed"), torch.randn(2, 9, 16)
    with (
        mock.patch.object(torch, "_foreach_copy_", wraps=torch._foreach_copy_) as copy,
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        layer(x)
    (call,) = copy.call_args_list
    assert len(call.args[1]) == len(list(layer.parameters()))


@pytest.mark.parametrize("frozen", [False, True])
def test_copies_lie_where_kernels_like_them_and_frozen_parameters_get_no_gradient(frozen: bool) -> None:
    block = MAB(16, 16, 16, 2)
    block.fc_q.requires_grad_(not frozen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (cast,) = casting.autocast_together(block.weights)
    present = [w for w in cast if w is not None]
    assert all(w.data_ptr() % 16 == 0 and w.dtype == torch.bfloat16 for w in present)
    cast.w_k.sum().backward()
    assert block.fc_k.weight.grad is not None
    assert block.fc_q.weight.grad is None


def test_what_autocast_leaves_alone_is_left_alone() -> None:
    block = MAB(16, 16, 16, 2, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (same,) = casting.autocast_together(block.weights)
    assert same.w_q is block.fc_q.weight


def test_a_gradient_under_autocast_is_differentiated_again() -> None:
    inputs = make_inputs(Shape(1, 5, 16, 16, 2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = functional.induced_set_attention(*inputs[:6], impl="reference")
    (grad,) = torch.autograd.grad(out.float().square().sum(), inputs.weights_a.w_v, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), inputs.weights_a.w_o)
    assert second.abs().max() > 0
