"""Factors of queries, inducing points of every set's own, and options that come down to those of the kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from settx_fast import functional
from settx_fast.testing import LOWERED, TABULAR, Shape, assert_step_close_to_oracle, make_inputs

ABSORBED = Shape(3, 40, 16, 16, 2, 3)
PROJECTED = Shape(3, 24, 16, 16, 2, 20, TABULAR)
SHAPES = {"absorbed": ABSORBED, "projected": PROJECTED, "absorbed, tabular": replace(ABSORBED, options=TABULAR)}


def _assert_matches_oracle(shape: Shape, device: torch.device, scales: int, own: bool, **ragged: Any) -> None:
    """Kernels against the reference in fp64, gradients of factors and inducing points among all others."""
    inputs = make_inputs(shape, device=device)
    generator = torch.Generator().manual_seed(9)
    given: dict[str, Tensor] = {}
    if scales:
        given["query_scale"] = 0.5 + torch.rand(scales, shape.inducing, shape.dim, generator=generator)
    if own:
        given["inducing"] = torch.randn(shape.batch, shape.inducing, shape.dim, generator=generator)
    lengths = {name: torch.tensor(value, device=device) for name, value in ragged.items()}

    def step(impl: str, dtype: torch.dtype) -> dict[str, Tensor]:
        fresh = inputs.to(dtype)
        extra = {name: t.to(device, dtype).requires_grad_() for name, t in given.items()}
        inducing = extra.get("inducing", fresh.inducing)
        out = functional.induced_set_attention(
            fresh.x, inducing, *fresh[2:6], query_scale=extra.get("query_scale"), impl=impl, **lengths
        )  # type: ignore[arg-type]
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out)
        wanted = fresh.parameters() | extra
        grads = torch.autograd.grad(out, list(wanted.values()), upstream)
        return {"out": out.detach()} | dict(zip(wanted, grads, strict=True))

    actual = step("triton", torch.float32)
    same, exact = step("reference", torch.float32), step("reference", torch.float64)
    for name in [name for name, value in exact.items() if not value.any()]:
        assert actual.pop(name).abs().max() < 1e-5, name
    assert not scales or exact["query_scale"].abs().min() > 0
    assert_step_close_to_oracle(actual, same, exact)


@pytest.mark.parametrize("scales", [1, 3], ids=["one for all", "one each"])
@pytest.mark.parametrize("name", SHAPES)
def test_factors_of_queries_match_the_oracle(name: str, scales: int, device: torch.device) -> None:
    shape = SHAPES[name]
    sizes = [shape.elements, shape.elements - 9, 5]
    _assert_matches_oracle(shape, device, scales, False, lengths=sizes, context_lengths=[21, 12, 7])


def test_factors_and_inducing_points_of_every_sets_own(device: torch.device) -> None:
    _assert_matches_oracle(ABSORBED, device, 0, True)
    _assert_matches_oracle(ABSORBED, device, 1, True, lengths=[40, 1, 30])


@pytest.mark.parametrize("name", LOWERED)
def test_options_that_come_down_to_the_kernels_match_the_oracle(name: str, device: torch.device) -> None:
    _assert_matches_oracle(replace(ABSORBED, options=LOWERED[name]), device, 1, False, lengths=[40, 0, 37])


def test_factors_take_an_operator_and_a_plan_alike(device: torch.device) -> None:
    """A profiler looks on: the call goes through PyTorch's dispatcher, with the same result and gradients."""
    inputs = make_inputs(ABSORBED, device=device)
    scale = torch.rand(1, 3, 16, device=device).requires_grad_()
    wanted = [scale, *inputs.parameters().values()]

    def step() -> list[Tensor]:
        out = functional.induced_set_attention(*inputs[:6], query_scale=scale, impl="triton")
        return [out.detach(), *torch.autograd.grad(out.square().sum(), wanted)]

    planned = step()
    with torch.profiler.profile():
        dispatched = step()
    for one, two in zip(planned, dispatched, strict=True):
        torch.testing.assert_close(one, two)
