"""Run a block on given inputs through one implementation, and hold the kernels to the fp64 oracle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from settx_fast import functional
from settx_fast.testing import Inputs, Shape, assert_step_close_to_oracle, make_inputs


def step(inputs: Inputs, impl: str, **ragged: Any) -> dict[str, Tensor]:
    """Output and every gradient of one training step with a fixed output gradient; absent gradients are left out."""
    fresh = inputs.to(inputs.x.dtype)
    out = functional.induced_set_attention(*fresh[:6], impl=impl, **ragged)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)
    out.backward(torch.randn(out.shape, generator=generator).to(out))
    return {"out": out.detach()} | {name: p.grad for name, p in fresh.parameters().items() if p.grad is not None}


def assert_block_matches_oracle(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lengths: list[int] | None = None,
    context: list[int] | None = None,
) -> None:
    """The kernels' output and gradients against the reference in fp64; padding holds NaN for the kernels only."""
    inputs = make_inputs(shape, dtype=dtype, device=device)
    given = {"lengths": lengths, "context_lengths": context}
    ragged = {name: torch.tensor(value, device=device) for name, value in given.items() if value is not None}
    poisoned = inputs
    if lengths is not None:
        x = inputs.x.detach().clone()
        for row, length in zip(x, lengths, strict=True):
            row[length:] = torch.nan
        poisoned = inputs._replace(x=x.requires_grad_())
    actual = step(poisoned, "triton", **ragged)
    same, exact = (step(inputs.to(kind), "reference", **ragged) for kind in (dtype, torch.float64))
    assert actual.keys() == exact.keys() == {"out", *inputs.parameters()}
    largest = max(value.abs().max().item() for value in exact.values() if value.numel())
    cancelled = [name for name, value in exact.items() if value.numel() and not value.any()]
    for name in cancelled:  # terms that cancel exactly do so up to their rounding
        assert actual.pop(name).abs().max() <= 2 * torch.finfo(dtype).eps * largest, name
    assert_step_close_to_oracle(actual, same, exact)


def assert_copies_of_a_set_change_nothing(shape: Shape, device: torch.device, copies: int) -> None:
    """A set that holds another `copies` times: attention over copies is attention over one, in every row of every copy.

    The same output gradient in every copy makes the same gradient for every row, and `copies` times that of weights.
    """
    inputs = make_inputs(shape, dtype=torch.bfloat16, device=device)
    grad = torch.randn(1, shape.elements, shape.dim, generator=torch.Generator().manual_seed(7)).to(inputs.x)

    def results(impl: str, dtype: torch.dtype, times: int = 1) -> dict[str, Tensor]:
        fresh = inputs.to(dtype)
        x = fresh.x.detach().repeat(1, times, 1).requires_grad_()
        out = functional.induced_set_attention(x, *fresh[1:6], impl=impl)  # type: ignore[arg-type]
        out.backward(grad.to(dtype).repeat(1, times, 1))
        return {"out": out.detach(), "x": x.grad, "b.w_o": fresh.weights_b.w_o.grad / times}

    same, exact = (results("reference", dtype) for dtype in (torch.bfloat16, torch.float64))
    copied = results("triton", torch.bfloat16, copies)
    for start in {0, (copies // 2) * shape.elements, (copies - 1) * shape.elements}:
        rows = slice(start, start + shape.elements)
        found = {"out": copied["out"][:, rows], "x": copied["x"][:, rows], "b.w_o": copied["b.w_o"]}
        assert_step_close_to_oracle(found, same, exact)
