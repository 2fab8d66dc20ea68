"""Stage B's backward in five steps a chunk against the fp64 oracle: every option and layout of sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from broadcast_case import Case, block_of, check_backward, kernel_gradients, make_problem
from test_persistent import COLUMN, H100, PARTED, TWO_LAYERS

from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.broadcast.tiles import Block, StepTiles, step_tiles
from settx_fast.testing import SHAPES, TABULAR

TWO_PARTS = {**TABULAR, "ffn_dim": 64}
SMALL = Case(batch=1, elements=40, dim_in=32, dim=32, keys=20, options=TWO_PARTS, dtype=torch.bfloat16)
# two parts of the hidden layer and of a head's keys, tiles of two steps, three tiles a program
TILES = StepTiles(rows=32, step=16, hidden=32, keys=16, warps=4, programs=2)


OPTIONS: dict[str, dict[str, Any]] = {
    "tabular": {},
    "rms, relu, heads of 32, no padded key": {
        "options": {**TWO_PARTS, "norm": "rms", "activation": "relu", "scale": "model"},
        "heads": 1, "keys": 16, "dtype": torch.float16,
    },
    "no norm, one part of the hidden layer": {"options": {**TABULAR, "norm": "none", "ffn_dim": 32}},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_in_five_steps_matches_the_oracle(name: str, device: torch.device) -> None:
    check_backward(replace(SMALL, **OPTIONS[name]), device, tiles=TILES)


def test_the_rules_tiles_match_the_oracle(device: torch.device) -> None:
    tiles = step_tiles(block_of(COLUMN), H100)
    assert tiles is not None
    check_backward(replace(COLUMN, elements=40), device, tiles=replace(tiles, programs=1))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_chunks_of_sets_of_any_layout_match_the_oracle(packed: bool, device: torch.device) -> None:
    """Two runs a chunk: sets of nothing, of more than a run, of less than a tile; NaN lies outside the sets."""
    case = replace(SMALL, batch=3, elements=70, lengths=(0, 70, 9), packed=packed)
    check_backward(case, device, tiles=replace(TILES, programs=3), chunk_rows=128)


def test_the_same_elements_give_the_same_bits_whatever_lies_outside_their_set(device: torch.device) -> None:
    case = replace(SMALL, batch=2, lengths=(40, 5))
    nan, ones = (
        kernel_gradients(make_problem(case, junk=junk).to(case.dtype, device), case, tiles=TILES)
        for junk in (float("nan"), 1.0)
    )
    for name, found in nan.items():
        assert torch.equal(found, ones[name]), name
    assert not nan["x"][1, 5:].any()


def test_keys_that_are_far_below_a_querys_others_leave_gradients_finite(device: torch.device) -> None:
    """Padded keys score 0, where 2^(0 − log₂ of the sum) may be infinite."""
    case = replace(SMALL, options={**SMALL.options, "norm": "none"})
    problem = make_problem(case)
    with torch.no_grad():
        problem.weights.b_q.fill_(-40.0)
        problem.h.abs_()
        problem.weights.w_k.abs_()
    found = kernel_gradients(problem.to(case.dtype, device), case, tiles=TILES)
    assert all(gradient.isfinite().all() for gradient in found.values())


def chosen(name: str, arch: int = 90, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> StepTiles | None:
    """What the rule says about a named shape."""
    shape = replace(SHAPES[name], **changes)
    found = gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], "")
    return step_tiles(Block.of(shape.spec, shape.dim_in, shape.dim, shape.inducing, dtype), found)


def test_the_rule_takes_what_was_measured_and_leaves_the_rest() -> None:
    assert chosen("tabular") == StepTiles(128, 64, 128, 64, 8, 132)
    assert chosen("tabular", options={**TABULAR, "ffn_dim": 128}) is not None
    for other in (
        chosen("hidden"), chosen("tabular", 80), chosen("tabular", 100), chosen("tabular", dtype=torch.float32),
        chosen("tabular", inducing=32), chosen("tabular", options={**TABULAR, "ffn_dim": 192}),
        chosen("tabular", options={**TABULAR, "ffn_dim": None}), chosen("tabular", options=PARTED["pyg"]),
        chosen("tabular", options={**TWO_LAYERS, "norm_first": False}),
    ):  # fmt: skip
        assert other is None
