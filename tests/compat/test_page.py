"""The blocks of code of docs/clients.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.compat.comparison import SMALL_TABPFN, client, far
from tests.compat.test_tabicl import checkpoint  # noqa: F401  a fixture

tabicl = client("tabicl")
tabpfn = client("tabpfn", "tabpfn.architectures.tabpfn_v3")
client("torch_geometric")
bayesflow = client("bayesflow", "bayesflow.networks.summary.transformers")

PAGE = Path("docs/clients.md")


def test_python_of_the_page_runs_from_top_to_bottom(checkpoint: Path) -> None:  # noqa: F811
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python"] * 4
    names = given(checkpoint)
    with torch.enable_grad():  # bayesflow turns gradients off when it is imported
        for _, text in blocks:
            exec(compile(text, str(PAGE), "exec"), names)
    assert [type(model).__name__ for model in (names["aggr"], names["summary"])] == [
        "SetTransformerAggregation",
        "Summary",
    ]
    assert names["out"].shape == (4, 4 * 64)
    for model in (names["classifier"].model_, names["model"]):
        assert any(type(module).__name__.startswith("FastBlock") for module in model.modules())


def given(checkpoint: Path) -> dict[str, Any]:  # noqa: F811
    """What a reader has of each package: a classifier, an architecture, groups of rows, a summary network."""
    draw = np.random.default_rng(0)
    config, _ = tabpfn.parse_config(dict(SMALL_TABPFN))
    set_transformer = bayesflow.SetTransformer(summary_dim=7, embed_dims=(16,), num_heads=(2,))
    set_transformer(torch.ones(2, 5, 3))
    return {
        "classifier": tabicl.TabICLClassifier(n_estimators=1, model_path=checkpoint, device="cpu"),
        "X": draw.normal(size=(40, 5)),
        "y": draw.integers(0, 2, 40),
        "X_new": draw.normal(size=(10, 5)),
        "model": far(tabpfn.get_architecture(config)),
        "x": torch.randn(20, 64),
        "index": torch.arange(4).repeat_interleave(5),
        "set_transformer": set_transformer,
    }
