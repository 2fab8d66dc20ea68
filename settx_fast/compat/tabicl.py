"""TabICL's column embedder (v1 and v2) on our blocks.

TabICL: Qu et al. 2025, arXiv:2502.05564; v2: arXiv:2602.11139.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from tabicl._model.encoders import SetTransformer
from tabicl._model.layers import InducedSelfAttentionBlock, MultiheadAttentionBlock
from tabicl._model.ssmax import QASSMaxMLP, SSMax, SSMaxMLP
from torch import Tensor, nn

from settx_fast import functional
from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.compat.copying import Block, expect, mab_of, options_of
from settx_fast.compat.scaling import QueryScaling, ScaledISAB, factors, projected_queries
from settx_fast.nn import ISAB


class FastBlock(InducedSelfAttentionBlock):
    """TabICL's induced block, computed by ours from the same parameters; skipped columns and caches are TabICL's."""

    def induced_attention(self, src: Tensor, train_size: int | None = None) -> Tensor:
        """src (…, T, E) → (…, T, E); inducing points read the first train_size rows."""
        weights_a, spec_a = block_of(self.multihead_attn1)
        weights_b, spec_b = block_of(self.multihead_attn2)
        inducing = self.ind_vectors[None].to(src.dtype)
        size, parts, scale = src.shape[-2] if train_size is None else train_size, _parts(self), None
        if parts is not None:
            heads, base, query = parts
            scale = factors(base, query, heads, projected_queries(inducing, weights_a, spec_a), size)
        return functional.induced_set_attention(
            src, inducing, weights_a, spec_a, weights_b, spec_b, context_lengths=train_size, query_scale=scale
        )


def patch_tabicl(model: nn.Module) -> nn.Module:
    """Have the column embedder of a TabICL model compute by our blocks; returns the model.

    `model` is a TabICL, its ColEmbedding or any module with InducedSelfAttentionBlocks inside. Parameters, state_dict,
    hooks and optimizers stay as they are. Raises ValueError where there is no such block, or one that drops while
    training (dropout > 0) or has an activation of its own.
    """
    blocks = [block for block in model.modules() if isinstance(block, InducedSelfAttentionBlock)]
    if not blocks:
        raise ValueError(f"model: expected InducedSelfAttentionBlocks of tabicl inside, got {type(model).__name__}")
    for block in blocks:
        block_of(block.multihead_attn1)
        block_of(block.multihead_attn2)
        _parts(block)
    for block in blocks:
        block.__class__ = FastBlock
    return model


def from_tabicl(module: nn.Module) -> ISAB | Columns:
    """TabICL's InducedSelfAttentionBlock as an ISAB, its SetTransformer as `Columns`, with copies of their weights.

    What TabICL calls `train_size` is `context_lengths`; columns marked as skipped are not known. Raises TypeError for
    another module, ValueError for one that drops while training or has an activation of its own.
    """
    expect(module, InducedSelfAttentionBlock, SetTransformer)
    if isinstance(module, SetTransformer):
        return Columns(*(from_tabicl(block) for block in module.blocks)).train(module.training)
    (weights_a, spec_a), (weights_b, spec_b) = block_of(module.multihead_attn1), block_of(module.multihead_attn2)
    sizes: Any = module.ind_vectors.shape[1], weights_b.w_q.shape[0]
    options: dict[str, Any] = {"num_inds": module.num_inds, **options_of(spec_a, weights_a.w_q)}
    parts = _parts(module)
    made = ISAB(*sizes, **options) if parts is None else ScaledISAB(*sizes, **options, scaling=_scaling(*parts))
    made.I.data.copy_(module.ind_vectors[None])
    made.mab0, made.mab1 = mab_of(weights_a, spec_a), mab_of(weights_b, spec_b)
    return made.train(module.training)


class Columns(nn.Sequential):
    """ISABs in a row that read the same context."""

    def forward(self, x: Tensor, context_lengths: Tensor | int | None = None) -> Tensor:
        """(…, N, D) → (…, N, D)."""
        for layer in self:
            x = layer(x, context_lengths=context_lengths)
        return x


def block_of(module: MultiheadAttentionBlock) -> Block:
    """The parameters of TabICL's attention block, as views, and what it computes."""
    if module.dropout.p or module.attn.dropout:
        raise ValueError(f"dropout: expected 0, got {module.dropout.p or module.attn.dropout}")
    if module.activation not in (F.gelu, F.relu):
        raise ValueError(f"activation: expected gelu or relu of torch.nn.functional, got {module.activation}")
    attention, first, second = module.attn, module.norm1, module.norm2
    w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
    b_q, b_k, b_v = attention.in_proj_bias.chunk(3)
    weights = BlockWeights(
        w_q, b_q, w_k, b_k, w_v, b_v, module.linear1.weight, module.linear1.bias,
        attention.out_proj.weight, attention.out_proj.bias, module.linear2.weight, module.linear2.bias,
        first.weight, first.bias, second.weight, second.bias,
    )  # fmt: skip
    spec = BlockSpec(
        attention.num_heads,
        "layer",
        module.norm_first,
        "input",
        True,
        "gelu" if module.activation is F.gelu else "relu",
        module.linear1.out_features,
        "head",
        first.eps,
        norm_bias=first.bias is not None,
    )
    return weights, spec


def _parts(block: InducedSelfAttentionBlock) -> tuple[int, nn.Module, nn.Module | None] | None:
    """Heads and networks of a block's scalable softmax, None where it has none."""
    layer = block.multihead_attn1.attn.ssmax_layer
    if layer is None:
        return None
    if isinstance(layer, SSMax):
        return block.multihead_attn1.attn.num_heads, _PerHead(layer.scales), None
    if isinstance(layer, QASSMaxMLP):
        return layer.num_heads, layer.base_mlp, layer.query_mlp
    if isinstance(layer, SSMaxMLP):
        return layer.num_heads, layer.mlp, None
    raise ValueError(f"ssmax_layer: expected one of tabicl._model.ssmax, got {type(layer).__name__}")


class _PerHead(nn.Module):
    """log n times a factor of each head."""

    def __init__(self, scales: nn.Parameter) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, log_size: Tensor) -> Tensor:
        return log_size * self.scales


def _scaling(heads: int, base: nn.Module, query: nn.Module | None) -> QueryScaling:
    return QueryScaling(heads, deepcopy(base), deepcopy(query))
