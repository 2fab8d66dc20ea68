"""`settx-fast sample`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from command import run, sentence

from settx_fast import scm
from settx_fast.cli import _job, _parquet
from settx_fast.cli._job import Job
from settx_fast.cli.sample import PRESETS, load_prior

ENDS = ["cause", "effect"]


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
    where = [edges["dataset"] - 3, edges["environment"], *(edges[end].map(batch.names.index) for end in ENDS)]
    np.testing.assert_array_equal(edges["weight"], batch.weights[tuple(torch.tensor(list(w)) for w in where)])
    assert edges.groupby(["dataset", *ENDS], observed=True)["weight"].nunique().max() > 1


PARTS = ("random_linear", "-n", "7", "-r", "20", "--seed", "3")  # of 20 · 12 values a dataset


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_job, "VALUES_PER_PART", 2 * 20 * 12)


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_parts_leave_no_trace_in_the_sampled_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("sample", *PARTS, "--out", tmp_path / "whole.parquet")
    monkeypatch.setattr(_job, "VALUES_PER_PART", 2 * 20 * 12)
    run("sample", *PARTS, "--out", tmp_path / "parts.parquet")
    for name in ("", ".graphs"):
        whole, parts = (pd.read_parquet(tmp_path / f"{kind}{name}.parquet") for kind in ("whole", "parts"))
        pd.testing.assert_frame_equal(whole, parts)


KILLED = """
import os, sys
from settx_fast import _files
from settx_fast.cli import _job, main
_job.VALUES_PER_PART = 2 * 20 * 12
left = {calls}
keep = _files._keep
def keep_or_die(path):
    global left
    left -= path.suffix == ".part" and "job.json" not in path.name
    if left < 0:
        path.write_bytes(b"half a file")
        os.kill(os.getpid(), 9)
    keep(path)
_files._keep = keep_or_die
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

    seen: list[dict[Path, int]] = []  # before anything is cleared

    def clear(job: Job) -> None:
        seen.append({path: path.stat().st_mtime_ns for path in done if path.exists()})
        remove(job)

    remove = Job.clear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "clear", clear)
        assert run("sample", *arguments).exit_code == 0
    assert seen[0] == done  # what was done is not done again
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


def test_parts_of_another_run_are_not_mixed_in(tmp_path: Path, small_parts: None) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out)
    other = run("sample", *PARTS[:-1], "4", "--out", out)
    assert other.exit_code == 2
    assert "left from an interrupted run with another seed" in sentence(other)
    assert run("sample", *PARTS[:-1], "4", "--out", out, "--force").exit_code == 0
    assert json.loads(pq.read_schema(out).metadata[b"settx_fast"])["seed"] == 4


def interrupted(out: Path, after: int = 1) -> None:
    """A run of `PARTS` that was stopped when some of its parts were done."""

    def stop(batch: scm.Batch) -> Any:
        if batch.first_index >= 2 * after:
            raise KeyboardInterrupt
        return rows_of(batch)

    rows_of = _parquet.rows_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parquet, "rows_of", stop)
        result = run("sample", *PARTS, "--out", out)
    assert result.exit_code == 130
    assert "the same command goes on from here" in result.stderr


def test_two_processes_never_write_one_file(tmp_path: Path, small_parts: None) -> None:
    out = tmp_path / "x.parquet"
    refused = []

    def draw_while_another_tries(batch: scm.Batch) -> Any:
        refused.append(run("sample", *PARTS, "--out", out))
        return rows_of(batch)

    rows_of = _parquet.rows_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parquet, "rows_of", draw_while_another_tries)
        assert run("sample", *PARTS, "--out", out).exit_code == 0
    assert len(refused) == 4
    for result in refused:
        assert result.exit_code == 1
        assert f"x.parquet' is in use by process {os.getpid()} on" in sentence(result)
    assert len(pd.read_parquet(out)) == 7 * 20
    assert set(files_in(tmp_path)) == {"x.parquet", "x.graphs.parquet"}


def test_a_file_of_graphs_that_something_else_wrote_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "x.graphs.parquet"
    pd.DataFrame({"mine": [1]}).to_parquet(foreign)
    before = foreign.read_bytes()
    result = run("sample", "chain", "-n", "2", "-r", "10", "--out", tmp_path / "x.parquet")
    assert result.exit_code == 2
    assert "x.graphs.parquet' holds something else" in sentence(result)
    assert files_in(tmp_path) == {"x.graphs.parquet": before}


def test_files_of_one_name_and_two_endings_have_graphs_of_their_own(tmp_path: Path) -> None:
    for ending, seed in (("parquet", 0), ("pq", 1)):
        arguments = ("-n", "2", "-r", "10", "--seed", str(seed), "--out", tmp_path / f"x.{ending}")
        assert run("sample", "chain", *arguments).exit_code == 0
    assert set(files_in(tmp_path)) == {"x.parquet", "x.graphs.parquet", "x.pq", "x.graphs.pq"}
    assert run("sample", "chain", "-n", "2", "-r", "10", "--out", tmp_path / "x.parquet").exit_code == 0


def test_a_finished_file_of_another_version_of_the_package_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("sample", "chain", "-n", "2", "-r", "10", "--out", tmp_path / "x.parquet")
    facts = Job.facts
    with monkeypatch.context() as patch:
        patch.setattr(Job, "facts", lambda job: facts(job) | {"version": "0.0.1"})
        assert run(*arguments).exit_code == 0
    before = files_in(tmp_path)
    assert "is complete already" in run(*arguments).stderr
    with monkeypatch.context() as patch:
        patch.setattr(Job, "facts", lambda job: facts(job) | {"stream_version": 0})
        assert "holds something else" in sentence(run(*arguments))
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("name", ["x.parquet", "x.graphs.parquet"])
@pytest.mark.parametrize("change", [bytes(16), None], ids=["zeroed", "flipped"])
def test_a_file_with_changed_bytes_is_never_complete(tmp_path: Path, name: str, change: bytes | None) -> None:
    arguments = ("sample", "chain", "-n", "2", "-r", "10", "--out", tmp_path / "x.parquet")
    assert run(*arguments).exit_code == 0
    whole = (tmp_path / name).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        wrong = change or bytes([whole[place] ^ 1])
        damaged = whole[:place] + wrong + whole[place + len(wrong) :]
        if damaged == whole:
            continue
        (tmp_path / name).write_bytes(damaged)
        result = run(*arguments)
        assert result.exit_code == 2, place
        assert name in sentence(result)
        assert "--force" in result.stderr
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert run(*arguments).exit_code == 2
    (tmp_path / name).write_bytes(whole)
    assert "is complete already" in run(*arguments).stderr


def test_a_file_without_its_graphs_is_not_complete(tmp_path: Path) -> None:
    arguments = ("sample", "chain", "-n", "2", "-r", "10", "--out", tmp_path / "x.parquet")
    assert run(*arguments).exit_code == 0
    before = files_in(tmp_path)
    (tmp_path / "x.graphs.parquet").unlink()
    result = run(*arguments)
    assert result.exit_code == 2
    assert "x.graphs.parquet' is missing beside" in sentence(result)
    assert run(*arguments, "--force").exit_code == 0
    assert files_in(tmp_path) == before


def test_what_tells_whose_the_parts_are_goes_last(tmp_path: Path, small_parts: None) -> None:
    out = tmp_path / "x.parquet"
    removed = []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        remove(path, missing_ok=missing_ok)

    remove = Path.unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        assert run("sample", *PARTS, "--out", out).exit_code == 0
    parts = [name for name in removed if name.endswith("parquet")]
    assert len(parts) == 8
    assert removed.index("job.json") > max(map(removed.index, parts))


def test_parts_that_nothing_describes_are_no_other_job_s(tmp_path: Path, small_parts: None) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out)
    (tmp_path / "x.parquet.parts" / "job.json").unlink()
    result = run("sample", *PARTS[:-1], "4", "--out", out)
    assert result.exit_code == 2
    assert "x.parquet.parts' holds parts of a run that nothing describes" in sentence(result)
    assert run("sample", *PARTS[:-1], "4", "--out", out, "--force").exit_code == 0


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_description_of_a_job_is_named_with_what_to_do(tmp_path: Path, small_parts: None, text: str) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out)
    (tmp_path / "x.parquet.parts" / "job.json").write_text(text)
    result = run("sample", *PARTS, "--out", out)
    assert result.exit_code == 2
    assert "job.json' is damaged" in sentence(result)
    assert "--force a new start" in result.stderr
    assert run("sample", *PARTS, "--out", out, "--force").exit_code == 0


@pytest.mark.parametrize("kind", ["edges", "rows"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_damaged_part_is_named_and_drawn_again_once_it_is_removed(
    tmp_path: Path, small_parts: None, kind: str, after: int
) -> None:
    out, whole = tmp_path / "x.parquet", tmp_path / "whole"
    interrupted(out, after)
    part = tmp_path / "x.parquet.parts" / f"{kind}-000000.parquet"
    part.write_bytes(part.read_bytes()[:-50] + bytes(50))
    result = run("sample", *PARTS, "--out", out)
    assert result.exit_code == 2
    assert f"{part.name}' is damaged: remove it" in sentence(result)
    part.unlink()
    assert run("sample", *PARTS, "--out", out).exit_code == 0
    whole.mkdir()
    assert run("sample", *PARTS, "--out", whole / "x.parquet").exit_code == 0
    assert files_in(tmp_path) == files_in(whole)


def test_files_of_people_in_the_directory_of_parts_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "x.parquet.parts" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    assert run("sample", "chain", "-n", "2", "-r", "10", "--out", tmp_path / "x.parquet", "--force").exit_code == 0
    assert theirs.read_text() == "mine"
    assert [path.name for path in theirs.parent.iterdir()] == ["notes.txt"]


def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
import resource, sys
from settx_fast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = ["settx-fast", "sample", "chain", "-n", "1", "-r", "10000", "--out", sys.argv[1]]
main()
"""
    out = tmp_path / "x.parquet"
    result = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert f"File too large: '{out}.parts/rows-000000.parquet'" in sentence(result)
    assert list(tmp_path.iterdir()) == []


def test_every_preset_that_is_offered_exists_and_none_is_forgotten() -> None:
    functions = {
        name: value
        for name, value in vars(scm.presets).items()
        if getattr(value, "__module__", "") == scm.presets.__name__
    }
    assert set(PRESETS) == {name for name, make in functions.items() if isinstance(make(), scm.Prior)}
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
