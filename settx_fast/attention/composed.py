"""The block out of library calls, for any device, shape and dtype that PyTorch takes: where no kernel of ours fits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.layers import finish, first_norm
from settx_fast.attention.sets import Sets


def attention_block(query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec) -> Tensor:
    """MAB(query, key), see `functional.attention_block`."""
    w = weights
    q_in, q_valid = query.padded().cleaned()
    k_in, k_valid = key.padded().cleaned()
    q = F.linear(first_norm(q_in, w, spec), w.w_q, w.b_q)
    k_read = first_norm(k_in, w, spec)
    k, v = F.linear(k_read, w.w_k, w.b_k), F.linear(k_read, w.w_v, w.b_v)
    out = finish(q if spec.residual == "projected" else q_in, _attend(q, k, v, k_valid, spec), w, spec)
    return query.packed_like(out if q_valid is None else out.masked_fill(~q_valid, 0))


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


def _attend(q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None, spec: BlockSpec) -> Tensor:
    """Concatenated heads (B, Q, D) of q (B or 1, Q, D) over k, v (B, N, D), of which k_valid (B, N, 1) count."""
    scale = spec.score_scale(q.shape[-1])
    q = q.expand(k.shape[0], -1, -1)
    q, k, v = (t.unflatten(-1, (spec.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    if k.shape[2] == 0:
        return (q @ k.mT @ v).transpose(1, 2).flatten(2)
    if k_valid is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)
    # an empty set reads all of its zeros, so that no softmax is NaN, and what it read is dropped
    nonempty = k_valid.any(1, keepdim=True)  # (B, 1, 1)
    mask = (k_valid | ~nonempty).mT[:, None]  # (B, 1, 1, N)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)
    return attended.masked_fill(~nonempty, 0)
