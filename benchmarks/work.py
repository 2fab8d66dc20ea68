"""What the work needs at least, by formula (DESIGN.md, section 7): bytes moved, and operations of matrix products."""

from __future__ import annotations

from benchmarks.blocks import Problem
from settx_fast.attention.block import BlockSpec
from settx_fast.testing import Inputs


def of_isab(inputs: Inputs, *, training: bool) -> tuple[float, float]:
    """Bytes and operations of one ISAB, forward or forward + backward."""
    sets, size, dim_in = inputs.x.shape
    rows = sets * size if inputs.lengths is None else int(inputs.lengths.sum())
    dim, heads, inducing = inputs.inducing.shape[2], inputs.spec_a.num_heads, inputs.inducing.shape[1]
    elements = 7 * dim_in + 2 * dim if training else 2 * dim_in + dim
    absorbed = heads * inducing * dim_in <= dim * (dim_in + inducing)
    aggregate = 4 * heads * inducing * dim_in if absorbed else 4 * dim_in * dim + 4 * inducing * dim
    flop = aggregate + 2 * dim_in * dim + 4 * inducing * dim + _layers(inputs.spec_b, dim)
    return float(rows * elements * inputs.x.element_size()), float(rows * flop * (3 if training else 1))


def of_block(p: Problem) -> tuple[float, float]:
    """Bytes and operations of one block, forward + backward: two sides in, one out; twice as much again backward."""
    i = p.inputs
    sets, size, dim_in = i.x.shape
    points, dim = i.inducing.shape[1:]
    (queries, dim_q), (keys, dim_k) = {
        "mab": ((size, dim_in), (points, dim)),
        "sab": ((size, dim_in), (size, dim_in)),
        "pma": ((points, dim), (size, dim_in)),
    }[p.kind]
    numbers = 3 * keys * dim_k + 2 * queries * dim + (0 if p.kind == "sab" else 3 * queries * dim_q)
    flop = queries * (2 * dim_q * dim + 4 * keys * dim + _layers(i.spec_a, dim)) + 4 * keys * dim_k * dim
    return float(sets * numbers * i.x.element_size()), float(3 * sets * flop)


def _layers(spec: BlockSpec, dim: int) -> int:
    """Operations of the layers after attention, for a row."""
    return (4 * dim * spec.ffn_dim if spec.ffn_dim else 2 * dim * dim) + 2 * dim * dim * spec.output_projection
