"""Norms over the last axis of a tile, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Normed(NamedTuple):
    """A normed tile and what its backward needs."""

    out: Tensor
    x: Tensor
    mean: Tensor
    rstd: Tensor


def forward(x: Tensor, gain: Tensor, bias: Tensor | None, kind: str, eps: float) -> Normed:
    """Norm of (R, D) rows; statistics are (R, 1)."""
    if kind == "layer":
        out, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, bias, eps)
        return Normed(out, x, mean, rstd)
    rstd = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return Normed((x * rstd).mul_(gain), x, rstd, rstd)


def backward(
    d_out: Tensor, normed: Normed, gain: Tensor, bias: Tensor | None, kind: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of rows, gain and bias."""
    _, x, mean, rstd = normed
    if kind == "layer":
        shape = x.shape[-1:]
        return torch.ops.aten.native_layer_norm_backward(d_out, x, shape, mean, rstd, gain, bias, [True, True, True])
    unit = x * rstd
    d_gain = (d_out * unit).sum(0)
    d_unit = d_out * gain
    d_x = d_unit.addcmul_(unit, (d_unit * unit).mean(-1, keepdim=True), value=-1).mul_(rstd)
    return d_x, d_gain, None
