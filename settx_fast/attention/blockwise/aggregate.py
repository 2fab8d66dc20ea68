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
from torch.library import register_autograd, register_fake

from settx_fast.attention.blockwise import library, norms
from settx_fast.attention.blockwise.tiles import blank, tiles
from settx_fast.attention.derivatives import differentiable_gradients
from settx_fast.attention.layers import attend
from settx_fast.attention.layers import norm as norm_of
from settx_fast.attention.registration import operator
from settx_fast.attention.sets import Sets

_LOG2_E = math.log2(math.e)


@operator("settx_fast::aggregate")
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
    keys, whole = _Keys(queries, w_kv, gain, bias, norm, eps), _Partial.empty(queries, sets.num_sets)
    for tile in tiles(sets, _elements_per_row(queries, writes_scores=False)):
        k, v = keys.forward(tile.load(rows, queries.dtype))
        whole.add(tile.sets, _Partial.of(_of(queries, tile.sets), k, v, tile.outside()))
    return *whole.result(), rows.new_zeros(1).expand(rows.shape)


@operator("settx_fast::aggregate_backward", mutates=("d_rows",))
def aggregate_backward(
    d_y: Tensor,
    d_rows: Tensor | None,
    add: bool,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, w_kv, gain and bias, empty for what is None; that of the rows goes to `d_rows`, if given.

    `add`: it is added to what `d_rows` holds; else it replaces it.
    """
    delta = (d_y * y).sum(-1, keepdim=True)
    keys, d_queries = _Keys(queries, w_kv, gain, bias, norm, eps), torch.zeros_like(queries)
    for tile in tiles(Sets(rows, lengths, offsets), _elements_per_row(queries, writes_scores=w_kv is None)):
        b = tile.sets
        keys.forward(tile.load(rows, queries.dtype))
        of_result = d_y[b], y[b], lse[b], delta[b]
        d_q, d_x = keys.backward(_of(queries, b), *of_result, tile.outside(), d_rows is not None)
        if queries.shape[0] == 1:
            d_queries += d_q.sum(0)
        else:
            d_queries[b] += d_q
        if d_rows is not None and d_x is not None:
            (tile.add if add else tile.store)(d_x, d_rows)
    d_w_kv, d_gain, d_bias = keys.sums
    return d_queries, d_w_kv, d_gain, d_bias


class _Partial(NamedTuple):
    """Softmax sums over some of the keys: largest score, sum of weights, weighted sum of values; (b, h, m, 1 or e)."""

    peak: Tensor
    total: Tensor
    y: Tensor

    @classmethod
    def empty(cls, queries: Tensor, num_sets: int) -> _Partial:
        """Of no keys."""
        y = queries.new_zeros(num_sets, *queries.shape[1:])
        total = torch.zeros_like(y[..., :1])
        return cls(torch.full_like(total, torch.finfo(y.dtype).min), total, y)

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, outside: Tensor | None) -> _Partial:
        """Of keys and values (b, h, n, e) for scaled queries (b or 1, h, m, e)."""
        if library.takes(q.shape[2], q.shape[3], outside):
            y, log_sum = library.forward(q.expand(len(k), -1, -1, -1), k, v)
            peak = log_sum[..., None] * _LOG2_E
            return cls(peak, torch.ones_like(peak), y)
        scores = (q * _LOG2_E) @ k.mT  # (b, h, m, n)
        if outside is not None:
            scores.masked_fill_(outside[:, None, None], -math.inf)
        peak = scores.amax(-1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)  # finite for an empty set
        p = scores.sub_(peak).exp2_()
        return cls(peak, p.sum(-1, keepdim=True), p @ v)

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
        self.w_kv, self.gain, self.bias = w_kv, gain, bias
        self.norm, self.eps, self.heads = norm, eps, queries.shape[1]
        # gradients of the parameters, summed over tiles
        self.sums = [torch.zeros_like(p) for p in _present(queries, w_kv, gain, bias)[1:]]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (b, n, C) → keys and values (b, h, n, e)."""
        if self.gain is not None:
            self.normed = norms.forward(x.flatten(0, 1), self.gain, self.bias, self.norm, self.eps)
            x = self.normed.out.view_as(x)
        self.x = x
        if self.w_kv is None:
            self.k = self.v = x[:, None]
        else:
            self.k, self.v = (x @ self.w_kv.T).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.k, self.v

    def backward(
        self,
        q: Tensor,
        d_y: Tensor,
        y: Tensor,
        lse: Tensor,
        delta: Tensor,
        outside: Tensor | None,
        need_rows: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of queries (b, h, m, e) and of the last tile's rows (None unless needed) from that of y."""
        q = q.expand_as(d_y)
        if self.w_kv is None:  # keys are values: one product for both, twice
            both = torch.cat([q * _LOG2_E, d_y], 2) @ self.k.mT
            scores, d_p = both.chunk(2, 2)
            p, d_scores = _through_softmax(scores, d_p, lse, delta, outside)
            needed = need_rows or self.gain is not None
            d_x = (both.mT @ torch.cat([d_y, q], 2))[:, 0] if needed else None
        elif library.takes(q.shape[2], q.shape[3], outside):
            d_q, d_k, d_v = library.backward(d_y, q, self.k, self.v, y, lse.squeeze(-1) / _LOG2_E)
            return d_q, self._through_norm(self._through_projection(d_k, d_v, self.w_kv), need_rows)
        else:
            p, d_scores = _through_softmax((q * _LOG2_E) @ self.k.mT, d_y @ self.v.mT, lse, delta, outside)
            d_x = self._through_projection(d_scores.mT @ q, p.mT @ d_y, self.w_kv)
        return d_scores @ self.k, self._through_norm(d_x, need_rows)

    def _through_projection(self, d_k: Tensor, d_v: Tensor, w_kv: Tensor) -> Tensor:
        d_kv = torch.stack([d_k, d_v]).permute(1, 3, 0, 2, 4).flatten(2)  # (b, n, 2D)
        self.sums[0].addmm_(d_kv.flatten(0, 1).T, self.x.flatten(0, 1))
        return d_kv @ w_kv

    def _through_norm(self, d_x: Tensor | None, need_rows: bool) -> Tensor | None:
        if d_x is not None and self.gain is not None:
            d_rows, d_gain, d_bias = norms.backward(d_x.flatten(0, 1), self.normed, self.gain, self.bias, self.norm)
            self.sums[1] += d_gain
            if d_bias is not None:
                self.sums[2] += d_bias
            d_x = d_rows.view_as(d_x)
        return d_x if need_rows else None


def _through_softmax(
    scores: Tensor, d_p: Tensor, lse: Tensor, delta: Tensor, outside: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weights p and gradient of the scores (b, h, m, n), in place of scores in units of log 2 and the gradient of p."""
    if outside is not None:
        scores.masked_fill_(outside[:, None, None], -math.inf)
    p = scores.sub_(lse).exp2_()
    return p, d_p.sub_(delta).mul_(p)


def _present(queries: Tensor, *parameters: Tensor | None) -> list[Tensor]:
    """Queries and parameters, empty where there is none."""
    return [queries, *(queries.new_empty(0) if p is None else p for p in parameters)]


def _elements_per_row(queries: Tensor, *, writes_scores: bool) -> int:
    _, heads, num_queries, width = queries.shape
    writes_scores = writes_scores or not library.takes(num_queries, width, None)
    return heads * (num_queries if writes_scores else width)


def _of(queries: Tensor, sets: slice) -> Tensor:
    return queries if queries.shape[0] == 1 else queries[sets]


@register_fake(aggregate)
def _(rows, lengths, offsets, queries, w_kv, gain, bias, norm, eps):  # type: ignore[no-untyped-def]
    y = queries.new_empty(Sets(rows, lengths, offsets).num_sets, *queries.shape[1:])
    return y, y.new_empty(*y.shape[:-1], 1), rows.new_zeros(1).expand(rows.shape)


@register_fake(aggregate_backward)
def _(d_y, d_rows, add, y, lse, rows, lengths, offsets, queries, w_kv, gain, bias, norm, eps):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in _present(queries, w_kv, gain, bias))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.norm, ctx.eps = inputs
    y, lse, _ = output
    ctx.save_for_backward(y, lse, *tensors)
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, d_y: Tensor | None, _: None, d_stand_in: Tensor | None) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    y, lse, rows, lengths, offsets, *parameters = ctx.saved_tensors
    if torch.is_grad_enabled():
        return _differentiate_again(ctx, d_y, d_stand_in)
    d_y = torch.zeros_like(y) if d_y is None else d_y
    d_rows = blank(Sets(rows, lengths, offsets), rows.shape[-1]) if d_stand_in is None and need[0] else d_stand_in
    d_rows = None if d_rows is None else d_rows.contiguous()  # written to: nobody else reads the gradient of a stand-in
    gradients = aggregate_backward(
        d_y, d_rows, d_stand_in is not None, y, lse, rows, lengths, offsets, *parameters, ctx.norm, ctx.eps
    )
    d_rest = (g if wanted else None for g, wanted in zip(gradients, need[3:7], strict=True))
    return d_rows, None, None, *d_rest, None, None


def _differentiate_again(ctx: Any, d_y: Tensor | None, d_stand_in: Tensor | None) -> tuple[Tensor | None, ...]:
    """The same where the gradient is differentiated itself: through the formula, with all scores at once."""
    _, _, rows, lengths, offsets, *parameters = ctx.saved_tensors
    if d_y is None:
        return d_stand_in, *(None for _ in range(8))

    def formula(rows: Tensor, queries: Tensor, w_kv: Tensor | None, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        x, valid = Sets(rows, lengths, offsets).padded().cleaned()
        x = x.to(queries.dtype)
        if gain is not None:
            x = norm_of(x, gain, bias, ctx.norm, ctx.eps)
        k = v = x[:, None]
        if w_kv is not None:
            k, v = (x @ w_kv.T).unflatten(-1, (2, queries.shape[1], -1)).permute(2, 0, 3, 1, 4)
        return attend(queries, k, v, None if valid is None else valid.mT[:, None])

    need = ctx.needs_input_grad
    d_rows, *d_rest = differentiable_gradients(formula, [rows, *parameters], [need[0], *need[3:7]], d_y)
    if d_rows is not None and d_stand_in is not None:
        d_rows = d_rows + d_stand_in
    return d_rows, None, None, *d_rest, None, None


register_autograd(aggregate, _differentiate, setup_context=_save)
