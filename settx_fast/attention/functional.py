"""What the operations mean and accept; `choice.py` says who computes a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor

from settx_fast.attention import composed, shortcuts
from settx_fast.attention.arguments import (
    Restore,
    autocast,
    check_batches,
    check_block,
    check_fits,
    check_inducing,
    context_of,
    enter,
    entered_scale,
    flat_sets,
)
from settx_fast.attention.block import NO_WEIGHTS, BlockSpec, BlockWeights
from settx_fast.attention.casting import autocast_together
from settx_fast.attention.choice import Impl, choose
from settx_fast.attention.sets import Sets
from settx_fast.attention.shortcuts import has_shortcut


def attention_block(
    query: Tensor,
    key: Tensor,
    weights: BlockWeights,
    spec: BlockSpec,
    *,
    query_lengths: Tensor | None = None,
    query_mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    key_mask: Tensor | None = None,
    query_scale: Tensor | None = None,
    impl: Impl | None = None,
) -> Tensor:
    """Multihead attention block MAB(query, key): every query element reads the whole key set.

    query (B, N_q, C_q), or (1, N_q, C_q) for one that all key sets share; key (B, N_k, C_k); either may be a jagged
    nested tensor, or ragged through lengths (B,) or a bool mask (B, N), True for an element. Returns (B, N_q, D) in
    the dtype of query, jagged where query is; rows outside a query set are zero. An empty key set adds nothing.
    `query_scale` (1 or B, N_q, D) is multiplied onto the projected queries (after their norm) where scores are made of
    them; what is added to the query is not. B may be several leading dimensions, of all that has them.
    `impl` forces an implementation, which then never falls back.

    Raises ValueError for a wrong shape or a call that `impl` cannot take, TypeError for a wrong dtype or kind.
    Source: Lee et al. 2019, arXiv:1810.00825, equation 6; `BlockSpec` names the variants.
    """
    call, tensors = None, [query, *(w for w in weights if w is not None)]
    if query_lengths is query_mask is key_mask is query_scale is None:
        call = shortcuts.seen(key, key_lengths, tensors, "attention_block", weights.names, spec, impl)
    if call is not None and (known := shortcuts.CALLS.find(call)) is not None:
        (weights,) = autocast_together(weights)
        return known(Sets(autocast(query)), Sets(autocast(key), key_lengths), weights, spec)
    (weights,) = autocast_together(weights)
    queries, restore = enter("query", query, query_lengths, query_mask)
    keys, _ = enter("key", key, key_lengths, key_mask)
    check_fits("query", queries.rows, weights.w_q)
    check_fits("key", keys.rows, weights.w_k)
    check_block("weights", weights, spec, queries.rows, keys.rows.shape[-1])
    check_batches(queries, keys)
    if query_scale is not None:
        query_scale = entered_scale(query_scale, queries, query_mask is not None, keys.num_sets, weights.w_q.shape[0])
    long, short = (queries, keys) if queries.rows.shape[-2] > keys.rows.shape[-2] else (keys, queries)
    chosen = choose(
        impl,
        long.rows,
        short.longest,
        (weights, spec),
        ragged_latents=short is keys and not (short.lengths is None and short.offsets is None),
        scaled_rows=long is queries and query_scale is not None,
        offsets=long.offsets,
    )
    known_next_time = hasattr(chosen, "shortcut") and query.dim() == 3 and has_shortcut(key, key_lengths, tensors)
    if call is not None and known_next_time:
        shortcuts.CALLS.keep(call, chosen.attention_block)
    out = restore(chosen.attention_block(queries, keys, weights, spec, query_scale))
    return out.unflatten(0, key.shape[:-2]) if query.dim() == 3 < key.dim() else out


def induced_set_attention(
    x: Tensor,
    inducing: Tensor,
    weights_a: BlockWeights,
    spec_a: BlockSpec,
    weights_b: BlockWeights,
    spec_b: BlockSpec,
    *,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    context_lengths: Tensor | int | None = None,
    query_scale: Tensor | None = None,
    impl: Impl | None = None,
) -> Tensor:
    """Induced set attention ISAB(x) = MAB_b(x, MAB_a(inducing, x)), linear in the number of elements.

    x (B, N, C) or a jagged nested tensor, inducing (1, M, D), or (B, M, D) of every set's own. `lengths` (B,) or a bool
    `mask` (B, N), True for an element, make the sets ragged: what lies outside has no influence, its output and its
    gradient are zero. `context_lengths`, a number or (B,), has the inducing points read only so many first rows of
    padded sets, as where test rows must not be seen; all rows read the inducing points. `query_scale` (1 or B, M, D) is
    multiplied onto the projected inducing points where MAB_a makes scores of them, as scalable softmax does
    (arXiv:2501.19399). B may be several leading dimensions. Returns (B, N, D) in the dtype of x, jagged where x is.
    `impl` forces an implementation, which then never falls back.

    Raises ValueError for a wrong shape or a call that `impl` cannot take, TypeError for a wrong dtype or kind.
    Source: Lee et al. 2019, arXiv:1810.00825, equations 9 and 10.
    """
    parameters = [inducing, *(w for weights in (weights_a, weights_b) for w in weights if w is not None)]
    call = None
    if mask is context_lengths is query_scale is None:
        call = _seen_isab(x, lengths, parameters, weights_a.names, weights_b.names, spec_a, spec_b, impl)
    if call is not None and (known := shortcuts.CALLS.find(call)) is not None:
        return known(call.tensors)
    weights_a, weights_b, (inducing, *_) = autocast_together(weights_a, weights_b, NO_WEIGHTS._replace(w_q=inducing))
    sets, restore = enter("x", x, lengths, mask)
    context = context_of(sets, context_lengths, mask, x.shape[:-2] if x.dim() > 3 else None)
    check_fits("x", sets.rows, weights_a.w_k)
    inducing = flat_sets(inducing)
    check_inducing(inducing, sets)
    if query_scale is not None:
        query_scale = entered_scale(query_scale, Sets(inducing), False, sets.num_sets, weights_a.w_q.shape[0])
    check_block("weights_a", weights_a, spec_a, inducing, sets.rows.shape[-1])
    check_block("weights_b", weights_b, spec_b, sets.rows, dim_key=weights_a.w_q.shape[0])
    blocks = (weights_a, spec_a), (weights_b, spec_b)
    chosen = choose(impl, sets.rows, inducing.shape[1], *blocks, offsets=sets.offsets)
    if call is not None and (make := getattr(chosen, "shortcut", None)) and has_shortcut(x, lengths, parameters):
        shortcut = make(sets, inducing, weights_a, spec_a, weights_b, spec_b)
        if shortcut is not None:
            shortcuts.CALLS.keep(call, shortcut)
    arguments = sets, context, inducing, weights_a, spec_a, weights_b, spec_b
    return restore(chosen.induced_set_attention(*arguments, query_scale))


def met_isab(
    x: Tensor, lengths: Tensor | None, parameters: list[Tensor], spec_a: BlockSpec, spec_b: BlockSpec, impl: Impl | None
) -> Tensor | None:
    """`induced_set_attention`, if such a call came before; `parameters`: `inducing` and all weights the specs have."""
    if not shortcuts.CALLS:  # as ever on a CPU
        return None
    call = _seen_isab(x, lengths, parameters, spec_a.weight_names, spec_b.weight_names, spec_a, spec_b, impl)
    known = None if call is None else shortcuts.CALLS.find(call)
    return None if known is None or call is None else known(call.tensors)


def _seen_isab(x: Tensor, lengths: Tensor | None, parameters: list[Tensor], *said: Hashable) -> shortcuts.Seen | None:
    return shortcuts.seen(x, lengths, parameters, "induced_set_attention", *said)


def attention_weights(
    query: Tensor,
    key: Tensor,
    weights: BlockWeights,
    spec: BlockSpec,
    *,
    query_lengths: Tensor | None = None,
    query_mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    key_mask: Tensor | None = None,
    query_scale: Tensor | None = None,
) -> Tensor:
    """How much every query element of a block reads of every key element: (B, H, N_q, N_k), for sets of modest size.

    Arguments are those of `attention_block`; jagged sets are padded to the longest. A row of weights sums to 1, or to 0
    where the query element is none or the key set is empty; keys that are none have weight 0. Nothing is dropped.
    Of an ISAB: `attention_weights(isab.I, x, isab.mab0.weights, isab.mab0.spec)`.

    Raises ValueError for a wrong shape, TypeError for a wrong dtype or kind.
    """
    if key.dim() > 3 and not key.is_nested:
        raise ValueError(f"key: expected one leading dimension, got shape {tuple(key.shape)}")
    weights = weights.map(autocast)
    queries, restore_queries = enter("query", query, query_lengths, query_mask)
    keys, restore_keys = enter("key", key, key_lengths, key_mask)
    check_fits("query", queries.rows, weights.w_q)
    check_fits("key", keys.rows, weights.w_k)
    check_block("weights", weights, spec, queries.rows, keys.rows.shape[-1])
    check_batches(queries, keys)
    if query_scale is not None:
        query_scale = entered_scale(query_scale, queries, query_mask is not None, keys.num_sets, weights.w_q.shape[0])
    read = composed.attention_weights(queries, keys, weights, spec, query_scale)
    if query_mask is not None:
        read = _along(read, 2, restore_queries)
    return read if key_mask is None else _along(read, 3, restore_keys)


def _along(weights: Tensor, axis: int, restore: Restore) -> Tensor:
    """Weights (B, h, N_q, N_k) with the rows of an axis in the caller's order."""
    rows = weights.movedim(axis, 1)
    return restore(rows.flatten(2)).view(rows.shape).movedim(1, axis)


def set_mean(
    x: Tensor, encoder: Callable[[Tensor], Tensor], *, lengths: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Mean over each set of what `encoder` makes of its elements: (B, N, C) or jagged → (B, D), zero for an empty set.

    The encoder works row by row; it sees zeros where a padded set has no element. Raises ValueError for a wrong shape,
    TypeError for a wrong dtype. Source: Zaheer et al. 2017, arXiv:1703.06114.
    """
    sets, _ = enter("x", x, lengths, mask)
    rows, valid = sets.padded().cleaned()
    encoded = encoder(rows)
    if valid is not None:
        encoded = encoded.masked_fill(~valid, 0)
    mean = encoded.mean(-2) if valid is None else encoded.sum(-2) / valid.sum(-2).clamp(min=1)
    return mean.unflatten(0, x.shape[:-2]) if x.dim() > 3 else mean
