"""Datasets for a Parquet file, drawn in parts, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settx_fast._files import PART, claimed, read_json, write_text
from settx_fast.cli import _parquet

if TYPE_CHECKING:
    from settx_fast import scm

VALUES_PER_PART = 4_000_000
DESCRIPTION, LOCK, ROWS, EDGES = "job.json", "lock", "rows-*.parquet", "edges-*.parquet"


@dataclass(frozen=True)
class Job:
    """Datasets first_index … first_index + num_datasets − 1 for the file `out`; their graphs go to a file beside it.

    While it is written, complete parts and the description of the job lie in the directory `parts`, which one process
    holds at a time.
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
        return self.out.with_suffix(f".graphs{self.out.suffix}")

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
        """Whether both files are there with these datasets, byte for byte as they were written.

        Raises FileExistsError where a file holds something else, is damaged, or lacks the other.
        """
        for path, kind in ((self.graphs, "edges"), (self.out, "rows")):
            if path.exists() and _identity(_parquet.metadata_of(path)) != _identity(self.facts() | {"holds": kind}):
                raise FileExistsError(f"--out: '{path}' holds something else; choose another file or --force a new one")
        if not self.out.exists():
            return False
        if not self.graphs.exists():
            raise FileExistsError(f"--out: '{self.graphs}' is missing beside '{self.out}'; --force draws both anew")
        for path in (self.graphs, self.out):
            if not _parquet.is_sound(path):
                raise FileExistsError(f"--out: '{path}' is damaged or was changed; --force draws it anew")
        return True

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold `parts`, so that no other process writes there; InUseError if one does.

        At the end nothing is left of it unless there are parts to go on from.
        """
        try:
            with claimed(self.parts / LOCK, self.out):
                try:
                    yield
                finally:
                    if not any(self.parts.glob(ROWS)):
                        self.clear()
        finally:
            with suppress(OSError):  # it holds parts, or another process has claimed it by now
                self.parts.rmdir()

    def clear(self) -> None:
        """Remove the parts; what tells whose they are goes last. For the process that holds them."""
        for path in (*self._done(), *self.parts.glob(f".*{PART}")):
            path.unlink()
        (self.parts / DESCRIPTION).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove whatever an earlier run left. For the process that holds the parts."""
        self.clear()
        self.out.unlink(missing_ok=True)
        self.graphs.unlink(missing_ok=True)

    def write(self, progress: Callable[[int], None]) -> None:
        """Draw the parts that are missing, then make one file of them; progress(datasets) after each part."""
        starts = self._open_parts()
        for number, first in enumerate(starts):
            count = min(starts.step, self.num_datasets - first)
            if not all(self._part(kind, number).exists() for kind in ("edges", "rows")):
                self._draw_part(number, first, count)
            progress(count)
        self._join_parts(len(starts))
        self.clear()

    def _join_parts(self, number: int) -> None:
        for kind, path in (("edges", self.graphs), ("rows", self.out)):  # the rows last: they say that it is complete
            metadata = self.facts() | {"holds": kind}
            tables = (_parquet.read(self._part(kind, i), _REMEDY) for i in range(number))
            _parquet.write(path, tables, kind, metadata, within=self.parts)

    def _open_parts(self) -> range:
        """The first datasets of all parts; ValueError if the parts that are there are those of another job."""
        step = max(1, VALUES_PER_PART // (self.num_rows * self.prior.max_variables))
        expected = self.facts() | {"datasets_per_part": step}
        job = self.parts / DESCRIPTION
        if not job.exists():
            if any(self._done()):
                raise ValueError(f"--out: '{self.parts}' holds parts of a run that nothing describes; {_RESTART}")
            write_text(job, json.dumps(expected, ensure_ascii=False))
        found = read_json(job, _RESTART)
        differing = [name for name, value in expected.items() if found.get(name) != value]
        if differing:
            raise ValueError(
                f"--out: '{self.parts}' is left from an interrupted run with another {' and '.join(differing)}; finish "
                f"that one, {_RESTART}"
            )
        return range(0, self.num_datasets, step)

    def _done(self) -> Iterator[Path]:
        yield from self.parts.glob(ROWS)
        yield from self.parts.glob(EDGES)

    def _part(self, kind: str, number: int) -> Path:
        return self.parts / f"{kind}-{number:06}.parquet"

    def _draw_part(self, number: int, first: int, count: int) -> None:
        from settx_fast import scm

        batch = scm.sample(self.prior, count, self.num_rows, seed=self.seed, first_index=self.first_index + first)
        _parquet.write(self._part("edges", number), [_parquet.edges_of(batch)], "edges", {})
        _parquet.write(self._part("rows", number), [_parquet.rows_of(batch)], "rows", {})


_REMEDY = "remove it, and the same command draws it again"
_RESTART = "choose another file, or --force a new start"


def _identity(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts but for the version of the package: a file of another one is the same file."""
    return facts | {"version": ""}
