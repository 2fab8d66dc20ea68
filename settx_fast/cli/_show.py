"""Predictions and evaluations for people, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from settx_fast.predictor.wording import METRICS, number, title, titles

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
    console.print(f"\n[bold]{escape(prediction.table)}[/]: '{escape(prediction.target)}', {escape(where)}")
    console.print(
        f"[bold green]Recommended: {best.title}[/]" + ("" if prediction.decisive else "  (intervals overlap)"), ""
    )
    console.print(_frameworks(prediction), "", _columns(prediction), "", _properties(prediction))
    for note in prediction.notes:
        console.print(f"[dim]• {escape(note)}[/]")


def show_evaluation(evaluation: Evaluation, prior: Prior, console: Console) -> None:
    """Model, mean and classical estimator side by side; `prior` names the variables."""
    table = _table(f"{evaluation.num_datasets} held-out datasets of {evaluation.num_rows} rows, seed {evaluation.seed}")
    for header in ("property", "metric", *PREDICTORS):
        table.add_column(header, justify="left" if header in ("property", "metric") else "right")
    for key, name in titles(evaluation.metrics, prior.names, prior.target).items():
        by_predictor = evaluation.metrics[key]
        for position, metric in enumerate(by_predictor["model"]):
            cells = [number(by_predictor.get(predictor, {}).get(metric)) for predictor in PREDICTORS]
            table.add_row("" if position else name, METRICS.get(metric, metric), *cells)
    console.print(table, "")
    shares = ", ".join(f"{name} {share:.1%}" for name, share in evaluation.framework.items())
    console.print(
        f"Better of causal and anticausal ERM named correctly: {shares} (of {evaluation.framework_datasets} datasets)"
    )


def interval(value: Interval | MeasuredRisk) -> str:
    """Value and its interval."""
    return f"{number(value.value)} [dim]({number(value.low)} … {number(value.high)})[/]"


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for header in headers:
        table.add_column(header)
    return table


def _frameworks(prediction: Prediction) -> Table:
    table = _table("Risk in deployment (squared units of the target)", "framework", "predicted", "measured", "features")
    for each in prediction.frameworks:
        style = "green" if each.name == prediction.recommended else ""
        measured = interval(each.measured) if each.measured else "–"
        table.add_row(each.title, interval(each.risk), measured, _features(each.features), style=style)
    return table


def _features(names: tuple[str, ...], limit: int = 4) -> str:
    shown = escape(", ".join(names[:limit]) or "none: predicts the mean")
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _columns(prediction: Prediction) -> Table:
    table = _table("Columns", "column", "role", "chance", *EFFECTS.values())
    for column in prediction.columns:
        role = f"[{ROLE_STYLES[column.role]}]{column.role}[/]"
        effects = (_effect(column.effects[name]) for name in EFFECTS)
        table.add_row(escape(column.name), role, f"{column.probability[column.role]:.0%}", *effects)
    return table


def _effect(value: Interval) -> str:
    """The value, dim where its interval holds zero."""
    return f"[dim]{number(value.value)}[/]" if value.low <= 0 <= value.high else number(value.value)


def _properties(prediction: Prediction) -> Table:
    table = _table("Properties", "property", "value (90 % interval)")
    for name, value in prediction.properties.items():
        table.add_row(title(name), interval(value))
    return table
