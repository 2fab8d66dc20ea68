"""`settx-fast sample`: datasets from a prior into one Parquet file, with all it takes to make them again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    import pyarrow as pa

    from settx_fast import scm

PRESETS = ("chain", "lucas", "random", "random_linear")
METADATA_KEY = "settx_fast"
VALUES_PER_CHUNK = 4_000_000


def sample(
    prior: Annotated[
        str, typer.Argument(help="A preset (chain, lucas, random, random_linear) or a prior's JSON file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.", dir_okay=False)],
    num_datasets: Annotated[int, typer.Option("--num-datasets", "-n", min=1, help="Datasets.")] = 100,
    num_rows: Annotated[int, typer.Option("--num-rows", "-r", min=1, help="Rows of each dataset.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Same seed, same datasets.")] = 0,
    first_index: Annotated[int, typer.Option(min=0, help="Number of the first dataset in the seed's stream.")] = 0,
) -> None:
    """Sample datasets, each from a structural causal model of its own.

    FILE holds the columns dataset, environment, is_target and one per variable (null where a dataset has fewer); its
    metadata the prior, the seed and everything else that repeats it. FILE.graphs.parquet holds the edges and weights.
    """
    if out.suffix.lower() not in (".parquet", ".pq"):
        raise ValueError(f"--out: expected a file that ends in .parquet, got '{out}'")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: there is no directory '{out.parent}' to write to")
    chosen = load_prior(prior)
    check_memory(chosen, num_rows)
    write_datasets(chosen, out, num_datasets, num_rows, seed, first_index)
    Console(stderr=True).print(f"{num_datasets:,} datasets of {num_rows:,} rows in [bold]{out}[/]")


def load_prior(name: str) -> scm.Prior:
    """A preset by name or a prior from a JSON file; ValueError if it is neither."""
    from settx_fast import scm

    if name.endswith(".json"):
        return scm.Prior.from_json(Path(name).read_text())
    if name not in PRESETS:
        raise ValueError(f"There is no preset '{name}': expected {', '.join(PRESETS)} or a file that ends in .json.")
    return getattr(scm.presets, name)()


def check_memory(prior: scm.Prior, num_rows: int) -> None:
    """Raise ValueError where one dataset, sampled and written, does not fit the memory that is free."""
    needed = num_rows * (12 * prior.max_variables + 40)  # the values three times: sampled, column by column, encoded
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > free:
        sizes = f"takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        raise ValueError(f"--num-rows: a dataset of {num_rows:,} rows {sizes}")


def write_datasets(prior: scm.Prior, out: Path, num_datasets: int, num_rows: int, seed: int, first_index: int) -> None:
    """Sample in chunks that fit in memory; `out` and its graphs appear only when both are complete."""
    import pyarrow.parquet as pq

    from settx_fast import scm

    step = max(1, VALUES_PER_CHUNK // (num_rows * prior.max_variables))
    metadata = describe(prior, num_datasets, num_rows, seed, first_index)
    graphs = out.with_suffix(".graphs.parquet")
    parts = {path: path.with_name(path.name + ".part") for path in (out, graphs)}
    writers: dict[Path, pq.ParquetWriter] = {}
    try:
        for first in track(range(0, num_datasets, step), "Sampling", console=Console(stderr=True), transient=True):
            count = min(step, num_datasets - first)
            batch = scm.sample(prior, count, num_rows, seed=seed, first_index=first_index + first)
            for path, table in ((out, rows_of(batch)), (graphs, edges_of(batch))):
                if path not in writers:
                    writers[path] = pq.ParquetWriter(parts[path], table.schema.with_metadata(metadata))
                writers[path].write_table(table.cast(writers[path].schema))
        for path, writer in writers.items():
            writer.close()
            parts[path].replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def describe(prior: scm.Prior, num_datasets: int, num_rows: int, seed: int, first_index: int) -> dict[str, str]:
    """The files' metadata: all that it takes to sample the same datasets again, as JSON under one key."""
    from importlib.metadata import version

    from settx_fast import scm

    facts: dict[str, Any] = {
        "version": version("settx_fast"),
        "stream_version": scm.STREAM_VERSION,
        "seed": seed,
        "first_index": first_index,
        "num_datasets": num_datasets,
        "num_rows": num_rows,
        "prior": json.loads(prior.to_json()),
    }
    return {METADATA_KEY: json.dumps(facts, ensure_ascii=False)}


def rows_of(batch: scm.Batch) -> pa.Table:
    """dataset, target (name of the variable to predict), environment, is_target, one column per variable."""
    import pyarrow as pa

    rows, variables = batch.values.shape[1:]
    is_target = batch.is_target_environment.gather(1, batch.environment)
    codes = pa.array(batch.target_index.repeat_interleave(rows).int().numpy())
    columns = {
        "dataset": batch.index.repeat_interleave(rows).numpy(),
        "target": pa.DictionaryArray.from_arrays(codes, pa.array(batch.names)),
        "environment": batch.environment.flatten().int().numpy(),
        "is_target": is_target.flatten().numpy(),
    }
    for variable in range(variables):
        absent = ~batch.variable_mask[:, variable].repeat_interleave(rows)
        values = batch.values[..., variable].flatten().numpy()
        columns[batch.names[variable]] = pa.array(values, mask=absent.numpy())
    return pa.table(columns)


def edges_of(batch: scm.Batch) -> pa.Table:
    """One row per edge and environment: dataset, environment, cause, effect, weight."""
    import pyarrow as pa

    environments = batch.environment_mask[:, :, None, None]
    dataset, environment, cause, effect = (environments & batch.adjacency[:, None]).nonzero(as_tuple=True)
    names = pa.array(batch.names)
    return pa.table(
        {
            "dataset": batch.index[dataset].numpy(),
            "environment": environment.int().numpy(),
            "cause": pa.DictionaryArray.from_arrays(pa.array(cause.int().numpy()), names),
            "effect": pa.DictionaryArray.from_arrays(pa.array(effect.int().numpy()), names),
            "weight": batch.weights[dataset, environment, cause, effect].numpy(),
        }
    )
