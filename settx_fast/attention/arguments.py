"""What callers pass, checked and normalised into what implementations receive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.sets import Sets, is_readable
from settx_fast.attention.shortcuts import CASTABLE, cast_of

Restore = Callable[[Tensor], Tensor]


def enter(name: str, x: Tensor, lengths: Tensor | None, mask: Tensor | None) -> tuple[Sets, Restore]:
    """Sets of the argument `name`, and the map that brings an output of their layout back to the caller's.

    A mask becomes lengths: elements are stably reordered so that those of the set come first (a set has no order).
    Several leading dimensions become one.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if lengths is not None and mask is not None:
        raise ValueError(f"{name}: expected lengths or a mask, got both")
    x = autocast(x)
    if x.is_nested:
        return _enter_jagged(name, x, lengths is not None or mask is not None)
    check_set(name, x)
    if x.dim() > 3:
        lead = x.shape[:-2]
        lengths = None if lengths is None else _flat(f"lengths of {name}", lengths, lead)
        mask = None if mask is None else _flat(f"mask of {name}", mask, x.shape[:-1], keep=1)
        sets, restore = enter(name, flat_sets(x), lengths, mask)
        return sets, lambda out: restore(out).unflatten(0, lead)
    if mask is not None:
        _check_mask(name, mask, x)
        return _enter_masked(x, mask)
    if lengths is not None:
        lengths = _checked_lengths(f"lengths of {name}", lengths, x)
    return Sets(x, lengths), _identity


def context_of(sets: Sets, lengths: Tensor | int | None, mask: Tensor | None, lead: torch.Size | None = None) -> Sets:
    """The first `lengths` rows of padded sets: one number for all, or one each (B,); None: all rows.

    `lead`: the leading dimensions that the sets came with, where these were several.
    """
    name = "context_lengths"
    if lengths is None:
        return sets
    if lead is not None and isinstance(lengths, Tensor):
        lengths = _flat(name, lengths, lead)
    if mask is not None:
        raise ValueError(f"{name}: expected no mask beside it, which leaves no first rows")
    if sets.offsets is not None:
        raise ValueError(f"{name}: expected padded sets, got a jagged nested tensor")
    size = sets.rows.shape[1]
    if isinstance(lengths, Tensor):
        lengths = _checked_lengths(name, lengths, sets.rows)
    elif isinstance(lengths, bool) or not isinstance(lengths, int | torch.SymInt):
        raise TypeError(f"{name}: expected an int or an int tensor (B,), got {type(lengths).__name__}")
    elif not 0 <= lengths <= size:
        raise ValueError(f"{name}: expected a number in 0..{size}, got {lengths}")
    else:
        lengths = torch.full(sets.rows.shape[:1], lengths, device=sets.rows.device)
    return sets._replace(lengths=lengths if sets.lengths is None else lengths.minimum(sets.lengths))


def flat_sets(x: Tensor) -> Tensor:
    """(…, N, C) as (B, N, C)."""
    return x.flatten(0, -3) if x.dim() > 3 else x


def _flat(name: str, tensor: Tensor, shape: torch.Size, keep: int = 0) -> Tensor:
    """A tensor of this shape with all leading dimensions as one, the last `keep` left as they are."""
    if not isinstance(tensor, Tensor) or tensor.shape != shape:
        got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {got}")
    return tensor.flatten(0, -1 - keep)


def _identity(out: Tensor) -> Tensor:
    return out


def _enter_jagged(name: str, x: Tensor, also_ragged: bool) -> tuple[Sets, Restore]:
    if x.layout is not torch.jagged or x.dim() != 3:
        raise ValueError(
            f"{name}: expected a jagged nested tensor (B, ragged, C), got {x.layout} of {x.dim()} dimensions"
        )
    if also_ragged:
        raise ValueError(f"{name}: expected no lengths or mask beside a jagged nested tensor")
    nested: Any = x  # its layout methods are not in Tensor's stubs
    if nested.lengths() is not None:
        raise ValueError(f"{name}: expected a jagged nested tensor without holes, call contiguous() on it")
    offsets = nested.offsets()
    return Sets(x.values(), offsets=offsets.long()), lambda out: torch.nested.nested_tensor_from_jagged(out, offsets)


def _enter_masked(x: Tensor, mask: Tensor) -> tuple[Sets, Restore]:
    lengths = mask.sum(1)
    if is_readable(mask) and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return Sets(x, lengths), _identity
    order = mask.logical_not().byte().argsort(dim=1, stable=True)
    back = order.argsort(dim=1)

    def take(rows: Tensor, index: Tensor) -> Tensor:
        return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))

    return Sets(take(x, order), lengths), lambda out: take(out, back)


def check_set(name: str, x: Tensor, like: Tensor | None = None) -> None:
    """Raise unless x is a floating (…, N, C) tensor of three dimensions or more, of the dtype and device of `like`."""
    if x.dim() < 3:
        raise ValueError(f"{name}: expected shape (B, N, C), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {x.dtype}")
    if like is not None and (x.dtype, x.device) != (like.dtype, like.device):
        raise TypeError(f"{name}: expected {like.dtype} on {like.device}, got {x.dtype} on {x.device}")


def check_fits(name: str, x: Tensor, weight: Tensor) -> None:
    """Raise unless x (B, N, C) has the width, dtype and device that `weight` (D, C) reads."""
    if x.shape[-1] != weight.shape[-1]:
        raise ValueError(f"{name}: expected shape (B, N, {weight.shape[-1]}), got {tuple(x.shape)}")
    if (x.dtype, x.device) != (weight.dtype, weight.device):
        raise TypeError(
            f"{name}: expected {weight.dtype} on {weight.device} (as the weights), got {x.dtype} on {x.device}"
        )


def check_batches(query: Sets, key: Sets) -> None:
    """Raise unless there is a query set for every key set, or one, without lengths, for all."""
    if query.num_sets == key.num_sets:
        return
    if query.num_sets != 1:
        raise ValueError(f"query: expected a batch of 1 or {key.num_sets} (as key), got {query.num_sets}")
    if query.lengths is not None or query.offsets is not None:
        raise ValueError("query: expected no lengths, mask or jagged layout where all key sets share it")


def check_inducing(inducing: Tensor, sets: Sets) -> None:
    """Raise unless inducing is (1, M, D) or has M points for every set, in the dtype and on the device of the sets."""
    check_set("inducing", inducing, like=sets.rows)
    if inducing.shape[0] not in (1, sets.num_sets):
        raise ValueError(f"inducing: expected shape (1, M, D) or ({sets.num_sets}, M, D), got {tuple(inducing.shape)}")


def entered_scale(scale: Tensor, query: Sets, masked: bool, num_sets: int, dim: int) -> Tensor:
    """Factors of projected queries as (1 or B, M, D); raise where they do not belong to such queries."""
    name = "query_scale"
    if not isinstance(scale, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(scale).__name__}")
    if query.packed or masked:
        raise ValueError(f"{name}: expected padded queries without a mask, whose rows it belongs to one by one")
    scale = flat_sets(autocast(scale))
    check_set(name, scale, like=query.rows)
    rest = query.rows.shape[1], dim
    if scale.shape[1:] != rest or scale.shape[0] not in (1, num_sets):
        shapes = " or ".join(str((sets, *rest)) for sets in sorted({1, num_sets}))
        raise ValueError(f"{name}: expected shape {shapes}, got {tuple(scale.shape)}")
    return scale


def _dtype(value: object) -> object:
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


def _check_mask(name: str, mask: Tensor, x: Tensor) -> None:
    if _dtype(mask) is not torch.bool:
        raise TypeError(f"mask of {name}: expected a bool tensor, got {_dtype(mask)}")
    if mask.shape != x.shape[:2] or mask.device != x.device:
        raise ValueError(
            f"mask of {name}: expected shape {tuple(x.shape[:2])} on {x.device}, "
            f"got {tuple(mask.shape)} on {mask.device}"
        )


def _checked_lengths(name: str, lengths: Tensor, x: Tensor) -> Tensor:
    if _dtype(lengths) not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: expected an int32 or int64 tensor, got {_dtype(lengths)}")
    if lengths.shape != x.shape[:1] or lengths.device != x.device:
        raise ValueError(
            f"{name}: expected shape {tuple(x.shape[:1])} on {x.device}, got {tuple(lengths.shape)} on {lengths.device}"
        )
    if not is_readable(lengths):
        return lengths.long().clamp(0, x.shape[1])
    if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= x.shape[1]:
        raise ValueError(f"{name}: expected values in 0..{x.shape[1]}, got {lengths.tolist()}")
    return lengths.long()


def check_block(name: str, weights: BlockWeights, spec: BlockSpec, query: Tensor, dim_key: int) -> None:
    """Raise unless the weights are what `spec` needs to read `query` (…, C_q) and a key `dim_key` wide."""
    dim, dim_query = weights.w_q.shape[0], query.shape[-1]
    if dim % spec.num_heads:
        raise ValueError(f"{name}: expected a width divisible by {spec.num_heads} heads, got {dim}")
    if spec.residual == "input" and dim_query != dim:
        raise ValueError(f"{name}: residual='input' expects a query {dim} wide, got {dim_query}")
    if spec.norm_first and spec.norm != "none" and not spec.key_norm and dim_query != dim_key:
        raise ValueError(
            f"{name}: norm_first expects query and key of one width, or key_norm, got {dim_query} and {dim_key}"
        )
    for field, shape in expected_shapes(spec, dim_query, dim_key, dim).items():
        tensor = getattr(weights, field)
        if (None if tensor is None else tuple(tensor.shape)) != shape:
            got = None if tensor is None else tuple(tensor.shape)
            raise ValueError(f"{name}.{field}: expected {shape and f'shape {shape}'}, got {got}")
        if tensor is not None and (tensor.dtype, tensor.device) != (query.dtype, query.device):
            raise TypeError(
                f"{name}.{field}: expected {query.dtype} on {query.device} (as the input), "
                f"got {tensor.dtype} on {tensor.device}"
            )


def expected_shapes(spec: BlockSpec, dim_query: int, dim_key: int, dim: int) -> dict[str, tuple[int, ...] | None]:
    """Shape of every field of the `BlockWeights` that `spec` needs, None for a field it does not use."""
    ffn = spec.ffn_dim or dim
    first, head = dim_query if spec.norm_first else dim, dim // spec.num_heads
    shapes: dict[str, tuple[int, ...]] = {
        "w_q": (dim, dim_query),
        "b_q": (dim,),
        "w_k": (dim, dim_key),
        "b_k": (dim,),
        "w_v": (dim, dim_key),
        "b_v": (dim,),
        "w_o": (ffn, dim),
        "b_o": (ffn,),
        "w_p": (dim, dim),
        "b_p": (dim,),
        "w_o2": (dim, ffn),
        "b_o2": (dim,),
        "g0": (first,),
        "b0": (first,),
        "g1": (dim,),
        "b1": (dim,),
        "g0_k": (dim_key,),
        "b0_k": (dim_key,),
        "w_g": (ffn, dim),
        "b_g": (ffn,),
        **{f"{kind}_{name}": (head,) for kind in "gs" for name in "qk"},
        **{f"{kind}_{name}": (dim,) for kind in "gs" for name in "po"},
    }
    return {name: shape if name in spec.weight_names else None for name, shape in shapes.items()}


def autocast(tensor: Tensor) -> Tensor:
    """The tensor in autocast's dtype where that is on for its device and would cast it, else as it is."""
    dtype = cast_of(tensor.device)
    return tensor if dtype is None or tensor.dtype not in CASTABLE else tensor.to(dtype)
