"""PyTorch Geometric's Set Transformer: its blocks as ours, and its aggregation without padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.nn.aggr import SetTransformerAggregation as Padded
from torch_geometric.nn.aggr.utils import (
    InducedSetAttentionBlock,
    MultiheadAttentionBlock,
    PoolingByMultiheadAttention,
    SetAttentionBlock,
)

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.compat.copying import Block, copied, expect, mab_of, options_of
from settx_fast.nn import ISAB, PMA, SAB


def from_pyg(module: nn.Module) -> nn.Module:
    """A block or aggregation of torch_geometric.nn.aggr as ours, with copies of its weights.

    MultiheadAttentionBlock → MAB, SetAttentionBlock → SAB, InducedSetAttentionBlock → ISAB,
    PoolingByMultiheadAttention → `LayerAndPMA`, SetTransformerAggregation → `SetTransformerAggregation` of ours; what
    they call `mask` is ours too. Raises TypeError for another module.
    """
    expect(
        module,
        MultiheadAttentionBlock,
        SetAttentionBlock,
        InducedSetAttentionBlock,
        PoolingByMultiheadAttention,
        Padded,
    )
    made: Any
    if isinstance(module, MultiheadAttentionBlock):
        made = mab_of(*_block(module))
    elif isinstance(module, SetAttentionBlock):
        made = SAB(*_widths(module.mab), **_options(module.mab))
        made.mab = from_pyg(module.mab)
    elif isinstance(module, InducedSetAttentionBlock):
        made = ISAB(*_widths(module.mab1), num_inds=module.ind.shape[1], **_options(module.mab1))
        made.I.data.copy_(module.ind)
        made.mab0, made.mab1 = from_pyg(module.mab1), from_pyg(module.mab2)
    elif isinstance(module, PoolingByMultiheadAttention):
        made = LayerAndPMA(
            copied(module.lin), PMA(module.seed.shape[2], num_seeds=module.seed.shape[1], **_options(module.mab))
        )
        made.pma.S.data.copy_(module.seed)
        made.pma.mab = from_pyg(module.mab)
    else:
        made = SetTransformerAggregation.of(module)
    return made.train(module.training)


class LayerAndPMA(nn.Module):
    """PMA of relu(a linear layer), as PyG pools."""

    def __init__(self, lin: nn.Linear, pma: PMA) -> None:
        super().__init__()
        self.lin, self.pma = lin, pma

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim) → (B, num_seeds, dim)."""
        return self.pma(self.lin(x).relu(), lengths, mask)


class SetTransformerAggregation(Aggregation):
    """PyG's SetTransformerAggregation on our blocks: same arguments and numbers, no padding, any order of `index`.

    Groups come by `index` (R,), sorted or not, or by `ptr` (B + 1,); in an empty group the seeds read nothing, as in
    PyG's. `max_num_elements` is not needed and cuts nothing off.
    """

    def __init__(
        self,
        channels: int,
        num_seed_points: int = 1,
        num_encoder_blocks: int = 1,
        num_decoder_blocks: int = 1,
        heads: int = 1,
        concat: bool = True,
        layer_norm: bool = False,
        dropout: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.concat = channels, concat
        options: Any = {
            "num_heads": heads, "ln": layer_norm, "residual": "input", "output_projection": True, "scale": "head",
            "dropout": dropout, "device": device, "dtype": dtype,
        }  # fmt: skip
        self.encoders = nn.ModuleList(SAB(channels, channels, **options) for _ in range(num_encoder_blocks))
        lin = nn.Linear(channels, channels, device=device, dtype=dtype)
        self.pma = LayerAndPMA(lin, PMA(channels, num_seeds=num_seed_points, **options))
        self.decoders = nn.ModuleList(SAB(channels, channels, **options) for _ in range(num_decoder_blocks))

    @classmethod
    def of(cls, module: Padded) -> SetTransformerAggregation:
        """With copies of the weights of PyG's."""
        made = cls(module.channels, module.num_seed_points, 0, 0, module.heads, module.concat)
        made.encoders = nn.ModuleList(map(from_pyg, module.encoders))
        made.pma = from_pyg(module.pma)
        made.decoders = nn.ModuleList(map(from_pyg, module.decoders))
        return made

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                layer.reset_parameters()
        nn.init.xavier_uniform_(self.pma.pma.S)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,
    ) -> Tensor:
        """x (R, channels) in groups → (B, num_seed_points · channels), or (B, channels) unless `concat`."""
        self.assert_two_dimensional_input(x, dim)
        if ptr is None:
            x, ptr = _grouped(x, index, dim_size)
        groups: Any = torch.nested.nested_tensor_from_jagged(x, ptr)
        for encoder in self.encoders:
            groups = encoder(groups)
        out = self.pma(groups)
        for decoder in self.decoders:
            out = decoder(out)
        return out.flatten(1, 2) if self.concat else out.mean(1)


def _grouped(x: Tensor, index: Tensor | None, dim_size: int | None) -> tuple[Tensor, Tensor]:
    """Rows group after group, and where each group begins."""
    if index is None:
        raise ValueError("index: expected index or ptr, got neither")
    if bool((index[1:] < index[:-1]).any()):
        order = index.argsort(stable=True)
        x, index = x[order], index[order]
    if dim_size is None:
        dim_size = int(index[-1]) + 1 if len(index) else 0
    groups = torch.arange(dim_size + 1, device=x.device)
    if len(index) and int(index[-1]) >= dim_size:
        raise ValueError(f"dim_size: expected more than {int(index[-1])}, the largest index, got {dim_size}")
    return x, torch.searchsorted(index.contiguous(), groups)


def _block(module: MultiheadAttentionBlock) -> Block:
    attention, first, second = module.attn, module.layer_norm1, module.layer_norm2
    w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
    b_q, b_k, b_v = attention.in_proj_bias.chunk(3)
    norms = {} if first is None else {"g0": first.weight, "b0": first.bias, "g1": second.weight, "b1": second.bias}
    weights = BlockWeights(
        w_q, b_q, w_k, b_k, w_v, b_v, module.lin.weight, module.lin.bias,
        attention.out_proj.weight, attention.out_proj.bias, **norms,
    )  # fmt: skip
    eps = {} if first is None else {"norm": "layer", "norm_eps": first.eps}
    spec = BlockSpec(
        module.heads, residual="input", output_projection=True, scale="head", dropout=module.dropout, **eps
    )
    return weights, spec


def _widths(module: MultiheadAttentionBlock) -> tuple[int, int]:
    return module.channels, module.channels


def _options(module: MultiheadAttentionBlock) -> dict[str, Any]:
    weights, spec = _block(module)
    return options_of(spec, weights.w_q)
