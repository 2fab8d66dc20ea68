"""The fused operators as PyTorch sees them: schemas, fakes, and what runs below autograd. Imports triton.

Forward operators return their output and, in one buffer of bytes, what their backward reads; nothing of it has an axis
of elements. Backward operators return the gradients whose size the batch decides, and all others in one flat tensor;
`cut_of` says where. `derivatives` joins the two.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.library import register_fake
from torch.utils._python_dispatch import _disable_current_modes

from settx_fast.attention.registration import operator
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import traces
from settx_fast.attention.triton.aggregate.forward import pack
from settx_fast.attention.triton.plans import Cut, Trace, aligned, note, planned


def run(trace: Trace, inputs: list[Tensor | None], *static: Hashable) -> list[Tensor]:
    """What a plan of `trace` makes of inputs."""
    return planned(trace, inputs, *static)(inputs)


def contiguous(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors in row-major order."""
    return [None if t is None else t.contiguous() for t in tensors]


def readable(grad: Tensor) -> Tensor:
    """The gradient where it lies if its last axis is contiguous, as that of a mean over elements is; else a copy."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


@operator("settx_fast::triton_isab")
def isab(
    rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, context_lengths: Tensor | None, inducing: Tensor,
    weights: Sequence[Tensor], specs: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """ISAB(sets), and what its backward reads.

    The inducing points read the first context_lengths (B,) rows of padded sets.
    """
    out, saved = run(traces.isab, [rows, lengths, offsets, context_lengths, *contiguous([inducing, *weights])], specs)
    return out, saved


@register_fake(isab)
def _(rows, lengths, offsets, context_lengths, inducing, weights, specs):
    stage = traces.stage_of(weights, specs)
    kept = pack(traces.kept_of(Sets(rows, lengths, offsets), inducing, stage), inducing)
    return rows.new_empty(*rows.shape[:-1], stage.next_dim), _buffer_of(kept, rows)


@operator("settx_fast::triton_isab_backward")
def isab_backward(
    grad: Tensor, rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, context_lengths: Tensor | None,
    saved: Tensor, inducing: Tensor, weights: Sequence[Tensor], specs: str, needs_x: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of the rows; flat, those of the inducing points and of all weights."""
    sets = [readable(grad), rows, lengths, offsets, context_lengths, saved]
    dx, flat = run(traces.isab_backward, [*sets, *contiguous([inducing, *weights])], specs, needs_x)
    return dx, flat


@register_fake(isab_backward)
def _(grad, rows, lengths, offsets, context_lengths, saved, inducing, weights, specs, needs_x):
    cut = cut_of(traces.isab_backward, 4, grad, rows, [inducing, *weights], specs, needs_x)
    return torch.empty_like(rows), rows.new_empty(cut.size)


@operator("settx_fast::triton_aggregate")
def aggregate(
    rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, query: Tensor, scale: Tensor | None,
    weights: Sequence[Tensor], specs: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """MAB(query, sets) for few queries, and what its backward reads beside it; `scale`: factors of the queries."""
    out, saved = run(traces.aggregate, [rows, lengths, offsets, *contiguous([query, scale, *weights])], specs)
    return out, saved


@register_fake(aggregate)
def _(rows, lengths, offsets, query, scale, weights, specs):
    kept = traces.kept_of(Sets(rows, lengths, offsets), query, traces.stage_of(weights, specs), scale)
    out, *rest = pack(kept, query)
    return out, _buffer_of(rest, rows)


@operator("settx_fast::triton_aggregate_backward")
def aggregate_backward(
    grad: Tensor, rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, out: Tensor, saved: Tensor,
    query: Tensor, scale: Tensor | None, weights: Sequence[Tensor], specs: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the rows, the query and its factors (empty where there are none); flat, those of all weights."""
    inputs = [grad.contiguous(), rows, lengths, offsets, out, saved, *contiguous([query, scale, *weights])]
    dx, dquery, dscale, flat = run(traces.aggregate_backward, inputs, specs)
    return dx, dquery, dscale, flat


@register_fake(aggregate_backward)
def _(grad, rows, lengths, offsets, out, saved, query, scale, weights, specs):
    cut = cut_of(traces.aggregate_backward, 4, grad, rows, [query, scale, *weights], specs)
    dscale = query.new_empty(0 if scale is None else scale.shape)
    return torch.empty_like(rows), query.new_empty(query.shape), dscale, rows.new_empty(cut.size)


@operator("settx_fast::triton_broadcast")
def broadcast(
    rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, keys: Tensor, values: Tensor,
    weights: Sequence[Tensor], spec: str,
) -> Tensor:  # fmt: skip
    """MAB(sets, latents) from the projected keys and values of few latents."""
    (out,) = run(traces.broadcast, [rows, lengths, offsets, *contiguous([keys, values, *weights])], spec)
    return out


@register_fake(broadcast)
def _(rows, lengths, offsets, keys, values, weights, spec):
    return rows.new_empty(*rows.shape[:-1], keys.shape[-1])


@operator("settx_fast::triton_broadcast_backward")
def broadcast_backward(
    grad: Tensor, rows: Tensor, lengths: Tensor | None, offsets: Tensor | None, keys: Tensor, values: Tensor,
    weights: Sequence[Tensor], spec: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the rows, keys and values; flat, those of the weights that queries use."""
    inputs = [readable(grad), rows, lengths, offsets, *contiguous([keys, values, *weights])]
    dx, dk, dv, flat = run(traces.broadcast_backward, inputs, spec)
    return dx, dk, dv, flat


@register_fake(broadcast_backward)
def _(grad, rows, lengths, offsets, keys, values, weights, spec):
    cut = cut_of(traces.broadcast_backward, 2, grad, rows, [keys, values, *weights], spec)
    return torch.empty_like(rows), keys.new_empty(keys.shape), values.new_empty(values.shape), rows.new_empty(cut.size)


def _buffer_of(kept: list[Tensor], like: Tensor) -> Tensor:
    """The buffer in which a plan lays tensors."""
    size = sum(aligned(t.numel() * t.element_size()) for t in kept)
    return like.new_empty(size, dtype=torch.uint8)


def cut_of(
    trace: Trace, between: int, grad: Tensor, rows: Tensor, tensors: Sequence[Tensor | None], *static: Hashable
) -> Cut:
    """How gradients lie in the flat output of a backward operator, which is the same for every batch.

    `tensors` are those that have gradients, but the rows; `between` inputs lie between the rows and them.
    """
    shapes = tuple(None if t is None else tuple(map(int, t.shape)) for t in tensors)
    shapes = tuple((1, *shape[1:]) if shape is not None and len(shape) == 3 else shape for shape in shapes)
    return _cut_of(trace, between, rows.dtype, int(grad.shape[-1]), int(rows.shape[-1]), shapes, static)


@lru_cache(256)
def _cut_of(
    trace: Trace, between: int, dtype: torch.dtype, dim: int, width: int, shapes: tuple[tuple[int, ...] | None, ...],
    static: tuple[Hashable, ...],
) -> Cut:  # fmt: skip
    """By the trace for one set that has as many elements as there are latents, as a query has."""
    assert shapes[0] is not None  # queries, or keys
    elements = shapes[0][1]
    with _disable_current_modes():
        grad, rows, *tensors = (
            None if shape is None else torch.empty(shape, dtype=dtype, device="meta")
            for shape in ((1, elements, dim), (1, elements, width), *shapes)
        )
        return note(trace, [grad, rows, *[None] * between, *tensors], *static).cut
