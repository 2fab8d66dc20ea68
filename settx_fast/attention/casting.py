"""What autocast casts of a call: all parameters by one copy into one buffer, where one by one would take 26."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from settx_fast.attention.arguments import autocast
from settx_fast.attention.block import BlockWeights
from settx_fast.attention.shortcuts import is_autocast_on, plain, unobserved

ALIGNMENT = 256  # bytes between the beginnings of tensors in the buffer


def autocast_together(*blocks: BlockWeights) -> tuple[BlockWeights, ...]:
    """The weights of blocks in autocast's dtype where that is on for their device, else as they are."""
    cast = iter(_cast([w for weights in blocks for w in weights if w is not None]))
    return tuple(weights.map(lambda _: next(cast)) for weights in blocks)


def _cast(tensors: list[Tensor]) -> list[Tensor]:
    device, kind = tensors[0].device, tensors[0].dtype
    if not is_autocast_on(device) or not unobserved() or not plain(tensors):
        return [autocast(t) for t in tensors]
    dtype = torch.get_autocast_dtype(device.type)
    alike = all(t.dtype is kind and t.device == device for t in tensors)
    if not alike or kind is dtype or not kind.is_floating_point or kind is torch.float64:
        return [autocast(t) for t in tensors]
    return list(Together.apply(dtype, *tensors))


class Together(torch.autograd.Function):
    """Copies of tensors in another dtype, and their gradients back, by one operation each."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The copies."""
        ctx.dtype = tensors[0].dtype
        ctx.set_materialize_grads(False)
        return copies_of(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients in the dtype of the tensors."""
        if torch.is_grad_enabled():  # to be differentiated again
            return None, *(None if grad is None else grad.to(ctx.dtype) for grad in grads)
        given = [grad for grad in grads if grad is not None]
        copies = iter(copies_of(given, ctx.dtype) if given else ())
        return None, *(None if grad is None else next(copies) for grad in grads)


def copies_of(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Copies of tensors in row-major order, in one buffer."""
    step = ALIGNMENT // dtype.itemsize
    sizes: list[int] = []
    for tensor in tensors:
        sizes += tensor.numel(), -tensor.numel() % step
    flat = torch.empty(sum(sizes), dtype=dtype, device=tensors[0].device)
    parts = torch.unsafe_split_with_sizes(flat, sizes)[::2]
    copies = tuple(p if t.ndim == 1 else p.view(t.shape) for p, t in zip(parts, tensors, strict=True))
    torch._foreach_copy_(copies, list(tensors))
    return copies
