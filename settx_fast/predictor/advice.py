"""How far to trust a recommendation, and what to do next, in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path

from settx_fast.predictor.familiarity import Unfamiliar
from settx_fast.predictor.frameworks import MeasuredRisk, best_of
from settx_fast.predictor.wording import TITLES, number


def advise(
    directory: Path,
    strange: Sequence[Unfamiliar],
    recommended: str,
    decisive: bool,
    measured: Mapping[str, MeasuredRisk],
) -> tuple[str, ...]:
    """What stands for or against the recommended framework: the model's record, the table, intervals, labels."""
    sentences = [_on_record(directory), _on_table(strange), _on_intervals(decisive), _on_labels(recommended, measured)]
    return tuple(sentence for sentence in sentences if sentence)


def _on_record(directory: Path) -> str:
    path = directory / "evaluation.json"
    if not path.exists():
        return f"How good this model is has not been measured yet: `settx-fast evaluate {directory}` does it."
    evaluation = json.loads(path.read_text())
    model, majority = (evaluation["framework"][name] for name in ("model", "majority"))
    count = evaluation["framework_datasets"]
    record = (
        f"On {count:,} held-out datasets of its own kind the model named the better of causal and anticausal ERM in "
        f"{model:.1%}; always naming the commoner one is right in {majority:.1%}."
    )
    if model - majority > 2 * sqrt(majority * (1 - majority) / max(count, 1)):
        return record
    return f"{record} That is no better than a guess: do not rest a decision on the recommendation alone."


def _on_table(strange: Sequence[Unfamiliar]) -> str:
    if not strange:
        return ""
    traits = "; ".join(f"{each.trait}: {number(each.value)}, in training {_range(each)}" for each in strange)
    return (
        f"The table is unlike the datasets that the model was trained on ({traits}): what it says is extrapolated. "
        "`settx-fast train PRIOR.yaml` trains a model on SCMs that resemble the table."
    )


def _range(trait: Unfamiliar) -> str:
    low, high = number(trait.low), number(trait.high)
    return low if low == high else f"{low} to {high}"


def _on_intervals(decisive: bool) -> str:
    return "" if decisive else "The intervals of the predicted risks overlap: their order is not certain."


def _on_labels(recommended: str, measured: Mapping[str, MeasuredRisk]) -> str:
    if not measured:
        return "No risk could be measured: with some labelled rows of the deployment, the frameworks can be compared."
    best = best_of({name: each.value for name, each in measured.items()})
    rows = f"On the {measured[best].rows:,} labelled rows that it was not fitted on"
    if measured[recommended].value <= measured[best].value:
        return f"{rows}, {TITLES[recommended]} has the least error too."
    return (
        f"{rows}, {TITLES[best]} has the least error: {number(measured[best].value)} against "
        f"{number(measured[recommended].value)} for {TITLES[recommended]}. Trust what is measured where these rows are "
        "like those to come."
    )
