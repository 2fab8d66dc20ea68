"""Training steps on tensors without storage, to see which kernels they launch and how.

PROBLEMS are the named shapes in every kind of product, and what else changes a program: packed sets, a block alone.
CORNERS are the ends of what `why_not_triton` lets in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from settx_fast.attention.block import BlockWeights
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.aggregate.backward import aggregate_backward
from settx_fast.attention.triton.aggregate.forward import Aggregated, Stage, aggregate_forward, problem_of
from settx_fast.attention.triton.broadcast.backward import broadcast_backward
from settx_fast.attention.triton.broadcast.forward import broadcast_forward
from settx_fast.attention.triton.small.forward import is_small, small_forward
from settx_fast.testing import SHAPES, TABULAR, VARIANTS, Shape, make_weights


@dataclass(frozen=True)
class Problem:
    """A shape in a type, and what PyTorch's switch says about the products of fp32.

    `packed` sets lie one after another; `alone` is stage A without a stage B, with queries of every set's own.
    """

    shape: Shape
    dtype: torch.dtype = torch.bfloat16
    precision: str = "highest"
    packed: bool = False
    alone: bool = False


KINDS = {"": (torch.bfloat16, "highest"), "tf32": (torch.float32, "high"), "fp32": (torch.float32, "highest")}


def in_kinds(shapes: dict[str, Shape], *kinds: str) -> dict[str, Problem]:
    """Every shape in every kind of product."""
    return {f"{name} {kind}".strip(): Problem(shape, *KINDS[kind]) for name, shape in shapes.items() for kind in kinds}


# "mixture" compiles to what "dataset" does but for its width, "large" to what "hidden" does
HALF = in_kinds({name: shape for name, shape in SHAPES.items() if name not in ("mixture", "large")}, "") | {
    "packed": Problem(SHAPES["ragged"], packed=True),
    "few-small": Problem(replace(SHAPES["many-small"], batch=64)),
    "pooling": Problem(Shape(64, 1000, 128, 128, 4, 1), alone=True),
}
PROBLEMS = HALF | in_kinds({name: SHAPES[name] for name in ("hidden", "tabular", "pointcloud")}, "tf32", "fp32")
COVERING = ("hidden", "tabular", "many-small")
"""Problems that launch every kernel, few enough for every run of the tests."""
CORNERS = in_kinds(
    {
        "widest": Shape(64, 1000, 512, 256, 1, 256),
        "most-heads": Shape(64, 1000, 512, 256, 32, 256),
        "widest-tabular": Shape(64, 1000, 256, 256, 1, 256, {**TABULAR, "ffn_dim": 1024}),
        "most-heads-tabular": Shape(64, 1000, 256, 256, 32, 256, {**TABULAR, "ffn_dim": 1024}),
        "most-keys": Shape(64, 1000, 128, 128, 8, 256, TABULAR),
        "two-wide-heads": Shape(64, 1000, 16, 136, 2, 130, VARIANTS["postnorm-wide"]),
        "two-wide-heads-projected": Shape(64, 1000, 136, 136, 2, 8, VARIANTS["pyg"]),
        "points": Shape(64, 1000, 1, 256, 32, 256),
        "narrowest": Shape(64, 1000, 1, 8, 1, 1),
    },
    *KINDS,
)


def train_step(problem: Problem) -> None:
    """Launch what forward and backward launch."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(problem.precision)
    try:
        forward(problem)()
    finally:
        torch.set_float32_matmul_precision(before)


def forward(problem: Problem) -> Callable[[], object]:
    """Launch what forward launches; what is returned launches the backward."""
    shape, spec = problem.shape, problem.shape.spec
    empty = partial(torch.empty, dtype=problem.dtype, device="meta")
    sets = _sets(problem, empty(shape.batch, shape.elements, shape.dim_in))
    queries = empty(shape.batch if problem.alone else 1, shape.inducing, shape.dim)
    if problem.alone:
        stage = Stage(spec, _weights(problem, shape.dim, shape.dim_in))
        kept = aggregate_forward(sets, queries, stage)
        grad = torch.empty_like(kept.latents.out)
        return partial(aggregate_backward, sets, queries, stage, kept, grad, None, add=False)
    # norm_first norms queries and elements alike
    width = shape.dim if spec.norm_first else shape.dim_in
    stage = Stage(spec, _weights(problem, shape.dim, shape.dim_in), spec, _weights(problem, width, shape.dim))
    out, kept = _isab(sets, queries, stage)
    return partial(_isab_backward, sets, queries, stage, kept, out)


def _isab_backward(sets: Sets, queries: Tensor, stage: Stage, kept: Aggregated, grad: Tensor) -> None:
    keys, values = _keys_values(kept)
    assert stage.next_spec is not None
    dx = torch.empty_like(sets.rows)
    dk, dv, _ = broadcast_backward(sets, keys, values, stage.next_weights, stage.next_spec, grad, dx)
    aggregate_backward(sets, queries, stage, kept, (dk, dv), dx, add=True)


def _isab(sets: Sets, queries: Tensor, stage: Stage) -> tuple[Tensor, Aggregated]:
    if is_small(sets, problem_of(sets, queries.shape[1], stage)):
        return small_forward(sets, sets, queries, stage)
    kept = aggregate_forward(sets, queries, stage)
    assert stage.next_spec is not None
    return broadcast_forward(sets, *_keys_values(kept), stage.next_weights, stage.next_spec), kept


def _keys_values(kept: Aggregated) -> tuple[Tensor, Tensor]:
    keys, values = kept.latents.next_keys, kept.latents.next_values
    assert keys is not None
    assert values is not None
    return keys, values


def _sets(problem: Problem, x: Tensor) -> Sets:
    def sizes(count: int) -> Tensor:
        return torch.empty(count, dtype=torch.int64, device="meta")

    if problem.packed:
        return Sets(x.flatten(0, 1), offsets=sizes(problem.shape.batch + 1))
    return Sets(x, lengths=sizes(problem.shape.batch) if problem.shape.ragged else None)


def _weights(problem: Problem, dim_query: int, dim_key: int) -> BlockWeights:
    drawn = make_weights(problem.shape.spec, dim_query, dim_key, problem.shape.dim, torch.Generator())
    return BlockWeights(*(None if w is None else w.to("meta", problem.dtype) for w in drawn))  # type: ignore[arg-type]
