"""What a training run writes while it goes on, so that it can be resumed after whatever stops it."""

from __future__ import annotations

import csv
import io
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from settx_fast._files import remove_parts, replacing, write_text

LAST, PREVIOUS = Path("checkpoints", "last.ckpt"), Path("checkpoints", "previous.ckpt")
METRICS = "metrics.csv"
INTERVAL = 60.0
"""Seconds between two checkpoints: as much training is lost at most, and what is under way."""


def newest_checkpoint(out: Path) -> Path | None:
    """The checkpoint to go on from; the last one is not there where a run ended while it was being put in its place."""
    return next((out / path for path in (LAST, PREVIOUS) if (out / path).exists()), None)


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints written beside their target and on disk before they get its name; the one before is kept."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; the one that has the name gets that of `PREVIOUS`."""
        path, data = Path(path), io.BytesIO()
        torch.save(checkpoint, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path)
        with replacing(path) as part:
            part.write_bytes(data.getbuffer())
            if path.exists():
                path.replace(path.with_name(PREVIOUS.name))

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Read tensors and plain values onto the CPU; ValueError that names a damaged file and says what to do."""
        path = Path(path)
        try:
            with zipfile.ZipFile(path) as archive:
                if member := archive.testzip():
                    raise zipfile.BadZipFile(f"wrong checksum of {member}")
            return torch.load(path, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError) as error:
            previous = path.with_name(PREVIOUS.name)
            goes_on = previous.exists() and previous != path
            remedy = f"remove it to go on from {previous.name}" if goes_on else "start anew with --force"
            raise ValueError(f"'{path}' is damaged ({_first_line(error)}): {remedy}") from error


class Keeper(Checkpoint):
    """Writes metrics.csv and a checkpoint at the end of every epoch, and within one a checkpoint every `INTERVAL`.

    The rows of metrics.csv are part of a checkpoint: a resumed run writes those that it has seen and no other.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[dict[str, float]] = []
        self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Save a checkpoint if it is time."""
        is_last = index + 1 == trainer.num_training_batches  # the end of the epoch saves one
        if not is_last and trainer.strategy.broadcast(time.monotonic() - self.saved >= INTERVAL):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Add what the epoch has shown to metrics.csv, and save a checkpoint."""
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step - 1}
        self.rows.append(row | {name: float(value) for name, value in trainer.callback_metrics.items()})
        if trainer.is_global_zero:
            write_text(self.out / METRICS, _as_csv(self.rows))
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.out / LAST)
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])


def _as_csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
