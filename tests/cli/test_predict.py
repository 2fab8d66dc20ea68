"""`settx-fast predict`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import run

from settx_fast.predictor.config import preset
from settx_fast.predictor.targets import FRAMEWORKS, ROLES


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
