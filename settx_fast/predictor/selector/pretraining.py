"""`python -m settx_fast.predictor.selector.pretraining`: draw examples, train, calibrate, and write the shipped model.

Every step leaves files in a work directory and is skipped where they are there: the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from settx_fast import scm
from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.decision import calibrate
from settx_fast.predictor.selector.examples import Examples, draw_file, joined, read, read_all
from settx_fast.predictor.selector.measure import Trees, best_fixed, record, roles_record
from settx_fast.predictor.selector.model_card import model_card
from settx_fast.predictor.selector.network import NetworkConfig
from settx_fast.predictor.selector.shipped import SHIPPED, Selector
from settx_fast.predictor.selector.training import Schedule, guesses, train

HELD_OUT, BETWEEN_PARTS = 1 << 32, 1 << 40  # added to the seed
MEMBER = 1000  # added to the seed of training, for each member before
TREES_FROM = 8000  # examples that the trees it is compared with are fitted to
NETWORK = NetworkConfig(hidden=32, layers=1, num_heads=2, summary=256, dropout=0.2)


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
    """What is trained on, in `scale` times the files that are named here, calibrated on and tested on."""
    small, large = scm.presets.recurring(12, 6), scm.presets.recurring(30, 20)
    linear = replace(scm.presets.recurring_linear(10, 4), num_variables=(5, 10), source_environments=4)
    rows, many = (100, 4000), (4000, 20_000)
    return {
        "roles": (
            Part("linear", linear, 4, 128, (1000, 1000)),
            Part("independent", _with_independent_columns(), 1, 128, (1000, 1000)),
        ),
        "train": (
            Part("small", small, max(round(272 * scale), 1), 128, rows),
            Part("large", large, max(round(8 * scale), 1), 32, rows),
            Part("long", small, max(round(8 * scale), 1), 64, many),
        ),
        "calibrate": (
            Part("small", small, 64, 128, rows),
            Part("large", large, 4, 32, rows),
            Part("long", small, 1, 64, many),
        ),
        "test": (Part("small", small, 64, 128, (1000, 1000)),),
    }


def _with_independent_columns() -> scm.Prior:
    """Linear SCMs in which the only columns that are unrelated to the target Y, I and J, are independent of it."""
    graph = scm.UserGraph((("A", "Y"), ("B", "Y"), ("Y", "C"), ("D", "C")))
    names = ("A", "B", "C", "D", "I", "J", "Y")
    return replace(
        scm.presets.recurring_linear(10, 4),
        num_variables=len(names), names=names, graph=graph, target="Y", source_environments=4,
    )  # fmt: skip


def jobs(work: Path, scale: float, seed: int) -> Iterator[Job]:
    """Every file, those for calibration and test first; streams of examples do not overlap."""
    for number, (use, several) in enumerate(reversed(parts(scale).items())):
        first = seed + HELD_OUT * (use != "train") + number
        order = sorted((k / part.files, n, k) for n, part in enumerate(several) for k in range(part.files))
        for _, n, k in order:
            part, own = several[n], (first + BETWEEN_PARTS * n) % 2**64
            digest = _digest(part.prior.to_json(), part.rows, own)
            yield Job(work / use / f"{part.name}-{digest}-{k:04}.safetensors", part, own, k * part.size)


def draw_all(work: Path, scale: float, seed: int, workers: int) -> None:
    """Draw every file that is not there, with several processes."""
    missing = [job for job in jobs(work, scale, seed) if not job.path.exists()]
    with multiprocessing.get_context("fork").Pool(workers, torch.set_num_threads, (1,)) as pool:
        for number, _ in enumerate(pool.imap_unordered(Job.run, missing), 1):
            print(f"drew file {number} of {len(missing)}", flush=True)


def pretrain(
    work: Path,
    out: Path,
    scale: float,
    schedule: Schedule,
    config: NetworkConfig = NETWORK,
    members: int = 1,
    workers: int = 1,
) -> Selector:
    """Draw what is not drawn yet, train, calibrate, measure; write `out` and its model card beside it."""
    draw_all(work, scale, schedule.seed, workers)
    files = _files(work, "train", scale, schedule.seed)
    held_out = joined([read(file) for file in _files(work, "calibrate", scale, schedule.seed)])
    test = joined([read(file) for file in _files(work, "test", scale, schedule.seed)])
    kinds = read_all(files)
    trainings = [
        partial(train, kinds, config, own, work / f"checkpoint-{_digest(config, own, len(files))}.pt")
        for own in _schedules(schedule, members)
    ]
    train_side_by_side(trainings, held_out, min(workers, members))
    network = Committee([training() for training in trainings])  # read from their checkpoints
    linear, independent = read_all(_files(work, "roles", scale, schedule.seed))
    roles = roles_record(guesses(network, linear), linear, guesses(network, independent), independent)
    selector = measured(network, held_out, test, kinds, schedule, roles)
    selector.save(out)
    out.with_name("MODEL_CARD.md").write_text(model_card(selector, out.stat().st_size))
    return selector


def train_side_by_side(trainings: Sequence[Callable[..., Any]], validation: Examples, workers: int) -> None:
    """Train members, several at a time in processes of one thread each; checkpoints are what they leave."""
    torch.multiprocessing.start_processes(_train_some, (workers, trainings, validation), workers, start_method="fork")


def _train_some(rank: int, workers: int, trainings: Sequence[Callable[..., Any]], validation: Examples) -> None:
    torch.set_num_threads(1)  # of its parent's threads none came along, and OpenMP would wait for them
    for number in range(rank, len(trainings), workers):
        trainings[number](progress=partial(_tell, number + 1), validation=validation)


def _tell(member: int, line: str) -> None:
    print(f"member {member}, {line}", flush=True)


def _schedules(schedule: Schedule, members: int) -> list[Schedule]:
    """Of the members: seeds of their own."""
    return [replace(schedule, seed=schedule.seed + MEMBER * number) for number in range(members)]


def _digest(*what: object) -> str:
    return hashlib.sha256(" ".join(map(str, what)).encode()).hexdigest()[:8]


def measured(
    network: Committee,
    held_out: Examples,
    test: Examples,
    kinds: Sequence[Examples],
    schedule: Schedule,
    roles: dict[str, float | None],
) -> Selector:
    """The networks, calibrated on `held_out`, with their record on `test` and that of roles."""
    traits = torch.cat([kind.descriptors.dataset for kind in kinds])
    calibration = calibrate(guesses(network, held_out), held_out.log_risk, traits)
    seen = max(kinds, key=len).part(slice(0, TREES_FROM))
    trees = Trees(seen)
    found = record(test, guesses(network, test), calibration, best_fixed(seen), trees)
    about = {
        "priors": [part.prior.to_json() for part in parts(1.0)["train"]],
        "training datasets": sum(map(len, kinds)),
        "trees fitted to": len(seen),
        "epochs": schedule.epochs,
        "seed": schedule.seed,
        "caution": calibration.caution,
        "torch": torch.__version__,
        "stream version": scm.STREAM_VERSION,
    }
    return Selector(network, calibration, found | roles | about)


def _files(work: Path, use: str, scale: float, seed: int) -> list[Path]:
    return [job.path for job in jobs(work, scale, seed) if job.path.parent.name == use]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/pretrained"), help="where examples and checkpoints lie"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--scale", type=float, default=8.0, help="of the number of training files")
    parser.add_argument("--epochs", type=int, default=Schedule.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--members", type=int, default=4, help="networks that are trained apart and answer together")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw examples, and that train members")
    parser.add_argument("--draw-only", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.draw_only:
        draw_all(given.work, given.scale, given.seed, given.workers)
    else:
        schedule = Schedule(epochs=given.epochs, seed=given.seed)
        pretrain(given.work, given.out, given.scale, schedule, NETWORK, given.members, given.workers)


if __name__ == "__main__":
    main()
