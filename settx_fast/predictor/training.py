"""Training on a stream of freshly sampled datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from settx_fast.predictor.features import FeatureConfig
from settx_fast.predictor.model import ModelConfig


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a training run; saved as the run directory's `config.json`.

    prior: a preset of `scm.presets` ("chain", "lucas", "random"). steps: batches of `batch_size` datasets, each batch
    with min_rows … max_rows rows. validate_every: steps between two validations; checkpoints are written there.
    l1, l2: penalties on weight matrices. permute: random column and environment permutations.
    """

    prior: str
    features: FeatureConfig
    model: ModelConfig = ModelConfig()
    seed: int = 0
    steps: int = 2000
    batch_size: int = 32
    min_rows: int = 256
    max_rows: int = 1000
    learning_rate: float = 1e-3
    l1: float = 0.0
    l2: float = 0.0
    permute: bool = True
    validate_every: int = 250
    validation_datasets: int = 256
    workers: int = 0

    @staticmethod
    def preset(name: str) -> TrainConfig:
        """The configuration the command line and the demo use for "chain", "lucas" or "random"."""
        raise NotImplementedError

    def to_json(self) -> str:
        raise NotImplementedError

    @staticmethod
    def load(directory: Path | str) -> TrainConfig:
        raise NotImplementedError


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    progress: bool = True,
) -> Path:
    """Train and write a run directory: config.json, model.safetensors, checkpoints/last.ckpt, metrics.csv, TensorBoard.

    resume: go on from checkpoints/last.ckpt of `out`, whose config must be the same but for `steps`.
    accelerator, devices, strategy: passed to Lightning's Trainer; each rank draws its own slice of the datasets.
    Raises FileExistsError where `out` holds a run and `resume` is False, FileNotFoundError for the reverse.
    """
    raise NotImplementedError
