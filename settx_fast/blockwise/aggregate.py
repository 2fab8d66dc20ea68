"""Few queries read long sets: softmax attention in one pass over the rows, with a backward that recomputes.

Absorbed: keys and values are the rows themselves. Projected: every tile makes its keys and values with `w_kv` and
drops them. Only rows, queries and per-set results are saved. Scores are in units of log 2: exp2 is the cheaper
exponential.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from settx_fast._sets import Sets
from settx_fast.blockwise import norms
from settx_fast.blockwise.shares import over_shares, span
from settx_fast.blockwise.tiles import Tile, blank, refuse_second_derivative, tiles

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
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of queries (B or 1, h, m, e) over the rows of each set → y (B, h, m, e), log2-sum-exp2 (B, h, m, 1).

    The third result stands for the rows in what reads them next: it has their shape, only zeros and no memory; the
    gradient it gets is added, tile by tile, to that of the rows.

    w_kv (2·h·e, C) makes keys and values from rows, normed first where `gain` is given; None: they are the rows. An
    empty set has y = 0. Queries, weights and results are in the compute dtype of the rows.
    """
    sets = Sets(rows, lengths, offsets)

    def read(share: list[Tile]) -> tuple[slice, _Partial]:
        keys, sums = _Keys(queries, w_kv, gain, bias, norm, eps), _Partial.empty(queries, span(share))
        for tile in share:
            k, v = keys.forward(tile.load(rows, queries.dtype))
            scores = _scores(queries, tile.sets, k, tile.outside())
            sums.add(tile.within(span(share)), _Partial.of(scores, v))
        return span(share), sums

    whole = _Partial.empty(queries, slice(0, sets.num_sets))
    for sets_of_share, part in over_shares(tiles(sets, _scores_per_row(queries)), read):
        whole.add(sets_of_share, part)
    return *whole.result(), rows.new_zeros(1).expand(rows.shape)


@custom_op("settx_fast::aggregate_backward", mutates_args=())
def aggregate_backward(
    d_y: Tensor,
    d_stand_in: Tensor | None,
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
    """Gradients of rows, queries, w_kv, gain and bias; empty for what is None or not needed."""
    sets = Sets(rows, lengths, offsets)
    d_rows = blank(sets, rows.shape[-1]) if need_rows else rows.new_empty(0)
    delta = (d_y * y).sum(-1, keepdim=True)
    shared = queries.shape[0] == 1

    def read(share: list[Tile]) -> tuple[slice, list[Tensor]]:
        keys, sets_of_queries = _Keys(queries, w_kv, gain, bias, norm, eps), slice(0, 1) if shared else span(share)
        d_queries = torch.zeros_like(queries[sets_of_queries])
        for tile in share:
            b = tile.sets
            k, v = keys.forward(tile.load(rows, queries.dtype))
            p = _scores(queries, b, k, tile.outside()).sub_(lse[b]).exp2_()
            d_scores = torch.matmul(d_y[b], v.mT).sub_(delta[b]).mul_(p)
            d_q = d_scores @ k
            d_queries[sets_of_queries if shared else tile.within(span(share))] += d_q.sum(0) if shared else d_q
            d_x = keys.backward(d_scores, p, queries if shared else queries[b], d_y[b], need_rows)
            if d_x is not None:
                tile.store(d_x if d_stand_in is None else d_x.add_(tile.load(d_stand_in, d_x.dtype)), d_rows)
        return sets_of_queries, [d_queries, *keys.sums]

    d_queries, *d_parameters = (torch.zeros_like(t) for t in _present(queries, w_kv, gain, bias))
    for sets_of_queries, (d_q, *sums) in over_shares(tiles(sets, _scores_per_row(queries)), read):
        d_queries[sets_of_queries] += d_q
        for total, part in zip(d_parameters, sums, strict=True):
            total += part
    return [d_rows, d_queries, *d_parameters]


class _Partial(NamedTuple):
    """Softmax sums over some of the keys: largest score, sum of weights, weighted sum of values; (b, h, m, 1 or e)."""

    peak: Tensor
    total: Tensor
    y: Tensor

    @classmethod
    def empty(cls, queries: Tensor, sets: slice) -> _Partial:
        """Of no keys."""
        y = queries.new_zeros(sets.stop - sets.start, *queries.shape[1:])
        total = torch.zeros_like(y[..., :1])
        return cls(torch.full_like(total, torch.finfo(y.dtype).min), total, y)

    @classmethod
    def of(cls, scores: Tensor, values: Tensor) -> _Partial:
        """Of scores (b, h, m, n), which it overwrites, and values (b, h, n, e)."""
        peak = scores.amax(-1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)  # finite for an empty set
        p = scores.sub_(peak).exp2_()
        return cls(peak, p.sum(-1, keepdim=True), p @ values)

    def add(self, sets: slice, other: _Partial) -> None:
        """Include the keys of another partial sum over these sets."""
        peak = torch.maximum(self.peak[sets], other.peak)
        shrink, shrink_other = torch.exp2(self.peak[sets] - peak), torch.exp2(other.peak - peak)
        self.total[sets] = self.total[sets] * shrink + other.total * shrink_other
        self.y[sets] = self.y[sets] * shrink + other.y * shrink_other
        self.peak[sets] = peak

    def result(self) -> tuple[Tensor, Tensor]:
        """Attention and log2-sum-exp2; of an empty set 0 and ∞."""
        y = self.y / self.total.clamp(min=1)  # the largest score alone adds 1
        return y, torch.where(self.total > 0, self.peak + self.total.log2(), math.inf)


class _Keys:
    """Keys and values of a tile, and the way of their gradients back to the rows and the parameters."""

    def __init__(
        self, queries: Tensor, w_kv: Tensor | None, gain: Tensor | None, bias: Tensor | None, norm: str, eps: float
    ) -> None:
        self.parameters = (w_kv, gain, bias)
        self.norm, self.eps, self.heads = norm, eps, queries.shape[1]
        # gradients of the parameters, summed over tiles
        self.sums = [torch.zeros_like(p) for p in _present(queries, *self.parameters)[1:]]

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


def _present(queries: Tensor, *parameters: Tensor | None) -> list[Tensor]:
    """Queries and parameters, empty where there is none."""
    return [queries, *(queries.new_empty(0) if p is None else p for p in parameters)]


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
    return y, y.new_empty(*y.shape[:-1], 1), rows.new_zeros(1).expand(rows.shape)


@aggregate_backward.register_fake
def _(d_y, d_stand_in, y, lse, rows, lengths, offsets, queries, w_kv, gain, bias, norm, eps, need_rows):  # type: ignore[no-untyped-def]
    d_rows = torch.empty_like(rows) if need_rows else rows.new_empty(0)
    return [d_rows, *(torch.empty_like(t) for t in _present(queries, w_kv, gain, bias))]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.norm, ctx.eps = inputs
    y, lse, _ = output
    ctx.save_for_backward(y, lse, *tensors)
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, d_y: Tensor | None, _: None, d_stand_in: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_second_derivative()
    need = ctx.needs_input_grad
    d_y = torch.zeros_like(ctx.saved_tensors[0]) if d_y is None else d_y
    gradients = aggregate_backward(d_y, d_stand_in, *ctx.saved_tensors, ctx.norm, ctx.eps, need[0])
    d_rows, *d_rest = (g if wanted else None for g, wanted in zip(gradients, (need[0], *need[3:7]), strict=True))
    return d_rows, None, None, *d_rest, None, None


aggregate.register_autograd(_differentiate, setup_context=_save)
