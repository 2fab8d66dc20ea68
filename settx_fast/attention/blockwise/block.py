"""One attention block on one tile: R = b·n rows read keys and values that are already there; forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu

from settx_fast.attention.block import BlockSpec
from settx_fast.attention.blockwise import library, norms
from settx_fast.attention.blockwise.norms import Normed

_aten = torch.ops.aten


class Read(NamedTuple):
    """What attention leaves for its backward: weights, or what PyTorch's own needs to make these again."""

    weights: Tensor | None = None  # (b, h, n, M)
    log_sum: Tensor | None = None  # (b, h, n)
    attended: Tensor | None = None  # (R, D), for an output projection too


@dataclass
class Trace:
    """What the backward of a tile needs."""

    x: Tensor  # (R, C)
    first: Normed | None
    q: Tensor  # (R, D)
    read: Read
    ffn_in: Tensor  # (R, D)
    hidden: Tensor  # (R, F), after ReLU, before GELU
    active: Tensor  # (R, F)
    second: Normed | None
    out: Tensor | None  # (R, D); None where only a backward reads the trace and needs none


class Block:
    """Spec and weights of a block; `grads` sums the gradients of the weights over tiles.

    `keep`: a backward will read the trace of a forward; else what it does not need again is overwritten.
    """

    def __init__(self, spec: BlockSpec, weights: dict[str, Tensor], *, keep: bool) -> None:
        self.spec, self.w, self.keep = spec, weights, keep
        self.grads = {name: torch.zeros_like(w) for name, w in weights.items()}

    def forward(self, x: Tensor, k: Tensor, v: Tensor, outside: Tensor | None) -> Trace:
        """Rows (b, n, C) on scaled keys and values (b, h, M, e); `outside` (b, 1, 1, M) marks keys not to count."""
        rows = x.flatten(0, 1)
        first = self._norm(rows, 0) if self.spec.norm_first else None
        q = self._linear("q", first.out if first else rows)
        base = q if self.spec.residual == "projected" else rows
        read, mid = self._attend(q, base, k, v, outside)
        return self._feed_forward(rows, first, q, read, mid)

    def _attend(self, q: Tensor, base: Tensor, k: Tensor, v: Tensor, outside: Tensor | None) -> tuple[Read, Tensor]:
        """What attention of queries (R, D) leaves, and the sum of `base` (R, D) and what the block makes of it."""
        if library.takes(k.shape[2], k.shape[3], outside):
            attended, log_sum = library.forward(_heads(q, k), k, v)
            read = Read(log_sum=log_sum, attended=_rows(attended))
        else:
            p = _attention(_heads(q, k), k, outside)
            if not self.spec.output_projection:
                mine = base is q and not self.keep
                return Read(p), _add_heads(base if mine else base.clone(), p, v)
            read = Read(p, attended=_rows(p @ v))
        assert read.attended is not None
        if self.spec.output_projection:
            return read, self._linear("p", read.attended).add_(base)
        return read, read.attended + base

    def _feed_forward(self, x: Tensor, first: Normed | None, q: Tensor, read: Read, mid: Tensor) -> Trace:
        pre = self.spec.norm_first
        inner = self._norm(mid, 1 if pre else 0)
        ffn_in = inner.out if inner else mid
        hidden = self._linear("o", ffn_in)
        active = hidden.relu_() if self.spec.activation == "relu" else gelu(hidden)
        if pre and self.keep:  # a backward asks for no output
            return Trace(x, first, q, read, ffn_in, hidden, active, inner, None)
        update = active if self.spec.ffn_dim is None else self._linear("o2", active)
        total = torch.add(mid if pre else ffn_in, update, out=None if self.keep and update is active else update)
        if pre:
            return Trace(x, first, q, read, ffn_in, hidden, active, inner, total)
        outer = self._norm(total, 1)
        return Trace(x, inner, q, read, ffn_in, hidden, active, outer, outer.out if outer else total)

    def backward(
        self, t: Trace, d_out: Tensor, k: Tensor, v: Tensor, need_rows: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of rows (R, C; None unless needed), keys and values from that of the output (R, D)."""
        d_mid = self._feed_forward_backward(t, d_out)
        d_q, d_k, d_v = self._attend_backward(t, d_mid, k, v)
        return self._query_backward(t, d_q, d_mid, need_rows), d_k, d_v

    def _attend_backward(self, t: Trace, d_mid: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries (R, D), with that of a projected residual, which it overwrites, of keys and values."""
        projected, q, d_attended = self.spec.residual == "projected", _heads(t.q, k), d_mid
        if self.spec.output_projection:
            assert t.read.attended is not None
            d_attended = self._linear_backward("p", d_mid, t.read.attended)
        d_heads = _heads(d_attended, k)
        if (p := t.read.weights) is not None:
            d_scores = _aten._softmax_backward_data(d_heads @ v.mT, p, -1, p.dtype)
            d_k, d_v = d_scores.mT @ q, p.mT @ d_heads
            return _add_heads(d_mid, d_scores, k) if projected else _rows(d_scores @ k), d_k, d_v
        assert t.read.attended is not None
        assert t.read.log_sum is not None
        d_q, d_k, d_v = library.backward(d_heads, q, k, v, _heads(t.read.attended, k), t.read.log_sum)
        return _rows(d_q).add_(d_mid) if projected else _rows(d_q), d_k, d_v

    def _feed_forward_backward(self, t: Trace, d_out: Tensor) -> Tensor:
        pre = self.spec.norm_first
        d_total = d_out if pre else self._norm_backward(1, d_out, t.second)
        d_active = d_total if self.spec.ffn_dim is None else self._linear_backward("o2", d_total, t.active)
        if self.spec.activation == "relu":
            d_hidden = _aten.threshold_backward.grad_input(d_active, t.active, 0, grad_input=t.active)
        else:
            d_hidden = _aten.gelu_backward(d_active, t.hidden)
        d_ffn_in = self._linear_backward("o", d_hidden, t.ffn_in)
        if pre:
            return self._norm_backward(1, d_ffn_in, t.second).add_(d_out)
        return self._norm_backward(0, d_ffn_in.add_(d_total), t.first)

    def _query_backward(self, t: Trace, d_q: Tensor, d_mid: Tensor, need_rows: bool) -> Tensor | None:
        """Gradient of the rows, through the queries and where the rows are the residual."""
        self._accumulate("q", d_q, t.first.out if t.first and self.spec.norm_first else t.x)
        if not need_rows and not self.spec.norm_first:
            return None
        d_x = d_q @ self.w["w_q"]
        if self.spec.norm_first:
            d_x = self._norm_backward(0, d_x, t.first)
        return d_x if self.spec.residual == "projected" else d_x.add_(d_mid)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return torch.addmm(self.w[f"b_{name}"], x, self.w[f"w_{name}"].T)

    def _linear_backward(self, name: str, d_out: Tensor, x: Tensor) -> Tensor:
        self._accumulate(name, d_out, x)
        return d_out @ self.w[f"w_{name}"]

    def _accumulate(self, name: str, d_out: Tensor, x: Tensor) -> None:
        self.grads[f"w_{name}"].addmm_(d_out.T, x)
        self.grads[f"b_{name}"] += d_out.sum(0)

    def _norm(self, x: Tensor, index: int) -> Normed | None:
        if self.spec.norm == "none":
            return None
        return norms.forward(x, self.w[f"g{index}"], self.w.get(f"b{index}"), self.spec.norm, self.spec.norm_eps)

    def _norm_backward(self, index: int, d_out: Tensor, normed: Normed | None) -> Tensor:
        if normed is None:
            return d_out
        gain, bias = self.w[f"g{index}"], self.w.get(f"b{index}")
        d_x, d_gain, d_bias = norms.backward(d_out, normed, gain, bias, self.spec.norm)
        self.grads[f"g{index}"] += d_gain
        if d_bias is not None:
            self.grads[f"b{index}"] += d_bias
        return d_x


def _heads(rows: Tensor, like: Tensor) -> Tensor:
    """(R, D) as (b, h, n, e), a view, with b and h those of `like`."""
    return rows.view(like.shape[0], -1, like.shape[1], like.shape[3]).transpose(1, 2)


def _rows(heads: Tensor) -> Tensor:
    """(b, h, n, e) as (R, D)."""
    return heads.transpose(1, 2).flatten(2).flatten(0, 1)


def _attention(q: Tensor, k: Tensor, outside: Tensor | None) -> Tensor:
    """Softmax of the scores over the keys, (b, h, n, M); zero for keys that do not count."""
    scores = q @ k.mT
    if outside is None:
        return scores.softmax(-1)
    return scores.masked_fill_(outside, -torch.inf).softmax(-1).masked_fill_(outside, 0)


def _add_heads(base: Tensor, p: Tensor, v: Tensor) -> Tensor:
    """base (R, D) + concatenated heads of p (b, h, n, M) @ v (b, h, M, e), in place of base."""
    if len(p) > 1:
        return base.add_(_rows(p @ v))
    _heads(base, v)[0].baddbmm_(p[0], v[0])
    return base
