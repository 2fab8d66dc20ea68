"""The ways to compute an ISAB that stand beside ours, on the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from settx_fast import BlockSpec, BlockWeights, functional
from settx_fast.attention.layers import finish, first_norm
from settx_fast.testing import Inputs

Run = Callable[[Inputs], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def contenders(inputs: Inputs, *, compiled: bool) -> dict[str, Run]:
    """Forward functions by name, the original first, ours last; `compiled` adds torch.compile of the others."""
    cuda = inputs.x.is_cuda
    eager: dict[str, Run] = {"original": _original, "composed (SDPA)": _composed}
    found = dict(eager)
    if compiled:
        found |= {f"{name}, compiled": torch.compile(run, dynamic=False) for name, run in eager.items()}
    if cuda and inputs.lengths is None:
        found["FlexAttention"] = torch.compile(_flex, dynamic=False)
    return found | {"ours": _ours}


def _ours(i: Inputs) -> Tensor:
    return functional.induced_set_attention(*i[:6], lengths=i.lengths)


def _composed(i: Inputs) -> Tensor:
    return functional.induced_set_attention(*i[:6], lengths=i.lengths, impl="composed")


def _original(i: Inputs) -> Tensor:
    """The original's sequence of eager operations; ragged sets, which it lacks, padded and masked by the reference."""
    if i.lengths is not None:
        return functional.induced_set_attention(*i[:6], lengths=i.lengths, impl="reference")
    return _isab(i, _heads_on_the_batch_axis)


def _flex(i: Inputs) -> Tensor:
    return _isab(i, _flex_attention)


def _isab(i: Inputs, attend: Attend) -> Tensor:
    hidden = _block(i.inducing.repeat(len(i.x), 1, 1), i.x, i.weights_a, i.spec_a, attend)
    return _block(i.x, hidden, i.weights_b, i.spec_b, attend)


def _block(query: Tensor, key: Tensor, w: BlockWeights, spec: BlockSpec, attend: Attend) -> Tensor:
    read_q, read_k = first_norm(query, w, spec), first_norm(key, w, spec)
    linear = torch.nn.functional.linear
    q, k, v = linear(read_q, w.w_q, w.b_q), linear(read_k, w.w_k, w.b_k), linear(read_k, w.w_v, w.b_v)
    q_h, k_h, v_h = (torch.cat(t.split(t.shape[-1] // spec.num_heads, 2), 0) for t in (q, k, v))  # (H·B, ·, E)
    out = attend(q_h, k_h, v_h, spec.score_scale(q.shape[-1]))
    attended = torch.cat(out.split(len(q), 0), 2)
    return finish(q if spec.residual == "projected" else query, attended, w, spec)


def _heads_on_the_batch_axis(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(q.bmm(k.transpose(1, 2)) * scale, 2).bmm(v)


def _flex_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    out = flex_attention(q[:, None], k[:, None], v[:, None], scale=scale)
    assert isinstance(out, Tensor)
    return out[:, 0]
