"""Training on a stream of freshly sampled datasets."""

from __future__ import annotations

import logging
import math
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from settx_fast.predictor.checkpoints import CheckpointFiles, Keeper, newest_checkpoint
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.data import Example, Stream, draw
from settx_fast.predictor.losses import penalty
from settx_fast.predictor.model import PropertyPredictor
from settx_fast.predictor.run_directory import claimed_for, save_model
from settx_fast.predictor.targets import TARGETS

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
        self.sums: dict[str, Tensor] = {}  # of the losses of the epoch under way

    def setup(self, stage: str) -> None:
        """Measure the scale of every property; a resumed run has it from its checkpoint."""
        if self.trainer.ckpt_path is None:
            standardise(self.model, self.config)

    def training_step(self, example: Example, step: int) -> Tensor:
        """Loss of one batch, penalties included."""
        losses = self._losses(example)
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.detach()
        return losses["loss"] + penalty(self.model.parameters(), self.config.l1, self.config.l2)

    def on_train_epoch_end(self) -> None:
        """Log the mean losses of the epoch's batches."""
        self._log("train", {name: value / self.config.epoch_steps for name, value in self.sums.items()})
        self.sums = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the epoch under way has summed up."""
        checkpoint["sums"] = self.sums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the epoch that was under way."""
        self.sums = {name: value.to(self.device) for name, value in checkpoint["sums"].items()}

    def validation_step(self, example: Example, step: int) -> None:
        """Log the losses of one held-out batch."""
        self._log("valid", self._losses(example), batch_size=len(example.columns), on_epoch=True)

    def _losses(self, example: Example) -> dict[str, Tensor]:
        costs = self.model.costs(example.inputs, example.model_truth())
        return {"loss": torch.stack(list(costs.values())).sum(), **costs}

    def _log(self, stage: str, losses: dict[str, Tensor], **options: Any) -> None:
        for name, loss in losses.items():
            self.log(f"{stage}/{name}", loss.detach(), prog_bar=name == "loss", sync_dist=True, **options)

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
    force: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    progress: bool = True,
) -> Path:
    """Train and write a run directory: config.json, model.safetensors, checkpoints/, metrics.csv, TensorBoard.

    resume: go on from the last checkpoint of `out`, whose config must be the same but for `epochs` and `workers`.
    force: remove the run that `out` holds, and all that was said of its model. Without either, a directory in which no
    run came to a checkpoint is started anew. The model and its config are there, or replaced, when training is done.
    accelerator, devices, strategy: passed to Lightning's Trainer; each rank draws its own slice of the datasets.
    Raises FileExistsError where `out` holds a run that is neither resumed nor forced away, FileNotFoundError where
    there is none to resume, ValueError where the configs differ or a file is damaged, InUseError (a RuntimeError) where
    another process trains in `out`; stopped by SIGINT KeyboardInterrupt, by SIGTERM SystemExit of 143.
    """
    out = Path(out)
    is_first = is_first_process()  # the others are started when the directory is there already
    with claimed_for(config, out, resume, force) if is_first else nullcontext():
        training = Training(config)
        with _quiet(), _stopped_as_shells_expect():
            trainer = _trainer(config, out, progress, accelerator=accelerator, devices=devices, strategy=strategy)
            trainer.fit(training, ckpt_path=newest_checkpoint(out) if resume else None)
        if trainer.is_global_zero:
            model = training.model.cpu().eval()
            measure_spread(model, validation_set(config))
            save_model(config, model, out)
    return out


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks; the others only train along."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _trainer(config: TrainConfig, out: Path, progress: bool, **hardware: Any) -> lightning.Trainer:
    keeper = Keeper(out)
    try:
        return lightning.Trainer(
            max_epochs=config.epochs,
            limit_train_batches=config.epoch_steps,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=max(1, config.epoch_steps // 4),
            gradient_clip_val=1.0,
            logger=TensorBoardLogger(out, name="tensorboard", version=""),
            callbacks=[keeper, RichProgressBar()] if progress else [keeper],
            plugins=[CheckpointFiles()],
            enable_progress_bar=progress,
            enable_model_summary=False,
            **hardware,
        )
    except (TypeError, MisconfigurationException) as error:
        raise ValueError(f"{', '.join(hardware)}: expected what this machine has, got {hardware} ({error})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware that is not there and on loaders: ours go on where the steps do."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (r".*LeafSpec", r"You're resuming from a checkpoint that ended before the epoch ended"):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _stopped_as_shells_expect() -> Iterator[None]:
    """Lightning ends with code 0 where it is terminated, and with 1 where it is interrupted."""
    try:
        yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
