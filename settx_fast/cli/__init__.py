"""The command line `settx-fast`: sample, train, evaluate, compare, predict, recommend, report, doctor.

Exit codes: 0 fine, 1 something failed that the user can act on, 2 the input or the usage is wrong. An error is one
sentence on stderr. What is slow to import (torch, Lightning, pandas) is imported by the command that needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from settx_fast.cli import prior
from settx_fast.cli._errors import Commands
from settx_fast.cli._terminal import show_every_letter
from settx_fast.cli.compare import compare
from settx_fast.cli.doctor import doctor
from settx_fast.cli.evaluate import evaluate
from settx_fast.cli.predict import predict, report
from settx_fast.cli.recommend import recommend
from settx_fast.cli.sample import sample
from settx_fast.cli.train import train

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"settx-fast {version('settx_fast')}")
        raise typer.Exit


@app.callback()
def _root(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Predict the properties of datasets with Set Transformers, and choose a learning framework by them."""


for command in (doctor, sample, train, evaluate, compare, predict, recommend, report):
    app.command()(command)
app.add_typer(prior.app, name="prior")


def main() -> None:
    """Entry point of `settx-fast`."""
    show_every_letter()
    app(prog_name="settx-fast")
