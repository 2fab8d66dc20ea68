"""Stage A's backward over projected elements in three steps a chunk: its scores alone, and in a whole block."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from settx_fast.attention.block import NO_WEIGHTS, BlockSpec
from settx_fast.attention.layers import first_norm
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.aggregate import backward, projected_backward
from settx_fast.attention.triton.aggregate.forward import LOG2_E, Stage
from settx_fast.attention.triton.aggregate.tiles import Problem, ProjectedTiles, projected_tiles
from settx_fast.testing import VARIANTS, Shape, assert_step_close_to_oracle
from tests.attention.triton.block_case import assert_block_matches_oracle

TILES = ProjectedTiles(rows=16, queries=16, warps=4, multiprocessors=2)
H, M, D = 2, 20, 32
LENGTHS = (20, 0, 9)


def made(sharp: float = 1.0) -> dict[str, Tensor]:
    """Elements, folded queries in units of log₂, projections, norm and the gradient of attended values."""
    generator = torch.Generator().manual_seed(3)
    sizes = {
        "x": (3, 20, D),
        "q": (H, M, D // H),
        "w_k": (D, D),
        "w_v": (D, D),
        "g0": (D,),
        "b0": (D,),
        "grad": (3, M, D),
    }
    drawn = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    drawn["w_k"], drawn["w_v"] = drawn["w_k"] * sharp / D**0.5, drawn["w_v"] / D**0.5
    return {name: t.bfloat16() for name, t in drawn.items()}


def scores(t: dict[str, Tensor], spec: BlockSpec, b: int) -> tuple[Tensor, Tensor, Tensor]:
    """log₂-sum-exp (H, M), attended values (M, D) of set b, and its elements."""
    x = t["x"][b, : LENGTHS[b]]
    read = first_norm(x, NO_WEIGHTS._replace(g0=t["g0"], b0=t["b0"]), spec)
    k, v = ((read @ t[name].mT).unflatten(1, (H, -1)).transpose(0, 1) for name in ("w_k", "w_v"))
    s = t["q"] @ k.mT / LOG2_E
    return s.logsumexp(2) * LOG2_E, (s.softmax(2) @ v).transpose(0, 1).flatten(1), x


def by_formula(t: dict[str, Tensor], spec: BlockSpec, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Gradients of all inputs, log₂-sum-exp (3, H · M) and δ (3, H · M)."""
    t = {name: value.to(dtype).requires_grad_(name != "grad") for name, value in t.items()}
    lse, delta, total = torch.zeros(3, H * M), torch.zeros(3, H * M), torch.zeros((), dtype=dtype)
    for b, length in enumerate(LENGTHS):
        if length:
            found, attended, _ = scores(t, spec, b)
            product = attended * t["grad"][b]
            lse[b], delta[b] = found.flatten(), product.unflatten(1, (H, -1)).sum(2).mT.flatten()
            total = total + product.sum()
    names = [name for name in t if name != "grad"]
    found = torch.autograd.grad(total, [t[name] for name in names], allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}, lse.detach(), delta.detach()


def by_kernels(
    t: dict[str, Tensor], spec: BlockSpec, lse: Tensor, delta: Tensor, device: torch.device, packed: bool = False
) -> dict[str, Tensor]:
    """The same of the kernels, three tiles in a chunk; what stage B found of the elements is 1 everywhere."""
    t = {name: value.to(device) for name, value in t.items()}
    lengths = torch.tensor(LENGTHS, device=device)
    rows = t["x"].clone()
    for b, length in enumerate(LENGTHS):
        rows[b, length:] = torch.nan
    sets = Sets(rows, lengths)
    if packed:
        offsets = torch.tensor([0, *LENGTHS], device=device).cumsum(0)
        sets = Sets(torch.cat([x[:n] for x, n in zip(rows, LENGTHS, strict=True)]), offsets=offsets)
    normed = spec.norm_first and spec.norm != "none"
    weights = NO_WEIGHTS._replace(w_k=t["w_k"], w_v=t["w_v"], g0=t["g0"] if normed else None)
    stage = Stage(spec, weights._replace(b0=t["b0"] if normed and spec.norm == "layer" else None))
    problem = Problem(3, 20, D, D, H, M, "half", device, normed, absorb=False)
    dx, (d_gain, d_shift) = torch.ones_like(sets.rows), torch.zeros(2, D, device=device)
    with mock.patch.object(projected_backward, "chunk_tiles", return_value=3):
        d_q, parts = projected_backward.projected_backward(
            sets, t["q"].contiguous(), lse.to(device), t["grad"], delta.to(device), dx, True, problem, stage, TILES, 0
        )
    d_bias = t["grad"].float()[lengths > 0].sum((0, 1))
    d_k, d_v = projected_backward.unfold(parts.sum(0), problem, stage, d_bias, d_gain, d_shift)
    if packed:
        dx = torch.nn.utils.rnn.pad_sequence(list(dx.split(LENGTHS)), batch_first=True, padding_value=1.0)
    found = {"x": dx.float() - 1.0, "q": d_q.sum(0).view(H, M, -1), "w_k": d_k, "w_v": d_v}
    return found | ({"g0": d_gain} if normed else {}) | ({"b0": d_shift} if normed and spec.norm == "layer" else {})


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_every_norm_in_three_steps_matches_the_oracle(norm: str, device: torch.device) -> None:
    """Sets of tiles and a part, of nothing, of less than a tile; queries in two blocks."""
    spec, inputs = BlockSpec(H, norm=norm, norm_first=True), made()
    same, exact = by_formula(inputs, spec, torch.bfloat16)[0], by_formula(inputs, spec, torch.float64)
    actual = by_kernels(inputs, spec, *exact[1:], device)
    assert_step_close_to_oracle(actual, same, exact[0])


def test_scores_far_above_zero_match_the_oracle(device: torch.device) -> None:
    """All by 64, exactly: rounded to the type of the elements, their log-sum-exp would be off by a quarter."""
    spec, inputs = BlockSpec(H), made()
    first = slice(None, None, D // H)  # features of the heads' keys
    inputs["x"][..., 0], inputs["q"][..., 0], inputs["w_k"][:, 0], inputs["w_k"][first] = 16.0, 1.0, 0.0, 0.0
    inputs["w_k"][first, 0] = 4.0
    same, exact = by_formula(inputs, spec, torch.bfloat16)[0], by_formula(inputs, spec, torch.float64)
    assert exact[1][0].min() > 60
    assert_step_close_to_oracle(by_kernels(inputs, spec, *exact[1:], device), same, exact[0])


def test_packed_sets_give_the_numbers_of_padded_ones_and_the_same_bits_twice(device: torch.device) -> None:
    spec, inputs = BlockSpec(H, norm="layer", norm_first=True), made()
    _, lse, delta = by_formula(inputs, spec, torch.float64)
    padded, packed, again = (by_kernels(inputs, spec, lse, delta, device, which) for which in (False, True, True))
    for name, value in packed.items():
        assert torch.equal(value, again[name]), name
        torch.testing.assert_close(padded[name].float(), value.float(), rtol=1e-2, atol=1e-2)


def test_scores_far_below_zero_leave_gradients_finite(device: torch.device) -> None:
    """Of a row that is no element, scores are 0: 2^(0 − log₂ of the sum) would be infinite."""
    spec, inputs = BlockSpec(H), made(sharp=40.0)
    inputs |= {"x": -inputs["x"].abs(), "q": inputs["q"].abs(), "w_k": inputs["w_k"].abs()}
    _, lse, delta = by_formula(inputs, spec, torch.float64)
    assert lse[0].max() < -200
    for name, value in by_kernels(inputs, spec, lse, delta, device).items():
        assert value.isfinite().all(), name


def test_a_block_goes_back_in_three_steps(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Inducing points that read a context; what stage B found of the elements stays."""
    taken = mock.Mock(wraps=projected_backward.projected_backward)
    monkeypatch.setattr(backward, "projected_tiles", lambda problem, shared: TILES)
    monkeypatch.setattr(backward, "projected_backward", taken)
    # 2 · 36 · 32 > 32 · (32 + 36) projects
    shape = Shape(2, 20, 32, 32, 2, 36, {**VARIANTS["tabular"], "ffn_dim": None})
    assert_block_matches_oracle(shape, device, torch.float16, lengths=[20, 19], context=[17, 0])
    assert taken.called


def test_the_rule_takes_what_was_measured_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(arch: int = 90, shared: bool = True, **sizes: Any) -> ProjectedTiles | None:
        monkeypatch.setattr(gpu, "of", lambda device: gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], "", 132))
        asked = {"C": 128, "D": 128, "H": 8, "M": 128, "products": "half"} | sizes
        return projected_tiles(Problem(100, 16_384, **asked, device=torch.device("cpu")), shared)

    assert chosen() == ProjectedTiles(64, 64, 8, 132)
    for other in (
        chosen(80), chosen(100), chosen(shared=False), chosen(products="tf32"), chosen(C=100), chosen(H=4, M=32),
        chosen(H=16), chosen(absorb=True),
    ):  # fmt: skip
        assert other is None
