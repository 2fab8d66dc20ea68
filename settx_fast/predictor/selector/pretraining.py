"""`python -m settx_fast.predictor.selector.pretraining`: draw examples, train, calibrate, and write the shipped model.

Every step leaves files in a work directory and is skipped where they are there: the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from settx_fast import scm
from settx_fast.predictor.selector.examples import draw_file, joined, read
from settx_fast.predictor.selector.network import NetworkConfig
from settx_fast.predictor.selector.training import Schedule

HELD_OUT = 1 << 32  # added to the seed


@dataclass(frozen=True)
class Part:
    """Files of examples of one prior: their number, datasets in each, least and most rows of a dataset."""

    name: str
    prior: scm.Prior
    files: int
    size: int
    rows: tuple[int, int]


class Job(NamedTuple):
    """One file to draw."""

    path: Path
    part: Part
    seed: int
    first_index: int

    def run(self) -> None:
        """Draw it unless it is there."""
        draw_file(self.path, self.part.prior, self.part.size, self.part.rows, self.seed, self.first_index)


def parts(scale: float) -> dict[str, tuple[Part, ...]]:
    """What is trained on, calibrated on and tested on, `scale` times the shipped model's number of training files."""
    small, large = scm.presets.recurring(12, 6), scm.presets.recurring(30, 20)
    rows = (100, 4000)
    return {
        "train": (Part("small", small, round(60 * scale), 896, rows), Part("large", large, round(30 * scale), 64, rows)),
        "calibrate": (Part("small", small, 5, 896, rows), Part("large", large, 5, 64, rows)),
        "test": (Part("small", small, 5, 896, (1000, 1000)),),
    }


def jobs(work: Path, scale: float, seed: int) -> Iterator[Job]:
    """Every file, those for calibration and test first; streams of examples do not overlap."""
    for number, (use, several) in enumerate(reversed(parts(scale).items())):
        own = (seed + HELD_OUT * (use != "train") + number) % 2**64
        longest = max(part.files for part in several)
        for k in range(longest):
            for part in several:
                if k < part.files:
                    digest = hashlib.sha256(f"{part.prior.to_json()} {part.rows} {own}".encode()).hexdigest()[:8]
                    path = work / use / f"{part.name}-{digest}-{k:04}.safetensors"
                    yield Job(path, part, own, k * part.size)


def draw_all(work: Path, scale: float, seed: int, worker: int, workers: int) -> None:
    """Draw every `workers`-th file."""
    torch.set_num_threads(1)
    for number, job in enumerate(jobs(work, scale, seed)):
        if number % workers == worker:
            job.run()
            print(job.path, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("build/pretrained"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    draw_all(given.work, given.scale, given.seed, given.worker, given.workers)
