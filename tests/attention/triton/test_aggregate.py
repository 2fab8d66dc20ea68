"""Stage A alone, MAB(query, key) with few queries: shared or one set each, wide elements, programs of several sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from benchmarks import tune
from settx_fast import functional
from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.aggregate import backward, tiles
from settx_fast.attention.triton.aggregate.tiles import (
    Backward,
    Problem,
    Tile,
    backward_config,
    fit,
    forward_config,
    shared_bytes,
)
from settx_fast.attention.triton.aggregate.tiles import forward_tile as wanted
from settx_fast.testing import VARIANTS, assert_step_close_to_oracle, make_weights


def block_step(
    tensors: dict[str, Tensor], spec: BlockSpec, impl: str, dtype: torch.dtype, **ragged: Any
) -> dict[str, Tensor]:
    """Output and gradients of MAB(query, key)."""
    fresh = {name: t.detach().to(dtype, copy=True).requires_grad_() for name, t in tensors.items()}
    weights = BlockWeights(**{name: t for name, t in fresh.items() if name not in ("query", "key")})
    out = functional.attention_block(fresh["query"], fresh["key"], weights, spec, impl=impl, **ragged)  # type: ignore[arg-type]
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out))
    return {"out": out.detach()} | {name: t.grad for name, t in fresh.items() if t.grad is not None}


def make_block(
    spec: BlockSpec,
    batch: int,
    queries: int,
    dim_query: int,
    elements: int,
    dim_key: int,
    dim: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Random query, key and weights; `batch` of the queries is 1 where all sets share them."""
    generator = torch.Generator().manual_seed(1)
    weights = make_weights(spec, dim_query, dim_key, dim, generator)
    query = torch.randn(batch, queries, dim_query, generator=generator)
    key = torch.randn(3, elements, dim_key, generator=generator)
    named = {name: t for name, t in weights._asdict().items() if t is not None}
    return {name: t.to(device) for name, t in {"query": query, "key": key, **named}.items()}


def assert_block(tensors: dict[str, Tensor], spec: BlockSpec, **ragged: Any) -> None:
    """Kernels against the oracle."""
    actual = block_step(tensors, spec, "triton", torch.float32, **ragged)
    same, exact = (block_step(tensors, spec, "reference", kind, **ragged) for kind in (torch.float32, torch.float64))
    assert not actual.pop("b_k").any()
    assert_step_close_to_oracle(actual, same, exact)


@pytest.mark.parametrize("queries", [3, 40])  # absorbed and projected
@pytest.mark.parametrize("variant", ["original", "tabular"])
@pytest.mark.parametrize("batch", [1, 3], ids=["shared", "own"])
def test_few_queries_match_the_oracle(variant: str, batch: int, queries: int, device: torch.device) -> None:
    spec = BlockSpec(2, **VARIANTS[variant])
    width = 32 if spec.norm_first else 20
    tensors = make_block(spec, batch, queries, 32, 45, width, 32, device)
    assert_block(tensors, spec, key_lengths=torch.tensor([45, 0, 18], device=device))


def test_rows_outside_a_query_set_are_zero(device: torch.device) -> None:
    spec = BlockSpec(2)
    tensors = make_block(spec, 3, 4, 16, 20, 16, 16, device)
    assert_block(tensors, spec, query_lengths=torch.tensor([4, 0, 2], device=device))


def test_queries_in_several_blocks_make_dx_in_a_pass_of_its_own(device: torch.device) -> None:
    """H · M = 40 rows in blocks of 16, as wide elements need."""

    def small(problem: Problem, shared: bool) -> Backward:
        tile = Tile(16, 16, 4, 1)
        return backward_config(problem, shared)._replace(sums=tile, elements=tile, fused=False)

    spec = BlockSpec(2, norm="layer", norm_first=True)
    tensors = make_block(spec, 1, 20, 16, 30, 16, 64, device)
    with mock.patch.object(backward, "backward_config", small):
        assert_block(tensors, spec)


@pytest.mark.parametrize("queries", [2, 20])  # absorbed and projected
@pytest.mark.parametrize("variant", ["original", "tabular"])
def test_a_program_may_add_up_several_sets(variant: str, queries: int, device: torch.device) -> None:
    """Three sets, two a program: the last program has one."""

    def grouped(problem: Problem, shared: bool) -> Backward:
        return backward_config(problem, shared)._replace(group=2, num_splits=1)

    spec = BlockSpec(2, **VARIANTS[variant])
    tensors = make_block(spec, 1, queries, 16, 30, 16, 16, device)
    with mock.patch.object(backward, "backward_config", grouped):
        assert_block(tensors, spec, key_lengths=torch.tensor([30, 0, 17], device=device))


def problem(**sizes: Any) -> Problem:
    """The headline shape, changed by `sizes`."""
    shape = {"num_sets": 64, "longest": 16384, "C": 128, "D": 128, "H": 4, "M": 32, "products": "half"} | sizes
    return Problem(**shape, device=torch.device("cpu"))


@pytest.mark.parametrize("products", ["half", "tf32", "exact"])
@pytest.mark.parametrize("C", [1, 3, 16, 64, 128, 200, 256, 512])
@pytest.mark.parametrize("M", [1, 16, 128, 256])
def test_tiles_fit_the_smallest_gpu_at_every_width(C: int, M: int, products: str) -> None:
    if products == "tf32" and C > 256:
        products = "exact"  # as the next test says
    asked = problem(C=C, M=M, products=products)
    for tile, resident in ((forward_config(asked).tile, 1), (backward_config(asked, True).sums, 2)):
        assert shared_bytes(asked, tile, resident) <= 101_376
        assert min(tile.block_r, tile.block_n) >= 16


def test_elements_too_wide_for_tf32_in_a_small_memory_are_multiplied_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    for arch, width, expected in ((86, 512, "exact"), (86, 256, "tf32"), (80, 512, "tf32"), (90, 512, "tf32")):
        found = gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], "")
        monkeypatch.setattr(gpu, "of", lambda device, found=found: found)
        assert tiles.stage_products(torch.float32, width, torch.device("cpu")) == expected
        assert tiles.stage_products(torch.bfloat16, width, torch.device("cpu")) == "half"


def test_a_tile_that_is_too_large_gives_up_stages_first() -> None:
    asked = problem()
    assert fit(asked, wanted(asked), 1).block_r == 128
    assert fit(asked, wanted(asked)._replace(stages=9), 1).block_n == wanted(asked).block_n


def test_programs_do_not_depend_on_the_exact_number_of_elements_of_a_large_batch() -> None:
    configs = {forward_config(problem(longest=n)) for n in range(16000, 17000, 50)}
    assert len(configs) == 1


def test_three_programs_share_a_multiprocessor_of_sm_90_and_fill_all_of_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "of", lambda device: gpu.Gpu(90, gpu.SHARED_MEMORY[90], "", 132))
    for sets, longest, splits in ((64, 16_384, 3), (1, 1_000_000, 198), (1, 4096, 16), (1000, 16_384, 1)):
        config = forward_config(problem(num_sets=sets, longest=longest))
        assert config == (Tile(64, 64, 4, 3), splits)
        assert shared_bytes(problem(), config.tile, 1) <= gpu.SHARED_MEMORY[90] // 3
    for other in (problem(products="tf32"), problem(normed=True), problem(C=64), problem(H=1), problem(H=8, M=128)):
        assert forward_config(other).tile == fit(other, wanted(other), 1)


def test_cost_decides_between_absorbing_and_projecting() -> None:
    assert problem().absorbed
    assert not problem(H=8, M=128).absorbed
    assert problem(H=1, M=256).absorbed, "a head of 128 does not fit the projected kernels"


def test_a_measured_tile_replaces_the_rule_in_its_bucket_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem()
    tile = {"block_r": 64, "block_n": 32, "warps": 4, "stages": 2}
    (tmp_path / "gpu.json").write_text(json.dumps({asked.key: {"forward": tile}}))
    monkeypatch.setattr(tiles, "CONFIGS", tmp_path)
    monkeypatch.setattr(gpu, "of", lambda device: gpu.Gpu(80, 101_376, "gpu"))
    tiles.load_table.cache_clear()
    assert forward_config(asked).tile == Tile(**tile)
    assert forward_config(problem(C=64)).tile != Tile(**tile)
    tiles.load_table.cache_clear()


def test_what_tuning_writes_is_what_rules_are_replaced_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = problem(), problem(C=64)
    measured = {"forward": Tile(64, 32, 4, 2), "sums": Tile(32, 32, 4, 1), "elements": Tile(16, 64, 8, 1)}
    monkeypatch.setattr(tiles, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(gpu, "of", lambda device: gpu.Gpu(90, gpu.SHARED_MEMORY[90], "sm_90-made-up"))
    tune.save("sm_90-made-up", first.key, measured)
    tune.save("sm_90-made-up", second.key, {"forward": Tile(16, 16, 4, 1)})
    tiles.load_table.cache_clear()
    backward = backward_config(first, True)
    assert (forward_config(first).tile, backward.sums, backward.elements) == tuple(measured.values())
    assert forward_config(second).tile == Tile(16, 16, 4, 1)
    assert forward_config(problem(normed=True)).tile == fit(first, wanted(first), 1), "another program"
    tiles.load_table.cache_clear()


def test_tuning_takes_the_fastest_tile_that_gives_the_rules_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up: smaller tiles are faster, and those of 16 elements give other numbers."""

    def tile() -> Tile:
        found = tiles.tuned(problem(), "forward")
        assert found is not None
        return found

    monkeypatch.setattr(tune, "do_bench", lambda run: sum(tile()))
    best, least, own = tune.fastest(
        Tile(64, 32, 4, 2), {}, "forward", lambda: torch.tensor(0.0 if tile().block_n == 16 else 1.0)
    )
    assert (best, least, own) == (Tile(32, 32, 4, 1), 69, 102)


@pytest.mark.parametrize(
    "tile",
    [{"block_r": 48, "block_n": 32, "warps": 4, "stages": 2}, {"block_r": 64}, {"rows": 64}, 64],
    ids=["no power of two", "incomplete", "unknown", "no tile"],
)
def test_a_table_that_says_something_else_is_refused(
    tile: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps({"B64": {"forward": tile}}))
    monkeypatch.setattr(tiles, "CONFIGS", tmp_path)
    tiles.load_table.cache_clear()
    with pytest.raises(ValueError, match="expected powers of two"):
        tiles.load_table("gpu")
    tiles.load_table.cache_clear()
