import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from settx_fast.predictor.frameworks import FRAMEWORKS, estimator
from settx_fast.predictor.selector.estimator import FrameworkSelector
from settx_fast.predictor.selector.recommendation import Ranked, Recommendation, Risk, verdict
from settx_fast.predictor.selector.shipped import Selector
from tests.predictor.frameworks.rows import by_environment, make_rows


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_is_a_scikit_learn_estimator(tmp_path: Path, selector: Selector) -> None:
    """With a caution that always leaves ERM: an untrained network may choose the mean, which fits nothing."""
    path = tmp_path / "cautious.safetensors"
    replace(selector, calibration=replace(selector.calibration, caution=1e6)).save(path)
    check_estimator(FrameworkSelector(path))


def test_it_predicts_as_the_framework_that_it_chose(model: Path) -> None:
    rows = make_rows(0)
    found = FrameworkSelector(model).fit(rows.X, rows.y, environments=rows.environments, X_deploy=rows.X_deploy)
    alone = estimator(found.recommended_).fit(rows.X, rows.y, rows.environments, rows.X_deploy)
    np.testing.assert_array_equal(found.predict(rows.X_deploy), alone.predict(rows.X_deploy))
    risks = {entry.framework: entry.risk.value for entry in found.ranking_}
    assert set(risks) == set(FRAMEWORKS)
    assert list(risks.values()) == sorted(risks.values())
    assert found.recommended_ == min(risks, key=risks.__getitem__)  # no caution in this selector
    assert all(0 <= e.risk.low <= e.risk.value <= e.risk.high for e in found.ranking_)


def test_measured_risks_are_those_of_left_out_sources(model: Path) -> None:
    rows = make_rows(1)
    found = FrameworkSelector(model).fit(rows.X, rows.y, rows.environments, rows.X_deploy).recommendation_
    assert found.measured_on == "left-out sources"
    errors = []
    for k, (X, y) in enumerate(by_environment(rows)):
        rest = rows.environments != f"place {k}"
        errors.append(np.mean((estimator("erm").fit(rows.X[rest], rows.y[rest]).predict(X) - y) ** 2))
    assert found.of("erm").measured == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.variance == pytest.approx(rows.y.var(), rel=1e-6)


def test_it_works_on_data_frames_and_in_a_pipeline(model: Path) -> None:
    rows = make_rows(2)
    frame = pd.DataFrame(rows.X, columns=["age", "height", "dose", "mood"])
    alone = FrameworkSelector(model).fit(frame, rows.y, environments=rows.environments)
    pipeline = make_pipeline(StandardScaler(), FrameworkSelector(model))
    pipeline.fit(frame, rows.y, frameworkselector__environments=rows.environments)
    np.testing.assert_allclose(pipeline.predict(frame), alone.predict(frame), rtol=1e-4)
    assert alone.feature_names_in_.tolist() == list(frame)


def test_units_do_not_matter_but_to_the_risks(model: Path) -> None:
    rows = make_rows(3)
    one = FrameworkSelector(model).fit(rows.X, rows.y, rows.environments, rows.X_deploy)
    other = FrameworkSelector(model).fit(-10 * rows.X, 100 * rows.y, rows.environments, -10 * rows.X_deploy)
    assert other.recommended_ == one.recommended_
    for a, b in zip(one.ranking_, other.ranking_, strict=True):
        assert b.risk.value == pytest.approx(1e4 * a.risk.value, rel=1e-2)


def recommendation(path: Path, selector: Selector, **changes: object) -> Recommendation:
    rows = make_rows(4)
    replace(selector, calibration=replace(selector.calibration, **changes)).save(path)
    return FrameworkSelector(path).fit(rows.X, rows.y, rows.environments, rows.X_deploy).recommendation_


def test_a_table_unlike_training_gets_erm_and_is_told_so(tmp_path: Path, selector: Selector) -> None:
    few = list(selector.calibration.high)
    few[1] = np.log(3.0) + 1e-3  # as limits have it that allow for rounding
    found = recommendation(tmp_path / "few.safetensors", selector, high=tuple(few))
    assert (found.recommended, found.abstained) == ("erm", True)
    assert any(re.fullmatch(r"Unlike training: columns, 4; in training \d+ to 3\.", each) for each in found.reasons)
    sure = recommendation(tmp_path / "sure.safetensors", selector, caution=1e6)
    assert (sure.recommended, sure.abstained) == ("erm", False)


@pytest.mark.parametrize(
    ("chosen", "risks", "strange", "said"),
    [
        ("within", {"within": 0.75, "stable": 0.9}, False,
         ["Slopes within environments is expected to have 25% less risk than ERM in deployment."]),
        ("stable", {"within": 0.75, "stable": 0.8}, False,
         ["ERM on a stable subset is expected to have 20% less risk than ERM in deployment.",
          "Slopes within environments is expected to have 25% less risk than ERM in deployment, but less surely."]),
        ("erm", {"within": 0.9}, False,
         ["Slopes within environments is expected to have 10% less risk than ERM in deployment: "
          "not surely enough to leave ERM."]),
        ("erm", {"within": 0.997}, False,
         ["No other framework is expected to have less risk than ERM in deployment."]),
        ("erm", {"within": 0.5}, True,
         ["The table is unlike the datasets that the selector was trained on: ERM is the default."]),
    ],
)  # fmt: skip
def test_the_verdict_names_what_is_expected_and_how_surely(
    chosen: str, risks: dict[str, float], strange: bool, said: list[str]
) -> None:
    every = {"erm": 1.0, "mean": 2.0} | risks
    ranked = [Ranked(name, Risk(risk, risk, risk), None) for name, risk in every.items()]
    ranking = sorted(ranked, key=lambda entry: entry.risk.value)
    assert list(verdict(chosen, ranking, strange)) == said


def test_explain_is_a_sentence_a_line(model: Path) -> None:
    rows = make_rows(5)
    found = FrameworkSelector(model).fit(rows.X, rows.y, rows.environments, rows.X_deploy)
    lines = found.explain().splitlines()
    assert tuple(lines) == found.recommendation_.reasons
    assert all(line.endswith(".") for line in lines)
    assert "risk" in lines[0]
