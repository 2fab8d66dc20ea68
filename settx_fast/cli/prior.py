"""`settx-fast prior`: a preset as a file to change and train on."""

from __future__ import annotations

import re
import textwrap
from typing import Annotated

import typer

from settx_fast.cli.sample import PRESETS, load_prior

app = typer.Typer(no_args_is_help=True, help="Priors: distributions of SCMs to sample from and to train on.")


@app.callback()
def _root() -> None:
    """Priors: distributions of SCMs to sample from and to train on."""


@app.command()
def show(
    prior: Annotated[
        str,
        typer.Argument(help=f"A preset ({', '.join(PRESETS)}) or a prior's JSON or YAML file."),
    ],
) -> None:
    """Print a prior as commented YAML, to be changed, trained on and sampled from.

    A model of SCMs of your own, in three commands:

        settx-fast prior show random_linear > my.yaml     (then change my.yaml)

        settx-fast train my.yaml --out my_model

        settx-fast predict TABLE --target COLUMN --environment COLUMN --model my_model
    """
    typer.echo(commented(load_prior(prior).to_yaml()), nl=False)


HEAD = """\
# A prior: a distribution of structural causal models (SCMs), to be changed. A number may be a constant, a range
# [low, high] or a distribution. `settx-fast train FILE.yaml --out DIR` trains a model on it, `settx-fast sample
# FILE.yaml --out DATASETS.parquet` draws from it.
"""


def commented(yaml: str) -> str:
    """A prior's YAML with what every field means above it, from the documentation of `scm.Prior`."""
    from settx_fast import scm

    meanings = _meanings(scm.Prior.__doc__ or "")
    lines = []
    for line in yaml.splitlines():
        meaning = meanings.get(line.split(":")[0], "")
        lines += ["", *textwrap.wrap(meaning, 110, initial_indent="# ", subsequent_indent="# ")] if meaning else []
        lines.append(line)
    return HEAD + "\n".join(lines) + "\n"


def _meanings(documentation: str) -> dict[str, str]:
    """What stands beside each field, or several, in the list of a class's documentation."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in documentation.splitlines():
        entry = re.fullmatch(r" {4}([a-z_]+(?:, [a-z_]+)*) +(\S.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif names and line.startswith(" " * 12):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found
