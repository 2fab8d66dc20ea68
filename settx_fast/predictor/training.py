"""Training on a stream of freshly sampled datasets."""

from __future__ import annotations

import csv
import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.data import Example, Stream, draw
from settx_fast.predictor.losses import penalty
from settx_fast.predictor.model import CONFIG, WEIGHTS, PropertyPredictor
from settx_fast.predictor.targets import TARGETS

CHECKPOINT, METRICS = Path("checkpoints", "last.ckpt"), "metrics.csv"
WARMUP = 0.05  # share of the steps over which the learning rate rises; it then falls along a cosine
VALIDATION_SEED = 2**31  # added to the training seed: datasets that training never sees


class Training(lightning.LightningModule):
    """The predictor, its losses and its optimiser."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = PropertyPredictor(config.features, config.model)

    def setup(self, stage: str) -> None:
        """Measure the scale of every property; a resumed run has it from its checkpoint."""
        if self.trainer.ckpt_path is None:
            standardise(self.model, self.config)

    def training_step(self, example: Example, step: int) -> Tensor:
        """Loss of one batch, penalties included."""
        loss = self._loss("train", example)
        return loss + penalty(self.model.parameters(), self.config.l1, self.config.l2)

    def validation_step(self, example: Example, step: int) -> None:
        """Log the losses of one held-out batch."""
        self._loss("valid", example)

    def _loss(self, stage: str, example: Example) -> Tensor:
        costs = self.model.costs(example.inputs, example.model_truth())
        loss = torch.stack(list(costs.values())).sum()
        for name, cost in {"loss": loss, **costs}.items():
            self.log(
                f"{stage}/{name}",
                cost.detach(),
                prog_bar=name == "loss",
                on_step=False,
                on_epoch=True,
                batch_size=len(example.columns),
                sync_dist=True,
            )
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, the learning rate warmed up and then annealed along a cosine over all steps."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.learning_rate, weight_decay=0.0)
        steps, warmup = self.config.steps, max(1, round(WARMUP * self.config.steps))

        def rate(step: int) -> float:
            return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Example]:
        """The stream from the current step on; asked for anew at every epoch, so that resuming needs nothing else."""
        stream = Stream(self.config, self.global_step, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(stream, batch_size=None, num_workers=self.config.workers)

    def val_dataloader(self) -> DataLoader[Example]:
        """The fixed held-out batches."""
        return DataLoader(validation_set(self.config), batch_size=None)  # type: ignore[arg-type]


def standardise(model: PropertyPredictor, config: TrainConfig, datasets: int = 1024) -> None:
    """Store mean and standard deviation of every number over the first datasets of the training stream."""
    truth = draw(config, config.seed, 0, datasets, config.min_rows).model_truth()
    for target in TARGETS:
        if target.kind == "classes":
            continue
        values = truth[target.name].reshape(-1, *target.shape).double()
        known = values.isfinite()
        count = known.sum(0).clamp(min=1)
        mean = values.where(known, 0.0).sum(0) / count
        deviation = ((values - mean).where(known, 0.0).square().sum(0) / count).sqrt()
        buffer_mean, buffer_deviation = model.standard(target)
        buffer_mean.copy_(mean)
        buffer_deviation.copy_(deviation.where(deviation > 1e-6, 0.0))


def validation_set(config: TrainConfig) -> list[Example]:
    """The fixed held-out batches that validation losses are measured on."""
    seed, size = config.seed + VALIDATION_SEED, config.batch_size
    starts = range(0, config.validation_datasets, size)
    return [draw(config, seed, at, min(size, config.validation_datasets - at), config.max_rows) for at in starts]


@torch.no_grad()
def measure_spread(model: PropertyPredictor, examples: list[Example]) -> None:
    """Store the standard deviation of held-out residuals: the uncertainty of losses that predict a point."""
    outputs = [model(example.inputs) for example in examples]
    truths = [example.model_truth() for example in examples]
    for target in TARGETS:
        if target.kind == "classes":
            continue
        centre = torch.cat([model.band(target, output[target.name]).centre for output in outputs])
        error = (centre - torch.cat([truth[target.name] for truth in truths])).reshape(-1, *target.shape)
        known = error.isfinite()
        spread = (error.where(known, 0.0).square().sum(0) / known.sum(0).clamp(min=1)).sqrt()
        model.get_buffer(f"spread_{target.name}").copy_((spread / model.standard(target)[1]).nan_to_num(0.0))


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

    resume: go on from checkpoints/last.ckpt of `out`, whose config must be the same but for `epochs` and `workers`.
    Without it, a directory in which no run came to a checkpoint is started anew.
    accelerator, devices, strategy: passed to Lightning's Trainer; each rank draws its own slice of the datasets.
    Raises FileExistsError where `out` holds a run and `resume` is False, FileNotFoundError where there is none to
    resume, ValueError where the configs differ.
    """
    out = Path(out)
    checkpoint = out / CHECKPOINT
    if is_first_process():  # the others are started when the directory is there already
        _check_directory(config, out, checkpoint, resume)
        if not resume and (out / CONFIG).exists():  # what a run left that came to no checkpoint
            shutil.rmtree(out / "tensorboard", ignore_errors=True)
            (out / METRICS).unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(config.to_json())
    training = Training(config)
    with _quiet():
        trainer = _trainer(
            config, out, checkpoint, progress, accelerator=accelerator, devices=devices, strategy=strategy
        )
        trainer.fit(training, ckpt_path=checkpoint if resume else None)
    if trainer.is_global_zero:
        model = training.model.cpu().eval()
        measure_spread(model, validation_set(config))
        model.save(out)
    return out


def _check_directory(config: TrainConfig, out: Path, checkpoint: Path, resume: bool) -> None:
    if not resume:
        if checkpoint.exists() or (out / WEIGHTS).exists():
            raise FileExistsError(f"{out} holds a training run; resume it, or choose another directory")
        return
    if not checkpoint.exists():
        raise FileNotFoundError(f"nothing to resume: {checkpoint} is missing")
    before = replace(TrainConfig.load(out), epochs=config.epochs, workers=config.workers)
    if before != config:
        raise ValueError(f"resume: expected the config of the run in {out}, got another")


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks; the others only train along."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _trainer(config: TrainConfig, out: Path, checkpoint: Path, progress: bool, **hardware: Any) -> lightning.Trainer:
    keep = ModelCheckpoint(
        checkpoint.parent, filename=checkpoint.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    try:
        return lightning.Trainer(
            max_epochs=config.epochs,
            limit_train_batches=config.epoch_steps,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=max(1, config.epoch_steps // 4),
            gradient_clip_val=1.0,
            logger=_loggers(out),
            callbacks=[keep, RichProgressBar()] if progress else [keep],
            enable_progress_bar=progress,
            enable_model_summary=False,
            **hardware,
        )
    except (TypeError, MisconfigurationException) as error:
        raise ValueError(f"{', '.join(hardware)}: expected what this machine has, got {hardware} ({error})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware that is not there and directories that a resumed run is known to have."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (r".*LeafSpec", r"Checkpoint directory .* exists", r"Experiment logs directory .* exists"):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


def _loggers(out: Path) -> list[Logger]:
    table = CSVLogger(out, name="", version="")
    if is_first_process():
        history = _history(out / METRICS)
        table.experiment.metrics.extend(history)
    return [table, TensorBoardLogger(out, name="tensorboard", version="")]


def _history(path: Path) -> list[dict[str, float]]:
    """Rows logged so far, which a CSVLogger would throw away."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
