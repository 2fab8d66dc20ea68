"""Long sets read few keys: a whole attention block on one tile of rows, with a backward that recomputes.

Only rows, keys, values and weights are saved; what a tile computes lives until the next tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake
from torch.nn.functional import linear

from settx_fast.attention.block import NO_WEIGHTS, BlockSpec, BlockWeights
from settx_fast.attention.blockwise import library
from settx_fast.attention.blockwise.block import Block
from settx_fast.attention.blockwise.tiles import blank, tiles
from settx_fast.attention.derivatives import differentiable_gradients
from settx_fast.attention.layers import attend, finish, first_norm, join_heads, split_heads
from settx_fast.attention.registration import operator
from settx_fast.attention.sets import Sets

Scalars = tuple[str, bool, str, bool, str, int | None, float]


def scalars(spec: BlockSpec) -> Scalars:
    """What the operator needs of a spec, in the operator's order."""
    return (
        spec.norm,
        spec.norm_first,
        spec.residual,
        spec.output_projection,
        spec.activation,
        spec.ffn_dim,
        spec.norm_eps,
    )


def query_weights(weights: BlockWeights, spec: BlockSpec) -> list[Tensor]:
    """The weights that the operator needs, in its order: all but those that make keys and values."""
    return [getattr(weights, name) for name in _names(spec)]


def _names(spec: BlockSpec) -> list[str]:
    return [name for name in spec.weight_names if name not in ("w_k", "b_k", "w_v", "b_v")]


@operator("settx_fast::broadcast")
def broadcast(
    rows: Tensor,
    stand_in: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    keys: Tensor,
    values: Tensor,
    key_lengths: Tensor | None,
    weights: list[Tensor],
    norm: str,
    norm_first: bool,
    residual: str,
    output_projection: bool,
    activation: str,
    ffn_dim: int | None,
    eps: float,
) -> Tensor:
    """Attention block of rows (B, N, C) or (R, C) on scaled keys and values (B, h, M, e) → rows h·e wide.

    Where given, `stand_in` gets the gradient of the rows (see `aggregate`).
    Keys, values and `weights` (see `query_weights`) are in the compute dtype of the rows.
    """
    options = norm, norm_first, residual, output_projection, activation, ffn_dim, eps
    block = _block(_spec(keys.shape[1], *options), weights, keep=False)
    sets = Sets(rows, lengths, offsets)
    out = blank(sets, weights[0].shape[0])
    outside = _outside(keys, key_lengths)

    for tile in tiles(sets, _elements_per_row(keys, outside)):
        b = tile.sets
        x = tile.load(rows, keys.dtype)
        trace = block.forward(x, keys[b], values[b], None if outside is None else outside[b])
        assert trace.out is not None  # no backward reads this trace
        tile.store(trace.out.view(*x.shape[:2], -1), out)
    return out


@operator("settx_fast::broadcast_backward")
def broadcast_backward(
    d_out: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    keys: Tensor,
    values: Tensor,
    key_lengths: Tensor | None,
    weights: list[Tensor],
    norm: str,
    norm_first: bool,
    residual: str,
    output_projection: bool,
    activation: str,
    ffn_dim: int | None,
    eps: float,
    need_rows: bool,
) -> list[Tensor]:
    """Gradients of rows (empty unless needed), keys, values and every weight."""
    sets = Sets(rows, lengths, offsets)
    d_rows = blank(sets, rows.shape[-1]) if need_rows else rows.new_empty(0)
    outside = _outside(keys, key_lengths)

    options = norm, norm_first, residual, output_projection, activation, ffn_dim, eps
    block = _block(_spec(keys.shape[1], *options), weights, keep=True)
    d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
    for tile in tiles(sets, _elements_per_row(keys, outside)):
        b = tile.sets
        x, k, v = tile.load(rows, keys.dtype), keys[b], values[b]
        trace = block.forward(x, k, v, None if outside is None else outside[b])
        d_x, d_k, d_v = block.backward(trace, tile.load(d_out, keys.dtype).flatten(0, 1), k, v, need_rows)
        d_keys[b] += d_k
        d_values[b] += d_v
        if d_x is not None and need_rows:
            tile.store(d_x.view_as(x), d_rows)
    return [d_rows, d_keys, d_values, *block.grads.values()]


def _spec(
    heads: int,
    norm: Any,
    norm_first: bool,
    residual: Any,
    output_projection: bool,
    activation: Any,
    ffn_dim: int | None,
    eps: float,
) -> BlockSpec:
    """A spec of these `scalars`; its scale is not known, as keys have it already."""
    return BlockSpec(heads, norm, norm_first, residual, output_projection, activation, ffn_dim, norm_eps=eps)


def _block(spec: BlockSpec, weights: list[Tensor], *, keep: bool) -> Block:
    return Block(spec, dict(zip(_names(spec), weights, strict=True)), keep=keep)


def _outside(keys: Tensor, key_lengths: Tensor | None) -> Tensor | None:
    """(B, 1, 1, M) bool, True for keys that do not count."""
    if key_lengths is None:
        return None
    return (torch.arange(keys.shape[2]) >= key_lengths[:, None])[:, None, None]


def _elements_per_row(keys: Tensor, outside: Tensor | None) -> int:
    _, heads, num_keys, width = keys.shape
    return heads * (width if library.takes(num_keys, width, outside) else max(num_keys, width))


@register_fake(broadcast)
def _(rows, stand_in, lengths, offsets, keys, values, key_lengths, weights, *spec):  # type: ignore[no-untyped-def]
    return rows.new_empty(*rows.shape[:-1], weights[0].shape[0])


@register_fake(broadcast_backward)
def _(d_out, rows, lengths, offsets, keys, values, key_lengths, weights, *spec):  # type: ignore[no-untyped-def]
    d_rows = torch.empty_like(rows) if spec[-1] else rows.new_empty(0)
    return [d_rows, *(torch.empty_like(t) for t in (keys, values, *weights))]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, stand_in, *tensors, weights = inputs[:8]
    ctx.stands_in = stand_in is not None
    ctx.scalars = inputs[8:]
    ctx.save_for_backward(rows, *tensors, *weights)


def _differentiate(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
    rows, lengths, offsets, keys, values, key_lengths, *weights = ctx.saved_tensors
    need_rows = ctx.needs_input_grad[1 if ctx.stands_in else 0]
    backward = _differentiate_again if torch.is_grad_enabled() else broadcast_backward
    gradients = backward(d_out, rows, lengths, offsets, keys, values, key_lengths, weights, *ctx.scalars, need_rows)
    d_rows, d_keys, d_values, *d_weights = gradients
    d_first = d_rows if need_rows else None
    d_both = (None, d_first) if ctx.stands_in else (d_first, None)
    return *d_both, None, None, d_keys, d_values, None, d_weights, *(None for _ in ctx.scalars)


def _differentiate_again(
    d_out: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    keys: Tensor,
    values: Tensor,
    key_lengths: Tensor | None,
    weights: list[Tensor],
    *options: Any,
) -> list[Tensor | None]:
    """What `broadcast_backward` returns, where it is differentiated itself: by the formula, all scores at once."""
    spec = _spec(keys.shape[1], *options[:-1])

    def formula(rows: Tensor, keys: Tensor, values: Tensor, *weights: Tensor) -> Tensor:
        sets = Sets(rows, lengths, offsets)
        x, valid = sets.padded().cleaned()
        x = x.to(keys.dtype)
        w = NO_WEIGHTS._replace(**dict(zip(_names(spec), weights, strict=True)))
        q = linear(first_norm(x, w, spec), w.w_q, w.b_q)
        outside = _outside(keys, key_lengths)
        attended = attend(split_heads(q, spec.num_heads), keys, values, None if outside is None else ~outside)
        out = finish(q if spec.residual == "projected" else x, join_heads(attended), w, spec)
        return sets.packed_like(out if valid is None else out.masked_fill(~valid, 0)).to(rows.dtype)

    inputs = [rows, keys, values, *weights]
    return differentiable_gradients(formula, inputs, [t.requires_grad for t in inputs], d_out)


register_autograd(broadcast, _differentiate, setup_context=_save)
