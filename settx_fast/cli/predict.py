"""`settx-fast predict` and `settx-fast report`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from settx_fast.cli._console import console, printable
from settx_fast.cli.train import RunDirectory

if TYPE_CHECKING:
    from settx_fast.predictor import table as tables
    from settx_fast.predictor.prediction import Prediction


Keep = Annotated[
    str, typer.Option("--keep", metavar="COLUMN,…", help="Columns to take as they stand: no identifiers, no stand-ins.")
]


def predict(
    table: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet file.", exists=True, dir_okay=False)],
    target: Annotated[str, typer.Option("--target", "-t", help="Column to predict: numbers, or two classes.")],
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", help="Column that says which environment a row is from.")
    ] = None,
    deploy: Annotated[
        str | None, typer.Option("--deploy", "-d", help="Environment to deploy in; its rows may be unlabelled.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="Run directory that `train` wrote; without, the shipped model.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    keep: Keep = "",
    cannot_be_effect: Annotated[
        str, typer.Option(metavar="COLUMN,…", help="Columns that the target cannot have caused, as sex or year.")
    ] = "",
    cause: Annotated[str, typer.Option(metavar="COLUMN,…", help="Columns that are known to cause the target.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the prediction as JSON.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="JSON file to keep the prediction in.  [default: a file of MODEL, if given]"),
    ] = None,
    no_save: Annotated[bool, typer.Option("--no-save", help="Keep the prediction nowhere.")] = False,
) -> None:
    """Predict the properties of a table, and which learning framework to use on it.

    Without --save the prediction is kept in the run directory of a model of your own as prediction-TABLE-TARGET.json,
    never in place of that of another table.
    """
    from settx_fast.cli._show import show_prediction, stdout
    from settx_fast.predictor import prediction as predictor
    from settx_fast.predictor.knowledge import Knowledge
    from settx_fast.predictor.table import read_table

    if save is not None and (no_save or save.suffix.lower() != ".json"):
        raise ValueError(f"--save: expected a file that ends in .json and no --no-save, got '{save}'")
    with _progress() as told:
        rows = read_table(
            table, target=target, environment=environment, deploy=deploy, keep=names_in(keep), progress=told
        )
        knowledge = Knowledge(causes=names_in(cause), not_effects=names_in(cannot_be_effect))
        prediction = predictor.predict(rows, model, knowledge=knowledge, progress=told)
    if json:
        typer.echo(prediction.to_json(ascii_only=not _is_utf8()))
    else:
        show_prediction(prediction, stdout())
    if save is not None:
        say(f"Kept in {prediction.save(save)}.")
    elif model is not None and not no_save:
        _keep(prediction, model)


def report(directory: RunDirectory) -> None:
    """Write report.html: training, evaluation and predictions of a run, or of all in a directory; recommendations."""
    from settx_fast.predictor.report import write_report

    typer.echo(write_report(directory))


def names_in(listed: str) -> tuple[str, ...]:
    """Names with commas between them; a comma in a name is written twice."""
    parts = listed.replace(",,", "\0").split(",")
    return tuple(name.replace("\0", ",").strip() for name in parts if name.strip())


def _keep(prediction: Prediction, model: Path) -> None:
    """Keep a prediction in its run directory; one that cannot be written to takes nothing away from what was said."""
    try:
        path = prediction.save(model)
    except OSError as error:
        say(f"Not kept, as '{model}' cannot be written to ({error.strerror}): `--save FILE` keeps it elsewhere.")
    else:
        say(f"Kept in {path}; `settx-fast report {model}` shows it.")


def say(sentence: str) -> None:
    """Tell it beside the output."""
    console(stderr=True).print(Text(printable(sentence), style="dim"), soft_wrap=True)


def _is_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "") == "utf8"


@contextmanager
def _progress() -> Iterator[tables.Progress]:
    """A bar on a terminal's stderr, and what tells it how far the work is."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("")

        def told(what: str, done: int, total: int) -> None:
            bar.update(task, description=printable(what), completed=done, total=total)

        yield told
