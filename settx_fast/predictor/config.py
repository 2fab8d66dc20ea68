"""What determines a training run, and its presets."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from settx_fast import scm
from settx_fast._files import read_json
from settx_fast.predictor.features import FeatureConfig
from settx_fast.predictor.model import CHECKSUM, CONFIG, REMEDY, ModelConfig

MAX_SEED = 2**31  # seeds above are those of validation and evaluation


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a training run; saved as the run directory's `config.json`.

    prior: where the datasets come from. An epoch is a stretch of `epoch_steps` batches of the endless stream, followed
    by a validation and a checkpoint; a batch is `batch_size` datasets with min_rows … max_rows rows (log-uniform).
    l1, l2: penalties on weight matrices. permute: random column order and environment ids. workers: loader processes.
    """

    name: str
    prior: scm.Prior
    features: FeatureConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    epochs: int = 10
    epoch_steps: int = 300
    batch_size: int = 32
    min_rows: int = 128
    max_rows: int = 512
    learning_rate: float = 2e-3
    l1: float = 0.0
    l2: float = 0.0
    permute: bool = True
    validation_datasets: int = 256
    workers: int = 0

    def __post_init__(self) -> None:
        positive = ("epochs", "epoch_steps", "batch_size", "min_rows", "validation_datasets")
        least = dict.fromkeys(positive, 1) | dict.fromkeys(("l1", "l2", "workers", "seed"), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        if self.seed >= MAX_SEED:
            raise ValueError(f"seed: expected below {MAX_SEED}, got {self.seed}")
        if self.max_rows < self.min_rows:
            raise ValueError(f"max_rows: expected at least min_rows = {self.min_rows}, got {self.max_rows}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")

    @property
    def steps(self) -> int:
        """Batches of the whole run."""
        return self.epochs * self.epoch_steps

    def to_json(self, weights: str | None = None) -> str:
        """The config as JSON, the inverse of `load`; weights: the checksum of the model that it tells of."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        data |= {
            "prior": json.loads(self.prior.to_json()),
            "features": asdict(self.features),
            "model": asdict(self.model),
        }
        if weights is not None:
            data[CHECKSUM] = weights
        return json.dumps(data, indent=2, default=operator.index)  # whole numbers of NumPy

    @classmethod
    def load(cls, directory: Path | str) -> TrainConfig:
        """The config of a run directory's model; FileNotFoundError if there is none, ValueError if it is damaged."""
        path = Path(directory) / CONFIG
        if not path.exists():
            raise FileNotFoundError(
                f"no training run in {directory}: {CONFIG} is missing (`settx-fast train` writes it)"
            )
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """The config in a JSON file; ValueError that names the file if it is damaged or of another version."""
        data = read_json(path, REMEDY)
        data.pop(CHECKSUM, None)
        try:
            data |= {
                "prior": scm.Prior.from_json(json.dumps(data["prior"])),
                "features": FeatureConfig(**data["features"]),
                "model": ModelConfig(**data["model"]),
            }
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"'{path}' does not fit this version of settx_fast ({error}): {REMEDY}") from error


def preset(name: str) -> TrainConfig:
    """The configuration that the command line and the demo use for one of `PRESETS`."""
    if name not in _PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(_PRESETS)}, got {name!r}")
    return _PRESETS[name]()


def for_prior(name: str, prior: scm.Prior, *, units: bool = False, **options: Any) -> TrainConfig:
    """A config whose features have room for the datasets of `prior`; options are the other fields of `TrainConfig`."""
    features = FeatureConfig(prior.max_variables, prior.max_environments, units=units)
    return TrainConfig(name, prior, features, **options)


_PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "chain": lambda: for_prior("chain", scm.presets.chain(), units=True, epochs=8),
    "lucas": lambda: for_prior("lucas", scm.presets.lucas(), epochs=20),
    "random_linear": lambda: for_prior("random_linear", scm.presets.random_linear(8), epochs=6),
    "recurring_linear": lambda: for_prior("recurring_linear", scm.presets.recurring_linear(10, 8), epochs=10),
}
PRESETS = tuple(_PRESETS)
