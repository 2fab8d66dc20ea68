"""`settx-fast predict`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import run, sentence

from settx_fast.cli.predict import names_in
from settx_fast.predictor.config import preset
from settx_fast.predictor.model import SHIPPED
from settx_fast.predictor.targets import FRAMEWORKS, ROLES


def test_json_is_all_that_stdout_holds_and_has_the_promised_schema(table: Path, model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("prediction-*"))
    result = run(
        "predict", table, "--target", "y", "--environment", "site", "--deploy", "c", "--model", model, "--json"
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "settx_fast.prediction/2"
    assert list(found) == ["schema", "table", "source", "target", "classes", "rows", "deploy", "model", "headline",
                           "recommended", "tied", "decisive", "frameworks", "variance", "columns", "unread",
                           "properties", "records", "units", "unfamiliar", "knowledge", "advice", "notes"]  # fmt: skip
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
    assert json.loads((model / "prediction-table-y.json").read_text()) == found


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
    assert len(found["rows"]) == 15
    assert "x" in [column["name"] for column in found["columns"]]
    assert len(found["unread"]) == 22 - config.max_features
    assert len(found["frameworks"][0]["features"]) == 22
    assert f"The model reads {config.max_features} of 22 columns" in found["headline"][-1]
    assert found["advice"][: len(found["headline"])] == found["headline"]
    assert "The model reads at most 5 environments" in " ".join(found["notes"])


def arguments(table: Path, model: Path, *options: str | Path) -> tuple[str | Path, ...]:
    return ("predict", table, "-t", "y", "-e", "site", "-d", "c", "-m", model, *options)


def test_without_a_model_the_shipped_one_predicts_and_keeps_nothing_of_its_own_accord(table: Path) -> None:
    held = sorted(SHIPPED.iterdir())
    result = run("predict", table, "--target", "y", "--environment", "site", "--deploy", "c", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["records"]["role"]["value"] > found["records"]["role"]["chance"]
    assert sorted(SHIPPED.iterdir()) == held
    assert "Kept" not in result.stderr


def test_no_save_leaves_no_file(table: Path, model: Path) -> None:
    before = sorted(model.parent.rglob("*"))
    result = run(*arguments(table, model, "--no-save"))
    assert result.exit_code == 0
    assert sorted(model.parent.rglob("*")) == before
    assert "Kept" not in result.stderr


def test_save_writes_the_file_that_is_named(table: Path, model: Path, tmp_path: Path) -> None:
    before = sorted(model.rglob("*"))
    result = run(*arguments(table, model, "--save", tmp_path / "mine.json", "--json"))
    assert json.loads((tmp_path / "mine.json").read_text()) == json.loads(result.stdout)
    assert sorted(model.rglob("*")) == before
    for options in (("--save", tmp_path / "mine.txt"), ("--save", tmp_path / "mine.json", "--no-save")):
        assert run(*arguments(table, model, *options)).exit_code == 2


def test_a_table_of_the_same_name_elsewhere_keeps_its_own_prediction(table: Path, model: Path, tmp_path: Path) -> None:
    own = tmp_path / "model"
    shutil.copytree(model, own)
    for path in own.glob("prediction-*"):
        path.unlink()
    elsewhere = tmp_path / "sub" / table.name
    elsewhere.parent.mkdir()
    shutil.copy(table, elsewhere)
    for path in (table, elsewhere, table):
        assert run(*arguments(path, own)).exit_code == 0
    kept = {path.name: json.loads(path.read_text())["source"] for path in own.glob("prediction-*")}
    assert kept == {"prediction-table-y.json": str(table), "prediction-table-y-2.json": str(elsewhere)}


def test_a_folder_that_cannot_be_written_to_loses_nothing(
    table: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("settx_fast.predictor.prediction.save", denied)
    result = run(*arguments(table, model))
    assert result.exit_code == 0
    assert "Recommended:" in result.stdout
    assert "cannot be written to (Permission denied): `--save FILE` keeps it elsewhere" in result.stderr


def test_it_shows_before_it_saves(table: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("settx_fast.predictor.prediction.save", broken)
    result = run(*arguments(table, model))
    assert result.exit_code == 1
    assert "Recommended:" in result.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_of_any_encoding_loses_nothing(
    table: Path, model: Path, tmp_path: Path, encoding: str, options: tuple[str, ...]
) -> None:
    frame = pd.read_csv(table).rename(columns={"x": "größe 大きさ"})
    frame.to_csv(tmp_path / "names.csv", index=False)
    command = [sys.executable, "-m", "settx_fast.cli", *map(str, arguments(tmp_path / "names.csv", model, "--no-save"))]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([*command, *options], capture_output=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr.decode(encoding)
    shown = result.stdout.decode(encoding)
    if options:
        assert json.loads(shown)["columns"][0]["name"] == "größe 大きさ"
        return
    assert "…" in shown or "..." in shown
    assert "大きさ" in shown or "\\u5927\\u304d\\u3055" in shown
    assert "?" not in shown


def test_intervals_are_shown_without_colour_and_in_pipes(table: Path, model: Path) -> None:
    shown = run(*arguments(table, model, "--no-save")).stdout
    assert "\x1b" not in shown
    columns = shown.split("Columns (direct effects")[1].split("Properties of the table")[0]
    assert columns.count("…") == 2 * 3  # of two columns every effect has its interval


def test_names_with_markup_or_control_sequences_are_shown_as_text(table: Path, model: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).rename(columns={"x": "[/red]x\x1b[31m", "y": "[/]", "site": "[bold]site"})
    frame.to_csv(tmp_path / "[b]names.csv", index=False)
    names = ("-t", "[/]", "-e", "[bold]site", "-d", "c", "-m", model)
    result = run("predict", tmp_path / "[b]names.csv", *names)
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    for name in ("[/red]x�[31m", "'[/]'", "[b]names.csv"):
        assert name in result.stdout, name
    wrong = run("predict", tmp_path / "[b]names.csv", "-t", "[/]\x1b]0;title", *names[2:])
    assert wrong.exit_code == 2
    assert "There is no target column '[/]�]0;title'; the columns are [/red]x�[31m" in sentence(wrong)


def test_what_is_known_of_columns_is_respected(table: Path, model: Path) -> None:
    shown = run(*arguments(table, model, "--json", "--cannot-be-effect", "colour", "--cause", "x"))
    found = json.loads(shown.stdout)
    assert found["knowledge"] == {"causes": ["x"], "not_effects": ["colour"]}
    assert found["columns"][0]["role"] == "cause"
    assert found["columns"][1]["probability"]["effect"] == 0
    assert "x" in found["frameworks"][1]["features"]
    assert found["frameworks"][1]["risk"] == found["frameworks"][2]["risk"]
    wrong = run(*arguments(table, model, "--cause", "z"))
    assert wrong.exit_code == 2
    assert "There is no column 'z' to know anything of; the columns are x, colour, constant." in sentence(wrong)


def test_a_column_is_kept_where_that_is_asked_for(table: Path, model: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).assign(patient_id=np.random.default_rng(0).permutation(9000)[:90])
    frame.to_csv(tmp_path / "ids.csv", index=False)
    plain = json.loads(run(*arguments(tmp_path / "ids.csv", model, "--json")).stdout)
    assert "Column 'patient_id' was left out: it looks like an identifier" in " ".join(plain["notes"])
    kept = json.loads(run(*arguments(tmp_path / "ids.csv", model, "--json", "--keep", "patient_id")).stdout)
    assert "patient_id" in [column["name"] for column in kept["columns"]]


def test_a_class_target_has_a_brier_score(table: Path, model: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    frame["y"] = np.where(frame["y"].isna(), None, np.where(frame["y"] > 0, "ill", "well"))
    frame.to_csv(tmp_path / "classes.csv", index=False)
    shown = run(*arguments(tmp_path / "classes.csv", model, "--no-save")).stdout
    assert "Brier score" in shown
    assert "mean squared error" not in shown
    assert "targets of at most 10 values" in shown


@pytest.mark.parametrize(
    ("listed", "names"), [("", ()), ("a", ("a",)), ("a, b c,", ("a", "b c")), ("a,,b,c", ("a,b", "c"))]
)
def test_lists_of_names(listed: str, names: tuple[str, ...]) -> None:
    assert names_in(listed) == names
