"""`write_prior_dir`: every file is a function of the stream and its number, whole or not there."""

import json
from dataclasses import replace

import pytest
import torch

from settx_fast import scm

PRIOR = scm.Prior((2, 6), target_environments=0)
TABLES = replace(PRIOR, observation=(scm.Missing(),))


def stream(prior=PRIOR, **options):
    return scm.tabular_stream(prior, 3, 1, **{"num_rows": 20, "num_threads": 1, "prefetch": 0} | options)


def dense(content):
    """(B, R, C) X and (B, R) y of a file."""
    if content["X"].is_nested:
        return content["X"].to_padded_tensor(0.0), content["y"].to_padded_tensor(0.0)
    rows, widths = content["y"].shape[1], content["d"].tolist()
    X = torch.zeros(len(widths), rows, max(widths))
    pieces = content["X"].split([rows * width for width in widths])
    for b, (piece, width) in enumerate(zip(pieces, widths, strict=True)):
        X[b, :, :width] = piece.view(rows, width)
    return X, content["y"]


@pytest.mark.parametrize("num_rows", [20, (20, 40)])
@pytest.mark.parametrize("prior", [PRIOR, TABLES])
def test_a_file_holds_the_micro_batches_of_the_stream_in_their_order(tmp_path, prior, num_rows):
    written = stream(prior, num_rows=num_rows)
    paths = scm.write_prior_dir(written, tmp_path, 2, batches_per_file=2)
    assert [path.name for path in paths] == ["batch_000000.pt", "batch_000001.pt"]
    for number, path in enumerate(paths):
        content = torch.load(path, weights_only=True)
        X, y = dense(content)
        for i, batch in enumerate(written.batch(2 * number + i) for i in range(2)):
            here, (rows, columns) = slice(3 * i, 3 * i + 3), batch.X.shape[1:]
            columns = min(columns, X.shape[2])
            assert torch.equal(X[here, :rows, :columns], batch.X[:, :, :columns].nan_to_num(0.0))
            assert torch.equal(y[here, :rows], batch.y.float())
            assert torch.equal(content["d"][here], batch.num_features)
            assert content["train_sizes"][here].tolist() == [batch.train_size] * 3
            assert content["seq_lens"][here].tolist() == [rows] * 3
        assert content["batch_size"] == 6


def test_ranks_fill_a_directory_together_and_a_later_run_goes_on(tmp_path):
    def written(directory, *runs):
        for options, number, first in runs:
            scm.write_prior_dir(stream(**options), tmp_path / directory, number, first_file=first)
        return {path.name: path.read_bytes() for path in (tmp_path / directory).glob("*.pt")}

    ranks = [{"rank": rank, "world_size": 2} for rank in range(2)]
    alone = written("alone", ({}, 4, 0))
    assert written("later", ({}, 1, 0), ({}, 3, 1)) == alone
    together = written("together", *((options, 2, 0) for options in ranks))
    assert together == alone
    assert len(alone) == 4


def test_a_file_that_could_not_be_written_is_not_there(tmp_path, monkeypatch):
    def fail(content, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        scm.write_prior_dir(stream(), tmp_path, 1)
    assert list(tmp_path.glob("*.pt")) == []


def test_files_of_another_stream_are_not_mixed_in(tmp_path):
    scm.write_prior_dir(stream(), tmp_path, 1)
    told = json.loads((tmp_path / "metadata.json").read_text())
    assert told["max_seq_len"] == 20
    assert scm.Prior.from_json(json.dumps(told["prior"])) == PRIOR
    with pytest.raises(FileExistsError, match=r"others of \{'max_classes': \(10, 3\)\}"):
        scm.write_prior_dir(stream(max_classes=3), tmp_path, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stream": PRIOR}, "stream: expected what tabular_stream makes, got 'Prior'"),
        ({"num_files": 0}, "num_files: expected an int ≥ 1, got 0"),
        ({"batches_per_file": 0}, "batches_per_file: expected an int ≥ 1, got 0"),
        ({"first_file": -1}, "first_file: expected an int ≥ 0, got -1"),
    ],
)
def test_bad_requests_name_field_expected_and_got(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        scm.write_prior_dir(**{"stream": stream(), "directory": tmp_path, "num_files": 1} | change)
