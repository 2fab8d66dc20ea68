"""BayesFlow's SetTransformer and its blocks (Keras on the torch backend) as modules of PyTorch alone."""

from __future__ import annotations

from typing import Any

import keras
import torch
from bayesflow.networks.summary.transformers import SetTransformer
from bayesflow.networks.summary.transformers.attention import (
    InducedSetAttention,
    MultiHeadAttention,
    PoolingByMultiHeadAttention,
    SetAttention,
)
from torch import Tensor, nn

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.layers import activate
from settx_fast.compat.copying import Block, expect, mab_of
from settx_fast.nn import MAB


def from_bayesflow(layer: keras.Layer) -> nn.Module:
    """BayesFlow's SetTransformer, or a block of it, with copies of its weights, on their device and in their dtype.

    The layer has been called once, so that it has weights. Attention weights are dropped while training as by
    BayesFlow; its dropout within feed-forward layers is not. Raises TypeError for another layer, ValueError for one
    without weights or on another backend than torch.
    """
    expect(layer, SetTransformer, MultiHeadAttention, SetAttention, InducedSetAttention, PoolingByMultiHeadAttention)
    if keras.backend.backend() != "torch":
        raise ValueError(f"layer: expected the torch backend of Keras, got {keras.backend.backend()}")
    if not layer.weights:
        raise ValueError("layer: expected weights, which it has after its first call")
    made: nn.Module
    if isinstance(layer, MultiHeadAttention):
        made = ProjectedMAB(_linear(layer.input_projector), mab_of(*_block(layer)))
    elif isinstance(layer, SetAttention):
        made = ProjectedSAB(from_bayesflow(layer.mab))
    elif isinstance(layer, InducedSetAttention):
        made = ProjectedISAB(_tensor(layer.inducing_points), from_bayesflow(layer.mab0), from_bayesflow(layer.mab1))
    elif isinstance(layer, PoolingByMultiHeadAttention):
        made = GatedPMA(_tensor(layer.seed_vector), _gated(layer.feedforward), from_bayesflow(layer.mab))
    else:
        blocks = [from_bayesflow(block) for block in layer.attention_blocks]
        made = Summary(blocks, from_bayesflow(layer.pooling_by_attention), _linear(layer.output_projector))
    return made.eval()


class ProjectedMAB(nn.Module):
    """A MAB of linearly projected queries."""

    def __init__(self, projector: nn.Linear, mab: MAB) -> None:
        super().__init__()
        self.projector, self.mab = projector, mab

    def forward(self, query: Tensor, key: Tensor, **ragged: Tensor | None) -> Tensor:
        """Query (B, N_q, C_q) and key (B, N_k, C_k) → (B, N_q, D); `ragged` as of `MAB`."""
        return self.mab(self.projector(query), key, **ragged)


class ProjectedSAB(nn.Module):
    """A set over itself."""

    def __init__(self, mab: nn.Module) -> None:
        super().__init__()
        self.mab = mab

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, C) → (B, N, D)."""
        return self.mab(x, x, query_lengths=lengths, query_mask=mask, key_lengths=lengths, key_mask=mask)


class ProjectedISAB(nn.Module):
    """A set over itself through inducing points (M, D)."""

    def __init__(self, inducing: Tensor, mab0: nn.Module, mab1: nn.Module) -> None:
        super().__init__()
        self.I, self.mab0, self.mab1 = nn.Parameter(inducing[None]), mab0, mab1

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, C) → (B, N, D)."""
        hidden = self.mab0(self.I, x, key_lengths=lengths, key_mask=mask)
        return self.mab1(x, hidden, query_lengths=lengths, query_mask=mask)


class GatedFeedForward(nn.Module):
    """A layer times what an activation makes of another, then a third."""

    def __init__(self, gate: nn.Linear, up: nn.Linear, down: nn.Linear, activation: str) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.activation = gate, up, down, activation

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, D)."""
        return self.down(activate(self.gate(x), self.activation) * self.up(x))


class GatedPMA(nn.Module):
    """Seeds (K, S) read what a feed-forward layer makes of a set."""

    def __init__(self, seeds: Tensor, feed_forward: nn.Module, mab: nn.Module) -> None:
        super().__init__()
        self.S, self.feed_forward, self.mab = nn.Parameter(seeds[None]), feed_forward, mab

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, C) → (B, K · D)."""
        return self.mab(self.S, self.feed_forward(x), key_lengths=lengths, key_mask=mask).flatten(-2)


class Summary(nn.Module):
    """Attention blocks, pooling, a linear layer: BayesFlow's SetTransformer."""

    def __init__(self, blocks: list[nn.Module], pooling: nn.Module, projector: nn.Linear) -> None:
        super().__init__()
        self.blocks, self.pooling, self.projector = nn.ModuleList(blocks), pooling, projector

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, C) → (B, summary_dim)."""
        for block in self.blocks:
            x = block(x, lengths, mask)
        return self.projector(self.pooling(x, lengths, mask))


def _block(layer: MultiHeadAttention) -> Block:
    attention, feed_forward = layer.attention, layer.feedforward
    # kernels (in, heads, e) and (heads, e, out)
    into = attention.query_dense, attention.key_dense, attention.value_dense
    q, k, v = (_filled(_tensor(each.kernel).flatten(1), each.bias) for each in into)
    p = _filled(_tensor(attention.output_dense.kernel).flatten(0, 1), attention.output_dense.bias)
    o, o2, g = (_linear(each) for each in (feed_forward.up_proj, feed_forward.down_proj, feed_forward.gate_proj))
    norms: dict[str, Any] = {}
    if layer.layer_norm:
        norms = {
            "g0": _tensor(layer.ln_attn.scale), "g0_k": _tensor(layer.ln_kv.scale), "g1": _tensor(layer.ln_ffn.scale)
        }  # fmt: skip
    weights = BlockWeights(
        q.weight, q.bias, k.weight, k.bias, v.weight, v.bias, o.weight, o.bias, p.weight, p.bias, o2.weight, o2.bias,
        w_g=g.weight, b_g=g.bias, **norms,
    )  # fmt: skip
    norm: dict[str, Any] = {"norm": "rms", "key_norm": True, "norm_eps": layer.ln_attn.epsilon} if norms else {}
    spec = BlockSpec(
        layer.num_heads, norm_first=True, residual="input", output_projection=True, activation=feed_forward.glu_variant,
        ffn_dim=feed_forward.intermediate_dim, scale="head", dropout=layer.dropout_rate, bias=layer.use_bias, **norm,
    )  # fmt: skip
    return weights, spec


def _gated(layer: Any) -> GatedFeedForward:
    return GatedFeedForward(
        _linear(layer.gate_proj), _linear(layer.up_proj), _linear(layer.down_proj), layer.glu_variant
    )


def _linear(layer: Any) -> nn.Linear:
    """A linear layer with the weights of a Dense."""
    return _filled(_tensor(layer.kernel), layer.bias)


def _filled(kernel: Tensor, bias: Any) -> nn.Linear:
    """A linear layer of a kernel (in, out) and a bias, perhaps of several axes."""
    linear = nn.Linear(*kernel.shape, bias is not None, device=kernel.device, dtype=kernel.dtype)
    with torch.no_grad():
        linear.weight.copy_(kernel.T)
        if bias is not None:
            linear.bias.copy_(_tensor(bias).flatten())
    return linear


def _tensor(variable: Any) -> Tensor:
    return variable.value.detach().clone()
