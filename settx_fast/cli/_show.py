"""Predictions and evaluations for people, on a terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from settx_fast.cli._console import console, printable
from settx_fast.predictor.wording import EXPLANATIONS, METRICS, PROPERTIES, number, title, titles

if TYPE_CHECKING:
    from settx_fast.predictor.answers import Interval
    from settx_fast.predictor.evaluation import Evaluation
    from settx_fast.predictor.frameworks import MeasuredRisk
    from settx_fast.predictor.prediction import Prediction
    from settx_fast.predictor.records import Record
    from settx_fast.scm import Prior

ROLE_STYLES = {"cause": "green", "effect": "magenta", "spouse": "cyan", "unrelated": "dim"}
EFFECTS = {"direct_effect_on_target": "→ target", "direct_effect_of_target": "target →", "total_effect": "total effect"}
PREDICTORS = ("model", "mean", "classical")
PIPED_WIDTH = 160  # of a table that no terminal cuts


def stdout() -> Console:
    """The console that results go to: as wide as a table needs where they are piped or kept in a file."""
    found = console()
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = PIPED_WIDTH
    return found


def show_prediction(prediction: Prediction, console: Console) -> None:
    """What must be read first, the recommendation, then risks, columns, properties and notes."""
    best = next(each for each in prediction.frameworks if each.name == prediction.recommended)
    where = f"deployed in '{prediction.deploy}'" if prediction.deploy else "deployed in an environment like these"
    model = f"model {prediction.model['directory']}, seed {prediction.model['seed']}"
    classes = f" ({' or '.join(prediction.classes)})" if prediction.classes else ""
    console.print()
    _line(console, f"{prediction.table}: '{prediction.target}'{classes}, {where}; {model}", "bold")
    for sentence in prediction.headline:
        _line(console, sentence, "bold red")
    _line(console, f"Recommended: {best.title}, {EXPLANATIONS[best.name]}", "bold green")
    _bullets(tuple(each for each in prediction.advice if each not in prediction.headline), console)
    console.print("", _frameworks(prediction), "", _columns(prediction), "", _properties(prediction))
    if prediction.notes:
        console.print()
        _line(console, "What was done to the table", "bold")
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


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(printable(text), style=style), highlight=False, soft_wrap=not console.is_terminal)


def _bullets(sentences: tuple[str, ...], console: Console, style: str = "") -> None:
    for sentence in sentences:
        _line(console, f"• {sentence}", style)


def interval(value: Interval | MeasuredRisk, separator: str = " ") -> str:
    """Value and its interval."""
    return f"{number(value.value)}{separator}[dim]({number(value.low)} … {number(value.high)})[/]"


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for header in headers:
        table.add_column(header)
    return table


def _frameworks(prediction: Prediction) -> Table:
    variance = f"the variance of '{escape(prediction.target)}' in the sources is {number(prediction.variance)}"
    table = _table(
        f"Risk in deployment: {prediction.risk_name}, with 90 % intervals; {variance}",
        "framework", "predicted", *_scored(prediction), "measured", "features",
    )  # fmt: skip
    for each in prediction.frameworks:
        style = "green" if each.name in (prediction.recommended, *prediction.tied) else ""
        measured = interval(each.measured) if each.measured else "–"
        record = prediction.records.get(f"risk/{each.name}")
        score = [_value(record)] if prediction.records else []
        table.add_row(each.title, interval(each.risk), *score, measured, _features(each.features), style=style)
    return table


def _features(names: tuple[str, ...], limit: int = 4) -> str:
    shown = escape(", ".join(names[:limit]) or "none: predicts the mean")
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _scored(prediction: Prediction) -> list[str]:
    """The header of what the model reached on held-out datasets, if that was measured."""
    return ["R²"] if prediction.records else []


def _value(record: Record | None) -> str:
    return number(record.value) if record else "–"


def _is_known(record: Record | None) -> bool:
    return record is None or record.is_known


def _columns(prediction: Prediction) -> Table:
    """Roles and effects that are findings, with how good the model was at them on held-out datasets."""
    role = prediction.records.get("role")
    shown = {name: short for name, short in EFFECTS.items() if _is_known(prediction.records.get(name))}
    headers = [_headed(short, "R² ", prediction.records.get(name)) for name, short in shown.items()]
    roles = [_headed("role", "accuracy ", role), "probability"] if _is_known(role) else []
    table = _table("Columns (direct effects per unit of the cause, with 90 % intervals)", "column", *roles, *headers)
    if not roles and not shown:
        table.add_row("roles and effects are not known: no better than a guess on held-out datasets")
        return table
    for column in prediction.columns:
        name = escape(column.name)
        cells = [f"[{ROLE_STYLES[column.role]}]{column.role}[/]", f"{column.probability[column.role]:.0%}"]
        effects = (interval(column.effects[name], "\n") for name in shown)
        table.add_row(name, *(cells if roles else []), *effects)
    return table


def _headed(header: str, metric: str, record: Record | None) -> str:
    return f"{header}\n{metric}{number(record.value)}" if record else header


def _properties(prediction: Prediction) -> Table:
    table = _table(
        "Properties of the table as a sample from its SCM",
        "property",
        "value (90 % interval)",
        *_scored(prediction),
        "meaning",
    )
    for name, value in prediction.properties.items():
        record = prediction.records.get(name)
        said = interval(value) if _is_known(record) else "not known"
        score = [_value(record)] if prediction.records else []
        table.add_row(title(name), said, *score, PROPERTIES[name].meaning)
    return table
