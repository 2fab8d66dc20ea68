"""`settx-fast sample`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command import run, sentence

from settx_fast import scm
from settx_fast.cli import _parquet
from settx_fast.cli.sample import PRESETS, load_prior


def test_sampled_files_hold_the_datasets_and_all_it_takes_to_repeat_them(tmp_path: Path) -> None:
    out = tmp_path / "data.parquet"
    result = run("sample", "random_linear", "-n", "5", "-r", "40", "--seed", "7", "--first-index", "3", "--out", out)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(pq.read_schema(out).metadata[b"settx_fast"])
    prior = scm.Prior.from_json(json.dumps(facts["prior"]))
    batch = scm.sample(prior, 5, 40, seed=facts["seed"], first_index=facts["first_index"])
    frame = pd.read_parquet(out)
    assert len(frame) == 5 * 40
    values = frame[list(batch.names)].to_numpy().reshape(batch.values.shape)
    mask = batch.variable_mask[:, None].expand(batch.values.shape).numpy()
    np.testing.assert_array_equal(values[mask], batch.values.numpy()[mask])
    assert np.isnan(values[~mask]).all()
    np.testing.assert_array_equal(frame["environment"], batch.environment.flatten())
    assert frame.groupby("dataset")["target"].first().tolist() == [batch.names[i] for i in batch.target_index.tolist()]
    edges = pd.read_parquet(tmp_path / "data.graphs.parquet")
    assert len(edges) == int((batch.adjacency.sum((1, 2)) * batch.num_environments).sum())


PARTS = ("random_linear", "-n", "7", "-r", "20", "--seed", "3")  # of 20 · 12 values a dataset


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parquet, "VALUES_PER_PART", 2 * 20 * 12)


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_parts_leave_no_trace_in_the_sampled_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("sample", *PARTS, "--out", tmp_path / "whole.parquet")
    monkeypatch.setattr(_parquet, "VALUES_PER_PART", 2 * 20 * 12)
    run("sample", *PARTS, "--out", tmp_path / "parts.parquet")
    for name in ("", ".graphs"):
        whole, parts = (pd.read_parquet(tmp_path / f"{kind}{name}.parquet") for kind in ("whole", "parts"))
        pd.testing.assert_frame_equal(whole, parts)


KILLED = """
import os, sys
from settx_fast.cli import _parquet, main
_parquet.VALUES_PER_PART = 2 * 20 * 12
left = {calls}
write = _parquet._write
def write_or_die(path, *rest):
    global left
    left -= 1
    if left < 0:
        path.with_name(path.name + ".part").write_bytes(b"half a file")
        os.kill(os.getpid(), 9)
    write(path, *rest)
_parquet._write = write_or_die
sys.argv = ["settx-fast", "sample", *{arguments!r}]
main()
"""


@pytest.mark.parametrize("calls", [0, 3, 4, 8, 9])  # of 2 writes for each of 4 parts, and 2 at the end
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, small_parts: None, calls: int) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    arguments = (*PARTS, "--quiet", "--out", str(killed / "x.parquet"))
    code = KILLED.format(calls=calls, arguments=arguments)
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -9
    assert not (killed / "x.parquet").exists()
    done = {path: path.stat().st_mtime_ns for path in (killed / "x.parquet.parts").glob("rows-*.parquet")}
    assert len(done) == min(4, calls // 2)

    def removing_nothing(path: Path) -> None:
        assert all(path.stat().st_mtime_ns == time for path, time in done.items())  # what was done is not done again
        remove(path)

    remove = _parquet.shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parquet.shutil, "rmtree", removing_nothing)
        assert run("sample", *arguments).exit_code == 0
    assert run("sample", *PARTS, "--out", whole / "x.parquet").exit_code == 0
    assert files_in(killed) == files_in(whole)
    assert set(files_in(killed)) == {"x.parquet", "x.graphs.parquet"}
    assert not (killed / "x.parquet.parts").exists()


def test_shards_together_are_the_whole(tmp_path: Path) -> None:
    assert run("sample", *PARTS, "--first-index", "5", "--out", tmp_path / "x.parquet").exit_code == 0
    for number in (1, 2, 3):
        arguments = ("sample", *PARTS, "--first-index", "5", "--shard", f"{number}/3", "--out", tmp_path / "x.parquet")
        assert run(*arguments).exit_code == 0
    for name in ("", ".graphs"):
        shards = [pd.read_parquet(tmp_path / f"x-{number}-of-3{name}.parquet") for number in (1, 2, 3)]
        assert [len(shard.dataset.unique()) for shard in shards] == [2, 2, 3]
        whole = pd.read_parquet(tmp_path / f"x{name}.parquet")
        pd.testing.assert_frame_equal(pd.concat(shards, ignore_index=True), whole)


def test_what_is_there_is_neither_drawn_again_nor_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    assert run("sample", "chain", "-n", "2", "-r", "10", "--out", out).exit_code == 0
    before = out.stat().st_mtime_ns
    again = run("sample", "chain", "-n", "2", "-r", "10", "--out", out)
    assert again.exit_code == 0
    assert "is complete already" in again.stderr
    other = run("sample", "chain", "-n", "3", "-r", "10", "--out", out)
    assert other.exit_code == 2
    assert "holds something else" in sentence(other)
    assert out.stat().st_mtime_ns == before
    assert run("sample", "chain", "-n", "3", "-r", "10", "--out", out, "--force").exit_code == 0
    assert len(pd.read_parquet(out)) == 30


def test_parts_of_another_run_are_not_mixed_in(
    tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(batch: scm.Batch) -> Any:
        if batch.first_index > 0:
            raise KeyboardInterrupt
        return rows_of(batch)

    out, rows_of = tmp_path / "x.parquet", _parquet.rows_of
    with monkeypatch.context() as patch:
        patch.setattr(_parquet, "rows_of", stop)
        assert "the same command goes on from here" in run("sample", *PARTS, "--out", out).stderr
    other = run("sample", *PARTS[:-1], "4", "--out", out)
    assert other.exit_code == 2
    assert "left from an interrupted run with another seed" in sentence(other)
    assert run("sample", *PARTS[:-1], "4", "--out", out, "--force").exit_code == 0
    assert json.loads(pq.read_schema(out).metadata[b"settx_fast"])["seed"] == 4


def test_every_preset_that_is_offered_exists_and_none_is_forgotten() -> None:
    made = {
        name for name, value in vars(scm.presets).items() if getattr(value, "__module__", "") == scm.presets.__name__
    }
    assert set(PRESETS) == made
    assert all(isinstance(load_prior(name), scm.Prior) for name in PRESETS)


def test_a_prior_file_is_sampled_like_a_preset(tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text(scm.presets.chain().to_json())
    (tmp_path / "prior.yaml").write_text(scm.presets.chain().to_yaml())
    for prior, out in (("chain", "preset"), (tmp_path / "prior.json", "json"), (tmp_path / "prior.yaml", "yaml")):
        assert run("sample", prior, "-n", "2", "-r", "10", "--out", tmp_path / f"{out}.parquet").exit_code == 0
    preset, *files = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("preset", "json", "yaml"))
    for file in files:
        pd.testing.assert_frame_equal(preset, file)


def test_what_is_not_seen_is_null_in_the_sampled_file(tmp_path: Path) -> None:
    prior = scm.Prior(3, target=0, observation=(scm.Hidden(1, variables=(2,)), scm.Missing(rate=0.5, variables=(1,))))
    (tmp_path / "prior.json").write_text(prior.to_json())
    out = tmp_path / "x.parquet"
    assert run("sample", tmp_path / "prior.json", "-n", "4", "-r", "200", "--out", out).exit_code == 0
    missing = pd.read_parquet(out)[["x0", "x1", "x2"]].isna().mean()
    assert missing["x0"] == 0
    assert 0.3 < missing["x1"] < 0.7
    assert missing["x2"] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nope", "--out", "x.parquet"), "There is no preset 'nope': expected chain, lucas"),
        (("absent.json", "--out", "x.parquet"), "No such file or directory: 'absent.json'"),
        (("broken.json", "--out", "x.parquet"), "prior: expected JSON"),
        (("chain", "--out", "x.csv"), "expected a file that ends in .parquet, got 'x.csv'"),
        (("chain", "--out", "absent/x.parquet"), "there is no directory 'absent'"),
        (("chain", "--out", "x.parquet", "--shard", "4/3"), "--shard: expected I/N with 1 ≤ I ≤ N ≤ 100"),
        (("chain", "--out", "x.parquet", "--shard", "0/3"), "got '0/3'"),
        (("chain", "--out", "x.parquet", "--shard", "a"), "got 'a'"),
        (("chain", "--out", "x.parquet", "--shard", "1/2", "-n", "1"), "N ≤ 1 datasets"),
        (("named.json", "--out", "x.parquet"), "names: expected none of the columns dataset, target"),
        (("chain", "--out", "x.parquet", "-r", "1000000000000"), "GB are free"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    Path("named.json").write_text(scm.Prior(2, names=("a", "dataset")).to_json())
    result = run("sample", *arguments)
    assert result.exit_code == 2
    assert expected in sentence(result)
    assert not list(tmp_path.glob("x.*"))
