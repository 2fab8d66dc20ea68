"""The ways to compute set attention that stand beside ours, on the same weights where they have the same block."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.suite import LeftOut
from settx_fast import BlockSpec, BlockWeights, functional
from settx_fast.attention.layers import finish, first_norm
from settx_fast.testing import TABULAR, VARIANTS, Inputs

Block = Callable[[Tensor, Tensor, BlockWeights, BlockSpec], Tensor]  # query, key → output
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Problem:
    """What is computed: the inputs, and which of "isab", "mab", "sab", "pma" is made of them.

    mab has the elements read the inducing points, pma the inducing points the elements, sab the elements each other.
    """

    kind: str
    inputs: Inputs
    training: bool

    def of(self, block: Block) -> Tensor:
        """The output, by a block of one's own."""
        i = self.inputs
        if self.kind == "mab":
            return block(i.x, i.inducing.expand(len(i.x), -1, -1), i.weights_b, i.spec_b)
        if self.kind == "sab":
            return block(i.x, i.x, i.weights_a, i.spec_a)
        seeds = i.inducing.expand(len(i.x), -1, -1)
        hidden = block(seeds, i.x, i.weights_a, i.spec_a)
        return hidden if self.kind == "pma" else block(i.x, hidden, i.weights_b, i.spec_b)

    def resized(self, inputs: Inputs) -> Problem:
        """The same for other inputs."""
        return replace(self, inputs=inputs)


@dataclass(frozen=True)
class Way:
    """A forward pass, and what it is differentiated by: the elements first, then parameters."""

    forward: Callable[[], Tensor]
    leaves: list[Tensor]
    same_parameters: bool = True
    same_block: bool = True

    def train(self) -> tuple[Tensor | None, ...]:
        """Output and gradients."""
        out = self.forward()
        return out, *torch.autograd.grad(out, self.leaves, torch.ones_like(out), allow_unused=True)

    def infer(self) -> Tensor:
        """Output without a graph."""
        with torch.no_grad():
            return self.forward()


Provider = Callable[[Problem], Way]


def original_block(query: Tensor, key: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """The original's sequence of eager operations, heads on the batch axis."""
    return _block(_softmax_attention, query, key, w, spec)


def sdpa_block(query: Tensor, key: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    """The same with PyTorch's own attention."""
    return functional.attention_block(query, key, w, spec, impl="composed")


def _original(p: Problem) -> Way:
    if p.inputs.lengths is not None:  # ragged sets, which it lacks: padded and masked
        return _way(p, lambda: _isab(p.inputs, "reference"))
    return _way(p, lambda: p.of(original_block))


def _sdpa(p: Problem) -> Way:
    if p.kind == "isab":
        return _way(p, lambda: _isab(p.inputs, "composed"))
    return _way(p, lambda: p.of(sdpa_block))


def _ours(p: Problem) -> Way:
    if p.kind == "isab":
        return _way(p, lambda: _isab(p.inputs, None))
    if p.kind == "pma":  # one query for all sets, as nn.PMA calls it
        i = p.inputs
        return _way(p, lambda: functional.attention_block(i.inducing, i.x, i.weights_a, i.spec_a))
    return _way(p, lambda: p.of(functional.attention_block))


def _isab(i: Inputs, impl: Any) -> Tensor:
    return functional.induced_set_attention(*i[:6], lengths=i.lengths, impl=impl)


def _compiled(provider: Provider, p: Problem) -> Way:
    way = provider(p)
    return replace(way, forward=torch.compile(way.forward, dynamic=False))


def _flex(p: Problem) -> Way:
    if p.inputs.lengths is not None:
        raise LeftOut("ragged sets are not written for it here")
    if p.training and not p.inputs.x.is_cuda:
        raise LeftOut("has no backward on a CPU")
    if p.inputs.x.is_cuda:
        return _way(p, torch.compile(lambda: p.of(partial(_block, _flex_attention)), dynamic=False))
    return _way(p, lambda: p.of(partial(_block, _flex_attention_alone)))  # on a CPU the whole does not compile


def _way(p: Problem, forward: Callable[[], Tensor]) -> Way:
    return Way(forward, list(p.inputs.parameters().values()))


def _block(attend: Attend, query: Tensor, key: Tensor, w: BlockWeights, spec: BlockSpec) -> Tensor:
    read_q, read_k = first_norm(query, w, spec), first_norm(key, w, spec)
    linear = torch.nn.functional.linear
    q, k, v = linear(read_q, w.w_q, w.b_q), linear(read_k, w.w_k, w.b_k), linear(read_k, w.w_v, w.b_v)
    q_h, k_h, v_h = (torch.cat(t.split(t.shape[-1] // spec.num_heads, 2), 0) for t in (q, k, v))  # (H·B, ·, E)
    out = attend(q_h, k_h, v_h, spec.score_scale(q.shape[-1]))
    attended = torch.cat(out.split(len(q), 0), 2)
    return finish(q if spec.residual == "projected" else query, attended, w, spec)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(q.bmm(k.transpose(1, 2)) * scale, 2).bmm(v)


def _flex_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, attend: Any = None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    out = (attend or flex_attention)(q[:, None], k[:, None], v[:, None], scale=scale)
    assert isinstance(out, Tensor)
    return out[:, 0]


def _flex_attention_alone(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _flex_attention(q, k, v, scale, _compiled_flex_attention())


@cache
def _compiled_flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


# Packages -------------------------------------------------------------------------------------------------------------


def _pyg(p: Problem) -> Way:
    _need("torch_geometric")
    _need_block(p, VARIANTS["pyg"], "torch_geometric's block is another (hidden-pyg has it)")
    if p.kind == "pma":
        raise LeftOut("torch_geometric's has a layer more")
    from torch_geometric.nn.aggr import utils

    i, (width, heads) = p.inputs, (p.inputs.x.shape[2], p.inputs.spec_a.num_heads)
    where = {"device": i.x.device, "dtype": i.x.dtype}
    if p.kind == "isab":
        module = utils.InducedSetAttentionBlock(width, i.inducing.shape[1], heads, layer_norm=True).to(**where)
        module.ind.data.copy_(i.inducing)
        _fill_pyg(module.mab1, i.weights_a)
        _fill_pyg(module.mab2, i.weights_b)
    else:
        module = utils.MultiheadAttentionBlock(width, heads, layer_norm=True).to(**where)
        _fill_pyg(module, i.weights_a if p.kind == "sab" else i.weights_b)
    return _module_way(p, module)


def _fill_pyg(module: Any, w: BlockWeights) -> None:
    _fill(module.attn.in_proj_weight, w.w_q, w.w_k, w.w_v)
    _fill(module.attn.in_proj_bias, w.b_q, w.b_k, w.b_v)
    for layer, weight, bias in (
        (module.attn.out_proj, w.w_p, w.b_p), (module.lin, w.w_o, w.b_o),
        (module.layer_norm1, w.g0, w.b0), (module.layer_norm2, w.g1, w.b1),
    ):  # fmt: skip
        _fill(layer.weight, weight)
        _fill(layer.bias, bias)


def _tabicl(p: Problem) -> Way:
    _need("tabicl")
    _need_block(p, TABULAR, "TabICL's block is another (tabular has it)")
    from tabicl._model import layers

    i, spec = p.inputs, p.inputs.spec_a
    width, heads = i.x.shape[2], spec.num_heads
    where = {"device": i.x.device, "dtype": i.x.dtype}
    if p.kind == "isab":
        module = layers.InducedSelfAttentionBlock(width, heads, spec.ffn_dim, i.inducing.shape[1]).to(**where)
        module.ind_vectors.data.copy_(i.inducing[0])
        _fill_tabicl(module.multihead_attn1, i.weights_a)
        _fill_tabicl(module.multihead_attn2, i.weights_b)
    else:
        module = layers.MultiheadAttentionBlock(width, heads, spec.ffn_dim).to(**where)
        _fill_tabicl(module, i.weights_b if p.kind == "mab" else i.weights_a)
    return _module_way(p, module)


def _fill_tabicl(module: Any, w: BlockWeights) -> None:
    _fill(module.attn.in_proj_weight, w.w_q, w.w_k, w.w_v)
    _fill(module.attn.in_proj_bias, w.b_q, w.b_k, w.b_v)
    for layer, weight, bias in (
        (module.attn.out_proj, w.w_p, w.b_p), (module.linear1, w.w_o, w.b_o), (module.linear2, w.w_o2, w.b_o2),
        (module.norm1, w.g0, w.b0), (module.norm2, w.g1, w.b1),
    ):  # fmt: skip
        _fill(layer.weight, weight)
        _fill(layer.bias, bias)


def _bayesflow(p: Problem) -> Way:
    attention = bayesflow_attention()
    i, (heads, width) = p.inputs, (p.inputs.spec_a.num_heads, p.inputs.inducing.shape[2])
    if i.lengths is not None:
        raise LeftOut("takes no ragged sets")
    sizes = {"embed_dim": width, "num_heads": heads, "dropout": 0.0}
    import keras

    with keras.device("gpu:0" if i.x.is_cuda else "cpu"):
        layer: Any = {
            "isab": lambda: attention.InducedSetAttention(i.inducing.shape[1], **sizes),
            "sab": lambda: attention.SetAttention(**sizes),
            "pma": lambda: attention.PoolingByMultiHeadAttention(num_seeds=i.inducing.shape[1], **sizes),
            "mab": lambda: attention.MultiHeadAttention(**sizes),
        }[p.kind]()
        points = i.inducing.detach().expand(len(i.x), -1, -1)
        arguments = (i.x, points) if p.kind == "mab" else (i.x,)
        layer(*arguments, training=p.training)
    layer.to(i.x.dtype)
    leaves = [i.x, *(each for each in layer.parameters() if each.requires_grad)]
    return Way(lambda: layer(*arguments, training=p.training), leaves, same_parameters=False, same_block=False)


def bayesflow_attention() -> Any:
    """BayesFlow's layers, on torch; its import turns gradients off for everybody, which is undone."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    logging.disable(logging.WARNING)  # what it says on import
    try:
        attention = _need("bayesflow.networks.summary.transformers.attention")
    finally:
        logging.disable(logging.NOTSET)
        torch.set_grad_enabled(True)
    return attention


def _module_way(p: Problem, module: nn.Module) -> Way:
    module.train(p.training)
    points = p.inputs.inducing.detach().expand(len(p.inputs.x), -1, -1)
    x = p.inputs.x
    calls = {"isab": lambda: module(x), "sab": lambda: module(x, x), "mab": lambda: module(x, points)}
    forward = calls.get(p.kind, lambda: module(points, x))
    return Way(forward, [x, *module.parameters()], same_parameters=False)


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LeftOut(f"cannot be imported here ({error})") from None


def _need_block(p: Problem, options: dict[str, Any], why: str) -> None:
    i = p.inputs
    if i.spec_a != BlockSpec(i.spec_a.num_heads, **options) or i.x.shape[2] != i.inducing.shape[2]:
        raise LeftOut(why)
    if i.lengths is not None:
        raise LeftOut("ragged sets are not written for it here")


def _fill(parameter: Tensor, *parts: Tensor | None) -> None:
    parameter.data.copy_(torch.cat([part.detach() for part in parts if part is not None]))


PROVIDERS: dict[str, Provider] = {
    "original": _original,
    "SDPA": _sdpa,
    "original, compiled": partial(_compiled, _original),
    "SDPA, compiled": partial(_compiled, _sdpa),
    "FlexAttention": _flex,
    "PyG": _pyg,
    "TabICL": _tabicl,
    "BayesFlow": _bayesflow,
    "settx_fast": _ours,
}
COMPILING = ("original, compiled", "SDPA, compiled", "FlexAttention")
