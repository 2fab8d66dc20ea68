"""`settx-fast evaluate`: of a trained run, or of the choice between frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from settx_fast.cli._console import console

RUN_DATASETS, RUN_ROWS, RUN_SEED = 500, 1000, 1
CHOICE_DATASETS, CHOICE_TRAINING = 1000, 6000


def evaluate(
    directory: Annotated[
        Path | None,
        typer.Argument(
            help="Run directory that `train` wrote. Without it the choice between frameworks is evaluated: on held-out "
            "datasets, on priors never trained on, and on real tables.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    num_datasets: Annotated[
        int | None,
        typer.Option(min=2, help=f"Held-out datasets. [default: {RUN_DATASETS} of a run, else {CHOICE_DATASETS}]"),
    ] = None,
    num_rows: Annotated[int | None, typer.Option(min=20, help=f"Rows of each, of a run. [default: {RUN_ROWS}]")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help=f"Seed of the held-out datasets of a run. [default: {RUN_SEED}]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Markdown file to write about the choice.", dir_okay=False)
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Selector to evaluate instead of the shipped one.", exists=True, dir_okay=False),
    ] = None,
    num_training: Annotated[
        int | None,
        typer.Option(min=100, help=f"Datasets that trees are fitted to, to compare. [default: {CHOICE_TRAINING}]"),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where drawn datasets are kept for the next time. [default: build/evaluation]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON.")] = False,
) -> None:
    """Compare a trained model, or ways to choose a framework, with what needs no training, on held-out datasets."""
    of_a_run = {"--num-rows": num_rows, "--seed": seed}
    of_choices = {"--out": out, "--model": model, "--num-training": num_training, "--work": work}
    unused = [name for name, value in (of_choices if directory else of_a_run).items() if value is not None]
    if unused:
        raise ValueError(f"{unused[0]}: expected {'no run directory' if directory else 'a run directory'} beside it")
    if directory is not None:
        _evaluate_run(directory, num_datasets or RUN_DATASETS, _given(seed, RUN_SEED), num_rows or RUN_ROWS, json)
        return
    kept = work or Path("build/evaluation")
    _evaluate_choices(num_datasets or CHOICE_DATASETS, num_training or CHOICE_TRAINING, kept, model, out, json)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _evaluate_run(directory: Path, num_datasets: int, seed: int, num_rows: int, json: bool) -> None:
    from settx_fast.cli._show import show_evaluation
    from settx_fast.predictor.config import TrainConfig
    from settx_fast.predictor.evaluation import evaluate as run

    with console(stderr=True).status("Evaluating on held-out datasets …"):
        evaluation = run(directory, num_datasets=num_datasets, seed=seed, num_rows=num_rows)
    if json:
        typer.echo((directory / "evaluation.json").read_text())
    else:
        show_evaluation(evaluation, TrainConfig.load(directory).prior, console())


def _evaluate_choices(
    num_datasets: int, num_training: int, work: Path, model: Path | None, out: Path | None, json: bool
) -> None:
    from settx_fast.predictor.decisions.evaluation import evaluate as run
    from settx_fast.predictor.decisions.page import page

    speaker = console(stderr=True)
    with speaker.status("Evaluating the choice between frameworks …") as status:
        evaluation = run(
            work, num_datasets=num_datasets, num_training=num_training, model=model, progress=status.update
        )
    command = f"settx-fast evaluate --num-datasets {num_datasets} --num-training {num_training}"
    command += ("" if model is None else f" --model {model}") + ("" if out is None else f" --out {out}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(evaluation, command), encoding="utf-8")
        speaker.print(f"Wrote {out}", markup=False)
    if json:
        typer.echo(evaluation.to_json())
    elif out is None:
        typer.echo(page(evaluation, command))
