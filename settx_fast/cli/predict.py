"""`settx-fast predict` and `settx-fast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from settx_fast.cli._console import console
from settx_fast.cli.train import RunDirectory


def predict(
    table: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet file.", exists=True, dir_okay=False)],
    target: Annotated[str, typer.Option("--target", "-t", help="Column to predict.")],
    model: Annotated[
        Path, typer.Option("--model", "-m", help="Run directory that `train` wrote.", exists=True, file_okay=False)
    ],
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", help="Column that says which environment a row is from.")
    ] = None,
    deploy: Annotated[
        str | None, typer.Option("--deploy", "-d", help="Environment to deploy in; its rows may be unlabelled.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the prediction as JSON.")] = False,
    save: Annotated[bool, typer.Option(help="Keep the prediction in the run directory, for the report.")] = True,
) -> None:
    """Predict the properties of a table, and which learning framework to use on it."""
    from settx_fast.cli._show import show_prediction
    from settx_fast.predictor import prediction as predictor
    from settx_fast.predictor.table import read_table

    rows = read_table(table, target=target, environment=environment, deploy=deploy)
    prediction = predictor.predict(rows, model)
    path = prediction.save(model) if save else None
    if json:
        typer.echo(prediction.to_json())
        return
    show_prediction(prediction, console())
    if path is not None:
        kept = escape(f"Kept in {path}; `settx-fast report {model}` shows it.")
        console(stderr=True).print(f"[dim]{kept}[/]")


def report(directory: RunDirectory) -> None:
    """Write report.html: training, evaluation and predictions of a run, or of all runs in a directory."""
    from settx_fast.predictor.report import write_report

    typer.echo(write_report(directory))
