"""The block through its own modules, as the original is written: for layers that were replaced or carry hooks.

And for torch.jit, which reads this file: what stands here must be TorchScript.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from settx_fast.attention.arguments import check_batches, enter, entered_scale
from settx_fast.attention.block import BlockSpec, BlockWeights, named
from settx_fast.attention.choice import Impl

# in the order of `BlockWeights`
_LAYERS = (
    "fc_q",
    "fc_k",
    "fc_v",
    "fc_o",
    "fc_p",
    "fc_o2",
    "ln0",
    "ln1",
    "ln0_k",
    "fc_g",
    "ln_q",
    "ln_k",
    "ln_p",
    "ln_o",
)
_NORMS: dict[str, Any] = {"none": None, "layer": nn.LayerNorm, "rms": nn.RMSNorm}

_log = logging.getLogger(__name__)


class ModularBlock(nn.Module):
    """A block of layers fc_q fc_k fc_v fc_o and others of `_LAYERS`, computed by calling them."""

    if TYPE_CHECKING:
        fc_q: nn.Module
        fc_k: nn.Module
        fc_v: nn.Module
        fc_o: nn.Module
        fc_p: nn.Module
        fc_o2: nn.Module
        ln0: nn.Module
        ln1: nn.Module
        ln0_k: nn.Module
        fc_g: nn.Module
        ln_q: nn.Module
        ln_k: nn.Module
        ln_p: nn.Module
        ln_o: nn.Module

    def __init__(self, spec: BlockSpec, dim: int) -> None:
        super().__init__()
        self.spec = spec
        self._spec_without_dropout = replace(spec, dropout=0.0)
        self._dim = dim
        has_bias = {nn.Linear: spec.bias, nn.LayerNorm: spec.norm_bias, nn.RMSNorm: False}
        eps = {nn.Linear: None, nn.LayerNorm: spec.norm_eps, nn.RMSNorm: spec.norm_eps}
        classes = layer_classes(spec).items()
        self._plain = tuple((name, plain, has_bias[plain], eps[plain]) for name, plain in classes if plain is not None)
        # what TorchScript, which knows no spec, reads of it
        self._constants = (
            spec.num_heads,
            spec.score_scale(dim),
            spec.norm_first,
            spec.residual == "projected",
            spec.activation,
            spec.dropout,
        )

    def current_spec(self) -> BlockSpec:
        """The spec, without its dropout unless the module is training."""
        return self.spec if self.training else self._spec_without_dropout

    def plain_weights(self) -> BlockWeights | None:
        """The parameters; None where a layer was replaced or has a hook, so that parameters are not all it does."""
        found = self.plain_parameters()
        return None if found is None else named(found, self.spec)

    def plain_parameters(self) -> list[Tensor] | None:
        """`plain_weights` as the list of those that the spec has."""
        if _has_any_global_hook():
            return None
        read = plain_parameters if torch.compiler.is_compiling() else _quickest_reader()
        return read(self._modules, self._plain)

    def why_modular(self) -> str:
        """Why there are no `plain_weights`."""
        for name, plain, *_ in self._plain:
            layer = self._modules.get(name)
            if type(layer) is not plain:
                return f"{name} is a {type(layer).__name__}"
            if layer is not None and has_hooks(layer):
                return f"{name} has a hook"
        return "a hook is on all modules, or a layer lacks a weight, the block's norm_eps or has other biases"

    def call_modules(
        self,
        query: Tensor,
        key: Tensor,
        query_lengths: Tensor | None,
        query_mask: Tensor | None,
        key_lengths: Tensor | None,
        key_mask: Tensor | None,
        query_scale: Tensor | None,
        *,
        impl: Impl | None,
    ) -> Tensor:
        """`functional.attention_block` by `through_modules`."""
        if torch.jit.is_tracing():
            reason = "torch.jit traces the call"
        else:
            reason = self.why_modular()
            if not torch.compiler.is_compiling():
                _log_once(reason)
        if impl not in (None, "composed"):
            raise ValueError(f"impl: {impl!r} cannot take this call: {reason}, which only impl='composed' follows")
        is_full = not query.is_nested and query_lengths is query_mask is key_lengths is key_mask is None
        if is_full and torch.jit.is_tracing():
            return self.through_modules(query, key, None, query_scale)  # nothing here that a trace would warn of
        queries, restore = enter("query", query, query_lengths, query_mask)
        keys, _ = enter("key", key, key_lengths, key_mask)
        check_batches(queries, keys)
        q_in, q_valid = queries.padded().cleaned()
        if query_scale is not None:
            query_scale = entered_scale(query_scale, queries, query_mask is not None, keys.num_sets, self._dim)
        out = self.through_modules(q_in, *keys.padded().cleaned(), query_scale).to(q_in.dtype)
        out = restore(queries.packed_like(out if q_valid is None else out.masked_fill(~q_valid, 0)))
        return out.unflatten(0, key.shape[:-2]) if query.dim() == 3 < key.dim() else out

    def through_modules(
        self,
        query: Tensor,
        key: Tensor,
        key_valid: Optional[Tensor] = None,  # noqa: UP045
        query_scale: Optional[Tensor] = None,  # noqa: UP045
    ) -> Tensor:
        """MAB(query, key) of padded sets, of whose keys key_valid (B, N, 1) count (None: all)."""
        heads, scale, norm_first, projected, activation, dropout = self._constants
        q_read, k_read = query, key
        if norm_first:
            q_read, k_read = self._norm0(query), self._norm_keys(key)
        q, k, v = self.fc_q(q_read), self.fc_k(k_read), self.fc_v(k_read)
        q_heads, k_heads, v_heads = [t.unflatten(-1, (heads, -1)).transpose(-3, -2) for t in (q, k, v)]
        if hasattr(self, "ln_q"):
            q_heads, k_heads = self.ln_q(q_heads), self.ln_k(k_heads)
        if query_scale is not None:
            q_heads = q_heads * query_scale.unflatten(-1, (heads, -1)).transpose(-3, -2)
        scores = q_heads @ k_heads.transpose(-2, -1) * scale
        if key_valid is None:
            weights = scores.softmax(-1)
        else:
            outside = ~key_valid.transpose(1, 2).unsqueeze(1)
            empty = outside.all(-1, keepdim=True)  # reads all of its zeros, so that no softmax is NaN, and drops them
            weights = scores.masked_fill(outside & ~empty, float("-inf")).softmax(-1).masked_fill(outside, 0.0)
        attended = (F.dropout(weights, dropout, self.training) @ v_heads).transpose(-3, -2).flatten(-2)
        if hasattr(self, "fc_p"):
            attended = self.fc_p(attended)
        if hasattr(self, "ln_p"):
            attended = self.ln_p(attended)
        out = (q if projected else query) + attended
        if norm_first:
            return out + self._feed_forward(self._norm1(out), activation)
        out = self._norm0(out)
        return self._norm1(out + self._feed_forward(out, activation))

    def _feed_forward(self, x: Tensor, activation: str) -> Tensor:
        hidden = self.fc_o(x)
        if hasattr(self, "fc_g"):
            hidden = hidden * self._activate(self.fc_g(x), activation)
        else:
            hidden = self._activate(hidden, activation)
        if hasattr(self, "fc_o2"):
            hidden = self.fc_o2(hidden)
        if hasattr(self, "ln_o"):
            hidden = self.ln_o(hidden)
        return hidden

    def _activate(self, x: Tensor, activation: str) -> Tensor:
        if activation == "relu" or activation == "reglu":
            x = F.relu(x)
        elif activation == "gelu" or activation == "geglu":
            x = F.gelu(x)
        elif activation == "swiglu":
            x = F.silu(x)
        return x

    def _norm0(self, x: Tensor) -> Tensor:
        if hasattr(self, "ln0"):
            x = self.ln0(x)
        return x

    def _norm_keys(self, x: Tensor) -> Tensor:
        if hasattr(self, "ln0_k"):
            return self.ln0_k(x)
        return self._norm0(x)

    def _norm1(self, x: Tensor) -> Tensor:
        if hasattr(self, "ln1"):
            x = self.ln1(x)
        return x


def plain_parameters(layers: Mapping[str, Any], expected: Sequence[tuple[Any, ...]]) -> list[Tensor] | None:
    """The weights and biases of layers, or None where one is of another class, has hooks, another eps or other biases.

    `expected`: (name, class, has a bias, eps or None) of each layer. The native module's does the same.
    """
    found = []
    for name, plain, has_bias, eps in expected:
        layer: Any = layers.get(name)
        if type(layer) is not plain or has_hooks(layer) or (eps is not None and layer.eps != eps):
            return None
        weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
        if weight is None or (bias is not None) is not has_bias:
            return None
        found.append(weight)
        if has_bias:
            found.append(bias)
    return found


@cache
def _quickest_reader() -> Callable[..., list[Tensor] | None]:
    try:
        return import_module("settx_fast._native").plain_parameters
    except ImportError:
        return plain_parameters


def has_hooks(module: Any) -> bool:
    """Whether a call of the module does more than its forward."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


@cache
def _log_once(reason: str) -> None:
    _log.info("computed through the block's modules, which saves all activations: %s", reason)


def layer_classes(spec: BlockSpec) -> dict[str, Any]:
    """The class of each layer in the order of `BlockWeights` when nobody replaced it, None for one the block lacks."""
    norm = _NORMS[spec.norm]
    heads_norm, added_norm = _NORMS[spec.qk_norm], norm if spec.post_norm else None
    projection = nn.Linear if spec.output_projection else None
    second = nn.Linear if spec.ffn_dim is not None else None
    own = norm if spec.key_norm else None
    gate = nn.Linear if spec.gated else None
    classes = (nn.Linear,) * 4 + (projection, second, norm, norm, own, gate, heads_norm, heads_norm)
    return dict(zip(_LAYERS, (*classes, added_norm, added_norm), strict=True))
