import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from settx_fast import scm
from settx_fast.cli import _parquet, app
from settx_fast.cli.doctor import Advice, Diagnosis, show
from settx_fast.cli.sample import PRESETS, load_prior
from settx_fast.predictor import training
from settx_fast.predictor.config import TrainConfig, preset
from settx_fast.predictor.model import PropertyPredictor
from settx_fast.predictor.targets import FRAMEWORKS, ROLES

BLOCKED = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = ["settx-fast", *{arguments!r}]
from settx_fast.cli import main
main()
"""


def run(*arguments: str | Path) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(argument) for argument in arguments])


def run_without(names: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a fresh interpreter that cannot import some modules."""
    code = BLOCKED.format(names=names, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def sentence(result: Any) -> str:
    """What went to stderr, which must be one sentence and no traceback."""
    text = result.stderr.strip()
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1, text
    return text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained model of few variables and environments."""
    directory = tmp_path_factory.mktemp("model")
    config = preset("random_linear")
    (directory / "config.json").write_text(config.to_json())
    PropertyPredictor(config.features, config.model).save(directory)
    return directory


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three sites of 30 rows with every awkwardness that is allowed; the third is not labelled."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"x": generator.normal(size=90), "colour": generator.choice(["red", "green"], size=90)})
    frame["site"] = np.repeat(["a", "b", "c"], 30)
    frame["y"] = frame["x"] + generator.normal(size=90)
    frame["constant"] = 1
    frame.loc[frame["site"] == "c", "y"] = np.nan
    frame.loc[3, "x"] = np.nan
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


# Exit codes and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("predict",),
        ("predict", "absent.csv", "--target", "y", "--model", "."),
        ("sample", "chain", "--out", "x.parquet", "--num-datasets", "0"),
        ("evaluate", "absent"),
        ("train", "chain"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"--target": "z"}, "There is no target column 'z'; the columns are x, colour, site, y, constant."),
        ({"--environment": "z"}, "There is no environment column 'z'"),
        ({"--deploy": "z"}, "No row has 'z' in the column 'site'; its values are a, b, c."),
        ({"--target": "colour", "--environment": "colour"}, "must be different columns"),
    ],
)
def test_bad_tables_exit_with_2_and_one_sentence(
    table: Path, model: Path, changed: dict[str, str], expected: str
) -> None:
    options = {"--target": "y", "--environment": "site", "--deploy": "c"} | changed
    result = run("predict", table, "--model", model, *(part for option in options.items() for part in option))
    assert result.exit_code == 2
    assert expected in sentence(result)


def test_files_that_are_no_table_exit_with_2(tmp_path: Path, model: Path) -> None:
    for name, expected in (("empty.csv", "could not be read"), ("notes.txt", "expected one of .csv")):
        (tmp_path / name).write_text("")
        result = run("predict", tmp_path / name, "--target", "y", "--environment", "e", "--model", model)
        assert result.exit_code == 2
        assert expected in sentence(result)


def test_a_directory_without_a_model_exits_with_2(table: Path, tmp_path: Path) -> None:
    result = run("predict", table, "--target", "y", "--environment", "site", "--model", tmp_path)
    assert result.exit_code == 2
    assert "no training run" in sentence(result)
    assert run("report", tmp_path).exit_code == 2


def test_a_broken_model_file_is_refused_with_what_to_do(table: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    result = run("predict", table, "--target", "y", "--environment", "site", "--model", tmp_path)
    assert result.exit_code == 2
    assert "train it again" in sentence(result)


def test_traceback_shows_where_an_error_came_from(table: Path, model: Path) -> None:
    result = run("--traceback", "predict", table, "--target", "z", "--model", model)
    assert type(result.exception).__name__ == "TableError"


def test_brackets_in_an_error_are_text(tmp_path: Path) -> None:
    result = run("sample", "[red]", "--out", tmp_path / "x.parquet")
    assert "There is no preset '[red]'" in sentence(result)


def test_help_and_errors_of_usage_need_neither_torch_nor_pandas() -> None:
    hidden = ("torch", "pandas", "pyarrow", "lightning", "matplotlib", "sklearn", "jinja2")
    assert run_without(hidden, "predict", "--help").returncode == 0
    assert run_without(hidden, "nonsense").returncode == 2


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("lightning", ("train", "chain", "--out", "unused")),
        ("safetensors", ("evaluate", ".")),
        ("yaml", ("sample", "prior.yaml", "--out", "unused.parquet")),
    ],
)
def test_a_missing_extra_says_how_to_install_it(
    missing: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(scm.__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prior.yaml").write_text("{}")
    result = run_without((missing,), *command)
    assert result.returncode == 1
    assert "pip install 'settx_fast[app]'" in sentence(result)


def test_doctor_prints_advice_with_its_brackets(capsys: pytest.CaptureFixture) -> None:
    show(Diagnosis({}, {}, {}, (), (Advice(True, "Do `pip install 'settx_fast[app]'`."),)), Console())
    assert "'settx_fast[app]'" in capsys.readouterr().out


# doctor ---------------------------------------------------------------------------------------------------------------


def test_doctor_names_the_path_of_every_operation_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # the kernels' tests set it in this process
    result = run_without((), "doctor", "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 0
    assert found["healthy"]
    assert found["versions"]["torch"]
    attention = [path for path in found["paths"] if path["operation"].startswith("ISAB") and path["device"] == "cpu"]
    assert {path["path"].split(",")[0] for path in attention} == {"blockwise PyTorch", "library calls"}
    assert all("the kernels need cuda" in path["reason"] for path in attention)
    assert {"operation": "scm.sample", "device": "cpu", "path": "native C++", "reason": None} in found["paths"]


def test_doctor_without_the_native_module_says_how_to_build_it_and_exits_with_1() -> None:
    result = run_without(("settx_fast._native",), "doctor")
    assert result.returncode == 1
    assert result.stderr == ""
    assert "pip install ." in " ".join(result.stdout.split())


def test_sampling_without_the_native_module_exits_with_1(tmp_path: Path) -> None:
    result = run_without(("settx_fast._native",), "sample", "chain", "--out", str(tmp_path / "x.parquet"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


# sample ---------------------------------------------------------------------------------------------------------------


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


# train ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, Path, dict[str, Any]]]:
    """What `train` is called with, in place of training."""
    calls = []

    def train(config: TrainConfig, out: Path, **options: Any) -> Path:
        calls.append((config, out, options))
        return out

    monkeypatch.setattr(training, "train", train)
    return calls


def test_every_option_of_train_arrives(trained: list, tmp_path: Path) -> None:
    options = "--resume --batch-size 8 --loss pinball --learning-rate 0.01 --l1 1e-5 --l2 1e-4 --seed 3 --devices 2 -q"
    options += " --rows 64 200 --workers 1"
    assert run("train", "chain", "--out", tmp_path / "run", *options.split()).exit_code == 0
    ((config, out, given),) = trained
    assert (config.name, config.batch_size, config.model.loss, config.learning_rate) == ("chain", 8, "pinball", 0.01)
    assert (config.l1, config.l2, config.seed) == (1e-5, 1e-4, 3)
    assert (config.min_rows, config.max_rows, config.workers) == (64, 200, 1)
    assert out == tmp_path / "run"
    assert given == {"resume": True, "accelerator": "auto", "devices": 2, "progress": False}


@pytest.mark.parametrize(("checkpoint", "what"), [(True, "goes on with --resume"), (False, "starts anew")])
def test_an_interrupted_training_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: bool, what: str
) -> None:
    def interrupted(config: TrainConfig, out: Path, **options: Any) -> None:
        if checkpoint:
            (out / training.CHECKPOINT).parent.mkdir(parents=True)
            (out / training.CHECKPOINT).touch()
        sys.exit(1)  # as Lightning does

    monkeypatch.setattr(training, "train", interrupted)
    result = run("train", "chain", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert sentence(result) == f"Interrupted; the same command {what}."


def test_without_options_train_runs_the_preset(trained: list, tmp_path: Path) -> None:
    run("train", "random_linear", "--out", tmp_path / "run")
    assert trained[0][0] == preset("random_linear")
    assert not trained[0][2]["resume"]


@pytest.mark.parametrize("steps", [1, 150, 401])
def test_steps_are_rounded_up_to_whole_epochs(trained: list, tmp_path: Path, steps: int) -> None:
    run("train", "chain", "--out", tmp_path / "run", "--steps", str(steps))
    config = trained[0][0]
    assert steps <= config.steps < steps + config.epoch_steps


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_prior_file_is_trained_on(trained: list, tmp_path: Path, suffix: str) -> None:
    prior = scm.presets.lucas()
    (tmp_path / f"mine.{suffix}").write_text(prior.to_json() if suffix == "json" else prior.to_yaml())
    assert run("train", tmp_path / f"mine.{suffix}", "--out", tmp_path / "run").exit_code == 0
    assert trained[0][0].name == "mine"
    assert trained[0][0].prior == scm.presets.lucas()


@pytest.mark.parametrize("arguments", [("nope",), ("chain", "--loss", "nope"), ("chain", "--learning-rate", "0")])
def test_bad_training_options_exit_with_2(trained: list, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run("train", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert sentence(result)
    assert trained == []


def test_an_existing_run_is_never_overwritten(model: Path) -> None:
    before = (model / "config.json").read_text()
    result = run("train", "chain", "--out", model, "--steps", "1")
    assert result.exit_code == 2
    assert "resume" in sentence(result)
    assert (model / "config.json").read_text() == before


# predict --------------------------------------------------------------------------------------------------------------


def test_json_is_all_that_stdout_holds_and_has_the_promised_schema(table: Path, model: Path) -> None:
    result = run(
        "predict", table, "--target", "y", "--environment", "site", "--deploy", "c", "--model", model, "--json"
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "settx_fast.prediction/1"
    assert list(found) == ["schema", "table", "target", "rows", "deploy", "model", "properties", "columns",
                           "frameworks", "recommended", "decisive", "variance", "unfamiliar", "units", "advice",
                           "notes"]  # fmt: skip
    assert found["rows"] == {"a": 30, "b": 30, "c": 30}
    assert [column["name"] for column in found["columns"]] == ["x", "colour=green"]
    for column in found["columns"]:
        assert list(column["probability"]) == list(ROLES)
        assert sum(column["probability"].values()) == pytest.approx(1, abs=1e-5)
    for framework in found["frameworks"]:
        risk = framework["risk"]
        assert 0 <= risk["low"] <= risk["value"] <= risk["high"]
        assert framework["measured"] is None  # nothing in c is labelled
    assert [framework["name"] for framework in found["frameworks"]] == list(FRAMEWORKS)
    assert found["recommended"] in FRAMEWORKS
    assert json.loads((model / "prediction-table.json").read_text()) == found


def test_the_printed_prediction_answers_first_and_keeps_the_notes(table: Path, model: Path) -> None:
    result = run("predict", table, "-t", "y", "-e", "site", "-d", "c", "-m", model, "--no-save")
    assert result.exit_code == 0, result.stderr
    places = [result.stdout.index(text) for text in ("Recommended:", "has not been measured yet", "Risk in deployment")]
    assert places == sorted(places)
    assert "Column 'constant' was left out: it is constant." in result.stdout
    assert "Column 'x': 1 of 90 values were missing" in result.stdout


@pytest.fixture(scope="module")
def ask(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The JSON of a prediction for a frame."""
    directory = tmp_path_factory.mktemp("tables")

    def ask(frame: pd.DataFrame, *options: str) -> dict[str, Any]:
        frame.to_parquet(directory / "frame.parquet")
        result = run("predict", directory / "frame.parquet", "-t", "y", "-m", model, "--json", *options)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return ask


def test_without_an_environment_column_all_rows_are_one_source(table: Path, ask: Callable) -> None:
    found = ask(pd.read_csv(table).dropna(subset="y").drop(columns="site"))
    assert found["rows"] == {"all rows": 60}
    assert "There is one environment only" in " ".join(found["notes"])
    assert all(framework["measured"] is None for framework in found["frameworks"])


def test_without_deployment_risks_are_measured_by_leaving_environments_out(table: Path, ask: Callable) -> None:
    found = ask(pd.read_csv(table), "-e", "site")
    assert found["deploy"] is None
    assert found["rows"] == {"a": 30, "b": 30}
    assert found["frameworks"][0]["measured"]["rows"] == 60
    assert "name 'c' as the deployment" in " ".join(found["notes"])


def test_a_table_larger_than_the_model_is_cut_with_a_note(table: Path, ask: Callable) -> None:
    frame = pd.read_csv(table)
    for index in range(20):
        frame[f"extra {index}"] = np.random.default_rng(index).normal(size=90)
    frame["site"] = np.arange(90) // 6
    frame["y"] = frame["y"].fillna(0.0)
    found = ask(frame, "-e", "site", "-d", "3")
    config = preset("random_linear").features
    assert len(found["columns"]) == config.max_features
    assert len(found["rows"]) == config.max_environments
    assert "x" in [column["name"] for column in found["columns"]]
    assert found["rows"]["3"] == 6
    assert "The model reads at most" in " ".join(found["notes"])
