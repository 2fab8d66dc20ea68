"""PyTorch's own attention on a tile, which never writes scores: faster where they outnumber features."""

from __future__ import annotations

import torch
from torch import Tensor

_aten = torch.ops.aten


def takes(scores: int, width: int, outside: Tensor | None) -> bool:
    """Whether it is the faster one for so many scores of an element and head, `width` features wide, all to count."""
    return outside is None and scores > width


def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (b, h, Q, e) of scaled queries over keys and values (b, h, N, e), log-sum-exp (b, h, Q) of scores."""
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=1.0)
    return out, lse


def backward(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values; `out` and `lse` may be of more keys than these."""
    backward_of = _aten._scaled_dot_product_flash_attention_for_cpu_backward
    d_q, d_k, d_v = backward_of(d_out, q, k, v, out, lse, 0.0, False, scale=1.0)
    return d_q, d_k, d_v
