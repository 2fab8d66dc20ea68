"""Blocks of ours with the weights of others."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.nn import MAB

Block = tuple[BlockWeights, BlockSpec]


def mab_of(weights: BlockWeights, spec: BlockSpec) -> MAB:
    """A MAB with copies of the weights, on their device and in their dtype."""
    mab = MAB(weights.w_q.shape[1], weights.w_k.shape[1], weights.w_q.shape[0], **options_of(spec, weights.w_q))
    with torch.no_grad():
        for own, other in zip(mab.weights, weights, strict=True):
            if own is not None and other is not None:
                own.copy_(other)
    return mab


def options_of(spec: BlockSpec, like: Tensor) -> dict[str, Any]:
    """The keywords of a block of ours with such a spec, on the device and in the dtype of a tensor."""
    options = {known.name: getattr(spec, known.name) for known in fields(spec) if known.init}
    return options | {"device": like.device, "dtype": like.dtype}


def copied(layer: nn.Linear) -> nn.Linear:
    """A linear layer with copies of the weights of another."""
    made = nn.Linear(
        layer.in_features, layer.out_features, layer.bias is not None,
        device=layer.weight.device, dtype=layer.weight.dtype,
    )  # fmt: skip
    made.load_state_dict(layer.state_dict())
    return made


def expect(module: object, *classes: type) -> None:
    """Raise TypeError unless the module is of one of the classes."""
    if not isinstance(module, classes):
        names = " or ".join(each.__name__ for each in classes)
        raise TypeError(f"module: expected {names} of {classes[0].__module__}, got {type(module).__name__}")
