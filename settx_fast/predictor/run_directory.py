"""The directory of a training run: who may write to it, what it holds already, and the model in the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from settx_fast._files import checksum, claimed, remove_parts, write_text
from settx_fast.predictor.checkpoints import LAST, METRICS, PREVIOUS, newest_checkpoint
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.model import CONFIG, WEIGHTS, PropertyPredictor

LOCK = "train.lock"
UNDER_WAY = Path("checkpoints", CONFIG)  # the config of the run that the checkpoints are of
OF_A_RUN = (CONFIG, WEIGHTS, METRICS, str(LAST), str(PREVIOUS), "tensorboard")
OF_ITS_MODEL = ("evaluation.json", "evaluation.npz", "prediction-*.json", "report.html")
MAY_CHANGE = {"epochs", "workers"}  # of a resumed run


@contextmanager
def claimed_for(config: TrainConfig, out: Path, resume: bool, force: bool) -> Iterator[None]:
    """Hold a run directory, ready for a run to start or to go on, so that no other process trains in it.

    Raises InUseError if one does, FileExistsError where there is a run already and it is neither resumed nor forced
    away, FileNotFoundError where there is none to resume, ValueError where the configs differ.
    """
    if resume and force:
        raise ValueError("resume, force: expected one of them at most, got both")
    if resume and newest_checkpoint(out) is None:
        raise FileNotFoundError(f"nothing to resume: {out / LAST} is missing")
    out.mkdir(parents=True, exist_ok=True)
    with claimed(out / LOCK, out):
        if resume:
            _check_same(config, out)
        else:
            _clear(out, force)
        (out / UNDER_WAY).parent.mkdir(exist_ok=True)
        write_text(out / UNDER_WAY, config.to_json())
        yield


def save_model(config: TrainConfig, model: PropertyPredictor, out: Path) -> None:
    """Write `model.safetensors`, then the `config.json` that tells of it, with its checksum."""
    for name in (WEIGHTS, CONFIG):
        remove_parts(out / name)
    model.save(out)
    write_text(out / CONFIG, config.to_json(weights=checksum(out / WEIGHTS)))


def _check_same(config: TrainConfig, out: Path) -> None:
    before, now = (json.loads(each.to_json()) for each in (TrainConfig.read(out / UNDER_WAY), config))
    for name in MAY_CHANGE:
        before[name] = now[name]
    if found := list(_differences(before, now)):
        raise ValueError(
            f"resume: expected the config of the run in '{out}', got another {' and another '.join(found)}"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Every field that differs, with the value that is given and the one that the run has."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} ({now!r}, not {before!r})"


def _clear(out: Path, force: bool) -> None:
    """Make room for a new run; what a run left that came to no checkpoint is in nobody's way."""
    found = [name for name in OF_A_RUN if (out / name).exists()]
    came_to_nothing = (out / UNDER_WAY).exists() and not {WEIGHTS, str(LAST), str(PREVIOUS)} & set(found)
    if found and not force and not came_to_nothing:
        raise FileExistsError(
            f"'{out}' holds a training run ({', '.join(found)}): resume it, choose another directory, or force a new "
            "start, which removes it"
        )
    for pattern in (*OF_A_RUN, *OF_ITS_MODEL):
        for path in out.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
