"""Stage B's backward by persistent programs against the fp64 oracle: every option and layout of sets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from broadcast_case import Case, block_of, check_backward, kernel_gradients, make_problem
from test_persistent import H100, HIDDEN, RESIDENT, SETS

from settx_fast.attention.triton.broadcast.tiles import PassTiles, pass_tiles


def tiles_of(case: Case, programs: int) -> PassTiles:
    """The rule's tiles on an H100, shared by so many programs that each has several."""
    tiles = pass_tiles(block_of(case), H100)
    assert tiles is not None
    return replace(tiles, programs=programs, layers=replace(tiles.layers, programs=programs))


@pytest.mark.parametrize("name", RESIDENT)
def test_every_option_in_passes_matches_the_oracle(name: str, device: torch.device) -> None:
    case = replace(HIDDEN, options=RESIDENT[name])
    check_backward(case, device, tiles=tiles_of(case, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_worse_than_the_reference(dtype: torch.dtype, device: torch.device) -> None:
    case = replace(HIDDEN, elements=140, batch=2, dtype=dtype)
    check_backward(case, device, tiles=tiles_of(case, 2))


@pytest.mark.parametrize(
    "sizes",
    [
        {"keys": 11}, {"keys": 1}, {"heads": 2}, {"heads": 8, "keys": 16}, {"dim": 64, "dim_in": 64, "keys": 16},
        {"dim": 64, "dim_in": 64, "heads": 8, "keys": 16}, {"dim": 64, "dim_in": 64, "heads": 1, "keys": 100},
    ],
    ids=str,
)  # fmt: skip
def test_every_shape_in_passes_matches_the_oracle(sizes: dict[str, int], device: torch.device) -> None:
    case = replace(HIDDEN, elements=70, **sizes)
    check_backward(case, device, tiles=tiles_of(case, 1))


@pytest.mark.parametrize("programs", [1, 3, 7])
@pytest.mark.parametrize("name", SETS)
def test_programs_walk_over_sets_of_any_layout(name: str, programs: int, device: torch.device) -> None:
    case = replace(HIDDEN, dim=64, dim_in=64, keys=16, **SETS[name])
    check_backward(case, device, tiles=tiles_of(case, programs))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_chunks_of_sets_of_any_layout_match_the_oracle(packed: bool, device: torch.device) -> None:
    """Two tiles a chunk: sets of nothing, of more than a chunk, of less than a tile; NaN lies outside the sets."""
    case = replace(HIDDEN, batch=3, elements=140, dim=64, dim_in=64, keys=16, lengths=(0, 140, 9), packed=packed)
    check_backward(case, device, tiles=tiles_of(case, 2), chunk_rows=128)


def test_rows_outside_their_set_never_influence_a_gradient(device: torch.device) -> None:
    case = replace(HIDDEN, batch=3, elements=140, dim=64, dim_in=64, keys=16, lengths=(140, 0, 5))
    nan, ones = (
        kernel_gradients(make_problem(case, junk=junk).to(case.dtype, device), case, tiles=tiles_of(case, 2))
        for junk in (float("nan"), 1.0)
    )
    assert all(torch.equal(nan[name], ones[name]) for name in nan)
    assert not nan["x"][1].any()
    assert not nan["x"][2, 5:].any()


def test_gradients_repeat_bit_for_bit(device: torch.device) -> None:
    case = replace(HIDDEN, batch=3, elements=200, dim=64, dim_in=64, keys=16, lengths=(200, 0, 130))
    problem = make_problem(case).to(case.dtype, device)
    first, second = (kernel_gradients(problem, case, tiles=tiles_of(case, 3)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
