import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from settx_fast.predictor import prediction as module
from settx_fast.predictor.config import TrainConfig, preset
from settx_fast.predictor.evidence import weigh_roles
from settx_fast.predictor.frameworks import measure
from settx_fast.predictor.knowledge import Knowledge
from settx_fast.predictor.model import Estimate, PropertyPredictor
from settx_fast.predictor.prediction import Interval, Prediction, narrowed, predict
from settx_fast.predictor.rows import deal
from settx_fast.predictor.table import Table, TableError
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
    assert path == tmp_path / "prediction-t-y.json"
    assert json.loads(path.read_text())["frameworks"][0]["risk"]["value"] == prediction.frameworks[0].risk.value


def test_control_sequences_are_escaped_in_json(directory: Path) -> None:
    names = ("a\x1b[31m", "b\x9b2J", "c\u202e")
    prediction = predict(replace(make_table(), feature_names=names), directory)
    assert all(letter.isprintable() or letter == "\n" for letter in prediction.to_json())
    assert [column["name"] for column in json.loads(prediction.to_json())["columns"]] == list(names)
    assert prediction.to_json(ascii_only=True).isascii()


def test_a_saved_prediction_never_replaces_that_of_another_table_or_target(directory: Path, tmp_path: Path) -> None:
    prediction = predict(make_table(), directory)
    variants = [
        replace(prediction, source="/one/t.csv"),
        replace(prediction, source="/other/t.csv"),
        replace(prediction, source="/one/t.csv", target="y z"),
        replace(prediction, source="/one/t.csv", target="y_z"),
    ]
    paths = [each.save(tmp_path) for each in variants]
    assert [path.name for path in paths] == [
        "prediction-t-y.json", "prediction-t-y-2.json", "prediction-t-y_z.json", "prediction-t-y_z-2.json"
    ]  # fmt: skip
    assert [each.save(tmp_path) for each in variants] == paths  # a second time in the same places
    assert [json.loads(path.read_text())["source"] for path in paths[:2]] == ["/one/t.csv", "/other/t.csv"]
    (tmp_path / "prediction-t-y.json").write_text("{not json")
    assert variants[0].save(tmp_path).name == "prediction-t-y-3.json"
    assert prediction.save(tmp_path / "mine.json") == tmp_path / "mine.json"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_sign_of_the_target_changes_nothing(directory: Path) -> None:
    for seed in range(8):
        for deploy in (2, None):
            table = make_table(seed=seed, deploy=deploy)
            plain, negated = predict(table, directory), predict(replace(table, target=-table.target), directory)
            assert [column.role for column in plain.columns] == [column.role for column in negated.columns]
            assert plain.frameworks == negated.frameworks
            assert plain.properties == negated.properties
            assert (plain.recommended, plain.headline, plain.unfamiliar) == (
                negated.recommended, negated.headline, negated.unfamiliar
            )  # fmt: skip
            for before, after in zip(plain.columns, negated.columns, strict=True):
                assert before.probability == after.probability
                for name, effect in before.effects.items():
                    assert after.effects[name] == Interval(-effect.value, -effect.high, -effect.low)


def numbers(intervals: Iterable[Interval]) -> list[float]:
    return [number for each in intervals for number in (each.value, each.low, each.high)]


@pytest.mark.parametrize("deploy", [2, None])
def test_units_and_the_order_of_columns_change_nothing(directory: Path, deploy: int | None) -> None:
    table = make_table(deploy=deploy)
    order = [2, 0, 1]
    scale = np.array([4.0, 0.125, 1024.0])  # powers of two: exact
    moved = replace(
        table,
        features=(table.features * scale)[:, order],
        feature_names=tuple(table.feature_names[index] for index in order),
        origins=(),
    )
    plain, other = predict(table, directory), predict(moved, directory)
    assert numbers(plain.properties.values()) == pytest.approx(numbers(other.properties.values()), rel=EXACT)
    assert numbers(each.risk for each in plain.frameworks) == pytest.approx(
        numbers(each.risk for each in other.frameworks), rel=EXACT
    )
    found = {column.name: column for column in other.columns}
    for column, factor in zip(plain.columns, scale, strict=True):
        assert found[column.name].role == column.role
        effect = column.effects["total_effect"].value / factor
        assert found[column.name].effects["total_effect"].value == pytest.approx(effect, rel=EXACT)


def test_the_variance_is_that_of_source_labels_alone(directory: Path) -> None:
    table = make_table()
    target = np.where(table.is_deploy, 100 * table.target, table.target)
    prediction = predict(replace(table, target=target), directory)
    assert prediction.variance == pytest.approx(np.var(table.target[:80]), rel=1e-12)
    unlabelled = replace(table, target=np.where(table.is_deploy, np.nan, table.target))
    assert predict(unlabelled, directory).variance == prediction.variance


def test_erm_uses_all_columns_of_a_table_wider_than_the_model_and_says_what_the_model_read(directory: Path) -> None:
    width = TrainConfig.load(directory).features.max_features
    generator = np.random.default_rng(0)
    features = np.column_stack([make_table().features, generator.normal(size=(120, width + 2))])
    names = tuple(f"f{index}" for index in range(width + 5))
    table = replace(make_table(), features=features, feature_names=names)
    prediction = predict(table, directory)
    assert prediction.frameworks[0].features == names
    assert prediction.frameworks[0].measured == measure(table, ["unrelated"] * len(names))["erm"]
    assert len(prediction.columns) == width
    assert {column.name for column in prediction.columns} | set(prediction.unread) == set(names)
    assert f"reads {width} of {width + 5} columns" in prediction.headline[-1]
    assert set(prediction.headline) <= set(prediction.advice)
    for poison in (np.nan, 1e6):
        poisoned = replace(table, target=np.where(table.is_deploy, poison * features[:, -1], table.target))
        np.testing.assert_array_equal(flat(predict(poisoned, directory)), flat(prediction))


def test_knowledge_of_columns_decides_their_roles_and_what_frameworks_use(directory: Path) -> None:
    table = replace(make_table(), origins=("a", "group", "group"), kinds=())
    plain = predict(table, directory)
    for column in plain.columns:
        known = predict(table, directory, knowledge=Knowledge(not_effects=(column.name,)))
        found = next(each for each in known.columns if each.name == column.name)
        assert found.probability["effect"] == 0
        assert sum(found.probability.values()) == pytest.approx(1)
        assert found.effects["direct_effect_of_target"] == Interval(0.0, 0.0, 0.0)
    known = predict(table, directory, knowledge=Knowledge(causes=("a",), not_effects=("group",)))
    assert [column.probability["effect"] for column in known.columns] == [0, 0, 0]
    assert known.columns[0].role == "cause"
    assert known.frameworks[1].features == known.frameworks[2].features
    assert "a" in known.frameworks[1].features
    assert known.frameworks[1].risk == known.frameworks[2].risk
    with pytest.raises(TableError, match="no column 'z' to know anything of; the columns are a, group"):
        predict(table, directory, knowledge=Knowledge(causes=("z",)))


def test_a_column_without_correlation_is_no_cause() -> None:
    generator = np.random.default_rng(0)
    probability = np.tile([0.81, 0.05, 0.04, 0.1], (3, 1))
    for rows in (200, 2000):
        table = make_table(rows=rows)
        table.features[:, 2] = generator.normal(size=table.num_rows)
        weighed = weigh_roles(table, probability)
        np.testing.assert_allclose(weighed[:2], probability[:2], rtol=1e-12)  # a and b are correlated with the target
        assert weighed[2].argmax() == ROLES.index("unrelated")
        assert weighed.sum(1) == pytest.approx(1)
    twins = replace(table, features=table.features[:, [0, 0, 1]])
    np.testing.assert_allclose(weigh_roles(twins, probability), probability)  # neither adds to the other, both to y


def test_intervals_shrink_with_rows_down_to_what_no_rows_tell() -> None:
    def estimate(value: float, deviation: float) -> Estimate:
        value, deviation = torch.tensor(value), torch.tensor(deviation)
        return Estimate(value, deviation, value - 1.6 * deviation, value + 1.7 * deviation)

    samples = [estimate(1.0, 1.0), estimate(1.6, 1.0), estimate(0.4, 1.0)]
    widths = [float(narrowed(estimate(1.0, 1.0), samples, hands).standard_deviation) for hands in (2, 8, 1000)]
    assert 1 > widths[0] > widths[1] > widths[2]
    sampling = 0.36 * 2 / 4
    assert widths[2] == pytest.approx((1 - sampling) ** 0.5, rel=1e-3)
    same = narrowed(estimate(1.0, 1.0), [estimate(1.0, 1.0)] * 3, 100)
    assert (float(same.lower), float(same.upper)) == pytest.approx((-0.6, 2.7))


def test_a_prediction_of_many_rows_has_narrower_intervals(directory: Path) -> None:
    few, many = predict(make_table(rows=150), directory), predict(make_table(rows=3000), directory)

    def width(prediction: Prediction) -> np.ndarray:
        return np.array([each.high - each.low for column in prediction.columns for each in column.effects.values()])

    assert width(many).mean() < width(few).mean()


def test_a_choice_of_rows_follows_what_they_hold() -> None:
    table = make_table(rows=400)
    order = np.random.default_rng(1).permutation(table.num_rows)
    hand = deal(table, 5)
    moved = replace(
        table,
        features=(table.features * [-2.0, 3.0, 0.1] + 7)[order][:, [1, 2, 0]],
        target=table.target[order] * np.nan,
        environment=table.environment[order],
    )
    np.testing.assert_array_equal(deal(moved, 5), hand[order])
    for environment in range(3):
        assert np.bincount(hand[table.environment == environment]).tolist() == [80] * 5


def test_the_model_reads_part_of_a_very_large_table(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 100)
    prediction = predict(make_table(rows=150), directory)
    assert "The model read 90 of 450 rows; frameworks were fitted on all." in prediction.notes
    assert prediction.rows == {"site 0": 150, "site 1": 150, "site 2": 150}
    assert prediction.frameworks[0].measured.rows == 150


def test_two_classes_have_a_brier_score(directory: Path) -> None:
    table = make_table()
    target = (table.target > 0).astype(float)
    prediction = predict(replace(table, target=target, classes=("no", "yes")), directory)
    assert prediction.risk_name == "Brier score"
    assert predict(table, directory).risk_name == "mean squared error"
    assert any(each.trait.startswith("targets of at most") for each in prediction.unfamiliar)


def test_how_far_it_is_gets_told(directory: Path) -> None:
    told: list[tuple[str, int, int]] = []
    predict(make_table(deploy=None), directory, progress=lambda *step: told.append(step))
    assert told == [*(("Reading rows", number, 3) for number in range(3)), ("Fitting frameworks", 0, 1)]


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
    own = np.r_[:24, 33:60]  # properties and effects; risks and roles also follow from what the whole table shows
    np.testing.assert_allclose(flat(predict(table, directory))[own], expected[own], rtol=EXACT, atol=EXACT)
