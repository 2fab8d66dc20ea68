"""The oracle: the formulas of Lee et al. 2019 and of the block family, one line each, for any dtype and device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights, Norm
from settx_fast.attention.sets import Sets


def attention_block(
    query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, query_scale: Tensor | None = None
) -> Tensor:
    """MAB(query, key), see `functional.attention_block`."""
    q_in, q_valid = query.padded().cleaned()
    k_in, k_valid = key.padded().cleaned()
    w = weights
    q_normed = _norm(q_in, w.g0, w.b0, spec) if spec.norm_first else q_in
    k_gain, k_bias = (w.g0_k, w.b0_k) if spec.key_norm else (w.g0, w.b0)
    k_normed = _norm(k_in, k_gain, k_bias, spec) if spec.norm_first else k_in
    q, k, v = F.linear(q_normed, w.w_q, w.b_q), F.linear(k_normed, w.w_k, w.b_k), F.linear(k_normed, w.w_v, w.b_v)
    scales = torch.ones_like(q) if query_scale is None else query_scale
    heads = zip(*(t.chunk(spec.num_heads, -1) for t in (q, k, v, scales)), strict=True)
    scale = spec.score_scale(q.shape[-1])
    attended = []
    for q_h, k_h, v_h, s_h in heads:
        q_h = s_h * _norm(q_h, w.g_q, w.s_q, spec, spec.qk_norm)
        k_h = _norm(k_h, w.g_k, w.s_k, spec, spec.qk_norm)
        attended.append(F.dropout(_softmax(q_h @ k_h.mT * scale, k_valid), spec.dropout) @ v_h)
    added = torch.cat(attended, -1)
    if w.w_p is not None:
        added = F.linear(added, w.w_p, w.b_p)
    if spec.post_norm:
        added = _norm(added, w.g_p, w.s_p, spec)
    out = _feed_forward((q if spec.residual == "projected" else q_in) + added, w, spec)
    if q_valid is not None:
        out = out.masked_fill(~q_valid, 0)
    return query.packed_like(out)


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
    hidden = attention_block(Sets(inducing), context, weights_a, spec_a, query_scale)
    return attention_block(x, Sets(hidden), weights_b, spec_b)


def _softmax(scores: Tensor, key_valid: Tensor | None) -> Tensor:
    """Softmax over the valid keys (B, N, 1) of scores (B, Q, N); zero where there is none."""
    if key_valid is None:
        return scores.softmax(-1)
    outside = ~key_valid.mT
    weights = scores.masked_fill(outside, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(outside, 0)


def _feed_forward(out: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    if spec.norm_first:
        return out + _layers(_norm(out, w.g1, w.b1, spec), w, spec)
    out = _norm(out, w.g0, w.b0, spec)
    return _norm(out + _layers(out, w, spec), w.g1, w.b1, spec)


def _layers(x: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    linear = F.linear(x, w.w_o, w.b_o)
    active = linear if w.w_g is None else F.linear(x, w.w_g, w.b_g)
    if spec.activation in ("relu", "reglu"):
        active = F.relu(active)
    elif spec.activation in ("gelu", "geglu"):
        active = F.gelu(active)
    elif spec.activation == "swiglu":
        active = F.silu(active)
    hidden = active if w.w_g is None else active * linear
    out = hidden if w.w_o2 is None else F.linear(hidden, w.w_o2, w.b_o2)
    return _norm(out, w.g_o, w.s_o, spec) if spec.post_norm else out


def _norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, spec: BlockSpec, kind: Norm | None = None) -> Tensor:
    """The norm of a kind, None for that of the block, over the last axis."""
    kind = spec.norm if kind is None else kind
    if kind == "layer":
        return F.layer_norm(x, x.shape[-1:], gain, bias, spec.norm_eps)
    if kind == "rms":
        return F.rms_norm(x, x.shape[-1:], gain, spec.norm_eps)
    return x
