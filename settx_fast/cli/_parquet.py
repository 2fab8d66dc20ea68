"""Datasets as a Parquet file, written in parts, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from settx_fast import scm

METADATA_KEY = "settx_fast"
VALUES_PER_PART = 4_000_000
ROW_COLUMNS = ("dataset", "target", "environment", "is_target")
EDGE_COLUMNS = ("dataset", "environment", "cause", "effect")


@dataclass(frozen=True)
class Job:
    """Datasets first_index … first_index + num_datasets − 1 for the file `out`; their graphs go to a file beside it.

    While it is written, complete parts and the description of the job lie in the directory `parts`.
    """

    prior: scm.Prior
    out: Path
    num_datasets: int
    num_rows: int
    seed: int
    first_index: int

    @property
    def graphs(self) -> Path:
        """The file of the edges."""
        return self.out.with_suffix(".graphs.parquet")

    @property
    def parts(self) -> Path:
        """The directory of what is done, until all is."""
        return self.out.with_name(self.out.name + ".parts")

    def facts(self) -> dict[str, Any]:
        """All that it takes to sample the same datasets again: the metadata of both files."""
        from importlib.metadata import version

        from settx_fast import scm

        return {
            "version": version("settx_fast"),
            "stream_version": scm.STREAM_VERSION,
            "seed": self.seed,
            "first_index": self.first_index,
            "num_datasets": self.num_datasets,
            "num_rows": self.num_rows,
            "prior": json.loads(self.prior.to_json()),
        }

    def is_complete(self) -> bool:
        """Whether `out` is there with these datasets; FileExistsError if it holds something else."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.out.exists():
            return False
        try:
            found = (pq.read_schema(self.out).metadata or {}).get(METADATA_KEY.encode(), b"{}")
        except pa.ArrowInvalid:
            found = b"{}"
        if json.loads(found) | {"version": ""} == self.facts() | {"version": ""}:
            return True
        raise FileExistsError(f"--out: '{self.out}' holds something else; choose another file or --force a new one")

    def remove(self) -> None:
        """Remove whatever an earlier run left."""
        shutil.rmtree(self.parts, ignore_errors=True)
        self.out.unlink(missing_ok=True)
        self.graphs.unlink(missing_ok=True)

    def write(self, progress: Callable[[int], None]) -> None:
        """Draw the parts that are missing, then make one file of them; progress(datasets) after each part."""
        starts = self._open_parts()
        try:
            for number, first in enumerate(starts):
                count = min(starts.step, self.num_datasets - first)
                if not self._part("rows", number).exists():
                    self._draw_part(number, first, count)
                progress(count)
            self._join_parts(len(starts))
        finally:
            if self.parts.exists() and not self._part("rows", 0).exists():  # nothing to go on from
                shutil.rmtree(self.parts)

    def _join_parts(self, number: int) -> None:
        metadata = {METADATA_KEY: json.dumps(self.facts(), ensure_ascii=False)}
        for kind, path, columns in (("edges", self.graphs, EDGE_COLUMNS), ("rows", self.out, ROW_COLUMNS)):
            _write(path, (_read(self._part(kind, i)) for i in range(number)), columns, metadata)
        shutil.rmtree(self.parts)

    def _open_parts(self) -> range:
        """The first datasets of all parts; ValueError if the parts that are there are those of another job."""
        step = max(1, VALUES_PER_PART // (self.num_rows * self.prior.max_variables))
        expected = self.facts() | {"datasets_per_part": step}
        self.parts.mkdir(exist_ok=True)
        job = self.parts / "job.json"
        if not job.exists():
            _replace(job, lambda path: path.write_text(json.dumps(expected, ensure_ascii=False)))
        found = json.loads(job.read_text())
        differing = [name for name, value in expected.items() if found.get(name) != value]
        if differing:
            raise ValueError(
                f"--out: '{self.parts}' is left from an interrupted run with another {' and '.join(differing)}; finish "
                "that one, choose another file, or --force a new start"
            )
        return range(0, self.num_datasets, step)

    def _part(self, kind: str, number: int) -> Path:
        return self.parts / f"{kind}-{number:06}.parquet"

    def _draw_part(self, number: int, first: int, count: int) -> None:
        from settx_fast import scm

        batch = scm.sample(self.prior, count, self.num_rows, seed=self.seed, first_index=self.first_index + first)
        _write(self._part("edges", number), [edges_of(batch)], EDGE_COLUMNS)
        _write(self._part("rows", number), [rows_of(batch)], ROW_COLUMNS)  # the last: it says that the part is there


def rows_of(batch: scm.Batch) -> pa.Table:
    """dataset, target (name of the variable to predict), environment, is_target, one column per variable."""
    import pyarrow as pa

    rows, variables = batch.values.shape[1:]
    codes = pa.array(batch.target_index.repeat_interleave(rows).int().numpy())
    columns = {
        "dataset": batch.index.repeat_interleave(rows).numpy(),
        "target": pa.DictionaryArray.from_arrays(codes, pa.array(batch.names)),
        "environment": batch.environment.flatten().int().numpy(),
        "is_target": batch.is_target_row.flatten().numpy(),
    }
    absent = ~batch.visible_mask[:, None].expand(-1, rows, -1)
    if batch.is_missing is not None:
        absent = absent | batch.is_missing
    for variable in range(variables):
        values = batch.values[..., variable].flatten().numpy()
        columns[batch.names[variable]] = pa.array(values, mask=absent[..., variable].flatten().numpy())
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


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read()


def _write(
    path: Path, tables: Iterable[pa.Table], repetitive: tuple[str, ...], metadata: dict[str, str] | None = None
) -> None:
    """One file of tables that have one schema; dictionaries only for the columns that repeat themselves."""
    import pyarrow.parquet as pq

    def write(part: Path) -> None:
        waiting: Iterator[pa.Table] = iter(tables)
        first = next(waiting)
        with pq.ParquetWriter(part, first.schema.with_metadata(metadata), use_dictionary=list(repetitive)) as writer:
            for table in chain((first,), waiting):  # one at a time: together they may not fit in memory
                writer.write_table(table.cast(writer.schema))

    _replace(path, write)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `path` appear only when it is complete."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
