"""What a user may write, as mypy sees it: checked in strict mode by test_typing.py, never run."""

from typing import assert_type

import torch
from torch import Tensor

from settx_fast import ISAB, MAB, PMA, BlockSpec, functional, scm
from settx_fast.predictor import FrameworkSelector, predict, read_table
from settx_fast.scm import presets, properties


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.isab = ISAB(3, 64, num_heads=4, num_inds=16, ln=True, activation="gelu")
        self.pool = PMA(64, 4, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.isab(x, lengths=lengths), lengths=lengths)
        return pooled


def attend(x: Tensor, block: MAB) -> Tensor:
    spec = BlockSpec(num_heads=4, norm="layer")
    assert_type(functional.attention_block(x, x, block.weights, spec, impl="reference"), Tensor)
    return functional.set_mean(x, torch.nn.Linear(3, 4))


def draw(prior: scm.Prior) -> Tensor:
    batch = scm.sample(prior, num_datasets=10, num_rows=100, seed=0)
    assert_type(batch, scm.Batch)
    assert_type(batch.do({"x3": 1.0}).values, Tensor)
    known = properties.compute(batch)
    assert_type(known, properties.Properties)
    for fresh in scm.stream(prior, 4, seed=0, num_rows=(10, 20)):
        assert_type(fresh, scm.Batch)
    return known.risk


assert_type(presets.chain(), scm.Prior)
assert_type(FrameworkSelector().fit([[0.0]], [0.0]), FrameworkSelector)
assert_type(predict(read_table("t.csv", target="y", environment=None), "run").recommended, str)

# What is wrong is refused; strict mode complains of a comment that is not needed.
ISAB(3, 64, num_heads=4, num_inds=16, activation="tanh")  # type: ignore[arg-type]
scm.sample(scm.Prior(), num_datasets=10)  # type: ignore[call-arg]
scm.Prior(standardisation="rows")  # type: ignore[arg-type]
