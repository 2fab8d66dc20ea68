"""Stage B's persistent programs against the fp64 oracle: every option and layout of sets, many tiles a program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from broadcast_case import Case, block_of, check_forward, forward, make_problem

from settx_fast.attention.block import BlockSpec
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.broadcast.tiles import Block, PartedTiles, ResidentTiles, persistent_tiles
from settx_fast.testing import SHAPES, TABULAR, VARIANTS

H100 = gpu.Gpu(90, gpu.SHARED_MEMORY[90], "", 132)
RMS = {"norm": "rms", "activation": "gelu", "scale": "head"}
RESIDENT: dict[str, dict[str, Any]] = {
    **{name: VARIANTS[name] for name in ("plain", "original", "prenorm-projected")},
    "rms": RMS,
    "rms first": {**RMS, "norm_first": True},
    "the element as residual": {"norm": "layer", "residual": "input"},
    "the element as residual, norm first": {"norm": "layer", "residual": "input", "norm_first": True},
}
TWO_LAYERS = {**TABULAR, "ffn_dim": 128}
PARTED: dict[str, dict[str, Any]] = {
    "tabular": TWO_LAYERS,
    **{name: VARIANTS[name] for name in ("pyg", "rms")},
    "no norm": {**TWO_LAYERS, "norm": "none"},
    "norm after two layers": {**TWO_LAYERS, "norm_first": False, "activation": "relu"},
}
HIDDEN = Case(batch=1, elements=130, dim_in=128, dim=128, heads=4, keys=32, dtype=torch.bfloat16)
COLUMN = Case(batch=1, elements=130, dim_in=64, dim=64, heads=4, keys=128, options=TWO_LAYERS, dtype=torch.bfloat16)
SETS = {
    "many sets": {"batch": 3, "elements": 140},
    "one element": {"batch": 2, "elements": 1},
    "lengths, sets empty": {"batch": 5, "elements": 200, "lengths": (0, 200, 63, 0, 129)},
    "packed, sets empty": {"batch": 6, "elements": 150, "lengths": (0, 63, 0, 150, 128, 0), "packed": True},
}


def tiles_of(case: Case, programs: int) -> ResidentTiles | PartedTiles:
    """The rule's tiles on an H100, shared by so many programs that each has several."""
    tiles = persistent_tiles(block_of(case), H100)
    assert tiles is not None
    if isinstance(tiles, ResidentTiles):
        return replace(tiles, programs=programs)
    return PartedTiles(replace(tiles.attend, programs=programs), replace(tiles.dense, programs=programs))


@pytest.mark.parametrize("name", RESIDENT)
def test_every_option_with_weights_on_chip_matches_the_oracle(name: str, device: torch.device) -> None:
    case = replace(HIDDEN, options=RESIDENT[name])
    check_forward(case, device, tiles_of(case, 1))


@pytest.mark.parametrize("name", PARTED)
def test_every_option_in_two_kernels_matches_the_oracle(name: str, device: torch.device) -> None:
    case = replace(COLUMN, options=PARTED[name])
    check_forward(case, device, tiles_of(case, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [HIDDEN, COLUMN], ids=["hidden", "column"])
def test_half_precision_is_no_worse_than_the_reference(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    case = replace(case, elements=64, dtype=dtype)
    check_forward(case, device, tiles_of(case, 2))


@pytest.mark.parametrize(
    "sizes",
    [
        {"dim_in": 3}, {"dim_in": 16}, {"keys": 11}, {"keys": 1}, {"heads": 2}, {"heads": 8, "keys": 16},
        {"dim": 64, "keys": 16}, {"dim": 64, "heads": 8, "keys": 16},
        {"dim": 64, "dim_in": 100, "heads": 1, "keys": 100},
    ],
    ids=str,
)  # fmt: skip
def test_every_shape_with_weights_on_chip_matches_the_oracle(sizes: dict[str, int], device: torch.device) -> None:
    case = replace(HIDDEN, elements=70, **sizes)
    check_forward(case, device, tiles_of(case, 1))


@pytest.mark.parametrize(
    "sizes",
    [{"keys": 65}, {"heads": 2}, {"dim": 128, "dim_in": 128, "heads": 8}, {"options": {**TABULAR, "ffn_dim": 64}}],
    ids=str,
)
def test_every_shape_in_two_kernels_matches_the_oracle(sizes: dict[str, Any], device: torch.device) -> None:
    case = replace(COLUMN, elements=70, **sizes)
    check_forward(case, device, tiles_of(case, 1))


@pytest.mark.parametrize("programs", [1, 3])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("case", [HIDDEN, COLUMN], ids=["hidden", "column"])
def test_programs_walk_over_sets_of_any_layout(case: Case, name: str, programs: int, device: torch.device) -> None:
    case = replace(case, dim=64, dim_in=64, **SETS[name])
    check_forward(case, device, tiles_of(case, programs))


@pytest.mark.parametrize("case", [HIDDEN, COLUMN], ids=["hidden", "column"])
def test_rows_outside_their_set_are_zero_and_never_influence_others(case: Case, device: torch.device) -> None:
    case = replace(case, batch=3, elements=70, dim=64, dim_in=64, lengths=(70, 0, 5))
    nan, ones = (
        forward(make_problem(case, junk=junk).to(case.dtype, device), case, tiles_of(case, 2))
        for junk in (float("nan"), 1.0)
    )
    assert torch.equal(nan, ones)
    assert not nan[1].any()
    assert not nan[2, 5:].any()


@pytest.mark.parametrize("case", [HIDDEN, COLUMN], ids=["hidden", "column"])
def test_the_number_of_programs_and_the_layout_change_no_bit(case: Case, device: torch.device) -> None:
    case = replace(case, batch=3, elements=140, dim=64, dim_in=64, lengths=(140, 3, 64))
    one, three, packed = (
        forward(make_problem(c).to(case.dtype, device), c, tiles_of(c, programs))
        for c, programs in ((case, 1), (case, 3), (replace(case, packed=True), 2))
    )
    assert torch.equal(one, three)
    assert torch.equal(torch.cat([one[b, :length] for b, length in enumerate(case.lengths)]), packed)


def chosen(name: str, arch: int = 90, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> object:
    """What the rule says about a named shape."""
    shape = replace(SHAPES[name], **changes)
    found = gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], "")
    return persistent_tiles(Block.of(shape.spec, shape.dim_in, shape.dim, shape.inducing, dtype), found)


def test_the_rule_takes_what_was_measured_and_leaves_the_rest() -> None:
    assert isinstance(chosen("hidden"), ResidentTiles)
    assert isinstance(chosen("tabular"), PartedTiles)
    for other in (
        chosen("pointcloud"), chosen("hidden", 80), chosen("hidden", 100), chosen("hidden", dtype=torch.float32),
        chosen("hidden", inducing=128), chosen("hidden", heads=1), chosen("tabular", inducing=256),
        chosen("tabular", options={**TABULAR, "ffn_dim": 512}), chosen("tabular", inducing=32),
        chosen("tabular", options={**TABULAR, "residual": "projected"}),
    ):  # fmt: skip
        assert other is None


def test_two_programs_of_the_named_shapes_fit_a_multiprocessor() -> None:
    """What they hold and the system's kilobyte each: twice 115,712 bytes are an H100's 233,472 less those."""
    spec = BlockSpec(4, norm="layer")
    assert persistent_tiles(Block.of(spec, 128, 128, 32, torch.bfloat16), H100) is not None
    assert persistent_tiles(Block.of(spec, 128, 128, 33, torch.bfloat16), H100) is None
