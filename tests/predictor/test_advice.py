import json
import re
from pathlib import Path

import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.advice import advise, contradictions
from settx_fast.predictor.answers import Framework, Interval, is_decisive, same_columns, with_ties
from settx_fast.predictor.config import for_prior
from settx_fast.predictor.data import observe
from settx_fast.predictor.familiarity import Unfamiliar, traits, unfamiliar
from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks import MeasuredRisk
from settx_fast.predictor.records import DecisionRecord, Record, beats, read_records
from settx_fast.predictor.wording import TITLES

CONFIG = for_prior("random_linear", scm.presets.random_linear(5))


def dataset(index: int = 5000, rows: int = 300) -> Observed:
    return observe(scm.sample(CONFIG.prior, 1, rows, seed=3, first_index=index), CONFIG.features)[0]


def strange(observed: Observed) -> dict[str, Unfamiliar]:
    return {each.trait.split(" (")[0]: each for each in unfamiliar(CONFIG, [observed])}


def test_datasets_of_the_prior_itself_are_seldom_unfamiliar() -> None:
    # Each of 9 traits of a new dataset is beyond all of 400 with a chance of 1 in 401, or 2 where both sides count:
    # 0.24 are expected of 8 datasets, more than 3 in one of 10,000 cases.
    assert sum(len(strange(dataset(index))) for index in range(8)) <= 3


def test_what_no_training_dataset_has_is_named_with_its_value_and_its_range() -> None:
    plain = dataset()
    few = strange(plain._replace(features=(plain.features > 0).float()))["columns of at most 10 values"]
    assert few.value == plain.present.sum() > few.high
    features = plain.features.clone()
    features[..., 0] = features[..., 0].where(~plain.is_target, 1e6 + features[..., 0])
    shift = strange(plain._replace(features=features))["greatest shift of a column in deployment"]
    assert shift.value > shift.high
    rows = strange(dataset(rows=40))["rows"]
    assert (rows.value, rows.low, rows.high) == (40, CONFIG.min_rows, CONFIG.max_rows)


def test_traits_depend_neither_on_units_nor_on_labels_of_the_deployment() -> None:
    plain = dataset()
    scale = torch.tensor([4.0, 0.25, 8.0, 2.0])  # powers of two: exact
    target = (2 * plain.target).where(plain.labelled, torch.nan)
    for trait, value in traits(plain._replace(features=plain.features * scale, target=target)).items():
        torch.testing.assert_close(value, traits(plain)[trait], rtol=1e-12, atol=0)


def test_traits_of_a_dataset_made_by_hand() -> None:
    features = torch.tensor([[0.0, 1.0, 0.0, 1.0, 3.5, 5.5], [2.0] * 6, [torch.nan] * 6]).T[None]
    is_target = torch.tensor([[False] * 4 + [True] * 2])
    seen = Observed(
        features, features[..., 0], is_target.long(), is_target, ~is_target, torch.tensor([[True, True, False]])
    )
    assert {name.split(" (")[0]: value.item() for name, value in traits(seen).items()} == pytest.approx(
        {
            "columns": 2,
            "environments": 2,
            "columns of at most 10 values": 2,
            "targets of at most 10 values": 1,
            "greatest correlation of two columns": 1,  # the target is the first feature
            "heaviest tail of a column": 1,
            "greatest shift of a column in deployment": 8,  # from 0.5 ± 0.5 to 4.5
            "greatest change of a column's spread in deployment": 2,
            "share of rows in deployment": 1 / 3,
        }
    )


RISKS = {"erm": 2.0, "causal": 1.0, "anticausal": 3.0}
COLUMNS = {"erm": ("a", "b", "c"), "causal": ("a",), "anticausal": ("a", "b")}


def frameworks(
    columns: dict[str, tuple[str, ...]] = COLUMNS, width: float = 1.9, **measured: object
) -> list[Framework]:
    """Predicted risks 2, 1 and 3 with intervals of a factor `width`; measured ones by name, (value, low, high)."""
    found = {}
    for name, risk in measured.items():
        value, low, high = risk if isinstance(risk, tuple) else (risk, risk, risk)
        found[name] = MeasuredRisk(value, low, high, 51)
    return [
        Framework(name, TITLES[name], columns[name], Interval(risk, risk / width, risk * width), found.get(name))
        for name, risk in RISKS.items()
    ]


def advice(
    compared: list[Framework],
    strange: tuple[Unfamiliar, ...] = (),
    decisive: bool = True,
    records: dict[str, Record] | None = None,
    decisions: DecisionRecord | None = None,
) -> str:
    return " ".join(advise(Path("run"), strange, compared, "causal", decisive, records or {}, decisions))


@pytest.mark.parametrize(("right", "trusted"), [(0.97, True), (0.76, True), (0.74, False), (0.70, False)])
def test_a_model_that_does_not_beat_the_majority_is_not_to_be_relied_on(right: float, trusted: bool) -> None:
    said = advice(frameworks(causal=1.0), decisions=DecisionRecord(right, 0.71, 500))  # two standard errors: 4.06 %
    assert f"{right:.1%}" in said
    assert ("no better than a guess" in said) != trusted


@pytest.mark.parametrize(("count", "above"), [(500, 0.751), (10_000, 0.7191)])
def test_no_better_than_a_guess_is_two_standard_errors_from_either_side(count: int, above: float) -> None:
    assert beats(above, 0.71, count)
    assert not beats(above - 0.002, 0.71, count)


def test_records_are_read_with_what_chance_reaches(tmp_path: Path) -> None:
    assert read_records(tmp_path) == ({}, None)
    metrics = {
        "role": {"model": {"auroc": 0.7, "accuracy": 0.458}, "mean": {"auroc": 0.5, "accuracy": 0.43}},
        "varsortability": {"model": {"r2": 0.03, "mae": 0.1}, "mean": {"r2": -0.01}},
        "risk/erm": {"model": {"r2": 0.61}, "mean": {"r2": 0.0}},
        "edge_density": {"model": {"r2": None}, "mean": {"r2": None}},
    }
    record = {"framework": {"model": 0.9, "majority": 0.7}, "framework_datasets": 400, "num_datasets": 500}
    (tmp_path / "evaluation.json").write_text(json.dumps(record | {"metrics": metrics}))
    records, decisions = read_records(tmp_path)
    assert decisions == DecisionRecord(0.9, 0.7, 400)
    assert {name: (each.value, each.chance, each.is_known) for name, each in records.items()} == {
        "role": (0.458, 0.43, False),
        "varsortability": (0.03, 0.0, False),
        "risk/erm": (0.61, 0.0, True),
    }


def test_roles_that_are_no_finding_are_called_guesses() -> None:
    unknown = {"role": Record("accuracy", 0.458, 0.43, False)}
    assert "Roles of columns are not known: on held-out datasets 45.8% were right, and 43.0%" in advice(
        frameworks(), records=unknown
    )
    assert "Roles" not in advice(frameworks(), records={"role": Record("accuracy", 0.7, 0.43, True)})


def test_advice_names_what_speaks_against_the_recommendation() -> None:
    assert "`settx-fast evaluate run`" in advice(frameworks())
    assert "columns: 9, in training 2 to 7" in advice(frameworks(), (Unfamiliar("columns", 9.0, 2.0, 7.0),))
    assert "order is not certain" in advice(frameworks(), decisive=False)
    assert "order is not certain" not in advice(frameworks())
    assert "No risk could be measured" in advice(frameworks())
    assert "causal ERM has the least error too." in advice(frameworks(erm=2.0, causal=1.0, anticausal=1.5))
    assert "ERM on all features has the least error: 1 against 2" in advice(frameworks(erm=1.0, causal=2.0))


def test_differences_within_the_measured_intervals_are_called_that() -> None:
    close = {"erm": (1.1, 0.6, 1.6), "causal": (1.2, 0.7, 1.7), "anticausal": (3.0, 2.9, 3.1)}
    assert "1.1 against 1.2 for causal ERM, a difference within the measured intervals." in advice(frameworks(**close))
    assert not contradictions(frameworks(**close), "causal", variance=5.0)
    winner = close | {"causal": (0.9, 0.4, 1.4)}
    assert "least error too, within the measured intervals of ERM on all features." in advice(frameworks(**winner))


def test_frameworks_of_the_same_columns_are_the_same_and_none_wins() -> None:
    columns = COLUMNS | {"anticausal": ("a",)}
    same = {"causal": 1.0, "anticausal": 1.0, "erm": 1.5}
    compared = with_ties(frameworks(columns, **same))
    assert compared[1].risk == compared[2].risk
    assert compared[1].risk.value == pytest.approx(3**0.5)
    assert [each.name for each in same_columns(compared, "causal")] == ["anticausal"]
    said = advice(compared)
    assert "anticausal ERM and causal ERM use the same columns here" in said
    assert "causal ERM has the least error too." in said
    alike = with_ties(frameworks(dict.fromkeys(COLUMNS, ("a",)), **dict.fromkeys(RISKS, 1.0)))
    assert len({each.risk for each in alike}) == 1
    assert "All frameworks use the same columns here: there is nothing to choose between." in advice(alike)
    assert "Their error on 51 labelled rows" in advice(alike)


@pytest.mark.parametrize(("width", "decisive"), [(1.2, True), (1.9, False)])
def test_a_recommendation_is_decisive_where_its_interval_is_apart_from_all_others(width: float, decisive: bool) -> None:
    assert is_decisive(frameworks(width=width), "causal") == decisive  # 1.2 · 1 < 2 / 1.2, but 1.9 · 1 > 2 / 1.9
    assert not is_decisive(frameworks(width=width), "anticausal")


def test_a_tie_does_not_make_a_recommendation_undecided() -> None:
    compared = with_ties(frameworks(COLUMNS | {"erm": ("a",)}, width=1.2))
    assert is_decisive(compared, "causal")
    assert not is_decisive(with_ties(frameworks(dict.fromkeys(COLUMNS, ("a",)))), "causal")


@pytest.mark.parametrize(
    ("measured", "variance", "sentence"),
    [
        ({"causal": 2492.0}, 0.96, "causal ERM was predicted 1 (0.526 … 1.9) and measured 2,492 on 51 labelled rows"),
        ({"causal": 0.4}, 5.0, "contradicts the prediction: causal ERM was predicted 1"),
        ({"causal": 1.5}, 1.2, "does not carry over: causal ERM was predicted 1 .*, above the variance"),
        ({"causal": 1.0, "erm": 50.0}, 99.0, "ERM on all features was predicted 2 .* and measured 50"),
        ({"causal": (1.5, 1.4, 1.6), "erm": (1.1, 1.0, 1.2)}, 5.0,
         "Measured, ERM on all features is better than the recommended causal ERM: 1.1 against 1.5"),
    ],
)  # fmt: skip
def test_what_was_measured_against_the_prediction_is_said_first(measured: dict, variance: float, sentence: str) -> None:
    said = contradictions(frameworks(**measured), "causal", variance)
    assert re.search(sentence.replace("(", r"\(").replace(")", r"\)"), said[0])


def test_what_could_be_chance_contradicts_nothing() -> None:
    few = {"causal": (2.5, 0.0, 5.0), "erm": (1.3, 0.9, 1.7)}  # beyond 1.9, above a variance of 1.2: by chance
    assert contradictions(frameworks(**few), "causal", 1.2) == ()
    sure = {"causal": (2.5, 2.0, 3.0), "erm": (1.3, 1.25, 1.35)}
    first, *_, last = contradictions(frameworks(**sure), "causal", 1.2)
    assert "Measured, ERM on all features is better" in first
    assert "does not carry over: ERM on all features was predicted 2" in last


def test_measured_risks_within_what_was_predicted_contradict_nothing() -> None:
    assert contradictions(frameworks(erm=2.5, causal=1.5, anticausal=4.0), "causal", 5.0) == ()
    assert contradictions(frameworks(), "causal", 0.1) == ()


def test_of_several_tables_at_once_the_one_far_below_is_named() -> None:
    inside = dataset()
    alone = inside._replace(present=torch.arange(4)[None] < 1)
    named = {each.trait: each for each in unfamiliar(CONFIG, [inside, alone])}
    assert named["columns"].value == 1 < named["columns"].low
    assert "columns" not in {each.trait for each in unfamiliar(CONFIG, [inside, inside])}


def test_a_class_target_and_a_column_that_the_deployment_lacks_are_unlike_training() -> None:
    plain = dataset()
    classes = plain._replace(target=(plain.target > plain.target.mean()).float())
    assert strange(classes)["targets of at most 10 values"].value == 1
    assert "columns empty in deployment" not in strange(plain)
    emptied = unfamiliar(CONFIG, [plain], emptied=2)[0]
    assert (emptied.trait, emptied.value, emptied.high) == ("columns empty in deployment", 2, 0)
