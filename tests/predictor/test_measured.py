import numpy as np
import pytest

from settx_fast.predictor.frameworks.measured import MeasuredRisk, _summarise, best_of, features_of, fit, measure
from settx_fast.predictor.table import Table
from settx_fast.predictor.targets import FRAMEWORKS

ROLES = ("cause", "effect", "unrelated")


def make_table(deploy: int | None = 2, environments: int = 3, rows: int = 400, labelled: bool = True) -> Table:
    """Cause → target → effect; the noise of the effect is small in the sources and large in the last environment."""
    generator = np.random.default_rng(0)
    environment = np.repeat(np.arange(environments), rows)
    cause, other, target_noise, effect_noise = generator.normal(size=(4, len(environment)))
    target = cause + 0.5 * target_noise
    effect = target + np.where(environment == environments - 1, 3.0, 0.1) * effect_noise
    known = labelled | (environment != environments - 1)
    return Table(
        name="chain",
        target_name="y",
        feature_names=("x", "z", "u"),
        features=np.stack([cause, effect, other], axis=1),
        target=np.where(known, target, np.nan),
        environment=environment,
        environment_names=tuple("abcdef"[:environments]),
        deploy=deploy,
    )


def test_each_framework_uses_the_features_its_name_says() -> None:
    roles = ["unrelated", "effect", "cause", "spouse"]
    assert {name: features_of(name, roles) for name in FRAMEWORKS} == {
        "erm": [0, 1, 2, 3],
        "causal": [2],
        "anticausal": [1, 2],
    }
    with pytest.raises(ValueError, match=r"framework: expected one of .* got 'irm'"):
        features_of("irm", roles)


def test_the_risk_on_labelled_deploy_rows_is_the_population_risk_within_its_interval() -> None:
    risks = measure(make_table(rows=20_000), ROLES)
    weight = 0.25 / (0.25 + 0.01)  # of the effect, given the cause, in the sources
    expected = {"causal": 0.25, "anticausal": 0.25 * (1 - weight) ** 2 + weight**2 * 9}
    for name, risk in expected.items():
        assert risks[name].low < risk < risks[name].high
        assert risks[name].rows == 20_000
    assert best_of({name: risk.value for name, risk in risks.items()}) == "causal"


def test_without_deployment_every_environment_is_left_out_in_turn() -> None:
    table = make_table(deploy=None)
    risk = measure(table, ROLES)["causal"]
    errors = []
    for left_out in range(3):
        inside = table.environment == left_out
        slope, intercept = np.polyfit(table.features[~inside, 0], table.target[~inside], 1)
        errors.append((slope * table.features[inside, 0] + intercept - table.target[inside]) ** 2)
    assert risk.value == pytest.approx(np.concatenate(errors).mean(), rel=1e-9)
    assert risk.rows == 1200


def test_the_interval_of_a_measured_risk_is_that_of_a_mean() -> None:
    half = 1.645 * np.std([1.0, 4.0, 1.0, 6.0], ddof=1) / 2
    found = _summarise(np.array([1.0, 4.0, 1.0, 6.0]))
    assert (found.value, found.low, found.high, found.rows) == pytest.approx((3.0, 3.0 - half, 3.0 + half, 4))
    assert half == pytest.approx(2.0147, abs=1e-4)
    assert _summarise(np.array([0.0, 0.0, 9.0])).low == 0.0  # no risk is negative
    assert _summarise(np.array([2.0])) == MeasuredRisk(2.0, 0.0, np.inf, 1)


def test_nothing_is_measured_where_nothing_is_labelled_or_left_out() -> None:
    assert measure(make_table(labelled=False), ROLES) == {}
    assert measure(make_table(deploy=None, environments=1), ROLES) == {}


def test_deploy_labels_never_enter_a_fit() -> None:
    table = make_table()
    poisoned = make_table()
    poisoned.target[poisoned.is_deploy] = 1e6
    rows = ~table.is_deploy
    fitted, other = fit(table, [0, 1], rows), fit(poisoned, [0, 1], rows)
    np.testing.assert_array_equal(fitted.predict(table.features[:, :2]), other.predict(table.features[:, :2]))


def test_a_framework_without_features_predicts_the_mean_of_the_sources() -> None:
    table = make_table()
    model = fit(table, [], ~table.is_deploy)
    assert model.predict(np.empty((1, 0)))[0] == pytest.approx(table.target[~table.is_deploy].mean())
    assert measure(table, ["unrelated"] * 3)["causal"].value == pytest.approx(
        np.mean((table.target[table.is_deploy] - table.target[~table.is_deploy].mean()) ** 2)
    )


def test_of_equal_risks_the_framework_with_more_features_is_recommended() -> None:
    assert best_of({"anticausal": 1.0, "causal": 1.0, "erm": 1.0}) == "erm"
    assert best_of({"anticausal": 0.5, "causal": 1.0, "erm": 1.0}) == "anticausal"
