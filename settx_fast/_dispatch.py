"""Which implementation takes a call, and why not the fused kernels."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from settx_fast._block import BlockSpec, BlockWeights


def why_not_triton(x: Tensor, num_latents: int, *blocks: tuple[BlockWeights, BlockSpec]) -> str | None:
    """The reason why the fused kernels cannot take a call, or None when they can.

    `x` holds the rows of the long side, (B, N, C) or packed (R, C); `num_latents` is the size M of the short side.
    """
    if x.device.type != "cuda":
        return f"the tensor is on {x.device.type}, the kernels need cuda"
    if find_spec("triton") is None:
        return "triton is not installed"
    if find_spec("settx_fast._autograd") is None:
        return "this build has no kernels"
    return None
