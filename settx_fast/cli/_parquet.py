"""Sampled datasets as Parquet files that tell when a byte of them has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from os import SEEK_CUR, SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from settx_fast._files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

    from settx_fast import scm

METADATA_KEY = "settx_fast"
CHECKSUM_KEY = b"settx_fast.sha256"
BLANK = b"0" * 64  # stands for the checksum while it is computed
PIECE = 1 << 20  # bytes read at a time
ROW_COLUMNS = ("dataset", "target", "environment", "is_target")
EDGE_COLUMNS = ("dataset", "environment", "cause", "effect")
REPETITIVE = {"rows": ROW_COLUMNS, "edges": EDGE_COLUMNS}


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


def write(
    path: Path, tables: Iterable[pa.Table], kind: str, metadata: dict[str, Any], within: Path | None = None
) -> None:
    """One file of tables that have one schema; dictionaries only for the columns that repeat themselves."""
    import pyarrow.parquet as pq

    waiting: Iterator[pa.Table] = iter(tables)
    first = next(waiting)
    schema = first.schema.with_metadata({METADATA_KEY: json.dumps(metadata, ensure_ascii=False)})
    with replacing(path, within) as part:
        with pq.ParquetWriter(part, schema, use_dictionary=list(REPETITIVE[kind])) as writer:
            for table in chain((first,), waiting):  # one at a time: together they may not fit in memory
                writer.write_table(table.cast(writer.schema))
            writer.add_key_value_metadata({CHECKSUM_KEY: BLANK})
        _seal(part)


def read(path: Path, remedy: str) -> pa.Table:
    """A file that `write` wrote; ValueError that names a damaged one and says what to do."""
    import pyarrow.parquet as pq

    if not is_sound(path):
        raise ValueError(f"'{path}' is damaged: {remedy}")
    return pq.ParquetFile(path).read()


def metadata_of(path: Path) -> dict[str, Any]:
    """The metadata that a file was written with, empty if it holds something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return {}


def is_sound(path: Path) -> bool:
    """Whether a file has every byte that it was written with: the checksum in its metadata is that of its bytes."""
    with path.open("rb") as file:
        place = _place_of_checksum(file)
        if place is None:
            return False
        file.seek(place)
        return file.read(len(BLANK)) == _checksum(file, place)


def _seal(path: Path) -> None:
    with path.open("r+b") as file:
        place = _place_of_checksum(file)
        assert place is not None
        digest = _checksum(file, place)
        file.seek(place)
        file.write(digest)


def _place_of_checksum(file: BinaryIO) -> int | None:
    """Where the checksum stands in the footer, whose length the last eight bytes tell."""
    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if len(tail) < 8 or tail[4:] != b"PAR1":
        return None
    start = size - 8 - int.from_bytes(tail[:4], "little")
    if start < 0:
        return None
    file.seek(start)
    key = (footer := file.read(size - 8 - start)).rfind(CHECKSUM_KEY)
    place = key + len(CHECKSUM_KEY) + 2  # after the value's type and length
    return start + place if key >= 0 and place + len(BLANK) <= len(footer) else None


def _checksum(file: BinaryIO, place: int) -> bytes:
    """SHA-256 of the whole file with `BLANK` at `place`, in hexadecimal digits."""
    digest, left = hashlib.sha256(), place
    file.seek(0)
    while left > 0:
        piece = file.read(min(left, PIECE))
        digest.update(piece)
        left -= len(piece)
    digest.update(BLANK)
    file.seek(len(BLANK), SEEK_CUR)
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest().encode()
