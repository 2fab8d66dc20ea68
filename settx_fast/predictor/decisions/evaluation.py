"""The honest evaluation of the choice between frameworks; every number of `docs/evaluation.md`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from settx_fast import scm
from settx_fast.predictor.decisions.choices import Choosers, geometric
from settx_fast.predictor.decisions.real_tables import REAL_TABLES, example_of
from settx_fast.predictor.decisions.speed import speed
from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector import (
    across,
    column_descriptors,
    descriptors,
    fits,
    framework_descriptors,
    source_descriptors,
)
from settx_fast.predictor.selector.examples import Examples, draw_file, joined, read
from settx_fast.predictor.selector.shipped import Selector

VARIABLES, SOURCES = 12, 6
ROWS = 1000
TRAINING_ROWS = (100, 4000)
TREE_STEPS = 100  # of boosting
AT_ONCE = 512  # datasets in a file
HELD_OUT, FOR_TRAINING = 7 << 33, 11 << 33  # seeds: none that a model was trained on
RESAMPLED = 2000
DESCRIBED_BY = (across, column_descriptors, descriptors, fits, framework_descriptors, source_descriptors)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """Regrets are geometric means of the chosen risk over the least of all frameworks, less 1.

    held_out: regret by choice, for all datasets and by number of sources; shifted: by prior; tables: by real table,
    with its numbers of pairs; pooled: over all pairs, `geometric` and `mean` (arithmetic); ratio_to_erm: geometric mean
    of the chosen risk over ERM's, with a 90 % interval over pairs resampled by table; calibration: by set of
    datasets; speed: seconds a table, or None without a model.
    """

    settings: dict[str, Any]
    held_out: dict[str, dict[str, float]]
    shifted: dict[str, dict[str, float]]
    tables: dict[str, dict[str, float]]
    pairs: dict[str, int]
    pooled: dict[str, dict[str, float]]
    ratio_to_erm: dict[str, tuple[float, float, float]]
    calibration: dict[str, dict[str, float]]
    speed: dict[str, float] | None

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def evaluate(
    work: Path,
    *,
    num_datasets: int = 1000,
    num_training: int = 6000,
    model: Path | None = None,
    progress: Progress = print,
) -> Evaluation:
    """Draw what is not in `work` yet, train the trees, and measure every way to choose on every set of datasets.

    num_datasets: held-out datasets of the training prior, a third as many of each shifted prior; num_training: datasets
    that the trees are fitted to; model: a selector's file, by default the shipped one if there is one. Raises
    FileNotFoundError for a model that is not there, ModuleNotFoundError where a package with real tables is missing.
    """
    selector = _selector(model)
    prior = scm.presets.recurring(VARIABLES, SOURCES)
    training = drawn(work, "training", prior, num_training, TRAINING_ROWS, FOR_TRAINING, progress)
    progress("Fitting trees …")
    choosers = Choosers.of(training, selector, TREE_STEPS)
    sets = {"held out": drawn(work, "held out", prior, num_datasets, (ROWS, ROWS), HELD_OUT, progress)}
    for name, shifted in scm.presets.shifted(VARIABLES, SOURCES).items():
        sets[name] = drawn(work, name, shifted, -(-num_datasets // 3), (ROWS, ROWS), HELD_OUT, progress)
    tables = {name: _pairs(name, progress) for name in REAL_TABLES}
    sets["real tables"] = joined(list(tables.values()))
    regrets = {name: choosers.regrets(examples) for name, examples in tables.items()}
    pooled = {name: torch.cat([regret[name] for regret in regrets.values()]) for name in next(iter(regrets.values()))}
    return Evaluation(
        settings={
            "datasets": len(sets["held out"]),
            "datasets of each shifted prior": -(-num_datasets // 3),
            "datasets that the trees were fitted to": len(training),
            "rows": ROWS,
            "model": selector is not None,
        },
        held_out=_by_sources(choosers, sets["held out"]),
        shifted={name: geometric(choosers.regrets(sets[name])) for name in scm.presets.shifted(VARIABLES, SOURCES)},
        tables={name: geometric(regret) for name, regret in regrets.items()},
        pairs={name: len(examples) for name, examples in tables.items()},
        pooled={
            "geometric": geometric(pooled),
            "mean": {name: float(regret.expm1().mean()) for name, regret in pooled.items()},
        },
        ratio_to_erm=_ratios(regrets),
        calibration={name: choosers.calibration(examples) for name, examples in sets.items()} if selector else {},
        speed=speed(model) if selector else None,
    )


def _selector(model: Path | None) -> Selector | None:
    try:
        return Selector.load(model)
    except FileNotFoundError:
        if model is not None:
            raise
        return None


def drawn(
    work: Path, name: str, prior: scm.Prior, count: int, rows: tuple[int, int], seed: int, progress: Progress
) -> Examples:
    """Examples of a prior, from the files in `work` where they are."""
    parts = []
    for first in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - first)
        progress(f"Datasets of {name}: {first + size} of {count} …")
        path = work / f"{name.replace(' ', '-')}-{_hash_of(prior, rows, seed)}-{first}-{size}.safetensors"
        draw_file(path, prior, size, rows, seed, first)
        parts.append(read(path))
    return joined(parts)


def _hash_of(prior: scm.Prior, rows: tuple[int, int], seed: int) -> str:
    """Eight characters that change with what examples are drawn from and how they are described."""
    code = [Path(str(module.__file__)).read_text() for module in DESCRIBED_BY]
    return sha256(f"{prior.to_json()} {rows} {seed} {scm.STREAM_VERSION} {FRAMEWORKS} {code}".encode()).hexdigest()[:8]


def _pairs(name: str, progress: Progress) -> Examples:
    progress(f"Real table {name} …")
    return joined([example_of(table) for table in REAL_TABLES[name].tables()])


def _by_sources(choosers: Choosers, examples: Examples) -> dict[str, dict[str, float]]:
    regrets, sources = choosers.regrets(examples), examples.descriptors.is_source.sum(1)
    result = {"all": geometric(regrets)}
    for number in sources.unique().tolist():
        result[str(number)] = geometric({name: regret[sources == number] for name, regret in regrets.items()})
    return result


def _ratios(regrets: dict[str, dict[str, Tensor]]) -> dict[str, tuple[float, float, float]]:
    """By choice: geometric mean of the risk over ERM's, and its 5 % and 95 % over tables drawn with replacement."""
    tables = list(regrets.values())
    drawn = np.random.default_rng(0).integers(len(tables), size=(RESAMPLED, len(tables)))
    result = {}
    for name in tables[0]:
        gains = [regret[name] - regret["always ERM"] for regret in tables]
        total, count = np.array([float(gain.sum()) for gain in gains]), np.array([len(gain) for gain in gains])
        low, high = np.quantile(total[drawn].sum(1) / count[drawn].sum(1), (0.05, 0.95))
        result[name] = (float(np.exp(total.sum() / count.sum())), float(np.exp(low)), float(np.exp(high)))
    return result
