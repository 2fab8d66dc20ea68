"""The block out of library calls, for any device, shape and dtype that PyTorch takes: where no kernel of ours fits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.derivatives import Refined, is_transformed
from settx_fast.attention.layers import (
    attend,
    finish,
    first_key_norm,
    first_norm,
    join_heads,
    scoring_heads,
    softmax,
    split_heads,
)
from settx_fast.attention.sets import Sets


def attention_block(
    query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, query_scale: Tensor | None = None
) -> Tensor:
    """MAB(query, key), see `functional.attention_block`."""
    w = weights
    q_in, q_valid = query.padded().cleaned()
    k_in, k_valid = key.padded().cut().cleaned()
    q = F.linear(first_norm(q_in, w, spec), w.w_q, w.b_q)
    k_read = first_key_norm(k_in, w, spec)
    k, v = F.linear(k_read, w.w_k, w.b_k), F.linear(k_read, w.w_v, w.b_v)
    q_heads, k_heads = scoring_heads(q, k, w, spec, query_scale)
    attended = _attend(q_heads, k_heads, split_heads(v, spec.num_heads), k_valid, spec, spec.score_scale(q.shape[-1]))
    out = finish(q if spec.residual == "projected" else q_in, attended, w, spec)
    return query.packed_like(out if q_valid is None else out.masked_fill(~q_valid, 0))


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


def attention_weights(
    query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, query_scale: Tensor | None = None
) -> Tensor:
    """What every head reads, (B, h, N_q, N_k) of padded sets, see `functional.attention_weights`."""
    w = weights
    q_in, q_valid = query.padded().cleaned()
    k_in, k_valid = key.padded().cleaned()
    q = F.linear(first_norm(q_in, w, spec), w.w_q, w.b_q)
    k = F.linear(first_key_norm(k_in, w, spec), w.w_k, w.b_k)
    q_heads, k_heads = scoring_heads(q, k, w, spec, query_scale)
    scores = q_heads * spec.score_scale(w.w_q.shape[0]) @ k_heads.mT
    read = softmax(scores, None if k_valid is None else k_valid.mT[:, None])
    return read if q_valid is None else read.masked_fill(~q_valid[:, None], 0)


def _attend(q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None, spec: BlockSpec, scale: float) -> Tensor:
    """Concatenated heads (B, Q, D) of q (B or 1, h, Q, e) over k, v (B, h, N, e), of which k_valid (B, N, 1) count."""
    dropout = spec.dropout if spec.drops else 0.0
    q = q.expand(k.shape[0], -1, -1, -1)
    valid = None if k_valid is None else k_valid.mT[:, None]  # (B, 1, 1, N)
    if is_transformed() or k.shape[2] == 0:
        return join_heads(attend(q * scale, k, v, valid, dropout))
    attended = _library_attention(q, k, v, valid, scale, dropout)
    if attended.requires_grad and not (spec.drops or torch.compiler.is_compiling() or torch.jit.is_tracing()):
        attended = Refined.apply(attended, lambda q, k, v: attend(q * scale, k, v, valid), q, k, v)
    return join_heads(attended)


def _library_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, scale: float, dropout: float) -> Tensor:
    if valid is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    # an empty set reads all of its zeros, so that no softmax is NaN, and what it read is dropped
    nonempty = valid.any(-1, keepdim=True)
    mask = valid | ~nonempty
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    return attended.masked_fill(~nonempty, 0)
