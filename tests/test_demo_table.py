"""The demo's whole way, with next to no training, and what it says of a real table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo import penguins
from settx_fast.predictor.frameworks import measure
from settx_fast.predictor.table import Table, read_table

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "160"}


def run_script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / "examples" / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=REPOSITORY, env=ENVIRONMENT)


def test_the_quick_demo_goes_all_the_way(tmp_path: Path) -> None:
    """One test, since one demo serves all of it, even where test workers share the file's tests."""
    out = tmp_path / "run"
    (out / "chain").mkdir(parents=True)
    (out / "chain" / "config.json").write_text("an earlier demo's")
    result = run_script("demo.py", "--out", out, "--quick")
    assert result.returncode == 0, result.stderr[-2000:]
    check_runs(out)
    check_printed(result.stdout, out)
    check_penguins(json.loads((out / "recommendation-penguins-body_mass_g.json").read_text()))


def check_runs(out: Path) -> None:
    held = {path.name for path in (out / "chain").iterdir()}
    assert {"config.json", "model.safetensors", "metrics.csv", "evaluation.json", "evaluation.npz"} <= held
    page = (out / "report.html").read_text()
    for heading in ("Table penguins.csv: which framework predicts body_mass_g in Torgersen", "Model “chain”"):
        assert heading in page


def check_printed(printed: str, out: Path) -> None:
    assert f"The report: {out / 'report.html'}" in printed
    timings = printed.split("Where the time went")[1]
    for stage in ("sample", "train", "evaluate", "recommend", "predict", "report"):
        assert stage in timings


def check_penguins(found: dict) -> None:
    assert (found["table"], found["target"], found["deploy"]) == ("penguins.csv", "body_mass_g", "Torgersen")
    assert found["measured_on"] == "deployment"
    assert found["recommended"] in [each["framework"] for each in found["ranking"]]
    for each in found["ranking"]:
        assert 200**2 < each["measured"] < 2000**2
        assert 0 < each["risk"]["low"] < each["risk"]["value"] < each["risk"]["high"]


def test_the_penguins_are_read_as_a_zoologist_would() -> None:
    table: Table = read_table(penguins(), target="body_mass_g", environment="island", deploy="Torgersen")
    assert table.environment_names == ("Biscoe", "Dream", "Torgersen")
    assert table.is_labelled[table.is_deploy].sum() == 51
    assert (table.target[table.is_labelled] > 2000).all()
    roles = ["cause" if name == "sex=female" else "effect" for name in table.feature_names]
    risks = measure(table, roles)
    assert risks["erm"].value == risks["anticausal"].value  # every feature is a cause or an effect here
    assert 200**2 < risks["erm"].low < risks["erm"].high < risks["causal"].value < 1000**2


@pytest.mark.parametrize("name", ["drop_in.py", "predict_table.py", "sample_scms.py"])
def test_the_short_examples_run(name: str) -> None:
    result = run_script(name)
    assert result.returncode == 0, result.stderr
    assert result.stdout
