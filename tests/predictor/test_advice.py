import json
from pathlib import Path

import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.advice import advise
from settx_fast.predictor.config import for_prior
from settx_fast.predictor.data import observe
from settx_fast.predictor.familiarity import Unfamiliar, traits, unfamiliar
from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks import MeasuredRisk

CONFIG = for_prior("random_linear", scm.presets.random_linear(5))


def dataset(index: int = 5000, rows: int = 300) -> Observed:
    return observe(scm.sample(CONFIG.prior, 1, rows, seed=3, first_index=index), CONFIG.features)[0]


def strange(observed: Observed) -> dict[str, Unfamiliar]:
    return {each.trait.split(" (")[0]: each for each in unfamiliar(CONFIG, [observed])}


def test_datasets_of_the_prior_itself_are_seldom_unfamiliar() -> None:
    # Each of 8 traits of a new dataset is beyond all of 400 with a chance of 1 in 401, or 2 where both sides count:
    # 0.22 are expected of 8 datasets, more than 3 in one of 10,000 cases.
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
            "greatest correlation of two columns": 1,  # the target is the first feature
            "heaviest tail of a column": 1,
            "greatest shift of a column in deployment": 8,  # from 0.5 ± 0.5 to 4.5
            "greatest change of a column's spread in deployment": 2,
            "share of rows in deployment": 1 / 3,
        }
    )


def advice(directory: Path, strange: tuple[Unfamiliar, ...] = (), decisive: bool = True, **risks: float) -> str:
    measured = {name: MeasuredRisk(risk, risk, risk, 51) for name, risk in risks.items()}
    return " ".join(advise(directory, strange, "causal", decisive, measured))


@pytest.mark.parametrize(("right", "trusted"), [(0.97, True), (0.72, False), (0.70, False)])
def test_a_model_that_does_not_beat_the_majority_is_not_to_be_relied_on(
    tmp_path: Path, right: float, trusted: bool
) -> None:
    record = {"framework": {"model": right, "majority": 0.71}, "framework_datasets": 500}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    said = advice(tmp_path, causal=1.0)
    assert f"{right:.1%}" in said
    assert ("no better than a guess" in said) != trusted


def test_advice_names_what_speaks_against_the_recommendation(tmp_path: Path) -> None:
    assert "`settx-fast evaluate" in advice(tmp_path)
    assert "columns: 9, in training 2 to 7" in advice(tmp_path, (Unfamiliar("columns", 9.0, 2.0, 7.0),))
    assert "order is not certain" in advice(tmp_path, decisive=False)
    assert "order is not certain" not in advice(tmp_path)
    assert "No risk could be measured" in advice(tmp_path)
    assert "causal ERM has the least error too" in advice(tmp_path, erm=2.0, causal=1.0, anticausal=1.0)
    assert "ERM on all features has the least error: 1 against 2" in advice(tmp_path, erm=1.0, causal=2.0)
