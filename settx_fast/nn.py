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
from settx_fast.attention.arguments import check_block, context_of, enter
from settx_fast.attention.block import Activation, BlockSpec, BlockWeights, Norm, Residual, Scale
from settx_fast.attention.functional import Impl
from settx_fast.attention.modular import ModularBlock, has_hooks

__all__ = ["ISAB", "MAB", "PMA", "SAB", "BlockOptions", "DeepSet", "SetTransformer"]


class BlockOptions(TypedDict, total=False):
    """Keywords of `MAB` that the other modules hand on to their blocks: fields of `BlockSpec`, and where and how.

    `impl` forces an implementation, `device` and `dtype` are those of the parameters.
    """

    norm: Norm | None
    norm_first: bool
    residual: Residual
    output_projection: bool
    activation: Activation
    ffn_dim: int | None
    scale: Scale
    norm_eps: float
    dropout: float
    impl: Impl | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class MAB(ModularBlock):
    """Multihead attention block: every element of a query set reads a whole key set.

    `dim_Q` and `dim_K` are the widths of query and key, `dim_V` the width D of the output, a multiple of `num_heads`.
    `ln` adds layer norms, `norm` names another kind; the keywords up to `dropout` are the fields of `BlockSpec`, whose
    defaults are the original block. While training, `dropout` drops attention weights. `impl` forces an implementation
    (`functional.Impl`). Raises ValueError where sizes or options do not fit together.

    Where a layer was replaced or has a hook, and under torch.jit, the block calls its layers one by one: right, as slow
    as the original, and said once in the log. Source: Lee et al. 2019, equation 6.
    """

    __jit_unused_properties__ = ("weights",)

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
        dropout: float = 0.0,
        impl: Impl | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        norm = norm or ("layer" if ln else "none")
        spec = BlockSpec(
            num_heads, norm, norm_first, residual, output_projection, activation, ffn_dim, scale, norm_eps, dropout
        )
        super().__init__(spec, dim_V)
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
        """The parameters as `functional` takes them; ValueError where a layer does more than multiply by its own."""
        weights = self.plain_weights()
        if weights is None:
            raise ValueError(f"weights: expected plain layers, but {self.why_modular()}: call the module instead")
        return weights

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_lengths: Tensor | None = None,
        query_mask: Tensor | None = None,
        key_lengths: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """Query (B, N_q, dim_Q) or (1, N_q, dim_Q) and key (B, N_k, dim_K) → (B, N_q, dim_V)."""
        if torch.jit.is_scripting():
            assert query_lengths is None
            assert query_mask is None
            assert key_lengths is None
            assert key_mask is None
            return self.through_modules(query, key)
        else:
            return self._attend(query, key, query_lengths, query_mask, key_lengths, key_mask)

    def _attend(self, query: Tensor, key: Tensor, *ragged: Tensor | None) -> Tensor:
        weights = None if torch.jit.is_tracing() else self.plain_weights()
        if weights is None:
            return self.call_modules(query, key, *ragged, impl=self.impl)
        query_lengths, query_mask, key_lengths, key_mask = ragged
        return functional.attention_block(
            query,
            key,
            weights,
            self.current_spec(),
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
    """Set attention block: every element of a set reads all of it; cost grows with the square of its size.

    Arguments as `MAB`, with one width `dim_in` of elements (B, N, dim_in). Raises ValueError where sizes or options do
    not fit together, and in a call for a wrong shape. Source: Lee et al. 2019, equation 8.
    """

    def __init__(
        self, dim_in: int, dim_out: int, num_heads: int, ln: bool = False, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        self.mab = MAB(dim_in, dim_in, dim_out, num_heads, ln, **options)

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_in) → (B, N, dim_out)."""
        return self.mab(x, x, query_lengths=lengths, query_mask=mask, key_lengths=lengths, key_mask=mask)


class ISAB(nn.Module):
    """Induced set attention block: a set attends to itself through `num_inds` learned points, at linear cost.

    Elements of width `dim_in` become elements of width `dim_out`, a multiple of `num_heads`; `ln` and the options are
    those of `MAB`. Raises ValueError where sizes or options do not fit together, and in a call for a wrong shape;
    TypeError there for a wrong dtype. Source: Lee et al. 2019, equations 9 and 10.
    """

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
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        context_lengths: Tensor | int | None = None,
    ) -> Tensor:
        """(B, N, dim_in) → (B, N, dim_out); zero in rows outside a set.

        `context_lengths`: how many first rows of a set the inducing points read (None: all), a number or (B,).
        """
        if torch.jit.is_scripting():
            assert context_lengths is None
            return self.mab1(x, self.mab0(self.I, x, key_lengths=lengths, key_mask=mask), lengths, mask)
        else:
            return self._attend(x, lengths, mask, context_lengths)

    def _attend(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None, context_lengths: Tensor | int | None
    ) -> Tensor:
        weights_a, weights_b = plain_weights_of(self.mab0), plain_weights_of(self.mab1)
        if weights_a is None or weights_b is None:
            return self._attend_in_turn(x, lengths, mask, context_lengths)
        return functional.induced_set_attention(
            x,
            self.I,
            weights_a,
            self.mab0.current_spec(),
            weights_b,
            self.mab1.current_spec(),
            lengths=lengths,
            mask=mask,
            context_lengths=context_lengths,
            impl=self.mab0.impl,
        )

    def _attend_in_turn(
        self, x: Tensor, lengths: Tensor | None, mask: Tensor | None, context_lengths: Tensor | int | None
    ) -> Tensor:
        """By calls of the blocks, whatever they are."""
        key_lengths = lengths
        if context_lengths is not None:
            key_lengths = context_of(enter("x", x, lengths, None)[0], context_lengths, mask).lengths
        # blocks of others know no query that all sets share, and perhaps no ragged sets
        inducing = self.I if isinstance(self.mab0, MAB) else self.I.expand(x.shape[0], -1, -1)
        hidden = self.mab0(inducing, x, **_given(key_lengths=key_lengths, key_mask=mask))
        return self.mab1(x, hidden, **_given(query_lengths=lengths, query_mask=mask))

    def extra_repr(self) -> str:
        """The number of inducing points."""
        return f"num_inds={self.I.shape[1]}"


class PMA(nn.Module):
    """Pooling by multihead attention: `num_seeds` learned queries read a set (B, N, dim).

    Other arguments as `MAB`. Raises ValueError where sizes or options do not fit together, and in a call for a wrong
    shape. Source: Lee et al. 2019, equation 11.
    """

    def __init__(
        self, dim: int, num_heads: int, num_seeds: int, ln: bool = False, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        self.S = _seeds(num_seeds, dim, options)
        self.mab = MAB(dim, dim, dim, num_heads, ln, **options)

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim) → (B, num_seeds, dim)."""
        return self.mab(self.S, x, key_lengths=lengths, key_mask=mask)

    def extra_repr(self) -> str:
        """The number of seeds."""
        return f"num_seeds={self.S.shape[1]}"


class SetTransformer(nn.Module):
    """Set (B, N, dim_input) → (B, num_outputs, dim_output): two ISAB, PMA, two SAB and a linear layer.

    `num_inds` inducing points in each ISAB, blocks of width `dim_hidden`, options as `MAB`. Raises ValueError where
    sizes or options do not fit together, and in a call for a wrong shape. Source: Lee et al. 2019, section 3.
    """

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
        self.enc = _Encoder(
            ISAB(dim_input, dim_hidden, num_heads, num_inds, ln, **options),
            ISAB(dim_hidden, dim_hidden, num_heads, num_inds, ln, **options),
        )
        self.dec = _Decoder(
            PMA(dim_hidden, num_heads, num_outputs, ln, **options),
            SAB(dim_hidden, dim_hidden, num_heads, ln, **options),
            SAB(dim_hidden, dim_hidden, num_heads, ln, **options),
            nn.Linear(dim_hidden, dim_output, device=options.get("device"), dtype=options.get("dtype")),
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_input) → (B, num_outputs, dim_output); does not depend on the order of a set."""
        return self.dec(self.enc(x, lengths, mask), lengths, mask)


class _Encoder(nn.Sequential):
    """Layers of which each reads sets."""

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            assert lengths is None
            assert mask is None
            for layer in self:
                x = layer(x)
            return x
        else:
            return self._call_layers(x, _given(lengths=lengths, mask=mask))

    def _call_layers(self, x: Tensor, ragged: dict[str, Tensor]) -> Tensor:
        for layer in self:
            x = layer(x, **ragged)
        return x


class _Decoder(_Encoder):
    """Layers of which the first pools sets."""

    def _call_layers(self, x: Tensor, ragged: dict[str, Tensor]) -> Tensor:
        pool, *rest = self
        x = pool(x, **ragged)
        for layer in rest:
            x = layer(x)
        return x


class DeepSet(nn.Module):
    """Set (B, N, dim_input) → (B, num_outputs, dim_output): a network per element, their mean, a network.

    The mean of an empty set is zero. Raises ValueError in a call for a wrong shape. Source: Zaheer et al. 2017,
    arXiv:1703.06114.
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

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_input) → (B, num_outputs, dim_output); does not depend on the order of a set."""
        if torch.jit.is_scripting():
            assert lengths is None
            assert mask is None
            pooled = self.enc(x).mean(-2)
        else:
            pooled = functional.set_mean(x, self.enc, lengths=lengths, mask=mask)
        return self.dec(pooled).reshape(-1, self.num_outputs, self.dim_output)


def plain_weights_of(block: nn.Module) -> BlockWeights | None:
    """The parameters of a block; None where they are not all that it does, or torch.jit traces what it does."""
    if type(block) is not MAB or has_hooks(block) or torch.jit.is_tracing():
        return None
    return block.plain_weights()


def _given(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _seeds(number: int, dim: int, options: BlockOptions) -> nn.Parameter:
    seeds = torch.empty(1, number, dim, device=options.get("device"), dtype=options.get("dtype"))
    return nn.Parameter(nn.init.xavier_uniform_(seeds))


def _mlp(dim_in: int, dim_hidden: int, dim_out: int, factory: dict[str, Any]) -> nn.Sequential:
    widths = (dim_in, dim_hidden, dim_hidden, dim_hidden, dim_out)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out, **factory), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
