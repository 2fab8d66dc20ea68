"""What each operator launches, from its inputs as a list of tensors, weights last; `plans` notes it.

A block's weights travel as the list of those that its spec has, specs as their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights, named
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.aggregate import backward as stage_a
from settx_fast.attention.triton.aggregate.backward import unpack_gradients
from settx_fast.attention.triton.aggregate.forward import (
    Aggregated,
    Stage,
    aggregate_forward,
    allocate,
    pack,
    problem_of,
)
from settx_fast.attention.triton.broadcast import backward as stage_b
from settx_fast.attention.triton.broadcast.forward import broadcast_forward
from settx_fast.attention.triton.launch import add_, zero
from settx_fast.attention.triton.plans import Traced
from settx_fast.attention.triton.small.forward import is_small, small_forward

Inputs = list[Any]  # tensors, None for one that is not there


@cache
def decode(text: str) -> BlockSpec:
    """The spec of a `BlockSpec.text`."""
    heads, norm, first, residual, projection, activation, ffn, scale, eps = text.split()
    values: dict[str, Any] = {
        "num_heads": int(heads), "norm": norm, "norm_first": first == "True", "residual": residual,
        "output_projection": projection == "True", "activation": activation,
        "ffn_dim": None if ffn == "None" else int(ffn), "scale": scale, "norm_eps": float(eps),
    }  # fmt: skip
    return BlockSpec(**values)


def present(weights: BlockWeights) -> list[Tensor]:
    """The weights that are not None."""
    return [w for w in weights if w is not None]


def stage_of(weights: Sequence[Tensor], specs: str) -> Stage:
    """Block A's stage from its weights, with block B's after them where there is one."""
    first, *rest = (decode(text) for text in specs.split("; "))
    count = len(first.weight_names)
    if not rest:
        return Stage(first, named(weights, first))
    return Stage(first, named(weights[:count], first), rest[0], named(weights[count:], rest[0]))


def kept_of(sets: Sets, query: Tensor, stage: Stage, scale: Tensor | None = None) -> Aggregated:
    """Room for what stage A leaves."""
    return allocate(problem_of(sets, query.shape[1], stage), query, stage, scale)


def isab(inputs: Inputs, specs: str) -> Traced:
    """The output; what `pack` keeps of stage A, the keys and values of stage B among it, is shared."""
    rows, lengths, offsets, context_lengths, inducing, *weights = inputs
    stage, sets = stage_of(weights, specs), Sets(rows, lengths, offsets)
    context = Sets(rows, context_lengths, offsets)
    if is_small(sets, problem_of(sets, inducing.shape[1], stage)):
        out, kept = small_forward(sets, context, inducing, stage)
        return Traced([out], pack(kept, inducing))
    kept = aggregate_forward(context, inducing, stage)
    keys, values = keys_values(kept)
    assert stage.next_spec is not None  # an ISAB has a block B
    out = broadcast_forward(sets, keys, values, stage.next_weights, stage.next_spec)
    return Traced([out], pack(kept, inducing))


def keys_values(kept: Aggregated) -> tuple[Tensor, Tensor]:
    """Stage B's, which stage A made."""
    keys, values = kept.latents.next_keys, kept.latents.next_values
    assert keys is not None
    assert values is not None
    return keys, values


def isab_backward(inputs: Inputs, specs: str, needs_x: bool) -> Traced:
    """The rows' gradient; those of the inducing points and of all weights are shared."""
    grad, rows, lengths, offsets, context_lengths, _, inducing, *weights = inputs
    stage, sets = stage_of(weights, specs), Sets(rows, lengths, offsets)
    kept = kept_of(sets, inducing, stage)
    assert stage.next_spec is not None  # an ISAB has a block B
    dx = torch.empty_like(rows)
    dk, dv, rest = stage_b.broadcast_backward(sets, *keys_values(kept), stage.next_weights, stage.next_spec, grad, dx)
    context = Sets(rows, context_lengths, offsets)
    target = dx if needs_x else None
    gradients = stage_a.aggregate_backward(context, inducing, stage, kept, (dk, dv), target, add=True)
    block_a, from_keys = unpack_gradients(gradients, stage)
    block_b = [_sum(*pair) for pair in zip(rest, from_keys, strict=True)]
    shared = [gradients.query, *present(block_a), *(g for g in block_b if g is not None)]
    return Traced([dx], shared, {5: pack(kept, inducing)}, rows.dtype)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """What queries and keys bring to one weight."""
    if a is not None and b is not None:
        add_(a, b)
    return b if a is None else a


def aggregate(inputs: Inputs, specs: str) -> Traced:
    """MAB(query, sets) for few queries: the output; what else `pack` keeps is shared."""
    rows, lengths, offsets, query, scale, *weights = inputs
    kept = aggregate_forward(Sets(rows, lengths, offsets), query, stage_of(weights, specs), scale)
    out, *rest = pack(kept, query)
    return Traced([out], rest)


def aggregate_backward(inputs: Inputs, specs: str) -> Traced:
    """Gradients of the rows, the query and its factors (empty for none); those of all weights are shared."""
    grad, rows, lengths, offsets, _, _, query, scale, *weights = inputs
    stage, sets = stage_of(weights, specs), Sets(rows, lengths, offsets)
    kept = kept_of(sets, query, stage, scale)
    dx = torch.empty_like(rows)
    if lengths is not None:
        zero(dx)
    gradients = stage_a.aggregate_backward(sets, query, stage, kept, grad, dx, add=False, scale=scale)
    dscale = query.new_empty(0) if gradients.scale is None else gradients.scale
    first, *rest = pack(kept, query)
    shared = present(unpack_gradients(gradients, stage)[0])
    return Traced([dx, gradients.query, dscale], shared, {4: [first], 5: rest}, rows.dtype)


def broadcast(inputs: Inputs, spec: str) -> Traced:
    """MAB(sets, latents) from the projected keys and values of few latents."""
    rows, lengths, offsets, keys, values, *weights = inputs
    block = decode(spec)
    return Traced([broadcast_forward(Sets(rows, lengths, offsets), keys, values, named(weights, block), block)])


def broadcast_backward(inputs: Inputs, spec: str) -> Traced:
    """Gradients of the rows, keys and values; those of the weights that queries use are shared."""
    grad, rows, lengths, offsets, keys, values, *weights = inputs
    sets, block, dx = Sets(rows, lengths, offsets), decode(spec), torch.empty_like(rows)
    dk, dv, rest = stage_b.broadcast_backward(sets, keys, values, named(weights, block), block, grad, dx)
    return Traced([dx, dk, dv], present(rest), dtype=rows.dtype)
