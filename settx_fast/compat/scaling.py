"""Scalable softmax: factors of queries that grow with the number of keys (Nakanishi 2025, arXiv:2501.19399)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.layers import first_norm, norm
from settx_fast.nn import ISAB


class QueryScaling(nn.Module):
    """Factors of projected queries: base(log n) · (1 + tanh(query(q_head))), as TabICL 2 and TabPFN 3 have them.

    `base` maps log n (…, 1) to a factor per head (…, h) or per feature (…, h · e); `query`, which may be missing, maps
    a head's queries (…, e) to one factor (…, 1) or to e. log n is rounded to `log_dtype`, None for that of the queries.
    """

    def __init__(
        self, num_heads: int, base: nn.Module, query: nn.Module | None = None, log_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.num_heads, self.base, self.query, self.log_dtype = num_heads, base, query, log_dtype

    def forward(self, q: Tensor, size: Tensor | int) -> Tensor:
        """Factors (1 or B, M, D) of projected queries q (1 or B, M, D) over sets of a size, one for all or (B,)."""
        return factors(self.base, self.query, self.num_heads, q, size, self.log_dtype)


class ScaledISAB(ISAB):
    """An ISAB whose inducing points are scaled by the size of what they read; its arguments come before `scaling`."""

    def __init__(self, *args: Any, scaling: QueryScaling, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scaling = scaling

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        context_lengths: Tensor | int | None = None,
        query_scale: Tensor | None = None,
    ) -> Tensor:
        """(B, N, dim_in) → (B, N, dim_out), see `ISAB`; raises ValueError for a `query_scale` beside its own."""
        if query_scale is not None:
            raise ValueError("query_scale: expected None, as the block makes its own")
        size = _size_of(x, lengths, mask) if context_lengths is None else context_lengths
        return super().forward(x, lengths, mask, context_lengths, self._factors(size))

    def encode(
        self,
        context: Tensor,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        query_scale: Tensor | None = None,
    ) -> Tensor:
        """What the inducing points read of a set (B, N, dim_in), see `ISAB.encode`; ValueError for a query_scale."""
        if query_scale is not None:
            raise ValueError("query_scale: expected None, as the block makes its own")
        return super().encode(context, lengths, mask, query_scale=self._factors(_size_of(context, lengths, mask)))

    def _factors(self, size: Tensor | int) -> Tensor:
        q = projected_queries(self.I, self.mab0.weights, self.mab0.spec)
        return self.scaling(q, size)


def projected_queries(x: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """The queries (…, M, D) that a block multiplies with keys, before any factor, made of x (…, M, C)."""
    q = linear(first_norm(x, w, spec), w.w_q, w.b_q)
    if spec.qk_norm == "none":
        return q
    return norm(q.unflatten(-1, (spec.num_heads, -1)), w.g_q, w.s_q, spec.qk_norm, spec.norm_eps).flatten(-2)


def factors(
    base: nn.Module,
    query: nn.Module | None,
    heads: int,
    q: Tensor,
    size: Tensor | int,
    log_dtype: torch.dtype | None = None,
) -> Tensor:
    """What `QueryScaling` says, of its parts."""
    log_dtype = log_dtype or q.dtype
    if isinstance(size, Tensor):
        log_size = size.clamp(min=1).double().log().to(log_dtype).reshape(-1, 1)
    else:
        log_size = torch.tensor([[math.log(max(size, 1))]], device=q.device, dtype=log_dtype)
    log_size = log_size.to(q.dtype)
    q_heads = q.unflatten(-1, (heads, -1))
    found = base(log_size).unflatten(-1, (heads, -1))[:, None]  # (1 or B, 1, h, 1 or e)
    if query is not None:
        found = found * (1 + torch.tanh(query(q_heads)))
    return found.expand(max(len(found), len(q_heads)), *q_heads.shape[1:]).flatten(-2)


def _size_of(x: Tensor, lengths: Tensor | None, mask: Tensor | None) -> Tensor | int:
    if x.is_nested:
        nested: Any = x
        return nested.offsets().diff()
    if mask is not None:
        return mask.sum(-1)
    return x.shape[-2] if lengths is None else lengths
