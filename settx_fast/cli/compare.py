"""`settx-fast compare`: losses and penalties of a learned choice, each trained under one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from settx_fast.cli._console import console

LOSSES = "mse,mae,huber,gaussian_nll,pinball"
PENALTIES = "none,l1,l2,elastic"
NUM_TRAINING, NUM_DATASETS = 3072, 768


def compare(
    losses: Annotated[str, typer.Option(help="Losses, separated by commas.")] = LOSSES,
    penalties: Annotated[str, typer.Option(help="Penalties on weights, separated by commas.")] = PENALTIES,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every training.")] = 600,
    num_training: Annotated[int, typer.Option(min=100, help="Datasets to train on.")] = NUM_TRAINING,
    num_datasets: Annotated[int, typer.Option(min=2, help="Held-out datasets.")] = NUM_DATASETS,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Markdown file to write; its figure goes beside it.", dir_okay=False),
    ] = None,
    work: Annotated[Path, typer.Option(help="Where drawn datasets are kept for the next time.")] = Path(
        "build/evaluation"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print all trainings as JSON.")] = False,
) -> None:
    """Compare losses and penalties by the regret that a choice learned with them has."""
    from settx_fast.predictor.decisions.loss_page import study_page, write_study
    from settx_fast.predictor.decisions.loss_study import Budget
    from settx_fast.predictor.decisions.loss_study import compare as run

    speaker = console(stderr=True)
    with speaker.status("Comparing losses …") as status:
        study = run(
            work,
            _listed(losses),
            _listed(penalties),
            seeds,
            budget=Budget(steps=steps),
            num_training=num_training,
            num_datasets=num_datasets,
            progress=status.update,
        )
    command = f"settx-fast compare --losses {losses} --penalties {penalties} --seeds {seeds}"
    command += "" if steps == Budget().steps else f" --steps {steps}"
    command += "" if num_datasets == NUM_DATASETS else f" --num-datasets {num_datasets}"
    command += "" if num_training == NUM_TRAINING else f" --num-training {num_training}"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_study(study, out, f"{command} --out {out}")
        speaker.print(f"Wrote {out}", markup=False)
    if json:
        typer.echo(study.to_json())
    elif out is None:
        typer.echo(study_page(study, command))


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
