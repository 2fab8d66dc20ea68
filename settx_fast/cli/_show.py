"""Predictions and evaluations for people, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from settx_fast.predictor.wording import EXPLANATIONS, METRICS, PROPERTIES, number, title, titles

if TYPE_CHECKING:
    from settx_fast.predictor.evaluation import Evaluation
    from settx_fast.predictor.frameworks import MeasuredRisk
    from settx_fast.predictor.prediction import Interval, Prediction
    from settx_fast.scm import Prior

ROLE_STYLES = {"cause": "green", "effect": "magenta", "spouse": "cyan", "unrelated": "dim"}
EFFECTS = {"direct_effect_on_target": "→ target", "direct_effect_of_target": "target →", "total_effect": "total effect"}
PREDICTORS = ("model", "mean", "classical")


def show_prediction(prediction: Prediction, console: Console) -> None:
    """Recommendation first, then risks, columns, properties and notes."""
    best = next(each for each in prediction.frameworks if each.name == prediction.recommended)
    where = f"deployed in '{prediction.deploy}'" if prediction.deploy else "deployed in an environment like these"
    model = f"model {prediction.model['directory']}, seed {prediction.model['seed']}"
    console.print(
        f"\n[bold]{escape(prediction.table)}[/]: '{escape(prediction.target)}', {escape(where)}; {escape(model)}"
    )
    console.print(f"[bold green]Recommended: {best.title}[/], {EXPLANATIONS[best.name]}")
    _bullets(prediction.advice, console)
    console.print("", _frameworks(prediction), "", _columns(prediction), "", _properties(prediction))
    if prediction.notes:
        console.print("\n[bold]What was done to the table[/]")
        _bullets(prediction.notes, console, style="dim")


def show_evaluation(evaluation: Evaluation, prior: Prior, console: Console) -> None:
    """Model, mean and classical estimator side by side; `prior` names the variables."""
    table = _table(f"{evaluation.num_datasets} held-out datasets of {evaluation.num_rows} rows, seed {evaluation.seed}")
    for header in ("property", "metric", *PREDICTORS):
        table.add_column(header, justify="left" if header in ("property", "metric") else "right")
    for key, name in titles(evaluation.metrics, prior.names, prior.target).items():
        by_predictor = evaluation.metrics[key]
        for position, metric in enumerate(by_predictor["model"]):
            cells = [number(by_predictor.get(predictor, {}).get(metric)) for predictor in PREDICTORS]
            table.add_row("" if position else escape(name), METRICS.get(metric, metric), *cells)
    console.print(table, "")
    shares = ", ".join(f"{name} {share:.1%}" for name, share in evaluation.framework.items())
    console.print(
        f"Better of causal and anticausal ERM named correctly: {shares} (of {evaluation.framework_datasets} datasets)"
    )
    costs = ", ".join(f"{name} {each['excess_risk']:+.1%}" for name, each in evaluation.recommendation.items())
    console.print(f"Risk of the framework each recommends, over the least of the three (geometric mean): {costs}")


def _bullets(sentences: tuple[str, ...], console: Console, style: str = "") -> None:
    for sentence in sentences:
        console.print(f"• {escape(sentence)}", style=style, highlight=False)


def interval(value: Interval | MeasuredRisk) -> str:
    """Value and its interval."""
    return f"{number(value.value)} [dim]({number(value.low)} … {number(value.high)})[/]"


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for header in headers:
        table.add_column(header)
    return table


def _frameworks(prediction: Prediction) -> Table:
    variance = f"the variance of '{escape(prediction.target)}' in the sources is {number(prediction.variance)}"
    table = _table(
        f"Risk in deployment: mean squared error, with 90 % intervals; {variance}",
        "framework", "predicted", "measured", "features",
    )  # fmt: skip
    for each in prediction.frameworks:
        style = "green" if each.name == prediction.recommended else ""
        measured = interval(each.measured) if each.measured else "–"
        table.add_row(each.title, interval(each.risk), measured, _features(each.features), style=style)
    return table


def _features(names: tuple[str, ...], limit: int = 4) -> str:
    shown = escape(", ".join(names[:limit]) or "none: predicts the mean")
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _columns(prediction: Prediction) -> Table:
    table = _table(
        "Columns (direct effects per unit of the cause; dim where the interval holds zero)",
        "column", "role", "probability", *EFFECTS.values(),
    )  # fmt: skip
    for column in prediction.columns:
        role = f"[{ROLE_STYLES[column.role]}]{column.role}[/]"
        effects = (_effect(column.effects[name]) for name in EFFECTS)
        table.add_row(escape(column.name), role, f"{column.probability[column.role]:.0%}", *effects)
    return table


def _effect(value: Interval) -> str:
    """The value, dim where its interval holds zero."""
    return f"[dim]{number(value.value)}[/]" if value.low <= 0 <= value.high else number(value.value)


def _properties(prediction: Prediction) -> Table:
    table = _table("Properties of the table as a sample from its SCM", "property", "value (90 % interval)", "meaning")
    for name, value in prediction.properties.items():
        table.add_row(title(name), interval(value), PROPERTIES[name].meaning)
    return table
