"""The blocks: parameters and one functional call each."""

from __future__ import annotations

from numbers import Integral
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from settx_fast import functional
from settx_fast.attention.arguments import check_block, context_of, enter
from settx_fast.attention.block import Activation, BlockSpec, BlockWeights, Norm, Residual, Scale, named
from settx_fast.attention.functional import Impl, met_isab
from settx_fast.attention.modular import ModularBlock, has_hooks, layer_classes


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
    bias: bool
    norm_bias: bool
    key_norm: bool
    qk_norm: Norm
    post_norm: bool
    impl: Impl | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class MAB(ModularBlock):
    """Multihead attention block: every element of a query set reads a whole key set.

    `dim_Q` and `dim_K` are the widths of query and key, `dim_V` the width D of the output, a multiple of `num_heads`.
    `ln` adds layer norms, `norm` names another kind; the keywords up to `post_norm` are fields of `BlockSpec`, whose
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
        bias: bool = True,
        norm_bias: bool = True,
        key_norm: bool = False,
        qk_norm: Norm = "none",
        post_norm: bool = False,
        impl: Impl | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(dim_Q=dim_Q, dim_K=dim_K, dim_V=dim_V)
        norm = norm or ("layer" if ln else "none")
        spec = BlockSpec(
            num_heads, norm, norm_first, residual, output_projection, activation, ffn_dim, scale, norm_eps, dropout,
            bias, norm_bias, key_norm, qk_norm, post_norm,
        )  # fmt: skip
        super().__init__(spec, dim_V)
        self.impl = impl
        self._add_layers(dim_Q, dim_K, dim_V, {"device": device, "dtype": dtype})
        check_block("MAB", self.weights, self.spec, self.weights.w_q, dim_K)

    def _add_layers(self, dim_query: int, dim_key: int, dim: int, factory: dict[str, Any]) -> None:
        """The layers that the spec has; fc_q, fc_k, fc_v, fc_o in this order have the original's initial weights."""
        spec = self.spec
        head, first, ffn = dim // spec.num_heads, dim_query if spec.norm_first else dim, spec.ffn_dim or dim
        matrices = {
            "fc_q": (dim_query, dim), "fc_k": (dim_key, dim), "fc_v": (dim_key, dim), "fc_o": (dim, ffn),
            "fc_o2": (ffn, dim), "fc_p": (dim, dim), "fc_g": (dim, ffn),
        }  # fmt: skip
        norms = {"ln0": first, "ln1": dim, "ln0_k": dim_key, "ln_q": head, "ln_k": head, "ln_p": dim, "ln_o": dim}
        classes = layer_classes(spec)
        for name in ("fc_q", "fc_k", "fc_v", *norms, "fc_o", "fc_o2", "fc_p", "fc_g"):
            if classes[name] is nn.Linear:
                self.add_module(name, nn.Linear(*matrices[name], bias=spec.bias, **factory))
            elif classes[name] is nn.LayerNorm:
                self.add_module(name, nn.LayerNorm(norms[name], spec.norm_eps, bias=spec.norm_bias, **factory))
            elif classes[name] is not None:
                self.add_module(name, nn.RMSNorm(norms[name], spec.norm_eps, **factory))

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
        query_scale: Tensor | None = None,
    ) -> Tensor:
        """Query (B, N_q, dim_Q) or (1, N_q, dim_Q) and key (B, N_k, dim_K) → (B, N_q, dim_V).

        `query_scale` (1 or B, N_q, dim_V): factors of the projected queries, see `functional.attention_block`.
        """
        if torch.jit.is_scripting():
            assert query_lengths is None
            assert query_mask is None
            assert key_lengths is None
            assert key_mask is None
            return self.through_modules(query, key, None, query_scale)
        else:
            return self._attend(query, key, query_lengths, query_mask, key_lengths, key_mask, query_scale)

    def _attend(self, query: Tensor, key: Tensor, *further: Tensor | None) -> Tensor:
        weights = None if torch.jit.is_tracing() else self.plain_weights()
        if weights is None:
            return self.call_modules(query, key, *further, impl=self.impl)
        query_lengths, query_mask, key_lengths, key_mask, query_scale = further
        return functional.attention_block(
            query,
            key,
            weights,
            self.current_spec(),
            query_lengths=query_lengths,
            query_mask=query_mask,
            key_lengths=key_lengths,
            key_mask=key_mask,
            query_scale=query_scale,
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
        check_sizes(dim_in=dim_in, dim_out=dim_out, num_inds=num_inds)
        self.I = _seeds(num_inds, dim_out, options)
        self.mab0 = MAB(dim_out, dim_in, dim_out, num_heads, ln, **options)
        self.mab1 = MAB(dim_in, dim_out, dim_out, num_heads, ln, **options)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        context_lengths: Tensor | int | None = None,
        query_scale: Tensor | None = None,
    ) -> Tensor:
        """(B, N, dim_in) → (B, N, dim_out); zero in rows outside a set. B may be several dimensions.

        `context_lengths`: how many first rows of a set the inducing points read (None: all), a number or (B,).
        `query_scale` (1 or B, num_inds, dim_out): factors of the projected inducing points, see `functional`.
        """
        if torch.jit.is_scripting():
            assert context_lengths is None
            hidden = self.mab0(self.I, x, key_lengths=lengths, key_mask=mask, query_scale=query_scale)
            return self.mab1(x, hidden, lengths, mask)
        else:
            return self._attend(x, lengths, mask, context_lengths, query_scale)

    def encode(
        self,
        context: Tensor,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        query_scale: Tensor | None = None,
    ) -> Tensor:
        """What the inducing points read of a set (B, N, dim_in): (B, num_inds, dim_out), to be kept for `decode`."""
        return self._read(context, query_scale, key_lengths=lengths, key_mask=mask)

    def decode(self, x: Tensor, hidden: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What elements (B, N, dim_in) read of a set that `encode` has read: (B, N, dim_out).

        `isab(x)` is `isab.decode(x, isab.encode(x))`; the encoded set may be another one, or be used many times.
        """
        return self.mab1(x, hidden, **given(query_lengths=lengths, query_mask=mask))

    def _attend(
        self,
        x: Tensor,
        lengths: Tensor | None,
        mask: Tensor | None,
        context_lengths: Tensor | int | None,
        query_scale: Tensor | None,
    ) -> Tensor:
        mab0: Any = self._modules["mab0"]  # an attribute would be looked for in three places
        mab1: Any = self._modules["mab1"]
        found_a, found_b = plain_parameters_of(mab0), plain_parameters_of(mab1)
        if found_a is None or found_b is None or torch.jit.is_tracing():
            return self._attend_in_turn(x, lengths, mask, context_lengths, query_scale)
        spec_a, spec_b, impl = mab0.current_spec(), mab1.current_spec(), mab0.impl
        if mask is context_lengths is query_scale is None:
            out = met_isab(x, lengths, [self.I, *found_a, *found_b], spec_a, spec_b, impl)
            if out is not None:
                return out
        return functional.induced_set_attention(
            x,
            self.I,
            named(found_a, spec_a),
            spec_a,
            named(found_b, spec_b),
            spec_b,
            lengths=lengths,
            mask=mask,
            context_lengths=context_lengths,
            query_scale=query_scale,
            impl=impl,
        )

    def _attend_in_turn(
        self,
        x: Tensor,
        lengths: Tensor | None,
        mask: Tensor | None,
        context_lengths: Tensor | int | None,
        query_scale: Tensor | None,
    ) -> Tensor:
        """By calls of the blocks, whatever they are."""
        key_lengths = lengths
        if context_lengths is not None:
            lead = x.shape[:-2] if x.dim() > 3 else None
            key_lengths = context_of(enter("x", x, lengths, None)[0], context_lengths, mask, lead).lengths
            if lead is not None and key_lengths is not None:
                key_lengths = key_lengths.unflatten(0, lead)
        hidden = self._read(x, query_scale, key_lengths=key_lengths, key_mask=mask)
        return self.decode(x, hidden, lengths, mask)

    def _read(self, context: Tensor, query_scale: Tensor | None, **ragged: Tensor | None) -> Tensor:
        """Block A, whatever it is: blocks of others know no query that all sets share, and perhaps no ragged sets."""
        inducing = self.I if isinstance(self.mab0, MAB) else self.I.expand(*context.shape[:-2], -1, -1)
        return self.mab0(inducing, context, **given(**ragged, query_scale=query_scale))

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
        check_sizes(dim=dim, num_seeds=num_seeds)
        self.S = _seeds(num_seeds, dim, options)
        self.mab = MAB(dim, dim, dim, num_heads, ln, **options)

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim) → (B, num_seeds, dim)."""
        return self.mab(self.S, x, key_lengths=lengths, key_mask=mask)

    def extra_repr(self) -> str:
        """The number of seeds."""
        return f"num_seeds={self.S.shape[1]}"


def check_sizes(**sizes: object) -> None:
    """ValueError unless all are whole numbers of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {size!r}")


def plain_parameters_of(block: Any) -> list[Tensor] | None:
    """The parameters of a block; None where they are not all that it does."""
    return None if type(block) is not MAB or has_hooks(block) else block.plain_parameters()


def given(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The keywords that are not None: modules of others may not know the rest."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _seeds(number: int, dim: int, options: BlockOptions) -> nn.Parameter:
    seeds = torch.empty(1, number, dim, device=options.get("device"), dtype=options.get("dtype"))
    return nn.Parameter(nn.init.xavier_uniform_(seeds))
