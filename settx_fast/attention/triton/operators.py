"""The fused operators as PyTorch sees them: schemas, fakes, derivatives. Imports the kernels, and so triton.

A block's weights travel as the list of those that its spec has, specs as their text. Forward operators return what
their backward reads; nothing of it has an axis of elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake

from settx_fast.attention.block import KEY_WEIGHTS, NO_WEIGHTS, BlockSpec, BlockWeights
from settx_fast.attention.registration import operator
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton.aggregate.backward import (
    Gradients,
    aggregate_backward,
    latent_shapes,
    query_shapes,
    unpack_gradients,
)
from settx_fast.attention.triton.aggregate.forward import (
    Stage,
    aggregate_forward,
    allocate,
    pack,
    problem_of,
    unpack,
)
from settx_fast.attention.triton.aggregate.row_backward_kernels import QUERY_VECTORS, VECTORS
from settx_fast.attention.triton.broadcast.backward import broadcast_backward
from settx_fast.attention.triton.broadcast.forward import broadcast_forward
from settx_fast.attention.triton.launch import side_by_side
from settx_fast.attention.triton.small.forward import is_small, small_forward

fused = partial(operator, around=side_by_side)
NO_DOUBLE_BACKWARD = (
    "the fused kernels have no second derivative: call with impl='composed' where a gradient is differentiated again"
)


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


def named(weights: Sequence[Tensor], spec: BlockSpec) -> BlockWeights:
    """The inverse of `present`, in row-major order."""
    return NO_WEIGHTS._replace(**{n: w.contiguous() for n, w in zip(spec.weight_names, weights, strict=True)})


def stage_of(weights: Sequence[Tensor], specs: str) -> Stage:
    """Block A's stage from its weights, with block B's after them where there is one."""
    first, *rest = (decode(text) for text in specs.split("; "))
    count = len(first.weight_names)
    if not rest:
        return Stage(first, named(weights, first))
    return Stage(first, named(weights[:count], first), rest[0], named(weights[count:], rest[0]))


def like(rows: Tensor, width: int) -> Tensor:
    """Rows of another width, contiguous."""
    return rows.new_empty(*rows.shape[:-1], width)


def readable(grad: Tensor) -> Tensor:
    """The gradient where it lies if its last axis is contiguous, as that of a mean over elements is; else a copy."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


def present_gradients(gradients: Gradients) -> list[Tensor]:
    """Gradients as operators return them."""
    return [g for g in gradients if g is not None]


def empty_gradients(query: Tensor, stage: Stage, absorbed: bool) -> list[Tensor]:
    """Tensors of the shapes that `present_gradients` returns."""
    ffn, (dim, width) = stage.spec.ffn_dim or stage.dim, stage.weights.w_k.shape
    sizes = [sum(s.numel() for s in shapes(stage, absorbed).values()) for shapes in (latent_shapes, query_shapes)]
    tensors = [
        torch.empty_like(query), query.new_empty(sizes[0]), query.new_empty(VECTORS, max(dim, ffn, stage.next_dim)),
        query.new_empty(sizes[1]), query.new_empty(QUERY_VECTORS, max(dim, query.shape[-1])),
    ]  # fmt: skip
    return tensors if absorbed else [*tensors, query.new_empty(2, dim, width)]


def gradients_of(tensors: Sequence[Tensor], absorbed: bool) -> Gradients:
    """The inverse of `present_gradients`."""
    query, latent, vectors, query_matrices, query_vectors, *projections = tensors
    return Gradients(query, latent, vectors, query_matrices, query_vectors, None if absorbed else projections[0])


@fused("settx_fast::triton_aggregate")
def aggregate(
    rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, query: Tensor, weights: Sequence[Tensor], specs: str
) -> list[Tensor]:
    """MAB(query, sets) for few queries: what `pack` keeps, the output first."""
    stage = stage_of(weights, specs)
    return pack(aggregate_forward(Sets(rows, lengths, offsets), query, stage), query)


@register_fake(aggregate)
def _(rows, lengths, offsets, query, weights, specs):
    stage = stage_of(weights, specs)
    return pack(allocate(problem_of(Sets(rows, lengths, offsets), query.shape[1], stage), query, stage), query)


@fused("settx_fast::triton_aggregate_backward")
def aggregate_grad(
    grad: Tensor, rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, query: Tensor,
    weights: Sequence[Tensor], saved: Sequence[Tensor], specs: str,
) -> list[Tensor]:  # fmt: skip
    """Gradient of the rows, then those of `present_gradients`."""
    stage, sets = stage_of(weights, specs), Sets(rows, lengths, offsets)
    kept = unpack(list(saved), query, problem_of(sets, query.shape[1], stage), stage)
    dx = torch.empty_like(rows) if lengths is None else torch.zeros_like(rows)
    return [dx, *present_gradients(aggregate_backward(sets, query, stage, kept, grad.contiguous(), dx, add=False))]


@register_fake(aggregate_grad)
def _(grad, rows, lengths, offsets, query, weights, saved, specs):
    stage = stage_of(weights, specs)
    absorbed = problem_of(Sets(rows, lengths, offsets), query.shape[1], stage).absorbed
    return [torch.empty_like(rows), *empty_gradients(query, stage, absorbed)]


@fused("settx_fast::triton_broadcast")
def broadcast(
    rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, keys: Tensor, values: Tensor,
    weights: Sequence[Tensor], spec: str,
) -> Tensor:  # fmt: skip
    """MAB(sets, latents) from the projected keys and values of few latents."""
    return broadcast_forward(Sets(rows, lengths, offsets), keys, values, named(weights, decode(spec)), decode(spec))


@register_fake(broadcast)
def _(rows, lengths, offsets, keys, values, weights, spec):
    return like(rows, keys.shape[-1])


@fused("settx_fast::triton_broadcast_backward")
def broadcast_grad(
    grad: Tensor, rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, keys: Tensor, values: Tensor,
    weights: Sequence[Tensor], spec: str,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the rows, keys, values and of the weights that queries use."""
    dx = torch.empty_like(rows)
    block = decode(spec)
    dk, dv, rest = broadcast_backward(
        Sets(rows, lengths, offsets), keys, values, named(weights, block), block, readable(grad), dx
    )
    return [dx, dk.to(keys.dtype), dv.to(values.dtype), *present(rest)]


@register_fake(broadcast_grad)
def _(grad, rows, lengths, offsets, keys, values, weights, spec):
    used = [w for n, w in zip(decode(spec).weight_names, weights, strict=True) if n not in KEY_WEIGHTS]
    return [torch.empty_like(t) for t in (rows, keys, values, *used)]


@fused("settx_fast::triton_isab")
def isab(
    rows: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    context_lengths: Tensor | None,
    inducing: Tensor,
    weights: Sequence[Tensor],
    specs: str,
) -> list[Tensor]:
    """ISAB(sets): the output, then what `pack` keeps of stage A, the keys and values of stage B among it.

    The inducing points read the first context_lengths (B,) rows of padded sets.
    """
    stage, sets = stage_of(weights, specs), Sets(rows, lengths, offsets)
    context = Sets(rows, context_lengths, offsets)
    if is_small(sets, problem_of(sets, inducing.shape[1], stage)):
        out, kept = small_forward(sets, context, inducing, stage)
        return [out, *pack(kept, inducing)]
    kept = aggregate_forward(context, inducing, stage)
    keys, values = kept.latents.next_keys, kept.latents.next_values
    assert stage.next_spec is not None  # an ISAB has a block B, and stage A made its keys and values
    assert keys is not None
    assert values is not None
    return [broadcast_forward(sets, keys, values, stage.next_weights, stage.next_spec), *pack(kept, inducing)]


@register_fake(isab)
def _(rows, lengths, offsets, context_lengths, inducing, weights, specs):
    stage, sets = stage_of(weights, specs), Sets(rows, lengths, offsets)
    kept = allocate(problem_of(sets, inducing.shape[1], stage), inducing, stage)
    return [like(rows, stage.next_dim), *pack(kept, inducing)]


@fused("settx_fast::triton_isab_backward")
def isab_grad(
    grad: Tensor, rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, context_lengths: Tensor | None,
    inducing: Tensor, weights: Sequence[Tensor], saved: Sequence[Tensor], specs: str, needs_x: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradient of the rows, those of `present_gradients`, then those of block B's weights that its queries use."""
    stage, sets = stage_of(weights, specs), Sets(rows, lengths, offsets)
    kept = unpack(list(saved), inducing, problem_of(sets, inducing.shape[1], stage), stage)
    keys, values = kept.latents.next_keys, kept.latents.next_values
    assert stage.next_spec is not None  # an ISAB has a block B, and stage A made its keys and values
    assert keys is not None
    assert values is not None
    dx = torch.empty_like(rows)
    dk, dv, rest = broadcast_backward(sets, keys, values, stage.next_weights, stage.next_spec, readable(grad), dx)
    target = dx if needs_x else None
    context = Sets(rows, context_lengths, offsets)
    gradients = aggregate_backward(context, inducing, stage, kept, (dk, dv), target, add=True)
    return [dx, *present_gradients(gradients), *present(rest)]


@register_fake(isab_grad)
def _(grad, rows, lengths, offsets, context_lengths, inducing, weights, saved, specs, needs_x):
    stage = stage_of(weights, specs)
    absorbed = problem_of(Sets(rows, lengths, offsets), inducing.shape[1], stage).absorbed
    used = [w for n, w in stage.next_weights._asdict().items() if w is not None and n not in KEY_WEIGHTS]
    return [torch.empty_like(rows), *empty_gradients(inducing, stage, absorbed), *(torch.empty_like(w) for w in used)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor], first: int = 0) -> None:
    """Keep the inputs and the outputs from `first` on."""
    *tensors, weights, ctx.specs = inputs
    ctx.set_materialize_grads(False)
    ctx.ends = len(tensors), len(tensors) + len(weights)
    ctx.save_for_backward(*tensors, *weights, *output[first:])


def _saved(ctx: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The tensors before the weights, the query last; the weights; the kept outputs."""
    tensors, (first, last) = list(ctx.saved_tensors), ctx.ends
    return tensors[:first], tensors[first:last], tensors[last:]


def _aggregate_backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    inputs, weights, saved = _saved(ctx)
    if grads[0] is None:
        return None, None, None, None, [None] * len(weights), None
    stage = stage_of(weights, ctx.specs)
    absorbed = problem_of(Sets(*inputs[:3]), inputs[3].shape[1], stage).absorbed
    dx, *rest = aggregate_grad(grads[0], *inputs, weights, saved, ctx.specs)
    gradients = gradients_of(rest, absorbed)
    return dx, None, None, gradients.query, present(unpack_gradients(gradients, stage)[0]), None


def _isab_backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    inputs, weights, saved = _saved(ctx)
    if grads[0] is None:
        return None, None, None, None, None, [None] * len(weights), None
    stage = stage_of(weights, ctx.specs)
    assert stage.next_spec is not None
    absorbed = problem_of(Sets(*inputs[:3]), inputs[-1].shape[1], stage).absorbed
    names = [n for n in stage.next_spec.weight_names if n not in KEY_WEIGHTS]
    dx, *rest = isab_grad(grads[0], *inputs, weights, saved, ctx.specs, ctx.needs_input_grad[0])
    gradients = gradients_of(rest[: -len(names)], absorbed)
    block_a, from_keys = unpack_gradients(gradients, stage)
    from_queries = dict(zip(names, rest[-len(names) :], strict=True))
    block_b = [_sum(from_queries.get(n), getattr(from_keys, n)) for n in stage.next_spec.weight_names]
    return dx, None, None, None, gradients.query, [*present(block_a), *block_b], None


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _save_broadcast(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, lengths, offsets, keys, values, weights, ctx.spec = inputs
    ctx.save_for_backward(rows, lengths, offsets, keys, values, *weights)


def _broadcast_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rows, lengths, offsets, keys, values, *weights = ctx.saved_tensors
    dx, dk, dv, *rest = broadcast_grad(grad, rows, lengths, offsets, keys, values, weights, ctx.spec)
    names = decode(ctx.spec).weight_names
    from_queries = dict(zip([n for n in names if n not in KEY_WEIGHTS], rest, strict=True))
    return dx, None, None, dk, dv, [from_queries.get(n) for n in names], None


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(NO_DOUBLE_BACKWARD)


register_autograd(aggregate, _aggregate_backward, setup_context=_save)
register_autograd(isab, _isab_backward, setup_context=partial(_save, first=1))
register_autograd(broadcast, _broadcast_backward, setup_context=_save_broadcast)
for derivative in (aggregate_grad, isab_grad, broadcast_grad):
    register_autograd(derivative, _refuse)
