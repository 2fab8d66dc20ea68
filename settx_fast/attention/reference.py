"""The oracle: the formulas of Lee et al. 2019 and of the block family, one line each, for any dtype and device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.sets import Sets


def attention_block(query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec) -> Tensor:
    """MAB(query, key), see `functional.attention_block`."""
    q_in, q_valid = query.padded().cleaned()
    k_in, k_valid = key.padded().cleaned()
    w = weights
    q_normed = _norm(q_in, w.g0, w.b0, spec) if spec.norm_first else q_in
    k_normed = _norm(k_in, w.g0, w.b0, spec) if spec.norm_first else k_in
    q, k, v = F.linear(q_normed, w.w_q, w.b_q), F.linear(k_normed, w.w_k, w.b_k), F.linear(k_normed, w.w_v, w.b_v)
    heads = zip(*(t.chunk(spec.num_heads, -1) for t in (q, k, v)), strict=True)
    scale = spec.score_scale(q.shape[-1])
    attended = torch.cat(
        [F.dropout(_softmax(q_h @ k_h.mT * scale, k_valid), spec.dropout) @ v_h for q_h, k_h, v_h in heads], -1
    )
    if w.w_p is not None:
        attended = F.linear(attended, w.w_p, w.b_p)
    out = _feed_forward((q if spec.residual == "projected" else q_in) + attended, w, spec)
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
) -> Tensor:
    """MAB_b(x, MAB_a(inducing, context)), see `functional.induced_set_attention`."""
    hidden = attention_block(Sets(inducing), context, weights_a, spec_a)
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
    hidden = F.linear(x, w.w_o, w.b_o)
    hidden = F.relu(hidden) if spec.activation == "relu" else F.gelu(hidden)
    return hidden if w.w_o2 is None else F.linear(hidden, w.w_o2, w.b_o2)


def _norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, spec: BlockSpec) -> Tensor:
    if spec.norm == "layer":
        return F.layer_norm(x, x.shape[-1:], gain, bias, spec.norm_eps)
    if spec.norm == "rms":
        return F.rms_norm(x, x.shape[-1:], gain, spec.norm_eps)
    return x
