"""Blocks that operators do not know as equal ones that they do: by zeros, and by norms folded into what reads them.

Operators, tiles and kernels alike, carry the options of a block before `dropout` (see `BlockSpec`). What a block has
beyond them is made of these here, in steps that autograd follows.
"""

from __future__ import annotations

from typing import Any

import torch

from settx_fast.attention.block import BlockSpec, BlockWeights

# vectors that a spec may leave out, by the matrix or gain beside them
_BESIDE = {"b_q": "w_q", "b_k": "w_k", "b_v": "w_v", "b_o": "w_o", "b_p": "w_p", "b_o2": "w_o2", "b0": "g0", "b1": "g1"}


def why_not_lowered(weights: BlockWeights, spec: BlockSpec) -> str | None:
    """Why no operator does a block, or None."""
    if spec.qk_norm != "none":
        return "queries and keys are normed head by head"
    if spec.post_norm:
        return "what attention and feed-forward add is normed"
    if spec.gated:
        return "the feed-forward layers have a gate"
    if spec.key_norm and weights.w_q.shape[1] != weights.w_k.shape[1]:
        return "keys of another width than the queries have a norm of their own"
    return None


def lowered(weights: BlockWeights, spec: BlockSpec) -> tuple[BlockWeights, BlockSpec]:
    """Weights and spec of an equal block whose options operators carry; `why_not_lowered` is None for it."""
    if spec.lowered is spec:
        return weights, spec
    if spec.key_norm:
        weights = _without_key_norm(weights)
    return _with_biases(weights, spec.lowered), spec.lowered


def _with_biases(w: BlockWeights, spec: BlockSpec) -> BlockWeights:
    """Zeros for every bias of the spec that is not there."""
    given = w._asdict()
    names = [name for name in spec.weight_names if given[name] is None]
    if not names:
        return w
    widths = [given[_BESIDE[name]].shape[0] for name in names]
    zeros = w.w_q.new_zeros(max(widths))
    return w._replace(**{name: zeros[:width] for name, width in zip(names, widths, strict=True)})


def _without_key_norm(w: BlockWeights) -> BlockWeights:
    """Both first norms without gain and bias, which the layers that read them take over."""
    folded: dict[str, Any] = {}
    for name, gain, shift in (("q", w.g0, w.b0), ("k", w.g0_k, w.b0_k), ("v", w.g0_k, w.b0_k)):
        weight, bias = getattr(w, f"w_{name}"), getattr(w, f"b_{name}")
        folded[f"w_{name}"] = weight * gain
        if shift is not None:
            bias = weight @ shift if bias is None else torch.addmv(bias, weight, shift)
        folded[f"b_{name}"] = bias
    assert w.g0 is not None  # a first norm has a gain
    return w._replace(**folded, g0=torch.ones_like(w.g0), b0=None, g0_k=None, b0_k=None)
