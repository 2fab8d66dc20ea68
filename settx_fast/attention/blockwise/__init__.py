"""What a CPU user gets: the block in tiles that fit in cache, and a backward that recomputes instead of saving.

Nothing of set size is kept for the backward but the sets themselves. Two operators read the rows: `aggregate` (few
queries, long sets) and `broadcast` (long sets, few keys); what is left is per-set algebra that autograd follows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.blockwise.aggregate import aggregate
from settx_fast.attention.blockwise.broadcast import broadcast, query_weights, scalars
from settx_fast.attention.blockwise.tiles import compute_dtype
from settx_fast.attention.layers import finish, first_norm
from settx_fast.attention.lowering import lowered
from settx_fast.attention.sets import Sets


def attention_block(
    query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, query_scale: Tensor | None = None
) -> Tensor:
    """MAB(query, key), see `functional.attention_block`; no factors of the queries where these are the longer sets."""
    weights, spec = lowered(weights, spec)
    if query.offsets is None and (key.offsets is not None or query.rows.shape[1] <= key.rows.shape[1]):
        return _aggregate_block(query, key, weights, spec, query_scale)[0].to(query.rows.dtype)
    assert query_scale is None  # `choice` leaves that to others
    return _broadcast_block(query, key.padded(), weights, spec)


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
    hidden, stand_in = _aggregate_block(Sets(inducing), context, weights_a, spec_a, query_scale)
    return _broadcast_block(x, Sets(hidden), weights_b, spec_b, stand_in)


def _aggregate_block(
    query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, query_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The block for short queries, in the compute dtype, and the stand-in of `aggregate` for the key rows."""
    w = _cast(weights, key.rows)
    q_in, q_valid = query.cleaned()
    q_in = q_in.to(w.w_q.dtype)
    q = F.linear(first_norm(q_in, w, spec), w.w_q, w.b_q)
    scored = q if query_scale is None else q * query_scale.to(q.dtype)
    attended, stand_in = _attend(scored, key, w, spec)
    out = finish(q if spec.residual == "projected" else q_in, attended, w, spec)
    return out if q_valid is None else out.masked_fill(~q_valid, 0), stand_in


def _attend(q: Tensor, key: Sets, w: BlockWeights, spec: BlockSpec) -> tuple[Tensor, Tensor]:
    """Concatenated heads (B, M, D) of projected queries (B or 1, M, D) over the key sets, and their stand-in."""
    heads, dim, width = spec.num_heads, q.shape[-1], key.rows.shape[-1]
    queries = q.unflatten(-1, (heads, -1)).transpose(1, 2) * spec.score_scale(dim)  # (B, h, M, E)
    num_queries = q.shape[1]
    gain, bias = (w.g0, w.b0) if spec.norm_first else (None, None)
    key_args = key.rows, key.lengths, key.offsets
    if heads * num_queries * width <= dim * (width + num_queries):
        w_k, w_v = (t.unflatten(0, (heads, -1)) for t in (w.w_k, w.w_v))  # (h, E, C)
        absorbed = (queries @ w_k).flatten(1, 2)[:, None]  # (B, 1, h·M, C)
        y, _, stand_in = aggregate(*key_args, absorbed, None, gain, bias, spec.norm, spec.norm_eps)
        attended = y[:, 0].unflatten(1, (heads, -1)) @ w_v.mT
    else:
        w_kv = torch.cat([w.w_k, w.w_v])
        attended, _, stand_in = aggregate(*key_args, queries, w_kv, gain, bias, spec.norm, spec.norm_eps)
    assert w.b_v is not None  # lowered
    assert w.b_k is not None
    # b_k shifts all scores of a query alike and changes nothing; it enters so that its gradient is zero, not absent
    attended = attended.transpose(1, 2).flatten(2) + w.b_v * _nonempty(key, attended) + 0 * w.b_k
    return attended, stand_in


def _nonempty(sets: Sets, like: Tensor) -> Tensor | int:
    """(B, 1, 1): 1 for a set with an element, 0 for an empty one."""
    if sets.offsets is not None:
        return (sets.offsets.diff() > 0).to(like.dtype)[:, None, None]
    if sets.lengths is not None:
        return (sets.lengths > 0).to(like.dtype)[:, None, None]
    return int(sets.rows.shape[1] > 0)


def _broadcast_block(
    query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, stand_in: Tensor | None = None
) -> Tensor:
    """The block for short keys, or for two long sides: then keys and values are made once, in full."""
    w = _cast(weights, query.rows)
    k_in, _ = key.cleaned()
    k_in = first_norm(k_in.to(w.w_q.dtype), w, spec)
    assert w.b_k is not None  # lowered
    k = F.linear(k_in, w.w_k) * spec.score_scale(w.w_q.shape[0]) + 0 * w.b_k
    k, v = (t.unflatten(-1, (spec.num_heads, -1)).transpose(1, 2) for t in (k, F.linear(k_in, w.w_v, w.b_v)))
    rows = query.rows
    if query.offsets is None:
        rows = rows.expand(key.num_sets, -1, -1)
    own = query_weights(w, spec)
    return broadcast(rows, stand_in, query.lengths, query.offsets, k, v, key.lengths, own, *scalars(spec))


def _cast(weights: BlockWeights, rows: Tensor) -> BlockWeights:
    dtype = compute_dtype(rows.dtype)
    return weights.map(lambda t: t.to(dtype))
