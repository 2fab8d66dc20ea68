"""Long sets read few keys: a whole attention block on one tile of rows, with a backward that recomputes.

Only rows, keys, values and weights are saved; what a tile computes lives until the next tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from settx_fast._block import BlockSpec, BlockWeights
from settx_fast._sets import Sets
from settx_fast.blockwise.block import Block
from settx_fast.blockwise.shares import over_shares, span
from settx_fast.blockwise.tiles import Tile, blank, refuse_second_derivative, tiles

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


@custom_op("settx_fast::broadcast", mutates_args=())
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
    block = _block(keys.shape[1], weights, norm, norm_first, residual, output_projection, activation, ffn_dim, eps)
    sets = Sets(rows, lengths, offsets)
    out = blank(sets, weights[0].shape[0])
    outside = _outside(keys, key_lengths)

    def read(share: list[Tile]) -> None:
        for tile in share:
            b = tile.sets
            x = tile.load(rows, keys.dtype)
            trace = block.forward(x, keys[b], values[b], None if outside is None else outside[b])
            tile.store(trace.out.view(*x.shape[:2], -1), out)

    over_shares(tiles(sets, _elements_per_row(keys)), read)
    return out


@custom_op("settx_fast::broadcast_backward", mutates_args=())
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

    def read(share: list[Tile]) -> tuple[slice, list[Tensor]]:
        block = _block(keys.shape[1], weights, norm, norm_first, residual, output_projection, activation, ffn_dim, eps)
        d_keys, d_values = torch.zeros_like(keys[span(share)]), torch.zeros_like(values[span(share)])
        for tile in share:
            b, inner = tile.sets, tile.within(span(share))
            x, k, v = tile.load(rows, keys.dtype), keys[b], values[b]
            trace = block.forward(x, k, v, None if outside is None else outside[b])
            d_x, d_k, d_v = block.backward(trace, tile.load(d_out, keys.dtype).flatten(0, 1), k, v, need_rows)
            d_keys[inner] += d_k
            d_values[inner] += d_v
            if d_x is not None and need_rows:
                tile.store(d_x.view_as(x), d_rows)
        return span(share), [d_keys, d_values, *block.grads.values()]

    d_keys, d_values, *d_weights = (torch.zeros_like(t) for t in (keys, values, *weights))
    for b, (d_k, d_v, *parts) in over_shares(tiles(sets, _elements_per_row(keys)), read):
        d_keys[b] += d_k
        d_values[b] += d_v
        for total, part in zip(d_weights, parts, strict=True):
            total += part
    return [d_rows, d_keys, d_values, *d_weights]


def _block(
    heads: int,
    weights: list[Tensor],
    norm: Any,
    norm_first: bool,
    residual: Any,
    output_projection: bool,
    activation: Any,
    ffn_dim: int | None,
    eps: float,
) -> Block:
    spec = BlockSpec(heads, norm, norm_first, residual, output_projection, activation, ffn_dim, norm_eps=eps)
    return Block(spec, dict(zip(_names(spec), weights, strict=True)))


def _outside(keys: Tensor, key_lengths: Tensor | None) -> Tensor | None:
    """(B, 1, 1, M) bool, True for keys that do not count."""
    if key_lengths is None:
        return None
    return (torch.arange(keys.shape[2]) >= key_lengths[:, None])[:, None, None]


def _elements_per_row(keys: Tensor) -> int:
    return keys.shape[1] * max(keys.shape[2], keys.shape[3])


@broadcast.register_fake
def _(rows, stand_in, lengths, offsets, keys, values, key_lengths, weights, *spec):  # type: ignore[no-untyped-def]
    return rows.new_empty(*rows.shape[:-1], weights[0].shape[0])


@broadcast_backward.register_fake
def _(d_out, rows, lengths, offsets, keys, values, key_lengths, weights, *spec):  # type: ignore[no-untyped-def]
    d_rows = torch.empty_like(rows) if spec[-1] else rows.new_empty(0)
    return [d_rows, *(torch.empty_like(t) for t in (keys, values, *weights))]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, stand_in, *tensors, weights = inputs[:8]
    ctx.stands_in = stand_in is not None
    ctx.scalars = inputs[8:]
    ctx.save_for_backward(rows, *tensors, *weights)


def _differentiate(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
    refuse_second_derivative()
    rows, lengths, offsets, keys, values, key_lengths, *weights = ctx.saved_tensors
    need_rows = ctx.needs_input_grad[1 if ctx.stands_in else 0]
    gradients = broadcast_backward(
        d_out, rows, lengths, offsets, keys, values, key_lengths, weights, *ctx.scalars, need_rows
    )
    d_rows, d_keys, d_values, *d_weights = gradients
    d_first = d_rows if need_rows else None
    d_both = (None, d_first) if ctx.stands_in else (d_first, None)
    return *d_both, None, None, d_keys, d_values, None, d_weights, *(None for _ in ctx.scalars)


broadcast.register_autograd(_differentiate, setup_context=_save)
