"""Which framework to use on a table, what its risk will be, and what speaks for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks import FRAMEWORKS, TITLES, sources_of
from settx_fast.predictor.saving import save
from settx_fast.predictor.selector.decision import ERM, LEAST_GAIN, decide, interval, unlike
from settx_fast.predictor.selector.descriptors import TRAITS, describe
from settx_fast.predictor.selector.evidence import evidence
from settx_fast.predictor.selector.fits import Fits, fits_of
from settx_fast.predictor.selector.shipped import Selector
from settx_fast.predictor.wording import number

SCHEMA = "settx_fast.recommendation/1"
_COUNTS = TRAITS[:5]  # shown as such, not as logarithms


@dataclass(frozen=True)
class Risk:
    """Mean squared error in deployment, units of the target squared, with a 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranked:
    """A framework, its predicted risk, and what labels say: see `Recommendation.measured_on`."""

    framework: str
    risk: Risk
    measured: float | None


@dataclass(frozen=True)
class Recommendation:
    """A decision.

    recommended: name of a framework (`frameworks.estimator` gives it). abstained: the table is unlike the training
    datasets, and ERM stands as the safe default. ranking: by predicted risk. variance: of the target over the source
    rows, the risk of its mean where nothing changes. measured_on: "left-out sources", each in turn, "deployment", its
    labelled rows, or None. reasons: what speaks for the decision, in sentences. notes: what was done to the table.
    table, target, deploy: names, and source: the file, as an absolute path, where it was read from one.
    """

    recommended: str
    abstained: bool
    ranking: tuple[Ranked, ...]
    variance: float
    measured_on: str | None
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    table: str = ""
    target: str = ""
    deploy: str | None = None
    source: str | None = None

    def of(self, framework: str) -> Ranked:
        """The entry of that framework."""
        return next(entry for entry in self.ranking if entry.framework == framework)

    def to_json(self) -> str:
        """JSON text, `schema` first; numbers that are not finite are null."""
        return json.dumps({"schema": SCHEMA} | asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, where: Path) -> Path:
        """Write it as JSON to a file, or into a directory as recommendation-TABLE-TARGET.json; return the path.

        A file in a directory is replaced only by a recommendation of the same file and target, else the name gets a
        number. OSError where nothing can be written.
        """
        return save(self.to_json(), where, self.table, self.target, self.source, kind="recommendation")


@torch.no_grad()
def recommend(observed: Observed, names: Sequence[str], selector: Selector) -> Recommendation:
    """Choose for one dataset, given as a batch of one, whose columns have these names."""
    fits = fits_of(sources_of(observed))
    descriptors = describe(fits)
    guess = selector.network(selector.network.read(observed, descriptors))
    strange = unlike(descriptors.dataset[0], selector.calibration)
    chosen = ERM if strange else int(decide(guess, selector.calibration.caution))
    unit = float(descriptors.unit) ** 2
    value, (low, high) = guess.log_risk[0], (end[0] for end in interval(guess, selector.calibration))
    measured = _left_out(fits, unit)
    entries = [
        Ranked(name, Risk(*(unit * math.exp(float(end[f])) for end in (value, low, high))), measured[f])
        for f, name in enumerate(FRAMEWORKS)
    ]
    ranking = tuple(sorted(entries, key=lambda entry: entry.risk.value))
    reasons = (
        *verdict(FRAMEWORKS[chosen], ranking, bool(strange)),
        *(_strange(trait) for trait in strange),
        *evidence(fits, names),
        *_record(selector),
    )
    on = "left-out sources" if measured[0] is not None else None
    return Recommendation(FRAMEWORKS[chosen], bool(strange), ranking, unit, on, reasons)


def _left_out(fits: Fits, unit: float) -> list[float | None]:
    """The mean risk of every framework in the left-out sources; None with fewer than two."""
    there = fits.sources.is_there[0]
    if int(there.sum()) < 2:
        return [None] * len(FRAMEWORKS)
    return [unit * float(risk) for risk in fits.left_out[0][there].mean(0)]


def verdict(chosen: str, ranking: Sequence[Ranked], strange: bool) -> Iterator[str]:
    """What is expected of the framework that was chosen, and of the one of least risk where that is another."""
    risk = {entry.framework: entry.risk.value for entry in ranking}
    best = ranking[0].framework

    def expected(framework: str) -> str:
        title = TITLES[framework][0].upper() + TITLES[framework][1:]
        return f"{title} is expected to have {1 - risk[framework] / risk['erm']:.0%} less risk than ERM in deployment"

    if strange:
        yield "The table is unlike the datasets that the selector was trained on: ERM is the default."
    elif chosen != "erm":
        yield f"{expected(chosen)}."
    elif risk[best] > (1 - LEAST_GAIN) * risk["erm"]:
        yield "No other framework is expected to have less risk than ERM in deployment."
    else:
        yield f"{expected(best)}: not surely enough to leave ERM."
    if best != chosen != "erm":
        yield f"{expected(best)}, but less surely."


def _strange(trait: tuple[str, float, float, float]) -> str:
    name, *values = trait
    value, low, high = (number(round(math.exp(v)) if name in _COUNTS else v) for v in values)
    return f"Unlike training: {name}, {value}; in training {low} to {high}."


def _record(selector: Selector) -> tuple[str, ...]:
    regret = selector.record.get("regret", {})
    if not {"selector", "erm"} <= set(regret):
        return ()
    return (
        f"On {selector.record['datasets']:,} held-out datasets of its training prior the selector's choice had "
        f"{regret['selector']:.1%} more risk than the best framework (geometric mean), always-ERM {regret['erm']:.1%}.",
    )
