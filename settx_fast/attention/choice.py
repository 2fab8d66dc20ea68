"""Which implementation takes a call, and why not the fused kernels.

Every implementation is a module with the two functions of `Implementation`; they are siblings that do not know each
other, and all compute the same numbers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import Tensor

from settx_fast.attention import blockwise, composed, reference
from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.derivatives import is_transformed
from settx_fast.attention.lowering import why_not_lowered
from settx_fast.attention.sets import Sets

Impl = Literal["reference", "blockwise", "composed", "triton"]
"""Who computes a call: formulas, tiles that recompute, library calls that save, fused kernels on a GPU."""

MAX_DIM_IN, MAX_DIM, MIN_HEAD, MAX_LATENTS, MIN_CAPABILITY = 512, 256, 8, 256, (8, 0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Activations that a CPU's training step saves: beyond so many bytes, to page them in costs more than to compute them
# again. The second number where an element has many scores, times its width: to make these again is most of the work
# (measured with `benchmarks.run --only saving`).
SAVED_BYTES, SAVED_BYTES_OF_MANY_SCORES, MANY_SCORES = 96 * 2**20, 640 * 2**20, 2
SAVED_BYTES_OVER_ITSELF = 256 * 2**20  # of packed sets over themselves, padded with their scores
# Without a gradient, projected elements up to which a call is mostly PyTorch's operations: tiles run more of them.
SMALL_FORWARD = 2**20

_log = logging.getLogger(__name__)


class Implementation(Protocol):
    """What an implementation receives: checked and normalised arguments (see `Sets`).

    A query or inducing set of batch 1 is shared by all sets of the key. Rows outside a query set are zero in the
    output, which has the layout of the query: (B, N, D) or packed (R, D). `query_scale` (1 or B, M, D) are factors of
    the projected queries where scores are made of them.
    """

    def attention_block(
        self, query: Sets, key: Sets, weights: BlockWeights, spec: BlockSpec, query_scale: Tensor | None = None
    ) -> Tensor:
        """MAB(query, key)."""

    def induced_set_attention(
        self,
        x: Sets,
        context: Sets,  # the rows of x that are read, fewer of each set
        inducing: Tensor,  # (1 or B, M, D)
        weights_a: BlockWeights,
        spec_a: BlockSpec,
        weights_b: BlockWeights,
        spec_b: BlockSpec,
        query_scale: Tensor | None = None,
    ) -> Tensor:
        """MAB_b(x, MAB_a(inducing, context))."""


def choose(
    impl: Impl | None,
    x: Tensor,
    num_latents: int,
    *blocks: tuple[BlockWeights, BlockSpec],
    ragged_latents: bool = False,
    scaled_rows: bool = False,
    offsets: Tensor | None = None,
) -> Implementation:
    """The implementation that `impl` names, or the best for a call (see `why_not_triton` for its arguments).

    `offsets` are those of packed x. Raises ValueError where the one that `impl` names cannot take the call.
    """
    siblings: dict[str, Implementation] = {"reference": reference, "blockwise": blockwise, "composed": composed}
    if impl is None:
        return _best(x, num_latents, blocks, ragged_latents, scaled_rows, offsets)
    if impl not in siblings and impl != "triton":
        raise ValueError(f"impl: expected None, 'triton' or one of {sorted(siblings)}, got {impl!r}")
    reason = None
    if impl == "triton":
        reason = why_not_triton(x, num_latents, *blocks, ragged_latents=ragged_latents, scaled_rows=scaled_rows)
    elif impl == "blockwise":
        reason = next(_reasons_of_operators(blocks, scaled_rows), None)
    if reason is not None:
        raise ValueError(f"impl: {impl!r} cannot take this call: {reason}")
    return _triton() if impl == "triton" else siblings[impl]


def _best(
    x: Tensor,
    num_latents: int,
    blocks: tuple[tuple[BlockWeights, BlockSpec], ...],
    ragged_latents: bool,
    scaled_rows: bool,
    offsets: Tensor | None,
) -> Implementation:
    if is_transformed():
        return reference
    on_cuda = x.device.type == "cuda"
    if on_cuda:
        reason = why_not_triton(x, num_latents, *blocks, ragged_latents=ragged_latents, scaled_rows=scaled_rows)
    else:
        reason = next(_reasons_of_operators(blocks, scaled_rows), None)
    if reason is not None:
        if not torch.compiler.is_compiling():
            _log_once(reason)
        return composed
    if on_cuda:
        return _triton()
    if x.device.type != "cpu" or _is_written_down() or _worth_saving(x, num_latents, blocks, offsets):
        return composed
    return blockwise


def _triton() -> Implementation:
    from settx_fast.attention import triton

    return triton


def _is_written_down() -> bool:
    """Whether the call becomes a program that should run without this package: exported (ONNX too) or traced."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _worth_saving(
    x: Tensor, num_latents: int, blocks: tuple[tuple[BlockWeights, BlockSpec], ...], offsets: Tensor | None
) -> bool:
    """Whether a CPU is faster on x by library calls, which allocate all activations, than by tiles, and has room.

    Never under a compiler: a choice by size would bind the graph to the sizes it saw.
    """
    if torch.compiler.is_compiling():
        return False
    weights, spec = blocks[-1]
    dim, scores = weights.w_q.shape[0], spec.num_heads * num_latents
    over_itself = len(blocks) == 1 and num_latents > MAX_LATENTS
    if over_itself and offsets is None:  # two long sides: tiles save nothing there but scores, which nobody keeps
        return True
    if not torch.is_grad_enabled():
        return padded(x, offsets)[0] * dim <= SMALL_FORWARD
    room = SAVED_BYTES_OF_MANY_SCORES if scores >= MANY_SCORES * dim else SAVED_BYTES
    room = SAVED_BYTES_OVER_ITSELF if over_itself else room
    return saved_bytes(x, spec, dim, offsets, over_itself=over_itself) <= room


def saved_bytes(
    x: Tensor, spec: BlockSpec, dim: int, offsets: Tensor | None = None, *, over_itself: bool = False
) -> int:
    """About what a training step allocates for x, (B, N, C) or packed (R, C), where it saves: some activations a row.

    Packed sets are padded to the longest; `over_itself`: so are their scores.
    """
    rows, longest = padded(x, offsets)
    a_row = 8 * dim + 2 * (spec.ffn_dim or 0) + (spec.num_heads * longest if over_itself else 0)
    return rows * a_row * x.element_size()


def padded(x: Tensor, offsets: Tensor | None) -> tuple[int, int]:
    """Rows of x, (B, N, C) or packed (R, C), were all sets as long as the longest; the length of that."""
    if offsets is None:
        return x.shape[:-1].numel(), x.shape[-2]
    sizes = offsets.diff()
    longest = int(sizes.max()) if len(sizes) else 0
    return len(sizes) * longest, longest


@cache
def _log_once(reason: str) -> None:
    _log.info("composed from library calls, which saves all activations: %s", reason)


def why_not_triton(
    x: Tensor,
    num_latents: int,
    *blocks: tuple[BlockWeights, BlockSpec],
    ragged_latents: bool = False,
    scaled_rows: bool = False,
) -> str | None:
    """The reason why the fused kernels cannot take a call, or None when they can.

    `x` holds the rows of the long side, (B, N, C) or packed (R, C); `num_latents` is the size M of the short side,
    `ragged_latents` says that it is a key of which some rows do not count, `scaled_rows` that the long side are queries
    with factors.
    """
    return next(_reasons(x, num_latents, blocks, ragged_latents, scaled_rows), None)


def _reasons(
    x: Tensor,
    num_latents: int,
    blocks: tuple[tuple[BlockWeights, BlockSpec], ...],
    ragged_latents: bool,
    scaled_rows: bool,
) -> Iterator[str]:
    if (missing := _missing(x.device.type, x.device.index)) is not None:
        yield missing
    yield from _reasons_of_operators(blocks, scaled_rows)
    if x.dtype not in DTYPES:
        yield f"the dtype is {x.dtype}, the kernels know {', '.join(str(d).removeprefix('torch.') for d in DTYPES)}"
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        yield "the last axis is not contiguous"
    if x.shape[-1] > MAX_DIM_IN:
        yield f"elements are {x.shape[-1]} wide, the kernels take up to {MAX_DIM_IN}"
    if not 1 <= num_latents <= MAX_LATENTS:
        yield f"the smaller set has {num_latents} elements, the kernels take 1 to {MAX_LATENTS}"
    if ragged_latents:
        yield "the smaller set is a key of varying size"
    if x.ndim == 3 and x.shape[0] == 0:
        yield "there are no sets"
    for weights, spec in blocks:
        dim = weights.w_q.shape[0]
        if dim > MAX_DIM:
            yield f"the block is {dim} wide, the kernels take up to {MAX_DIM}"
        if dim // spec.num_heads < MIN_HEAD:
            yield f"heads are {dim // spec.num_heads} wide, the kernels take {MIN_HEAD} or more"
        if max(weights.w_q.shape[1], weights.w_k.shape[1]) > MAX_DIM_IN:
            yield f"the block reads more than {MAX_DIM_IN} features"
        if any(w is not None and w.dtype != x.dtype for w in weights):
            yield f"a weight is not {x.dtype}, as the elements are"


def _reasons_of_operators(blocks: tuple[tuple[BlockWeights, BlockSpec], ...], scaled_rows: bool) -> Iterator[str]:
    """What no operator of ours does, neither kernels nor tiles."""
    if is_transformed():
        yield "torch.func and forward-mode derivatives follow impl='composed' and impl='reference' only"
    if any(spec.drops for _, spec in blocks):
        yield "weights of attention are dropped, which impl='composed' and impl='reference' do"
    if scaled_rows:
        yield "the longer sets are queries with factors"
    yield from filter(None, (why_not_lowered(weights, spec) for weights, spec in blocks))


def _missing(device: str, index: int | None) -> str | None:
    """What this machine lacks, found out once."""
    return _find_missing(device, index)


# What torch.compiler.assume_constant_result does; calling it would import the whole compiler, and triton with it.
_missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _find_missing(device: str, index: int | None) -> str | None:
    """What this machine lacks; Triton's interpreter runs the kernels on a CPU."""
    if device != "cuda" and not (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"the tensor is on {device}, the kernels need cuda"
    if find_spec("triton") is None:
        return "triton is not installed"
    if device == "cuda" and torch.cuda.get_device_capability(index) < MIN_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability(index)))
        return f"the GPU has compute capability {found}, the kernels need {'.'.join(map(str, MIN_CAPABILITY))}"
    return None
