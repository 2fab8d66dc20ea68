"""The parts of a block in library calls that autograd, and every transform of torch.func, follows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights


def first_norm(x: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """What queries are made from: norm0(x) under norm_first, else x."""
    return norm(x, w.g0, w.b0, spec.norm, spec.norm_eps) if spec.norm_first else x


def first_key_norm(x: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """What keys and values are made from: as queries, or by a norm of their own."""
    return norm(x, w.g0_k, w.b0_k, spec.norm, spec.norm_eps) if spec.key_norm else first_norm(x, w, spec)


def scoring_heads(q: Tensor, k: Tensor, w: BlockWeights, spec: BlockSpec, query_scale: Tensor | None) -> list[Tensor]:
    """What scores are made of: queries (B or 1, Q, D) and keys (B, N, D) as normed heads, (B or 1, h, ·, e).

    `query_scale` (B or 1, Q, D) is multiplied onto the queries.
    """
    q, k = (split_heads(t, spec.num_heads) for t in (q, k))
    if spec.qk_norm != "none":
        q, k = norm(q, w.g_q, w.s_q, spec.qk_norm, spec.norm_eps), norm(k, w.g_k, w.s_k, spec.qk_norm, spec.norm_eps)
    return [q if query_scale is None else q * split_heads(query_scale, spec.num_heads), k]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) → (B, h, N, e)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, h, N, e) → (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


def softmax(scores: Tensor, valid: Tensor | None) -> Tensor:
    """Softmax of scores (B, h, N, M) over the keys that are valid (B, 1, 1, M; None: all); zeros where none is."""
    if valid is None:
        return scores.softmax(-1)
    return scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~valid, 0)


def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention of scaled queries (B, h, N, e) over keys and values (B, h, M, e), see `softmax`; drops weights."""
    return F.dropout(softmax(q @ k.mT, valid), dropout) @ v


def finish(residual: Tensor, attended: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """The block's output from its residual and what its heads attended to, both (…, D)."""
    if w.w_p is not None:
        attended = F.linear(attended, w.w_p, w.b_p)
    if spec.post_norm:
        attended = norm(attended, w.g_p, w.s_p, spec.norm, spec.norm_eps)
    out = residual + attended
    if spec.norm_first:
        return out + _feed_forward(norm(out, w.g1, w.b1, spec.norm, spec.norm_eps), w, spec)
    out = norm(out, w.g0, w.b0, spec.norm, spec.norm_eps)
    return norm(out + _feed_forward(out, w, spec), w.g1, w.b1, spec.norm, spec.norm_eps)


def norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, kind: str, eps: float) -> Tensor:
    """The norm of a kind ("none", "layer", "rms") over the last axis."""
    if kind == "layer":
        return F.layer_norm(x, x.shape[-1:], gain, bias, eps)
    if kind == "rms":
        return F.rms_norm(x, x.shape[-1:], gain, eps)
    return x


def activate(x: Tensor, activation: str) -> Tensor:
    """An activation; of a gated one, what it does to the gate."""
    if activation in ("relu", "reglu"):
        return F.relu(x)
    if activation in ("gelu", "geglu"):
        return F.gelu(x)
    return F.silu(x) if activation == "swiglu" else x


def _feed_forward(x: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    hidden = F.linear(x, w.w_o, w.b_o)
    if w.w_g is None:
        hidden = activate(hidden, spec.activation)
    else:
        hidden = hidden * activate(F.linear(x, w.w_g, w.b_g), spec.activation)
    out = hidden if w.w_o2 is None else F.linear(hidden, w.w_o2, w.b_o2)
    return norm(out, w.g_o, w.s_o, spec.norm, spec.norm_eps) if spec.post_norm else out
