"""What follows attention inside a block, in library calls that autograd follows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights


def first_norm(x: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """What queries and keys are made from: norm0(x) under norm_first, else x."""
    return norm(x, w.g0, w.b0, spec) if spec.norm_first else x


def finish(residual: Tensor, attended: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """The block's output from its residual and what its heads attended to, both (…, D)."""
    if w.w_p is not None:
        attended = F.linear(attended, w.w_p, w.b_p)
    out = residual + attended
    if spec.norm_first:
        return out + _feed_forward(norm(out, w.g1, w.b1, spec), w, spec)
    out = norm(out, w.g0, w.b0, spec)
    return norm(out + _feed_forward(out, w, spec), w.g1, w.b1, spec)


def norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, spec: BlockSpec) -> Tensor:
    """The norm that `spec` names, over the last axis."""
    if spec.norm == "layer":
        return F.layer_norm(x, x.shape[-1:], gain, bias, spec.norm_eps)
    if spec.norm == "rms":
        return F.rms_norm(x, x.shape[-1:], gain, spec.norm_eps)
    return x


def _feed_forward(x: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    hidden = F.linear(x, w.w_o, w.b_o)
    hidden = F.relu(hidden) if spec.activation == "relu" else F.gelu(hidden)
    return hidden if w.w_o2 is None else F.linear(hidden, w.w_o2, w.b_o2)
