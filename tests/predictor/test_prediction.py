import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from settx_fast.predictor.config import TrainConfig, preset
from settx_fast.predictor.model import PropertyPredictor
from settx_fast.predictor.prediction import Interval, Prediction, predict
from settx_fast.predictor.table import Table
from settx_fast.predictor.targets import FRAMEWORKS, ROLES

EXACT = 1e-5  # relative; the model works in fp32, whose rounding through some 20 layers stays below


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model whose answers depend strongly on what it reads."""
    directory = tmp_path_factory.mktemp("model")
    config = preset("random_linear")
    torch.manual_seed(0)
    model = PropertyPredictor(config.features, config.model)
    with torch.no_grad():
        for head in model.heads.parameters():
            head.mul_(3.0)
    (directory / "config.json").write_text(config.to_json())
    model.save(directory)
    return directory


def make_table(environments: int = 3, rows: int = 40, deploy: int | None = 2, seed: int = 0) -> Table:
    generator = np.random.default_rng(seed)
    environment = np.repeat(np.arange(environments), rows)
    features = generator.normal(size=(len(environment), 3)) + 0.5 * environment[:, None]
    target = features @ [1.0, -0.5, 0.0] + 0.3 * generator.normal(size=len(environment))
    names = tuple(f"site {index}" for index in range(environments))
    return Table("t.csv", "y", ("a", "b", "c"), features, target, environment, names, deploy)


def flat(prediction: Prediction) -> np.ndarray:
    """Every predicted number."""
    intervals = [*prediction.properties.values(), *(each.risk for each in prediction.frameworks)]
    intervals += [effect for column in prediction.columns for effect in column.effects.values()]
    chances = [chance for column in prediction.columns for chance in column.probability.values()]
    return np.array([*((each.value, each.low, each.high) for each in intervals), chances[:3]]).ravel()


def test_labels_of_the_deployment_measure_risks_but_never_enter_a_prediction(directory: Path) -> None:
    table = make_table()
    known, hidden = predict(table, directory), predict(
        replace(table, target=np.where(table.is_deploy, np.nan, table.target)), directory
    )  # fmt: skip
    np.testing.assert_array_equal(flat(known), flat(hidden))
    assert all(each.measured is not None and each.measured.rows == 40 for each in known.frameworks)
    assert all(each.measured is None for each in hidden.frameworks)


def test_the_order_of_rows_does_not_matter(directory: Path) -> None:
    table = make_table()
    order = np.random.default_rng(1).permutation(table.num_rows)
    shuffled = replace(
        table, features=table.features[order], target=table.target[order], environment=table.environment[order]
    )
    np.testing.assert_allclose(
        flat(predict(shuffled, directory)), flat(predict(table, directory)), rtol=1e-4, atol=1e-5
    )


def test_risks_scale_with_the_square_of_the_targets_unit(directory: Path) -> None:
    table = make_table()
    grams, kilograms = predict(table, directory), predict(replace(table, target=table.target / 1000), directory)
    for gram, kilogram in zip(grams.frameworks, kilograms.frameworks, strict=True):
        assert gram.risk.value == pytest.approx(1e6 * kilogram.risk.value, rel=1e-3)
        assert gram.measured is not None
        assert kilogram.measured is not None
        assert gram.measured.value == pytest.approx(1e6 * kilogram.measured.value, rel=EXACT)
    assert grams.recommended == kilograms.recommended


def test_without_deployment_predictions_are_averaged_over_environments_in_that_part(directory: Path) -> None:
    whole = flat(predict(make_table(deploy=None), directory))
    parts = [flat(predict(make_table(deploy=environment), directory)) for environment in range(3)]
    np.testing.assert_allclose(whole, np.mean(parts, axis=0), rtol=EXACT, atol=1e-6)


def test_one_environment_is_predicted_with_a_note(directory: Path) -> None:
    prediction = predict(make_table(environments=1, rows=100, deploy=None), directory)
    assert np.isfinite(flat(prediction)).all()
    assert "There is one environment only" in prediction.notes[-1]
    np.testing.assert_array_equal(flat(prediction), flat(predict(make_table(1, 100, None), directory)))


def test_a_table_as_wide_as_the_model_and_one_wider_are_read(directory: Path) -> None:
    width = TrainConfig.load(directory).features.max_features
    generator = np.random.default_rng(0)
    for extra in (0, 1):
        features = generator.normal(size=(120, width + extra))
        table = replace(make_table(), features=features, feature_names=tuple(f"f{i}" for i in range(width + extra)))
        prediction = predict(table, directory)
        assert len(prediction.columns) == width


def test_roles_choose_the_features_and_the_least_risk_the_framework(directory: Path) -> None:
    prediction = predict(make_table(), directory)
    by_role = {role: [column.name for column in prediction.columns if column.role == role] for role in ROLES}
    used = {each.name: list(each.features) for each in prediction.frameworks}
    assert used["erm"] == ["a", "b", "c"]
    assert used["causal"] == by_role["cause"]
    assert sorted(used["anticausal"]) == sorted(by_role["cause"] + by_role["effect"])
    risks = {each.name: each.risk.value for each in prediction.frameworks}
    assert prediction.recommended == min(FRAMEWORKS, key=risks.__getitem__)
    for column in prediction.columns:
        assert column.probability[column.role] == max(column.probability.values())
        assert sum(column.probability.values()) == pytest.approx(1, abs=1e-6)


def test_json_holds_null_for_what_is_not_finite_and_reads_back(directory: Path, tmp_path: Path) -> None:
    prediction = predict(make_table(), directory)
    endless = replace(prediction, properties={"noise_to_signal": Interval(1.0, 0.5, float("inf"))})
    found = json.loads(endless.to_json())
    assert found["properties"]["noise_to_signal"] == {"value": 1.0, "low": 0.5, "high": None}
    path = prediction.save(tmp_path)
    assert path == tmp_path / "prediction-t.json"
    assert json.loads(path.read_text())["frameworks"][0]["risk"]["value"] == prediction.frameworks[0].risk.value


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training run"):
        predict(make_table(), tmp_path)


def test_averages_over_environments_are_weighted_by_their_rows(directory: Path) -> None:
    table, rows = make_table(rows=100, deploy=None), (10, 30, 100)
    kept = np.concatenate([np.flatnonzero(table.environment == index)[:count] for index, count in enumerate(rows)])
    table = replace(
        table, features=table.features[kept], target=table.target[kept], environment=table.environment[kept]
    )
    each = np.array([flat(predict(replace(table, deploy=index), directory)) for index in range(3)])
    assert np.ptp(each, 0).max() > 0.01  # or any weights would do
    expected = np.average(each, 0, weights=rows)
    np.testing.assert_allclose(flat(predict(table, directory)), expected, rtol=EXACT, atol=EXACT)
