"""How far to trust a recommendation, and what to do next, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from settx_fast.predictor.answers import Framework, same_columns
from settx_fast.predictor.familiarity import Unfamiliar
from settx_fast.predictor.frameworks import best_of
from settx_fast.predictor.records import DecisionRecord, Record
from settx_fast.predictor.wording import number


def contradictions(compared: Sequence[Framework], recommended: str, variance: float) -> tuple[str, ...]:
    """What labelled rows surely say against the prediction, the recommended framework first; () if nothing."""
    ordered = sorted(compared, key=lambda each: each.name != recommended)
    sentences = [sentence for each in ordered if (sentence := _against(each, variance))]
    better = _clearly_better(compared, recommended)
    if better is not None:
        own = _named(compared, recommended)
        sentences.insert(
            0,
            f"Measured, {better.title} is better than the recommended {own.title}: "
            f"{_measured(better)} against {_measured(own)} on {_rows(better)}.",
        )
    return tuple(sentences)


def advise(
    directory: Path,
    strange: Sequence[Unfamiliar],
    compared: Sequence[Framework],
    recommended: str,
    decisive: bool,
    records: Mapping[str, Record],
    decisions: DecisionRecord | None,
) -> tuple[str, ...]:
    """What stands for or against the recommended framework: the model's record, the table, intervals, labels."""
    sentences = [
        _on_record(directory, decisions),
        _on_roles(records),
        _on_table(strange),
        _on_intervals(compared, recommended, decisive),
        _on_labels(compared, recommended),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _against(each: Framework, variance: float) -> str:
    if each.measured is None:
        return ""
    is_outside = each.measured.high < each.risk.low or each.risk.high < each.measured.low
    is_useless = each.measured.low > variance
    if not is_outside and not is_useless:
        return ""
    said = f"{each.title} was predicted {number(each.risk.value)} ({number(each.risk.low)} … {number(each.risk.high)})"
    found = f"and measured {_measured(each)} on {_rows(each)}"
    above = f", above the variance of the target in the sources, {number(variance)}" if is_useless else ""
    start = "What was measured contradicts the prediction" if is_outside else "What was learned does not carry over"
    return f"{start}: {said} {found}{above}."


def _clearly_better(compared: Sequence[Framework], recommended: str) -> Framework | None:
    """The framework of least measured risk if its interval lies below that of the recommended one."""
    own, best = _named(compared, recommended), _best_measured(compared)
    if own.measured is None or best is None or best.measured is None or best in same_columns(compared, recommended):
        return None
    return best if best.measured.high < own.measured.low else None


def _best_measured(compared: Sequence[Framework]) -> Framework | None:
    measured = {each.name: each.measured.value for each in compared if each.measured is not None}
    return _named(compared, best_of(measured)) if measured else None


def _named(compared: Sequence[Framework], name: str) -> Framework:
    return next(each for each in compared if each.name == name)


def _measured(each: Framework) -> str:
    assert each.measured is not None
    return number(each.measured.value)


def _rows(each: Framework) -> str:
    assert each.measured is not None
    return f"{each.measured.rows:,} labelled rows that it was not fitted on"


def _on_record(directory: Path, decisions: DecisionRecord | None) -> str:
    if decisions is None:
        return f"How good this model is has not been measured yet: `settx-fast evaluate {directory}` does it."
    record = (
        f"On {decisions.datasets:,} held-out datasets of its own kind the model named the better of causal and "
        f"anticausal ERM in {decisions.model:.1%}; always naming the commoner one is right in {decisions.majority:.1%}."
    )
    if decisions.is_known:
        return record
    return f"{record} That is no better than a guess: do not rest a decision on the recommendation alone."


def _on_roles(records: Mapping[str, Record]) -> str:
    if "role" not in records or records["role"].is_known:
        return ""
    role = records["role"]
    return (
        f"Roles of columns are not known: on held-out datasets {role.value:.1%} were right, and {role.chance:.1%} by "
        "always naming the commonest. So causal and anticausal ERM use columns that were guessed."
    )


def _on_table(strange: Sequence[Unfamiliar]) -> str:
    if not strange:
        return ""
    traits = "; ".join(f"{each.trait}: {number(each.value)}, in training {_range(each)}" for each in strange)
    return (
        f"The table is unlike the datasets that the model was trained on ({traits}): what it says is extrapolated. "
        "For a model of SCMs like the table: `settx-fast prior show random_linear > my.yaml`, change what differs in "
        "my.yaml, `settx-fast train my.yaml --out my_model`."
    )


def _range(trait: Unfamiliar) -> str:
    low, high = number(trait.low), number(trait.high)
    return low if low == high else f"{low} to {high}"


def _on_intervals(compared: Sequence[Framework], recommended: str, decisive: bool) -> str:
    own, ties = _named(compared, recommended), same_columns(compared, recommended)
    if len(ties) == len(compared) - 1:
        return "All frameworks use the same columns here: there is nothing to choose between."
    alike = "".join(f"{each.title} and {own.title} use the same columns here, so they are the same. " for each in ties)
    return (
        alike + ("" if decisive else "The intervals of the predicted risks overlap: their order is not certain.")
    ).strip()


def _on_labels(compared: Sequence[Framework], recommended: str) -> str:
    own, best = _named(compared, recommended), _best_measured(compared)
    if best is None or own.measured is None:
        return "No risk could be measured: with some labelled rows of the deployment, the frameworks can be compared."
    ties = same_columns(compared, recommended)
    if len(ties) == len(compared) - 1:
        return f"Their error on {_rows(own)} is {_measured(own)}."
    if best in ties or best is own:
        rivals = [each for each in compared if each is not own and each not in ties and each.measured is not None]
        return f"On {_rows(own)}, {own.title} has the least error too{_unless_close(own, rivals)}."
    close = _clearly_better(compared, recommended) is None
    return (
        f"On {_rows(best)}, {best.title} has the least error: {_measured(best)} against {_measured(own)} for "
        f"{own.title}{', a difference within the measured intervals' if close else ''}."
        + " Trust what is measured where these rows are like those to come."
    )


def _unless_close(own: Framework, rivals: Sequence[Framework]) -> str:
    close = [each.title for each in rivals if own.measured and each.measured and own.measured.high >= each.measured.low]
    return f", within the measured intervals of {' and '.join(close)}" if close else ""
