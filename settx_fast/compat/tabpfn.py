"""TabPFN's feature distribution embedder (v3 and v3.5) on our blocks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from tabpfn.architectures import tabpfn_v3, tabpfn_v3_5
from torch import Tensor, nn

from settx_fast import functional
from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.compat.copying import Block, expect, mab_of, options_of
from settx_fast.compat.scaling import QueryScaling, ScaledISAB, factors, projected_queries
from settx_fast.nn import ISAB


class _Fast(nn.Module):
    """TabPFN's induced block, computed by ours from the same parameters; chunks and caches are TabPFN's."""

    def _induced_attention(
        self: Any,
        x: Tensor,
        single_eval_pos: int | None = None,
        cached_hidden: Tensor | None = None,
        *,
        return_hidden: bool = False,
        enable_torch_compile: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x (B, R, E) → (B, R, E), with what the inducing points read where asked for; see TabPFN's."""
        weights_b, spec_b = block_of(self.cross_attn_block2)
        if cached_hidden is not None or return_hidden:
            hidden = self._read(x, single_eval_pos) if cached_hidden is None else cached_hidden.to(x.dtype)
            out = functional.attention_block(x, hidden, weights_b, spec_b)
            return (out, hidden.detach()) if return_hidden else out
        weights_a, spec_a = block_of(self.cross_attn_block1)
        return functional.induced_set_attention(
            x,
            self.inducing_vectors[None].to(x.dtype),
            weights_a,
            spec_a,
            weights_b,
            spec_b,
            context_lengths=single_eval_pos,
            query_scale=self._scale(x, single_eval_pos),
        )

    def _read(self: Any, x: Tensor, single_eval_pos: int | None) -> Tensor:
        weights, spec = block_of(self.cross_attn_block1)
        scale = self._scale(x, single_eval_pos)
        inducing = self.inducing_vectors[None].to(x.dtype)
        return functional.attention_block(inducing, x[:, :single_eval_pos], weights, spec, query_scale=scale)

    def _scale(self: Any, x: Tensor, single_eval_pos: int | None) -> Tensor | None:
        layer = self.cross_attn_block1.attn.softmax_scaling_layer
        if layer is None:
            return None
        weights, spec = block_of(self.cross_attn_block1)
        q = projected_queries(self.inducing_vectors[None].to(x.dtype), weights, spec)
        size = x.shape[1] if single_eval_pos is None else single_eval_pos
        return factors(layer.base_mlp, layer.query_mlp, layer.num_heads, q, size, torch.float32)


class FastBlockV3(_Fast, tabpfn_v3.InducedSelfAttentionBlock):
    """Of TabPFN 3."""


class FastBlockV35(_Fast, tabpfn_v3_5.InducedSelfAttentionBlock):
    """Of TabPFN 3.5."""


_FAST = {
    tabpfn_v3.InducedSelfAttentionBlock: FastBlockV3,
    tabpfn_v3_5.InducedSelfAttentionBlock: FastBlockV35,
}


def patch_tabpfn(model: nn.Module) -> nn.Module:
    """Have the feature distribution embedder of a TabPFN 3 or 3.5 model compute by our blocks; returns the model.

    `model` is the architecture or any module with InducedSelfAttentionBlocks inside. Parameters, state_dict, hooks and
    optimizers stay as they are. Raises ValueError where there is no such block.
    """
    blocks = [block for block in model.modules() if type(block) in _FAST or isinstance(block, _Fast)]
    if not blocks:
        raise ValueError(f"model: expected InducedSelfAttentionBlocks of tabpfn inside, got {type(model).__name__}")
    for block in blocks:
        block.__class__ = _FAST.get(type(block), type(block))  # type: ignore[assignment]
    return model


def from_tabpfn(module: nn.Module) -> ISAB:
    """The InducedSelfAttentionBlock of TabPFN 3 or 3.5 as an ISAB, with copies of its weights.

    It reads (B, rows, E), where TabPFN's reads (B, rows, columns, E); `single_eval_pos` is `context_lengths`. Raises
    TypeError for another module.
    """
    expect(module, *_FAST)
    block: Any = module
    (weights_a, spec_a), (weights_b, spec_b) = block_of(block.cross_attn_block1), block_of(block.cross_attn_block2)
    sizes: Any = block.inducing_vectors.shape[1], weights_b.w_q.shape[0]
    options: dict[str, Any] = {"num_inds": block.num_inducing_points, **options_of(spec_a, weights_a.w_q)}
    layer = block.cross_attn_block1.attn.softmax_scaling_layer
    if layer is None:
        made = ISAB(*sizes, **options)
    else:
        networks = deepcopy(layer.base_mlp), deepcopy(layer.query_mlp)
        scaling = QueryScaling(layer.num_heads, *networks, log_dtype=torch.float32)
        made = ScaledISAB(*sizes, **options, scaling=scaling)
    made.I.data.copy_(block.inducing_vectors[None])
    made.mab0, made.mab1 = mab_of(weights_a, spec_a), mab_of(weights_b, spec_b)
    return made.train(module.training)


def block_of(module: Any) -> Block:
    """The parameters of TabPFN's cross-attention block and what it computes."""
    attention, mlp = module.attn, module.mlp
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    weights = BlockWeights(
        attention.q_projection.weight, None, attention.k_projection.weight, None, attention.v_projection.weight, None,
        mlp[0].weight, None, attention.out_projection.weight, None, mlp[2].weight, None,
        g0=_gain(module.layernorm_q), g1=_gain(module.layernorm2), g0_k=_gain(module.layernorm_kv),
        g_q=None if q_norm is None else _gain(q_norm), g_k=None if k_norm is None else _gain(k_norm),
    )  # fmt: skip
    eps = module.layernorm_q.eps
    spec = BlockSpec(
        attention.num_heads,
        "rms",
        True,
        "input",
        True,
        "gelu",
        mlp[0].out_features,
        "head",
        torch.finfo(weights.w_q.dtype).eps if eps is None else eps,  # what PyTorch takes for None
        bias=False,
        key_norm=True,
        qk_norm="none" if q_norm is None else "rms",
    )
    return weights, spec


def _gain(norm: nn.RMSNorm) -> Tensor:
    if norm.weight is None:
        raise ValueError("norm: expected gains (layernorm_elementwise_affine), got none")
    return norm.weight
