"""`settx-fast train`."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from settx_fast.cli._console import console
from settx_fast.cli.sample import PRIOR_SUFFIXES, load_prior

if TYPE_CHECKING:
    from settx_fast.predictor.config import TrainConfig

Out = Annotated[Path, typer.Option("--out", "-o", help="Run directory to write.", file_okay=False)]
RunDirectory = Annotated[Path, typer.Argument(help="Run directory that `train` wrote.", exists=True, file_okay=False)]


DEFAULTS = {  # for --help, which must not import what trains; a test compares them
    "steps": "1800 for random_linear, 3000 for recurring_linear, 2400 for chain, 6000 for lucas, 3000 for a file",
    "batch_size": "32",
    "rows": "128 512",
    "loss": "gaussian_nll",
    "learning_rate": "0.002",
    "l1": "0.0",
    "l2": "0.0",
    "validation_datasets": "256",
    "seed": "0",
    "workers": "0",
}


def train(
    prior: Annotated[
        str,
        typer.Argument(
            help="Preset to train on (chain, lucas, random_linear, recurring_linear) or a prior's file, JSON or YAML."
        ),
    ],
    out: Out,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of DIR.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove the run that DIR holds, and start anew.")] = False,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Batches to train on, rounded up to whole epochs.", show_default=DEFAULTS["steps"]),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Datasets in a batch.", show_default=DEFAULTS["batch_size"])
    ] = None,
    rows: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="MIN MAX", help="Rows of a dataset, least and most.", show_default=DEFAULTS["rows"]),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="Loss of the numbers: mse, mae, huber, gaussian_nll or pinball.", show_default=DEFAULTS["loss"]
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Peak learning rate.", show_default=DEFAULTS["learning_rate"])
    ] = None,
    l1: Annotated[
        float | None, typer.Option(min=0.0, help="L1 penalty on weight matrices.", show_default=DEFAULTS["l1"])
    ] = None,
    l2: Annotated[
        float | None, typer.Option(min=0.0, help="L2 penalty on weight matrices.", show_default=DEFAULTS["l2"])
    ] = None,
    validation_datasets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Held-out datasets that validation losses are measured on.",
            show_default=DEFAULTS["validation_datasets"],
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of datasets and initial weights.", show_default=DEFAULTS["seed"])
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that sample beside the training.", show_default=DEFAULTS["workers"]),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="As in Lightning: auto, cpu, gpu …")] = "auto",
    devices: Annotated[str, typer.Option(help="As in Lightning: auto or a number.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train a predictor on datasets sampled while it learns.

    A preset takes some two minutes for 1,000 steps on two cores; wider priors, larger batches and more rows take longer
    in proportion. It can be interrupted at any time and goes on with --resume.

    On SCMs of your own: `settx-fast prior show random_linear > my.yaml`, change my.yaml, then

        settx-fast train my.yaml --out my_model

        settx-fast evaluate my_model
    """
    from settx_fast.predictor.checkpoints import newest_checkpoint
    from settx_fast.predictor.training import is_first_process
    from settx_fast.predictor.training import train as run

    changes = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "l1": l1,
        "l2": l2,
        "validation_datasets": validation_datasets,
        "seed": seed,
        "workers": workers,
        "min_rows": rows and rows[0],
        "max_rows": rows and rows[1],
    }
    config = configure(prior, loss, steps, {name: value for name, value in changes.items() if value is not None})
    _quieten_lightning()
    speaker = console(stderr=True, quiet=not is_first_process())
    try:
        run(
            config,
            out,
            resume=resume,
            force=force,
            accelerator=accelerator,
            devices=int(devices) if devices.isdecimal() else devices,
            progress=not quiet,
        )
    except (KeyboardInterrupt, SystemExit):
        instead = " instead of --force" if force else ""
        goes_on = f"goes on with --resume{instead}" if newest_checkpoint(out) else "starts anew"
        speaker.print(f"Interrupted; the same command {goes_on}.")
        raise
    name = escape(str(out))
    speaker.print(f"Trained model in [bold]{name}[/]; next: settx-fast evaluate {name}")


def configure(prior: str, loss: str | None, steps: int | None, changes: dict[str, Any]) -> TrainConfig:
    """The training configuration of a preset or of a prior's file, with some fields changed; else ValueError."""
    from settx_fast.predictor.config import for_prior, preset

    is_file = prior.endswith(PRIOR_SUFFIXES)
    config = for_prior(Path(prior).stem, load_prior(prior)) if is_file else preset(prior)
    if steps is not None:
        epoch_steps = min(config.epoch_steps, steps)
        changes = changes | {"epoch_steps": epoch_steps, "epochs": -(-steps // epoch_steps)}
    model = config.model if loss is None else replace(config.model, loss=loss)
    return replace(config, model=model, **changes)


def _quieten_lightning() -> None:
    """Its warnings stay; hints about hardware, other products and its own insides do not."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*(_pytree|csv_logs)")
