"""Model, training mean and classical estimator side by side on held-out datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; the content of `evaluation.json`.

    metrics[property][predictor][metric] with predictor in "model", "mean", "classical" (absent where there is no
    classical estimator) and metrics that fit the property: r2, mae, coverage for numbers; auroc, accuracy,
    calibration for roles. The keys of several-number properties are `risk/erm`, `risk/causal`, `risk/anticausal`; of
    per-variable ones under a fixed graph also `direct_effect_on_target/0`, … by column.
    framework: share of datasets whose better framework of causal and anticausal ERM was named correctly, by "model",
    "majority", "classical".
    """

    prior: str
    seed: int
    num_datasets: int
    num_rows: int
    metrics: dict[str, dict[str, dict[str, float]]]
    framework: dict[str, float]


def evaluate(directory: Path | str, num_datasets: int = 500, seed: int = 1, num_rows: int = 1000) -> Evaluation:
    """Evaluate a run on held-out datasets of its prior; write evaluation.json and evaluation.npz.

    evaluation.npz holds `{property}/true`, `/model`, `/lower`, `/upper`, `/mean`, `/classical` with a leading axis of datasets.
    """
    raise NotImplementedError
