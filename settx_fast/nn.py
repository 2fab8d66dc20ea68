"""Drop-in modules of the Set Transformer: parameters and one functional call each.

Positional arguments, parameter names, initialisation and numbers are those of the original code (Lee et al. 2019,
arXiv:1810.00825), so a state_dict of either loads into the other. Ragged sets, device and dtype, and the block family
of `BlockSpec` come through keywords. Inputs are (B, N, C) tensors or jagged nested tensors; `lengths` (B,) or a bool
`mask` (B, N), True for an element, say what belongs to a padded set.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from settx_fast import functional
from settx_fast.attention.arguments import check_block
from settx_fast.attention.block import Activation, BlockSpec, BlockWeights, Norm, Residual, Scale
from settx_fast.attention.functional import Impl


class BlockOptions(TypedDict, total=False):
    """Keywords of `MAB` that the other modules hand on to their blocks."""

    norm: Norm | None
    norm_first: bool
    residual: Residual
    output_projection: bool
    activation: Activation
    ffn_dim: int | None
    scale: Scale
    norm_eps: float
    impl: Impl | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class MAB(nn.Module):
    """Multihead attention block: every element of a query set reads a whole key set.

    `dim_Q` and `dim_K` are the widths of query and key, `dim_V` the width D of the output, a multiple of `num_heads`.
    `ln` adds layer norms, `norm` names another kind; the keywords up to `norm_eps` are the fields of `BlockSpec`, whose
    defaults are the original block. `impl` forces an implementation (`functional.Impl`). Raises ValueError where sizes
    or options do not fit together. Source: Lee et al. 2019, equation 6.
    """

    def __init__(
        self,
        dim_Q: int,
        dim_K: int,
        dim_V: int,
        num_heads: int,
        ln: bool = False,
        *,
        norm: Norm | None = None,
        norm_first: bool = False,
        residual: Residual = "projected",
        output_projection: bool = False,
        activation: Activation = "relu",
        ffn_dim: int | None = None,
        scale: Scale = "model",
        norm_eps: float = 1e-5,
        impl: Impl | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        norm = norm or ("layer" if ln else "none")
        self.spec = BlockSpec(
            num_heads, norm, norm_first, residual, output_projection, activation, ffn_dim, scale, norm_eps
        )
        self.impl = impl
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        # fc_q, fc_k, fc_v, fc_o in this order: the original's weights for the same random seed
        self.fc_q = nn.Linear(dim_Q, dim_V, **factory)
        self.fc_k = nn.Linear(dim_K, dim_V, **factory)
        self.fc_v = nn.Linear(dim_K, dim_V, **factory)
        if norm != "none":
            make_norm = nn.LayerNorm if norm == "layer" else nn.RMSNorm
            self.ln0 = make_norm(dim_Q if norm_first else dim_V, norm_eps, **factory)
            self.ln1 = make_norm(dim_V, norm_eps, **factory)
        self.fc_o = nn.Linear(dim_V, ffn_dim or dim_V, **factory)
        if ffn_dim is not None:
            self.fc_o2 = nn.Linear(ffn_dim, dim_V, **factory)
        if output_projection:
            self.fc_p = nn.Linear(dim_V, dim_V, **factory)
        check_block("MAB", self.weights, self.spec, self.fc_q.weight, dim_K)

    @property
    def weights(self) -> BlockWeights:
        """The parameters as `functional` takes them."""
        layers = {"q": "fc_q", "k": "fc_k", "v": "fc_v", "p": "fc_p", "o": "fc_o", "o2": "fc_o2"}
        tensors: dict[str, Any] = {}
        for suffix, name in layers.items():
            layer = getattr(self, name, None)
            tensors[f"w_{suffix}"] = getattr(layer, "weight", None)
            tensors[f"b_{suffix}"] = getattr(layer, "bias", None)
        for index in (0, 1):
            norm = getattr(self, f"ln{index}", None)
            tensors[f"g{index}"] = getattr(norm, "weight", None)
            tensors[f"b{index}"] = getattr(norm, "bias", None)
        return BlockWeights(**tensors)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        query_lengths: Tensor | None = None,
        query_mask: Tensor | None = None,
        key_lengths: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """Query (B, N_q, dim_Q) or (1, N_q, dim_Q) and key (B, N_k, dim_K) → (B, N_q, dim_V)."""
        return functional.attention_block(
            query,
            key,
            self.weights,
            self.spec,
            query_lengths=query_lengths,
            query_mask=query_mask,
            key_lengths=key_lengths,
            key_mask=key_mask,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        """The options of the block."""
        return f"{self.spec}" + (f", impl={self.impl!r}" if self.impl else "")


class SAB(nn.Module):
    """Set attention block: every element of a set reads all of it; cost grows with the square of its size."""

    def __init__(
        self, dim_in: int, dim_out: int, num_heads: int, ln: bool = False, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        self.mab = MAB(dim_in, dim_in, dim_out, num_heads, ln, **options)

    def forward(self, x: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_in) → (B, N, dim_out)."""
        return self.mab(x, x, query_lengths=lengths, query_mask=mask, key_lengths=lengths, key_mask=mask)


class ISAB(nn.Module):
    """Induced set attention block: a set attends to itself through `num_inds` learned points, at linear cost."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        num_heads: int,
        num_inds: int,
        ln: bool = False,
        **options: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        self.I = _seeds(num_inds, dim_out, options)
        self.mab0 = MAB(dim_out, dim_in, dim_out, num_heads, ln, **options)
        self.mab1 = MAB(dim_in, dim_out, dim_out, num_heads, ln, **options)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        context_lengths: Tensor | int | None = None,
    ) -> Tensor:
        """(B, N, dim_in) → (B, N, dim_out); zero in rows outside a set.

        `context_lengths`: how many first rows of a set the inducing points read (None: all), a number or (B,).
        """
        return functional.induced_set_attention(
            x,
            self.I,
            self.mab0.weights,
            self.mab0.spec,
            self.mab1.weights,
            self.mab1.spec,
            lengths=lengths,
            mask=mask,
            context_lengths=context_lengths,
            impl=self.mab0.impl,
        )

    def extra_repr(self) -> str:
        """The number of inducing points."""
        return f"num_inds={self.I.shape[1]}"


class PMA(nn.Module):
    """Pooling by multihead attention: `num_seeds` learned queries read a set."""

    def __init__(
        self, dim: int, num_heads: int, num_seeds: int, ln: bool = False, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        self.S = _seeds(num_seeds, dim, options)
        self.mab = MAB(dim, dim, dim, num_heads, ln, **options)

    def forward(self, x: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim) → (B, num_seeds, dim)."""
        return self.mab(self.S, x, key_lengths=lengths, key_mask=mask)

    def extra_repr(self) -> str:
        """The number of seeds."""
        return f"num_seeds={self.S.shape[1]}"


class SetTransformer(nn.Module):
    """Set (B, N, dim_input) → (B, num_outputs, dim_output): two ISAB, PMA, two SAB and a linear layer."""

    def __init__(
        self,
        dim_input: int,
        num_outputs: int,
        dim_output: int,
        num_inds: int = 32,
        dim_hidden: int = 128,
        num_heads: int = 4,
        ln: bool = False,
        **options: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        self.enc = nn.Sequential(
            ISAB(dim_input, dim_hidden, num_heads, num_inds, ln, **options),
            ISAB(dim_hidden, dim_hidden, num_heads, num_inds, ln, **options),
        )
        self.dec = nn.Sequential(
            PMA(dim_hidden, num_heads, num_outputs, ln, **options),
            SAB(dim_hidden, dim_hidden, num_heads, ln, **options),
            SAB(dim_hidden, dim_hidden, num_heads, ln, **options),
            nn.Linear(dim_hidden, dim_output, device=options.get("device"), dtype=options.get("dtype")),
        )

    def forward(self, x: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_input) → (B, num_outputs, dim_output); does not depend on the order of a set."""
        for layer in self.enc:
            x = layer(x, lengths=lengths, mask=mask)
        pool, *rest = self.dec
        x = pool(x, lengths=lengths, mask=mask)
        for layer in rest:
            x = layer(x)
        return x


class DeepSet(nn.Module):
    """Set (B, N, dim_input) → (B, num_outputs, dim_output): a network per element, their mean, a network.

    The mean of an empty set is zero. Source: Zaheer et al. 2017, arXiv:1703.06114.
    """

    def __init__(
        self,
        dim_input: int,
        num_outputs: int,
        dim_output: int,
        dim_hidden: int = 128,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_outputs, self.dim_output = num_outputs, dim_output
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.enc = _mlp(dim_input, dim_hidden, dim_hidden, factory)
        self.dec = _mlp(dim_hidden, dim_hidden, num_outputs * dim_output, factory)

    def forward(self, x: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_input) → (B, num_outputs, dim_output); does not depend on the order of a set."""
        pooled = functional.set_mean(x, self.enc, lengths=lengths, mask=mask)
        return self.dec(pooled).reshape(-1, self.num_outputs, self.dim_output)


def _seeds(number: int, dim: int, options: BlockOptions) -> nn.Parameter:
    seeds = torch.empty(1, number, dim, device=options.get("device"), dtype=options.get("dtype"))
    return nn.Parameter(nn.init.xavier_uniform_(seeds))


def _mlp(dim_in: int, dim_hidden: int, dim_out: int, factory: dict[str, Any]) -> nn.Sequential:
    widths = (dim_in, dim_hidden, dim_hidden, dim_hidden, dim_out)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out, **factory), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
