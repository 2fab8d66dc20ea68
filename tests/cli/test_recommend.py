"""`settx-fast recommend`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import run, sentence

from settx_fast.predictor.frameworks import FRAMEWORKS, TITLES, estimator
from settx_fast.predictor.table import Table


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """Four sites of 60 rows; the last is labelled too."""
    generator = np.random.default_rng(0)
    site = np.repeat(list("abcd"), 60)
    x = generator.normal(size=(240, 3)) + np.repeat(generator.normal(size=(4, 3)), 60, axis=0)
    frame = pd.DataFrame(x, columns=["x", "z", "w"]).assign(site=site)
    frame["y"] = x[:, 0] - x[:, 1] + generator.normal(size=240) + np.repeat(generator.normal(size=4), 60)
    frame.to_csv(tmp_path / "sites.csv", index=False)
    return tmp_path / "sites.csv"


def test_json_has_the_promised_form_with_the_shipped_model(sites: Path) -> None:
    result = run("recommend", sites, "--target", "y", "--environment", "site", "--deploy", "d", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "settx_fast.recommendation/1"
    assert found["recommended"] in FRAMEWORKS
    assert isinstance(found["abstained"], bool)
    assert {entry["framework"] for entry in found["ranking"]} == set(FRAMEWORKS)
    for entry in found["ranking"]:
        risk = entry["risk"]
        assert set(risk) == {"value", "low", "high"}
        assert 0 <= risk["low"] <= risk["value"] <= risk["high"]
    frame = pd.read_csv(sites)
    source = frame["site"] != "d"
    assert found["variance"] == pytest.approx(frame["y"][source].var(ddof=0), rel=1e-6)
    X = frame[["x", "z", "w"]].to_numpy()
    model = estimator("stable").fit(X[source], frame["y"][source], frame["site"][source], X[~source])
    expected = np.mean((model.predict(X[~source]) - frame["y"][~source]) ** 2)
    measured = {entry["framework"]: entry["measured"] for entry in found["ranking"]}
    assert measured["stable"] == pytest.approx(expected, rel=1e-6)
    assert found["measured_on"] == "deployment"


def test_labels_of_the_deployment_change_what_is_measured_and_nothing_else(sites: Path) -> None:
    frame = pd.read_csv(sites)
    known = json.loads(run("recommend", sites, "-t", "y", "-e", "site", "-d", "d", "--json").stdout)
    frame.loc[frame["site"] == "d", "y"] = np.nan
    frame.to_csv(sites, index=False)
    unknown = json.loads(run("recommend", sites, "-t", "y", "-e", "site", "-d", "d", "--json").stdout)
    assert unknown["measured_on"] == "left-out sources"
    for part in ("recommended", "abstained", "variance", "reasons"):
        assert unknown[part] == known[part]
    assert [e["risk"] for e in unknown["ranking"]] == [e["risk"] for e in known["ranking"]]


def test_it_is_kept_where_that_is_asked_for_and_named_after_its_table(sites: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    asked = ("recommend", sites, "-t", "y", "-e", "site", "-d", "d", "--json", "--save")
    shown = run(*asked, tmp_path / "kept")
    kept = tmp_path / "kept" / "recommendation-sites-y.json"
    assert json.loads(kept.read_text()) == json.loads(shown.stdout)
    found = json.loads(kept.read_text())
    assert (found["table"], found["target"], found["deploy"]) == ("sites.csv", "y", "d")
    assert found["source"] == str(sites.resolve())
    assert f"Kept in {kept}" in shown.stderr.replace("\n", "")
    run(*asked, tmp_path / "mine.json")
    assert json.loads((tmp_path / "mine.json").read_text()) == found
    (tmp_path / "other").mkdir()
    other = sites.rename(tmp_path / "other" / "sites.csv")
    for _ in range(2):
        run("recommend", other, "-t", "y", "-e", "site", "--json", "--save", tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {kept.name, "recommendation-sites-y-2.json"}
    assert json.loads(kept.read_text()) == found  # another file of that name replaces nothing


def test_people_get_the_answer_first_then_reasons_then_risks(sites: Path) -> None:
    result = run("recommend", sites, "-t", "y", "-e", "site")
    assert result.exit_code == 0, result.stderr
    places = [result.stdout.index(text) for text in ("Recommended:", "•", "Mean squared error in deployment")]
    assert places == sorted(places)
    assert "measured on left-out sources" in result.stdout
    for name in FRAMEWORKS:
        assert TITLES[name] in result.stdout


def test_the_deployment_is_named_as_the_table_names_it(sites: Path) -> None:
    result = run("recommend", sites, "-t", "y", "-e", "site", "-d", "D")
    assert "sites.csv: 'y', deployed in 'd'" in result.stdout


def test_it_is_said_that_a_wide_table_is_not_read_whole(sites: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(sites)
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(240, 60)), columns=[f"n{i}" for i in range(60)])
    pd.concat([frame, wide], axis=1).to_csv(tmp_path / "wide.csv", index=False)
    found = json.loads(run("recommend", tmp_path / "wide.csv", "-t", "y", "-e", "site", "--json").stdout)
    assert found["notes"][0].startswith("Of 63 columns only the 60 most correlated with 'y' in the sources were read:")
    narrow = json.loads(run("recommend", sites, "-t", "y", "-e", "site", "--json").stdout)
    assert narrow["notes"] == []


def test_one_source_is_no_ground_for_a_choice(sites: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(sites)
    frame[frame["site"] == "a"].to_csv(tmp_path / "one.csv", index=False)
    found = json.loads(run("recommend", tmp_path / "one.csv", "-t", "y", "-e", "site", "--json").stdout)
    assert (found["recommended"], found["abstained"]) == ("erm", True)
    assert all(entry["measured"] is None for entry in found["ranking"])


def test_bad_input_is_one_sentence(sites: Path, tmp_path: Path) -> None:
    result = run("recommend", sites, "-t", "price", "-e", "site")
    assert result.exit_code == 2
    assert "There is no target column 'price'" in sentence(result)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    result = run("recommend", sites, "-t", "y", "-e", "site", "-m", tmp_path / "bad.safetensors")
    assert result.exit_code == 2
    assert "expected a selector" in sentence(result)


def test_a_column_is_kept_where_a_note_says_how(sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Table] = []

    def recommend_for(table: Table, model: Path | None, *, beside_trees: bool) -> None:
        read.append(table)
        raise ValueError("read")

    monkeypatch.setattr("settx_fast.predictor.selector.tables.recommend_for", recommend_for)
    frame = pd.read_csv(sites)
    frame["patient_id"] = np.random.default_rng(0).permutation(10 * len(frame))[: len(frame)]
    frame.to_csv(tmp_path / "ids.csv", index=False)
    for keep in ((), ("--keep", "patient_id")):
        assert sentence(run("recommend", tmp_path / "ids.csv", "-t", "y", "-e", "site", *keep)) == "Error: read."
    assert "`--keep 'patient_id'` keeps it" in " ".join(read[0].notes)
    assert "patient_id" in read[1].feature_names
