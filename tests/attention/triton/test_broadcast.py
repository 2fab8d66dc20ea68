"""Stage B's kernels against the fp64 oracle: every option of the block, every layout of the sets, awkward shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from broadcast_case import Case, check_backward, check_forward, forward, kernel_gradients, make_problem

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.broadcast.backward import new_job
from settx_fast.attention.triton.broadcast.tiles import Block, backward_tiles
from settx_fast.testing import TABULAR, VARIANTS

SHAPES = {
    "one element": Case(elements=1),
    "two elements, one set": Case(batch=1, elements=2),
    "a whole tile and a part": Case(elements=100),
    "keys not a power of two": Case(keys=11, elements=20),
    "one key": Case(keys=1, elements=20),
    "points in space": Case(dim_in=3, elements=20),
    "one column": Case(dim_in=1, elements=20),
    "wide elements, read in chunks": Case(dim_in=150, elements=20),
    "wide elements, normed in chunks": Case(dim_in=150, elements=20, options=VARIANTS["prenorm-projected"]),
    "head of 8": Case(dim=32, heads=4, elements=20),
    "head of 40, width not a power of two": Case(dim=80, heads=2, elements=20),
    "many keys, head by head": Case(dim=32, heads=2, keys=130, elements=20),
    "many keys, head of 8, head by head": Case(dim=24, heads=3, keys=65, elements=20),
    "many keys, projected": Case(dim=48, dim_in=48, heads=3, keys=65, elements=20, options=TABULAR),
    "hidden layer not a multiple of a chunk": Case(dim_in=32, elements=20, options={**TABULAR, "ffn_dim": 72}),
    "wide: layer through memory, gradients of heads in pieces": Case(dim=136, heads=2, elements=20),
    "wide with output projection": Case(batch=1, dim=136, heads=2, elements=20, options=VARIANTS["pyg"], dim_in=136),
    "wide heads and many keys, a piece at a time": Case(batch=1, dim=136, heads=2, keys=130, elements=20),
    "pieces, projected, the element as residual": Case(
        batch=1, dim=136, heads=2, keys=130, elements=20, options=VARIANTS["pyg"], dim_in=136
    ),
    "pieces, projected, the query as residual": Case(
        batch=1, dim=136, heads=2, keys=130, elements=20, options=VARIANTS["postnorm-wide"]
    ),
    "lengths, one set empty": Case(batch=4, elements=100, lengths=(100, 0, 63, 65)),
    "packed, sets empty at the start, within and at the end": Case(
        batch=6, elements=130, lengths=(0, 63, 0, 130, 1, 0), packed=True
    ),
}


OPTIONS = [pytest.param(VARIANTS[name], keys, id=f"{name}-{keys}") for name in VARIANTS for keys in (12, 130)]


@pytest.mark.parametrize(("options", "keys"), OPTIONS)
def test_every_option_matches_the_oracle(options: dict[str, Any], keys: int, device: torch.device) -> None:
    check_forward(Case(batch=1, dim_in=32, elements=70, keys=keys, options=options), device)


@pytest.mark.parametrize(("options", "keys"), OPTIONS)
def test_every_gradient_of_every_option_matches_the_oracle(
    options: dict[str, Any], keys: int, device: torch.device
) -> None:
    check_backward(Case(batch=1, dim_in=32, elements=70, keys=keys, options=options), device)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_matches_the_oracle(name: str, device: torch.device) -> None:
    check_forward(SHAPES[name], device)


@pytest.mark.parametrize("name", SHAPES)
def test_every_gradient_of_every_shape_matches_the_oracle(name: str, device: torch.device) -> None:
    check_backward(SHAPES[name], device, chunk_rows=64)


@pytest.mark.parametrize("variant", ["original", "tabular"])
def test_tiles_of_exact_products_match_the_oracle(variant: str, device: torch.device) -> None:
    case = Case(batch=1, dim_in=32, elements=40, options=VARIANTS[variant], tiles_of=torch.float32)
    check_forward(case, device)
    check_backward(case, device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["original", "tabular"])
def test_low_precision_is_no_worse_than_the_reference(variant: str, dtype: torch.dtype, device: torch.device) -> None:
    case = Case(batch=1, dim_in=32, elements=70, options=VARIANTS[variant], dtype=dtype)
    check_forward(case, device)
    check_backward(case, device)


def test_rows_outside_their_set_are_zero_and_never_influence_others(device: torch.device) -> None:
    case = Case(batch=3, elements=70, lengths=(70, 0, 5))
    nan, ones = (forward(make_problem(case, junk=junk).to(torch.float32, device), case) for junk in (float("nan"), 1.0))
    assert torch.equal(nan, ones)
    assert not nan[1].any()
    assert not nan[2, 5:].any()


def test_layouts_of_the_same_sets_give_the_same_bits(device: torch.device) -> None:
    case = Case(batch=3, elements=70, lengths=(70, 3, 64))
    padded, packed = (forward(make_problem(c).to(torch.float32, device), c) for c in (case, replace(case, packed=True)))
    assert torch.equal(torch.cat([padded[b, :length] for b, length in enumerate(case.lengths)]), packed)


def test_strided_elements_are_read_in_place(device: torch.device) -> None:
    case = Case(elements=70, dim_in=16)
    problem = make_problem(case).to(torch.float32, device)
    rows = problem.x.rows.detach()
    expected = forward(problem, case)
    wide = torch.full((70, 2, 40), float("nan"), device=device)
    strided = wide.transpose(0, 1)[..., 3:19]
    strided.copy_(rows)
    assert torch.equal(forward(problem._replace(x=problem.x._replace(rows=strided)), case), expected)


@pytest.mark.parametrize(("batch", "elements"), [(0, 5), (2, 0)])
def test_no_rows_give_no_rows(batch: int, elements: int, device: torch.device) -> None:
    case = Case(batch=batch, elements=elements)
    assert forward(make_problem(case).to(torch.float32, device), case).shape == (batch, elements, case.dim)


def test_no_rows_have_no_gradients(device: torch.device) -> None:
    case = Case(batch=2, elements=0)
    assert not any(g.any() for g in kernel_gradients(make_problem(case).to(torch.float32, device), case).values())


def test_gradients_repeat_bit_for_bit(device: torch.device) -> None:
    case = Case(batch=3, elements=200, lengths=(200, 0, 130))
    problem = make_problem(case).to(torch.float32, device)
    first, second = (kernel_gradients(problem, case, chunk_rows=128) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rows_outside_their_set_never_influence_a_gradient(device: torch.device) -> None:
    case = Case(batch=3, elements=70, lengths=(70, 0, 5))
    nan, ones = (
        kernel_gradients(make_problem(case, junk=junk).to(torch.float32, device), case) for junk in (float("nan"), 1.0)
    )
    assert all(torch.equal(nan[name], ones[name]) for name in nan)
    assert not nan["x"][1].any()
    assert not nan["x"][2, 5:].any()


def test_temporaries_of_the_backward_do_not_grow_with_the_sets(device: torch.device) -> None:
    def largest_temporary(elements: int) -> int:
        meta = {"device": "meta", "dtype": torch.bfloat16}
        block = Block.of(BlockSpec(4, norm="layer"), 128, 128, 32, torch.bfloat16)
        weights = BlockWeights(*(torch.empty(128, 128, **meta) for _ in BlockWeights._fields))
        k = torch.empty(4, 32, 128, **meta)
        job = new_job(Sets(torch.empty(4, elements, 128, **meta)), k, k, weights, block, backward_tiles(block))
        sums = (job.keys.shares, job.weight_sums, job.norm_sums)
        return sum(t.nbytes for t in (*job.chunk, *sums) if t is not None)

    assert largest_temporary(1_000_000) == largest_temporary(10_000_000) <= 65_536 * 2048
