"""Directories of `scm.write_prior_dir` in the hands of TabICL's own loader and trainer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from settx_fast import scm
from tests.compat.comparison import client

client("tabicl")
PRIOR = scm.Prior((3, 9), target_environments=0)


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TabICL's loader, whose package imports xgboost for priors that are of no concern here."""
    if importlib.util.find_spec("xgboost") is None:
        stand_in = ModuleType("xgboost")
        stand_in.XGBRegressor = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "xgboost", stand_in)
    return importlib.import_module("tabicl.prior._genload").LoadPriorDataset


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("num_rows", [30, (20, 40)])
def test_their_loader_reads_what_the_stream_holds(
    loader: Any, tmp_path: Path, num_rows: int | tuple[int, int], task: scm.tabular.Task
) -> None:
    stream = scm.tabular_stream(PRIOR, 2, 0, num_rows=num_rows, task=task, prefetch=0)
    scm.write_prior_dir(stream, tmp_path, 2, batches_per_file=2)
    read = loader(tmp_path, batch_size=4, max_batches=2)
    assert read.metadata["prior_type"] == "settx_fast"
    for number in range(2):
        X, y, d, rows, train_sizes = next(read)
        X, y = (t.to_padded_tensor(0.0) if t.is_nested else t for t in (X, y))
        for i in range(2):
            batch, here = stream.batch(2 * number + i), slice(2 * i, 2 * i + 2)
            R, C = batch.X.shape[1], min(batch.X.shape[2], X.shape[2])
            assert torch.equal(X[here, :R, :C], batch.X[:, :, :C])
            assert torch.equal(y[here, :R], batch.y.float())
            assert torch.equal(d[here], batch.num_features)
            assert rows[here].tolist() == [R, R]
            assert train_sizes[here].tolist() == [batch.train_size] * 2
    with pytest.raises(StopIteration):
        next(read)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "wandb", "xgboost")),
    reason="TabICL's trainer needs transformers, wandb and xgboost: pip install 'tabicl[pretrain]'",
)
def test_the_example_trains_their_model_by_their_trainer(tmp_path: Path) -> None:
    command = [sys.executable, "examples/train_tabicl.py", str(tmp_path), "--steps", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "trained for 2 steps: ['step-2.ckpt']" in result.stdout
