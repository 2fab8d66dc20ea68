"""Few queries read long sets: softmax attention in one pass over the rows, with a backward that recomputes.

Absorbed: keys and values are the rows themselves. Projected: every tile makes its keys and values with `w_kv` and
drops them. Only rows, queries and per-set results are saved. Scores are in units of log 2: exp2 is the cheaper
exponential.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from settx_fast._sets import Sets
from settx_fast.blockwise import norms
from settx_fast.blockwise.tiles import blank, refuse_second_derivative, tiles

_LOG2_E = math.log2(math.e)


@custom_op("settx_fast::aggregate", mutates_args=())
def aggregate(
    rows: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    queries: Tensor,
    w_kv: Tensor | None,
    gain: Tensor | None,
    bias: Tensor | None,
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Attention of queries (B or 1, h, m, e) over the rows of each set → y (B, h, m, e) and log2-sum-exp2 (B, h, m, 1).

    w_kv (2·h·e, C) makes keys and values from rows, normed first where `gain` is given; None: they are the rows. An
    empty set has y = 0. Queries, weights and results are in the compute dtype of the rows.
    """
    sets = Sets(rows, lengths, offsets)
    keys = _Keys(queries, w_kv, gain, bias, norm, eps)
    shape = (sets.num_sets, *queries.shape[1:])
    y, total = queries.new_zeros(shape), queries.new_zeros(*shape[:-1], 1)
    peak = torch.full_like(total, torch.finfo(queries.dtype).min)
    for tile in tiles(sets, _scores_per_row(queries)):
        b = tile.sets
        k, v = keys.forward(tile.load(rows, queries.dtype))
        scores = _scores(queries, b, k, tile.outside())
        new_peak = torch.maximum(peak[b], scores.amax(-1, keepdim=True))
        shrink = torch.exp2(peak[b] - new_peak)
        p = scores.sub_(new_peak).exp2_()
        total[b] = total[b].mul_(shrink).add_(p.sum(-1, keepdim=True))
        y[b] = y[b].mul_(shrink).add_(p @ v)
        peak[b] = new_peak
    y /= total.clamp(min=1)  # the largest score adds 1: less only in empty sets
    return y, torch.where(total > 0, peak + total.log2(), math.inf)


@custom_op("settx_fast::aggregate_backward", mutates_args=())
def aggregate_backward(
    d_y: Tensor,
    y: Tensor,
    lse: Tensor,
    rows: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    queries: Tensor,
    w_kv: Tensor | None,
    gain: Tensor | None,
    bias: Tensor | None,
    norm: str,
    eps: float,
    need_rows: bool,
) -> list[Tensor]:
    """Gradients of rows, queries, w_kv, gain and bias; empty where there is no such tensor or `need_rows` is False."""
    sets = Sets(rows, lengths, offsets)
    keys = _Keys(queries, w_kv, gain, bias, norm, eps)
    d_rows = blank(sets, rows.shape[-1]) if need_rows else rows.new_empty(0)
    d_queries = torch.zeros_like(queries)
    delta = (d_y * y).sum(-1, keepdim=True)
    for tile in tiles(sets, _scores_per_row(queries)):
        b = tile.sets
        k, v = keys.forward(tile.load(rows, queries.dtype))
        p = _scores(queries, b, k, tile.outside()).sub_(lse[b]).exp2_()
        d_scores = torch.matmul(d_y[b], v.mT).sub_(delta[b]).mul_(p)
        d_q = d_scores @ k
        shared = queries.shape[0] == 1
        d_queries[slice(None) if shared else b] += d_q.sum(0, keepdim=True) if shared else d_q
        d_x = keys.backward(d_scores, p, queries if shared else queries[b], d_y[b], need_rows)
        if d_x is not None:
            tile.store(d_x, d_rows)
    return [d_rows, d_queries, *keys.sums]


class _Keys:
    """Keys and values of a tile, and the way of their gradients back to the rows and the parameters."""

    def __init__(
        self, queries: Tensor, w_kv: Tensor | None, gain: Tensor | None, bias: Tensor | None, norm: str, eps: float
    ) -> None:
        self.parameters = (w_kv, gain, bias)
        self.norm, self.eps, self.heads = norm, eps, queries.shape[1]
        # gradients of the parameters, summed over tiles
        self.sums = [queries.new_empty(0) if p is None else torch.zeros_like(p) for p in self.parameters]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (b, n, C) → keys and values (b, h, n, e)."""
        w_kv, gain, bias = self.parameters
        if gain is not None:
            self.normed = norms.forward(x.flatten(0, 1), gain, bias, self.norm, self.eps)
            x = self.normed.out.view_as(x)
        self.x = x
        if w_kv is None:
            return x[:, None], x[:, None]
        k, v = (x @ w_kv.T).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def backward(self, d_scores: Tensor, p: Tensor, queries: Tensor, d_y: Tensor, need_rows: bool) -> Tensor | None:
        """Gradient of the last tile's rows from those of its scores (b, h, m, n) and of y (b, h, m, e)."""
        w_kv, gain, bias = self.parameters
        if w_kv is None and gain is None and not need_rows:
            return None
        # of keys and values (b, h, n, e)
        d_k, d_v = d_scores.mT @ queries, p.mT @ d_y
        if w_kv is None:
            d_x = d_k.add_(d_v)[:, 0]
        else:
            d_kv = torch.stack([d_k, d_v]).permute(1, 3, 0, 2, 4).flatten(2)  # (b, n, 2D)
            self.sums[0].addmm_(d_kv.flatten(0, 1).T, self.x.flatten(0, 1))
            d_x = d_kv @ w_kv
        if gain is None:
            return d_x if need_rows else None
        d_rows, d_gain, d_bias = norms.backward(d_x.flatten(0, 1), self.normed, gain, bias, self.norm)
        self.sums[1] += d_gain
        if d_bias is not None:
            self.sums[2] += d_bias
        return d_rows.view_as(d_x) if need_rows else None


def _scores_per_row(queries: Tensor) -> int:
    return queries.shape[1] * queries.shape[2]


def _scores(queries: Tensor, sets: slice, keys: Tensor, outside: Tensor | None) -> Tensor:
    """(b, h, m, n) in units of log 2, −inf outside the sets."""
    q = queries if queries.shape[0] == 1 else queries[sets]
    scores = (q * _LOG2_E) @ keys.mT
    return scores if outside is None else scores.masked_fill_(outside[:, None, None], -math.inf)


@aggregate.register_fake
def _(rows, lengths, offsets, queries, w_kv, gain, bias, norm, eps):  # type: ignore[no-untyped-def]
    y = queries.new_empty(Sets(rows, lengths, offsets).num_sets, *queries.shape[1:])
    return y, y[..., :1].clone()


@aggregate_backward.register_fake
def _(d_y, y, lse, rows, lengths, offsets, queries, w_kv, gain, bias, norm, eps, need_rows):  # type: ignore[no-untyped-def]
    inputs = (rows if need_rows else None, queries, w_kv, gain, bias)
    return [rows.new_empty(0) if t is None else torch.empty_like(t) for t in inputs]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.norm, ctx.eps = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, d_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    gradients = aggregate_backward(d_y, *ctx.saved_tensors, ctx.norm, ctx.eps, need[0])
    d_rows, *d_rest = (g if wanted else None for g, wanted in zip(gradients, (need[0], *need[3:7]), strict=True))
    return d_rows, None, None, *d_rest, None, None


aggregate.register_autograd(_differentiate, setup_context=_save)
aggregate_backward.register_autograd(refuse_second_derivative)
