"""The fused kernels as an implementation: which operator a call is. The only importer of triton.

`operators` is what PyTorch sees. Each operation is a folder of launches, kernels and tiles: `aggregate` (stage A: few
queries read long sets), `broadcast` (stage B: long sets read few keys), `small` (both in one launch). They share
`launch`, `gpu`, `primitives` and `sets`, which says where rows lie. Every kernel is a thin shell around a device
function of (set b, tile), so that one launch can run several stages in a row with a barrier between them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.layers import first_norm
from settx_fast.attention.lowering import lowered
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import traces
from settx_fast.attention.triton.derivatives import AGGREGATE, BROADCAST, ISAB, fused, launched
from settx_fast.attention.triton.plans import planned
from settx_fast.attention.triton.traces import present


def attention_block(
    query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, query_scale: Tensor | None = None
) -> Tensor:
    """MAB(query, key), see `functional.attention_block`; no factors of the queries where these are the longer sets."""
    weights, spec = lowered(weights, spec)
    if query.offsets is None and (key.offsets is not None or query.rows.shape[1] <= key.rows.shape[1]):
        return _aggregate(query, key, weights, spec, query_scale)
    assert query_scale is None  # `choice` leaves that to others
    return _broadcast(query, key, weights, spec)


def induced_set_attention(
    x: Sets,
    context: Sets,
    inducing: Tensor,
    weights_a: BlockWeights,
    spec_a: BlockSpec,
    weights_b: BlockWeights,
    spec_b: BlockSpec,
    query_scale: Tensor | None = None,
) -> Tensor:
    """MAB_b(x, MAB_a(inducing, context)), see `functional.induced_set_attention`."""
    weights_a, spec_a = lowered(weights_a, spec_a)
    weights_b, spec_b = lowered(weights_b, spec_b)
    if query_scale is not None or inducing.shape[0] != 1:
        hidden = _aggregate(Sets(inducing), context, weights_a, spec_a, query_scale)
        return _broadcast(x, Sets(hidden), weights_b, spec_b)
    weights = [*present(weights_a), *present(weights_b)]
    return fused(ISAB, f"{spec_a.text}; {spec_b.text}", *x, context.lengths, inducing, *weights)


def shortcut(
    x: Sets, inducing: Tensor, weights_a: BlockWeights, spec_a: BlockSpec, weights_b: BlockWeights, spec_b: BlockSpec
) -> Callable[[list[Tensor]], Tensor] | None:
    """What `induced_set_attention` comes to on padded sets of such metadata, or None where that depends on more.

    It takes x, lengths if there are any, inducing and weights; what is of another dtype than these is cast to theirs.
    """
    if inducing.shape[0] != 1 or spec_a.lowered is not spec_a or spec_b.lowered is not spec_b:
        return None
    specs, lengths, dtype = f"{spec_a.text}; {spec_b.text}", x.lengths, inducing.dtype
    inputs = [x.rows, lengths, None, lengths, inducing, *present(weights_a), *present(weights_b)]
    plan = planned(traces.isab, inputs, specs)

    def call(tensors: list[Tensor]) -> Tensor:
        rows, *given = tensors
        rows = rows if rows.dtype is dtype else rows.to(dtype)
        sizes = None if lengths is None else given.pop(0)
        cast = None if given[0].dtype is dtype else dtype
        return launched(ISAB, specs, plan, [rows, sizes, None, sizes, *given], cast)

    return call


def _aggregate(query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, scale: Tensor | None) -> Tensor:
    """Few queries read many elements; every query row has its row of `scale`, if given."""
    rows, valid = query.cleaned()
    if scale is not None:
        sets = max(rows.shape[0], scale.shape[0])
        rows, scale = rows.expand(sets, -1, -1), scale.expand(sets, -1, -1)
    out = fused(AGGREGATE, spec.text, *key, rows, scale, *present(weights))
    return out if valid is None else out.masked_fill(~valid, 0)


def _broadcast(query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec) -> Tensor:
    """Many elements read few keys, all of them."""
    rows = query.rows
    if query.offsets is None and rows.shape[0] != key.num_sets:
        rows = rows.expand(key.num_sets, -1, -1)
    latents = first_norm(key.rows, weights, spec)
    keys, values = F.linear(latents, weights.w_k, weights.b_k), F.linear(latents, weights.w_v, weights.b_v)
    return fused(BROADCAST, spec.text, rows, query.lengths, query.offsets, keys, values, *present(weights))
