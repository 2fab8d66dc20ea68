"""Files of datasets that TabICL's trainer reads: `--prior_dir`, the format of tabicl 2.2."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from settx_fast._files import read_json, replacing, write_text
from settx_fast.scm._fields import check, is_int
from settx_fast.scm.batch import STREAM_VERSION
from settx_fast.scm.tabular import TabularBatch, TabularStream


def write_prior_dir(
    stream: TabularStream, directory: str | Path, num_files: int, *, batches_per_file: int = 1, first_file: int = 0
) -> list[Path]:
    """Write datasets for TabICL's trainer: `python -m tabicl.train --prior_dir DIRECTORY …`.

    A file holds `batches_per_file` micro-batches of the stream, in its order, and is what the trainer takes for a
    step: give it --batch_size batches_per_file · batch_size and --micro_batch_size batch_size, since all datasets of a
    micro-batch share rows and split. Rank r of W writes the files r, r + W, …, so that ranks fill a directory together,
    and the trainer's ranks read it alike. What is written is a function of the stream and the file's number:
    `first_file`, the first of this rank's `num_files`, continues where a run ended. A file is there whole or not at
    all. `metadata.json` says what is in the directory. Missing values become 0, the mean of a standardised column.

    Raises ValueError naming field, expected and got, and FileExistsError where the directory holds files of another
    stream.

    Returns the paths of the files.
    """
    check(isinstance(stream, TabularStream), "stream", "what tabular_stream makes", type(stream).__name__)
    for name, value, least in (
        ("num_files", num_files, 1), ("batches_per_file", batches_per_file, 1), ("first_file", first_file, 0),
    ):  # fmt: skip
        check(is_int(value) and value >= least, name, f"an int ≥ {least}", value)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _write_metadata(stream, directory / "metadata.json", batches_per_file)
    numbers = range(first_file, first_file + num_files)
    return [_write_file(stream, directory, number, batches_per_file) for number in numbers]


def _write_file(stream: TabularStream, directory: Path, number: int, batches_per_file: int) -> Path:
    batches = [stream.batch(number * batches_per_file + i) for i in range(batches_per_file)]
    path = directory / f"batch_{number * stream.world_size + stream.rank:06d}.pt"
    with replacing(path) as part, part.open("wb") as file:  # of a path torch.save would keep the name
        torch.save(_content(batches, same_rows=stream.num_rows[0] == stream.num_rows[1]), file)
    return path


def _content(batches: list[TabularBatch], same_rows: bool) -> dict[str, Tensor | int]:
    """X without padding, row by row, where all datasets have the same number of rows; nested tensors where not."""
    features = [X.nan_to_num(0.0) for batch in batches for X in batch.X.cpu()]
    targets = [y.float() for batch in batches for y in batch.y.cpu()]
    d = torch.cat([batch.num_features.cpu() for batch in batches])
    return {
        "X": _without_padding(torch.stack(features), d) if same_rows else torch.nested.nested_tensor(features),
        "y": torch.stack(targets) if same_rows else torch.nested.nested_tensor(targets),
        "d": d,
        "seq_lens": torch.tensor([len(y) for y in targets]),
        "train_sizes": torch.tensor([batch.train_size for batch in batches for _ in range(len(batch))]),
        "batch_size": len(targets),
    }


def _without_padding(X: Tensor, d: Tensor) -> Tensor:
    return X[(torch.arange(X.shape[2]) < d[:, None])[:, None].expand_as(X)]


def _write_metadata(stream: TabularStream, path: Path, batches_per_file: int) -> None:
    told = _metadata(stream, batches_per_file)
    if path.exists():
        found = read_json(path, "remove it, and write all files anew or go on in another directory")
        if found != told:
            differ = {name: (found.get(name), told[name]) for name in told if found.get(name) != told[name]}
            raise FileExistsError(f"{path}: expected none or that of this stream, got others of {differ}")
        return
    write_text(path, json.dumps(told, indent=2))


def _metadata(stream: TabularStream, batches_per_file: int) -> dict[str, object]:
    """Under TabICL's names what it prints, and what says which stream it is."""
    low, high = stream.num_rows
    return {
        "regression": not stream.max_classes,
        "prior_type": "settx_fast",
        "batch_size": batches_per_file * stream.batch_size,
        "batch_size_per_gp": stream.batch_size,
        "min_features": 1,
        "max_features": stream.prior.max_variables - 1,
        "max_classes": stream.max_classes,
        "min_seq_len": low,
        "max_seq_len": high,
        "log_seq_len": low < high,
        "seq_len_per_gp": low < high,
        "min_train_size": stream.train_size[0],
        "max_train_size": stream.train_size[1],
        "replay_small": False,
        "seed": stream.seed,
        "first_batch": stream.first_batch,
        "ranks": stream.world_size,
        "standardise": stream.standardise,
        "predictable": stream.predictable,
        "stream_version": STREAM_VERSION,
        "prior": json.loads(stream.prior.to_json()),
    }
