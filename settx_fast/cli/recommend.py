"""`settx-fast recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from settx_fast.cli._show import stdout
from settx_fast.cli.predict import Keep, names_in, say

if TYPE_CHECKING:
    from settx_fast.predictor.selector.recommendation import Recommendation


def recommend(
    table: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet file.", exists=True, dir_okay=False)],
    target: Annotated[str, typer.Option("--target", "-t", help="Column to predict.")],
    environment: Annotated[
        str, typer.Option("--environment", "-e", help="Column that says which environment a row is from.")
    ],
    deploy: Annotated[
        str | None, typer.Option("--deploy", "-d", help="Environment to deploy in; its rows may be unlabelled.")
    ] = None,
    keep: Keep = "",
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Trained selector; without, the shipped one.", exists=True, dir_okay=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the recommendation as JSON.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            help="JSON file, or directory, to keep the recommendation in; `settx-fast report` shows what its directory "
            "holds."
        ),
    ] = None,
) -> None:
    """Recommend a learning framework for a table of rows from several environments."""
    from settx_fast.predictor.selector.tables import recommend_for
    from settx_fast.predictor.table import read_table

    rows = read_table(table, target=target, environment=environment, deploy=deploy, keep=names_in(keep))
    found = recommend_for(rows, model, beside_trees=True)
    if json:
        typer.echo(found.to_json())
    else:
        _show(found, stdout())
    if save is not None:
        say(f"Kept in {found.save(save)}.")


def _show(found: Recommendation, console: Console) -> None:
    from settx_fast.predictor.frameworks import TITLES
    from settx_fast.predictor.wording import number

    where = "" if found.deploy is None else f", deployed in '{found.deploy}'"
    console.print(f"\n[bold]{escape(found.table)}: '{escape(found.target)}'{escape(where)}[/]")
    suffix = " (abstained: the safe default)" if found.abstained else ""
    console.print(f"[bold green]Recommended: {TITLES[found.recommended]}[/]{suffix}")
    for sentence in found.reasons:
        console.print(f"• {escape(sentence)}", highlight=False)
    table = Table(
        title=f"Mean squared error in deployment; the target's variance in the sources is {number(found.variance)}",
        title_justify="left", title_style="bold", box=None, padding=(0, 1),
    )  # fmt: skip
    for header in ("framework", "predicted", "90 % interval", f"measured on {escape(found.measured_on or 'nothing')}"):
        table.add_column(header)
    for entry in found.ranking:
        risk = entry.risk
        table.add_row(
            TITLES[entry.framework],
            number(risk.value),
            f"{number(risk.low)} … {number(risk.high)}",
            number(entry.measured),
            style="green" if entry.framework == found.recommended else "",
        )
    console.print("", table)
    for note in found.notes:
        console.print(f"• {escape(note)}", style="dim", highlight=False)
