"""`settx-fast sample`: datasets from a prior into one Parquet file, with all it takes to make them again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from settx_fast.cli._console import console
from settx_fast.cli._job import Job
from settx_fast.cli._parquet import ROW_COLUMNS

if TYPE_CHECKING:
    from settx_fast import scm

PRESETS = ("chain", "lucas", "random", "random_linear", "recurring", "recurring_linear")
PRIOR_SUFFIXES = (".json", ".yaml", ".yml")


def sample(
    prior: Annotated[
        str,
        typer.Argument(help=f"A preset ({', '.join(PRESETS)}) or a prior's JSON or YAML file."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.", dir_okay=False)],
    num_datasets: Annotated[int, typer.Option("--num-datasets", "-n", min=1, help="Datasets, of all shards.")] = 100,
    num_rows: Annotated[int, typer.Option("--num-rows", "-r", min=1, help="Rows of each dataset.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Same seed, same datasets.")] = 0,
    first_index: Annotated[int, typer.Option(min=0, help="Number of the first dataset in the seed's stream.")] = 0,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="The I-th of N shares, 1 ≤ I ≤ N; FILE becomes FILE-I-of-N.parquet.")
    ] = "1/1",
    force: Annotated[bool, typer.Option("--force", help="Replace FILE and its graphs, and start anew.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Sample datasets, each from a structural causal model of its own.

    FILE holds the columns dataset, environment, is_target and one per variable (null where a dataset has fewer, hides
    it or misses a value); its metadata the prior, the seed and everything else that repeats it. FILE.graphs.parquet
    holds the edges and weights. Both carry a checksum of their bytes.

    An interrupted run goes on where it stopped when the same command is given again, and ends with the same bytes.
    """
    if out.suffix.lower() not in (".parquet", ".pq"):
        raise ValueError(f"--out: expected a file that ends in .parquet, got '{out}'")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: there is no directory '{out.parent}' to write to")
    chosen = load_prior(prior)
    check_memory(chosen, num_rows)
    check_names(chosen)
    file, share = shard_of(shard, out, num_datasets)
    write(Job(chosen, file, len(share), num_rows, seed, first_index + share.start), force, quiet)


def write(job: Job, force: bool, quiet: bool) -> None:
    """Do what is left of a job, and say what there is."""
    speaker, name = console(stderr=True), f"[bold]{escape(str(job.out))}[/]"
    is_left = force or job.parts.exists() or not job.is_complete()
    if is_left:
        with job.claimed():
            is_left = draw(job, force, speaker, quiet)
    if is_left:
        speaker.print(f"{job.num_datasets:,} datasets of {job.num_rows:,} rows in {name}")
    else:
        speaker.print(f"{name} is complete already", highlight=False)


def draw(job: Job, force: bool, speaker: Console, quiet: bool) -> bool:
    """Draw what is left of a job that this process holds; False if nothing was."""
    if force:
        job.remove()
    elif job.is_complete():  # the run was stopped at its very last step
        job.clear()
        return False
    columns = (TextColumn("Sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("datasets"), TimeRemainingColumn())
    try:
        with Progress(*columns, console=speaker, transient=True, disable=quiet) as progress:
            task = progress.add_task("", total=job.num_datasets)
            job.write(lambda datasets: progress.advance(task, datasets))
    except KeyboardInterrupt:
        without = " without --force" if force else ""
        speaker.print(f"Interrupted; the same command{without} goes on from here.")
        raise
    return True


def shard_of(shard: str, out: Path, num_datasets: int) -> tuple[Path, range]:
    """The file and the datasets of a shard "I/N"; the shares of all N differ by one dataset at most."""
    parts = shard.split("/")
    valid = len(parts) == 2 and all(part.isdecimal() for part in parts)
    number, shards = map(int, parts) if valid else (0, 0)
    if not 1 <= number <= shards <= num_datasets:
        raise ValueError(f"--shard: expected I/N with 1 ≤ I ≤ N ≤ {num_datasets} datasets, got '{shard}'")
    share = range((number - 1) * num_datasets // shards, number * num_datasets // shards)
    if shards == 1:
        return out, share
    return out.with_stem(f"{out.stem}-{number:0{len(str(shards))}}-of-{shards}"), share


def load_prior(name: str) -> scm.Prior:
    """A preset by name or a prior from a JSON or YAML file; ValueError if it is neither."""
    from settx_fast import scm

    if name.endswith(PRIOR_SUFFIXES):
        return scm.Prior.read(name)
    if name not in PRESETS:
        known = f"{', '.join(PRESETS)} or a file that ends in .json or .yaml"
        raise ValueError(f"There is no preset '{name}': expected {known}.")
    return getattr(scm.presets, name)()


def check_memory(prior: scm.Prior, num_rows: int) -> None:
    """Raise ValueError where one dataset, sampled and written, does not fit the memory that is free."""
    needed = num_rows * (12 * prior.max_variables + 40)  # the values three times: sampled, column by column, encoded
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > free:
        sizes = f"takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        raise ValueError(f"--num-rows: a dataset of {num_rows:,} rows {sizes}")


def check_names(prior: scm.Prior) -> None:
    """Raise ValueError where a variable has the name of another column of the file."""
    taken = sorted(set(prior.names) & set(ROW_COLUMNS))
    if taken:
        raise ValueError(f"names: expected none of the columns {', '.join(ROW_COLUMNS)}, got {', '.join(taken)}")
