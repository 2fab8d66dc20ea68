"""Stage A's pass over projected elements with several heads a program: alone, and in a whole block."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from settx_fast.attention.block import NO_WEIGHTS, BlockSpec, BlockWeights
from settx_fast.attention.layers import first_norm
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.aggregate import forward
from settx_fast.attention.triton.aggregate.forward import LOG2_E, Stage, allocate, attend
from settx_fast.attention.triton.aggregate.tiles import HeadsForward, HeadsTile, Problem, heads_config
from settx_fast.testing import VARIANTS, Shape, assert_step_close_to_oracle
from tests.attention.triton.block_case import assert_block_matches_oracle

H, M, D, N = 4, 20, 64, 24
LENGTHS = (24, 0, 16)  # a tile of 16 and a part; nothing; one tile
TILE = HeadsTile(heads=2, block_r=32, block_n=16, warps=4, stages=1, resident=1)


def made(spec: BlockSpec, queries: int = 1, sharp: float = 1.0) -> dict[str, Tensor]:
    """Elements far from mean zero, folded queries in units of log₂, projections, the values' bias and the norm."""
    generator = torch.Generator().manual_seed(3)
    sizes = {"x": (3, N, D), "q": (queries, H * M, D // H), "w_k": (D, D), "w_v": (D, D), "b_v": (D,)}
    if spec.norm_first and spec.norm != "none":
        sizes |= {"g0": (D,)} | ({"b0": (D,)} if spec.norm == "layer" else {})
    drawn = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    drawn["x"] = drawn["x"] * 2 + 1
    drawn["w_k"], drawn["w_v"] = drawn["w_k"] * sharp / D**0.5, drawn["w_v"] / D**0.5
    return drawn


def by_formula(t: dict[str, Tensor], spec: BlockSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    """log₂-sum-exp (4, H · M), −∞ of an empty set, and attended values (3, M, D), zero there."""
    t = {name: value.to(dtype) for name, value in t.items()}
    lse, attended = torch.full((3, H * M), -torch.inf, dtype=dtype), torch.zeros(3, M, D, dtype=dtype)
    norm = NO_WEIGHTS._replace(g0=t.get("g0"), b0=t.get("b0"))
    for b, length in enumerate(LENGTHS):
        if length:
            read = first_norm(t["x"][b, :length], norm, spec)
            k, v = ((read @ t[name].mT).unflatten(1, (H, -1)).transpose(0, 1) for name in ("w_k", "w_v"))
            s = t["q"][b % len(t["q"])].unflatten(0, (H, M)) @ k.mT / LOG2_E
            lse[b] = s.logsumexp(2).flatten() * LOG2_E
            attended[b] = (s.softmax(2) @ v).transpose(0, 1).flatten(1) + t["b_v"]
    return {"lse": lse, "attended": attended}


def by_kernels(
    t: dict[str, Tensor], spec: BlockSpec, device: torch.device, splits: int = 1, layout: str = "padded",
    tile: HeadsTile = TILE,
) -> dict[str, Tensor]:  # fmt: skip
    """The same of the kernels; rows outside their set are NaN."""
    t = {name: value.to(device) for name, value in t.items()}
    rows = t["x"].clone()
    for b, length in enumerate(LENGTHS):
        rows[b, length:] = torch.nan
    sets = Sets(rows, torch.tensor(LENGTHS, device=device))
    if layout == "strided":
        sets = Sets(torch.stack([rows, rows * torch.nan], 2)[:, :, 0], sets.lengths)
    if layout == "packed":
        offsets = torch.tensor([0, *LENGTHS], device=device).cumsum(0)
        sets = Sets(torch.cat([x[:n] for x, n in zip(rows, LENGTHS, strict=True)]), offsets=offsets)
    weights = BlockWeights(**NO_WEIGHTS._asdict() | {n: value for n, value in t.items() if n not in ("x", "q")})
    stage = Stage(spec, weights)
    problem = Problem(3, N, D, D, H, M, "half", device, stage.normed_inputs, absorb=False)
    to = allocate(problem, t["x"].new_empty(len(t["q"]), M, D), stage)
    to.queries.folded.copy_(t["q"])
    with mock.patch.object(forward, "heads_config", return_value=HeadsForward(tile, splits)):
        attend(sets, len(t["q"]) > 1, to, problem, stage)
    return {"lse": to.lse, "attended": to.latents.attended}


def assert_close_to_oracle(
    t: dict[str, Tensor], spec: BlockSpec, device: torch.device, dtype: torch.dtype = torch.bfloat16, **options: Any
) -> None:
    """Kernels against the formulas in fp64, given what the formulas in the same type err."""
    t = {name: value.to(dtype) for name, value in t.items()}
    actual = by_kernels(t, spec, device, **options)
    same, exact = (by_formula(t, spec, dtype) for dtype in (dtype, torch.float64))
    for found in (actual, same, exact):
        assert (found["lse"][1] == -torch.inf).all()
        assert not found["attended"][1].any()
        found["lse"] = found["lse"][[0, 2]]
    assert_step_close_to_oracle(actual, same, exact)


@pytest.mark.parametrize("norm", ["none", "layer", "rms", "after"])
def test_every_norm_matches_the_oracle(norm: str, device: torch.device) -> None:
    spec = BlockSpec(H, "layer") if norm == "after" else BlockSpec(H, norm, norm_first=True)
    assert_close_to_oracle(made(spec), spec, device)


def test_fp16_matches_the_oracle(device: torch.device) -> None:
    """Exponentials of scores without a maximum taken off would be too large for it."""
    spec = BlockSpec(H, "layer", norm_first=True)
    assert_close_to_oracle(made(spec), spec, device, torch.float16)


def test_programs_that_share_a_set_match_the_oracle(device: torch.device) -> None:
    """The last set leaves one of its two programs nothing."""
    spec = BlockSpec(H, "layer", norm_first=True)
    assert_close_to_oracle(made(spec), spec, device, splits=2)


@pytest.mark.parametrize("layout", ["packed", "strided"])
def test_layouts_of_rows_change_no_bit(layout: str, device: torch.device) -> None:
    spec = BlockSpec(H, "layer", norm_first=True)
    t = {name: value.to(torch.bfloat16) for name, value in made(spec).items()}
    plain, other = (by_kernels(t, spec, device, layout=which) for which in ("padded", layout))
    assert all(torch.equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize("tile", [TILE._replace(block_r=16), TILE._replace(heads=4, block_n=32)], ids=str)
def test_every_set_may_have_queries_of_its_own(tile: HeadsTile, device: torch.device) -> None:
    spec = BlockSpec(H, "layer", norm_first=True)
    assert_close_to_oracle(made(spec, queries=3), spec, device, tile=tile)


@pytest.mark.parametrize(("norm", "sharp"), [("layer", 1), ("rms", 1), ("layer", 20), ("rms", 20), ("none", 20)])
def test_scores_of_any_size_match_the_oracle(norm: str, sharp: float, device: torch.device) -> None:
    """All below zero without a mean, to both sides with one; sharp: exponentials that no type holds."""
    spec = BlockSpec(H, norm, norm_first=True)
    t = made(spec, sharp=sharp)
    if norm != "layer":
        t |= {"x": -t["x"].abs()} | {name: t[name].abs() for name in ("q", "w_k", "g0") if name in t}
    lse = by_formula(t, spec, torch.float64)["lse"][0]
    assert norm == "layer" or lse.max() < -20
    assert lse.abs().max() > 130 if sharp > 1 else lse.abs().max() < 100
    assert_close_to_oracle(t, spec, device)


def test_a_block_reads_its_context_with_several_heads_a_program(device: torch.device) -> None:
    """Forward and every gradient: the backward makes probabilities anew, from the log₂-sum-exp."""
    # 2 · 36 · 32 > 32 · (32 + 36) projects
    shape = Shape(2, 20, 32, 32, 2, 36, {**VARIANTS["tabular"], "ffn_dim": None})
    with mock.patch.object(forward, "heads_config", return_value=HeadsForward(TILE, 1)) as asked:
        assert_block_matches_oracle(shape, device, torch.bfloat16, lengths=[20, 19], context=[17, 0])
    assert asked.called


def test_the_rule_takes_what_was_laid_out_for_and_fills_a_gpu_in_whole_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(arch: int = 90, sets: int = 100, longest: int = 16_384, **sizes: Any) -> HeadsForward | None:
        monkeypatch.setattr(gpu, "of", lambda device: gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], "", 132))
        asked = {"C": 128, "D": 128, "H": 8, "M": 128, "products": "half"} | sizes
        return heads_config(Problem(sets, longest, **asked, device=torch.device("cpu")))

    tile = HeadsTile(4, 128, 64, 4, 1, 2)
    # 2 programs of a multiprocessor of 132: 200 programs a piece leave 5 % of four waves empty
    for sets, longest, pieces in ((100, 16_384, 5), (1, 1_000_000, 132), (1, 512, 2), (132, 16_384, 1), (5000, 600, 1)):
        assert chosen(sets=sets, longest=longest) == (tile, pieces)
    assert chosen(H=4, M=256) == (HeadsTile(2, 128, 64, 4, 1, 2), 3)
    for other in (
        chosen(80), chosen(100), chosen(products="tf32"), chosen(C=100), chosen(H=4, M=32), chosen(H=16, M=256),
        chosen(absorb=True), chosen(M=100),
    ):  # fmt: skip
        assert other is None
