"""Subject of a whole model: a training step of the SetTransformer, on the same weights where blocks are the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention import shapes_of
from benchmarks.blocks import COMPILING, Block, bayesflow_attention, original_block, sdpa_block
from benchmarks.suite import Contestant, Field, LeftOut, Setting, Subject
from settx_fast import MAB, SetTransformer
from settx_fast.testing import Shape, make_inputs

OUTPUTS = 8


def _set_transformer(setting: Setting, name: str) -> Field:
    """A training step: forward, loss, backward and an update by AdamW."""
    shape = shapes_of(setting.on_cuda)[name]
    x = make_inputs(shape, dtype=setting.dtype, device=setting.device).x.detach()
    torch.manual_seed(0)
    model = SetTransformer(shape.dim_in, 1, OUTPUTS, shape.inducing, shape.dim, shape.heads, ln=True).to(x)
    expected = model(x).detach()
    found = Field()
    for each, forward in _models(x, shape).items():
        own = copy.deepcopy(model)
        try:
            if each in COMPILING and (setting.quick or setting.eager):
                raise LeftOut("left to another run")
            run, parameters, same = forward(own)
        except LeftOut as why:
            found.absent[each] = str(why)
            continue
        step = _step(run, parameters)
        out = run().detach()
        tolerance = {torch.float32: 1e-3}.get(setting.dtype, 0.1)
        if same and not torch.allclose(out, expected, rtol=tolerance, atol=tolerance):
            found.wrong[each] = f"differs from settx_fast by {float((out - expected).abs().max()):.1e}"
        else:
            found.contestants.append(Contestant(each, step, memory=True))
    return found


Model = tuple[Callable[[], Tensor], list[Tensor], bool]  # forward, parameters, whether the numbers are the original's


def _models(x: Tensor, shape: Shape) -> dict[str, Callable[[SetTransformer], Model]]:
    def through(block: Block, compiled: bool, own: SetTransformer) -> Model:
        run = partial(_through, own, x, block)
        return torch.compile(run, dynamic=False) if compiled else run, list(own.parameters()), True

    return {
        "original": partial(through, original_block, False),
        "SDPA": partial(through, sdpa_block, False),
        "original, compiled": partial(through, original_block, True),
        "SDPA, compiled": partial(through, sdpa_block, True),
        "BayesFlow": lambda own: _bayesflow(x, shape),
        "settx_fast": lambda own: (lambda: own(x), list(own.parameters()), True),
    }


def _bayesflow(x: Tensor, shape: Shape) -> Model:
    bayesflow_attention()
    import bayesflow
    import keras

    dims, heads = (shape.dim,) * 2, (shape.heads,) * 2
    with keras.device("gpu:0" if x.is_cuda else "cpu"):
        theirs: Any = bayesflow.networks.SetTransformer(
            OUTPUTS, dims, heads, 1, 0.0, num_inducing_points=shape.inducing
        )
        theirs(x, training=True)
    theirs.to(x.dtype)
    return partial(theirs, x, training=True), [p for p in theirs.parameters() if p.requires_grad], False


def _through(model: Any, x: Tensor, block: Block) -> Tensor:
    """The model's output by a block of someone else's."""

    def call(mab: MAB, query: Tensor, key: Tensor) -> Tensor:
        return block(query, key, mab.weights, mab.spec)

    for layer in model.enc:
        x = call(layer.mab1, x, call(layer.mab0, layer.I.expand(len(x), -1, -1), x))
    pool, *selfs, last = model.dec
    x = call(pool.mab, pool.S.expand(len(x), -1, -1), x)
    for layer in selfs:
        x = call(layer.mab, x, x)
    out: Tensor = last(x)
    return out


def _step(run: Callable[[], Tensor], parameters: list[Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        run().square().mean().backward()
        optimizer.step()

    return step


def subjects() -> Iterator[Subject]:
    """One: a training step."""
    shapes = ("dataset", "mixture")
    yield Subject(
        "set-transformer", "SetTransformer, a training step", "ms", lambda s: shapes, _set_transformer, shapes[:1]
    )
