"""Measure the tiles of stage A on this GPU and write the fastest to settx_fast/attention/triton/configs/<gpu>.json.

`python -m benchmarks.tune` takes the named shapes in bf16; every candidate must first give the numbers of the rule's
tile. Buckets that were measured before and are not measured now stay as they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from settx_fast.attention.block import BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import gpu
from settx_fast.attention.triton.aggregate import tiles as rules
from settx_fast.attention.triton.aggregate.backward import aggregate_backward
from settx_fast.attention.triton.aggregate.forward import Aggregated, Stage, aggregate_forward, problem_of
from settx_fast.attention.triton.aggregate.tiles import Problem, Tile
from settx_fast.testing import SHAPES, Shape, make_weights

TOLERANCE = 2e-2  # bf16: other tiles round their sums elsewhere


class Case:
    """Stage A of a named shape on the GPU."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def move(weights: BlockWeights) -> BlockWeights:
            return BlockWeights(*(None if w is None else w.to("cuda", dtype) for w in weights))  # type: ignore[arg-type]

        spec, first = shape.spec, shape.dim if shape.spec.norm_first else shape.dim_in
        self.stage = Stage(
            spec, move(make_weights(spec, shape.dim, shape.dim_in, shape.dim, generator)),
            spec, move(make_weights(spec, first, shape.dim, shape.dim, generator)),
        )  # fmt: skip
        x = torch.randn(shape.batch, shape.elements, shape.dim_in, device="cuda", dtype=dtype)
        self.sets = Sets(x)
        self.query = torch.randn(1, shape.inducing, shape.dim, device="cuda", dtype=dtype)
        self.dx = torch.empty_like(x)
        self.grad = torch.randn(2, shape.batch, shape.inducing, shape.dim, device="cuda", dtype=dtype)

    @property
    def problem(self) -> Problem:
        """The bucket and what rules go by."""
        return problem_of(self.sets, self.query.shape[1], self.stage)

    def forward(self) -> Aggregated:
        """What "forward" times."""
        return aggregate_forward(self.sets, self.query, self.stage)

    def backward(self, saved: Aggregated) -> Tensor:
        """What "sums" and "elements" time; returns all numbers it makes."""
        dk, dv = self.grad.unbind()
        gradients = aggregate_backward(self.sets, self.query, self.stage, saved, (dk, dv), self.dx, add=False)
        return torch.cat([self.dx.flatten(), gradients.latent_matrices, gradients.query_matrices])


@contextmanager
def forced(tiles: dict[str, Tile]) -> Iterator[None]:
    """Passes run with these tiles, the others by rule."""
    with mock.patch.object(rules, "tuned", lambda problem, name: tiles.get(name)):
        yield


def candidates(rule: Tile) -> Iterator[Tile]:
    """Tiles around the rule's, the rule's first."""
    yield rule
    sizes = sorted({max(16, rule.block_r // 2), rule.block_r, min(128, rule.block_r * 2)})
    elements = sorted({max(16, rule.block_n // 2), rule.block_n, min(128, rule.block_n * 2)})
    for block_r, block_n, warps, stages in itertools.product(sizes, elements, (4, 8), (1, 2, 3)):
        if (tile := Tile(block_r, block_n, warps, stages)) != rule:
            yield tile


def fastest(rule: Tile, chosen: dict[str, Tile], name: str, run: Callable[[], Tensor]) -> tuple[Tile, float, float]:
    """The fastest tile of a pass that gives the rule's numbers, its time and the rule's, in ms."""
    with forced(chosen | {name: rule}):
        expected, own = run(), do_bench(run)
    best, least = rule, own
    for tile in candidates(rule):
        with forced(chosen | {name: tile}):
            try:
                close = torch.allclose(run(), expected, rtol=TOLERANCE, atol=TOLERANCE * expected.abs().max().item())
            except OutOfResources:
                continue  # the tile does not fit this GPU
            if close and (time := do_bench(run)) < least:
                best, least = tile, time
    return best, least, own


def tune(case: Case) -> dict[str, Tile]:
    """The fastest tile of every pass of a case."""
    problem = case.problem
    chosen: dict[str, Tile] = {}
    passes = {"forward": (rules.forward_tile, 1), "sums": (rules.sums_tile, 2), "elements": (rules.elements_tile, 2)}
    for name, (rule, resident) in passes.items():
        saved = case.forward()

        def run(name: str = name, saved: Aggregated = saved) -> Tensor:
            return case.forward().latents.out if name == "forward" else case.backward(saved)

        tile, time, own = fastest(rules.fit(problem, rule(problem), resident), chosen, name, run)
        print(f"  {name}: {tuple(tile)} {time:.3f} ms, by rule {own:.3f} ms")
        chosen[name] = tile
    return chosen


def save(name: str, key: str, tiles: dict[str, Tile]) -> None:
    """Put a bucket's tiles into the table of a GPU, beside the buckets that it holds."""
    path = rules.CONFIGS / f"{name}.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    table[key] = {each: tile._asdict() for each, tile in tiles.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Measure and write the table of this GPU."""
    known = [name for name in SHAPES if not SHAPES[name].ragged]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--shape", action="append", choices=known, help="repeatable; default: all")
    names = parser.parse_args().shape or known
    if not torch.cuda.is_available():
        sys.exit("benchmarks.tune: expected a CUDA GPU that torch can use, found none")
    table = gpu.of(torch.device("cuda")).table
    for name in names:
        case = Case(SHAPES[name], torch.bfloat16)
        print(f"{name}: {case.problem.key}")
        save(table, case.problem.key, tune(case))
    print(f"wrote {rules.CONFIGS / table}.json")


if __name__ == "__main__":
    main()
