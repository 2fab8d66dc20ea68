"""Numbers that are no measurements: said, and taken for what they are unless they are to be kept."""

import numpy as np
import pandas as pd
import pytest

from settx_fast.predictor.table import Table, TableError, table_from_frame

ROWS = 90


@pytest.fixture
def frame() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, 2))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "site": np.repeat(["n", "s", "w"], 30), "y": x @ [1.0, -2.0] + 5})


def read(frame: pd.DataFrame, deploy: object = "w", **options) -> Table:
    return table_from_frame(frame, target="y", environment="site", deploy=deploy, **options)


def said(table: Table, column: str) -> str:
    return " ".join(note for note in table.notes if f"'{column}'" in note)


@pytest.mark.parametrize("stand_in", [-999, 999, -99, 9999, 99999])
def test_a_value_far_from_all_others_that_is_all_nines_is_missing(frame: pd.DataFrame, stand_in: int) -> None:
    frame.loc[[3, 7, 70], "a"] = stand_in
    table = read(frame)
    source = frame["a"].drop(index=[3, 7]).iloc[:58]
    np.testing.assert_allclose(table.features[[3, 7, 70], 0], source.mean(), rtol=1e-12)
    assert f"3 values of {stand_in}".replace("-", "−") in said(table, "a")
    kept = read(frame, keep=["a"])
    assert (kept.features[[3, 7, 70], 0] == stand_in).all()


def test_several_stand_ins_of_one_column_are_all_found(frame: pd.DataFrame) -> None:
    frame.loc[3, "a"], frame.loc[4, "a"] = -999, 9999
    assert said(read(frame), "a").count("treated as missing") == 2


@pytest.mark.parametrize(
    "values", [np.arange(10, 100), np.linspace(0, 9999, ROWS), np.where(np.arange(ROWS) < 5, 99, 98)]
)
def test_nines_among_their_like_are_values(frame: pd.DataFrame, values: np.ndarray) -> None:
    table = read(frame.assign(a=np.random.default_rng(0).permutation(values)))
    assert said(table, "a") == ""


def test_labels_that_stand_for_missing_are_missing(frame: pd.DataFrame) -> None:
    frame.loc[[3, 70], "y"] = -999
    table = read(frame)
    assert table.num_rows == ROWS - 1
    assert table.is_labelled.sum() == ROWS - 2


@pytest.mark.parametrize("label", [0.0, -1.0, 7.0])
def test_labels_that_are_all_the_same_in_the_deployment_are_unlabelled(frame: pd.DataFrame, label: float) -> None:
    frame.loc[frame["site"] == "w", "y"] = label
    table = read(frame)
    assert not table.is_labelled[table.is_deploy].any()
    assert f"All 30 labels of 'w' are {label:g}: taken for unlabelled" in " ".join(table.notes)
    unnamed = read(frame, deploy=None)
    assert f"All 30 labels of 'w' are {label:g}: if that stands for unlabelled" in " ".join(unnamed.notes)
    assert unnamed.is_labelled.all()


NUMBERS = np.random.default_rng(3).permutation(np.arange(7000, 7000 + 5 * ROWS, 5))


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("patient_id", NUMBERS, "identifier"),
        ("PatientID", NUMBERS, "identifier"),
        ("id", np.repeat(np.arange(30), 3), "identifier"),
        ("sample no", NUMBERS, "identifier"),
        ("n", np.arange(1, ROWS + 1), "counts the rows"),
        ("zip", np.random.default_rng(4).integers(10000, 99999, ROWS), "postal codes"),
        ("postal_code", np.random.default_rng(4).integers(10000, 99999, ROWS), "postal codes"),
        ("branch", [f"{number:05}" for number in np.tile([123, 4567, 89012], 30)], "padded with zeros"),
    ],
)
def test_what_names_something_is_left_out_with_the_reason_unless_kept(
    frame: pd.DataFrame, name: str, values: np.ndarray, reason: str
) -> None:
    table = read(frame.assign(**{name: values}))
    assert name not in table.feature_names
    assert reason in said(table, name)
    assert f"`--keep '{name}'`" in said(table, name)
    np.testing.assert_array_equal(
        read(frame.assign(**{name: values}), keep=[name]).features[:, 2], np.asarray(values).astype(float)
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("year", np.arange(1930, 1930 + ROWS)),
        ("income", NUMBERS),
        ("width", np.arange(ROWS) / 4),
        ("index", np.random.default_rng(0).normal(size=ROWS)),
        ("valid", np.tile([0, 1], 45)),
    ],
)
def test_measurements_stay(frame: pd.DataFrame, name: str, values: np.ndarray) -> None:
    table = read(frame.assign(**{name: values}))
    assert name in table.feature_names
    assert said(table, name) == ""


def test_padded_codes_of_a_file_keep_their_zeros(frame: pd.DataFrame, tmp_path) -> None:
    from settx_fast.predictor.table import read_table

    frame["branch"] = np.tile(["00123", "04567", "89012"], 30)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", target="y", environment="branch", deploy="123")
    assert table.environment_names == ("00123", "04567", "89012")
    assert "'00123' is a code" in said(read_table(tmp_path / "t.csv", target="y", environment="site"), "branch")


@pytest.mark.parametrize(("form", "name"), [("%Y%m%d", "visit"), ("%Y%m", "month")])
def test_dates_written_as_numbers_become_days(frame: pd.DataFrame, form: str, name: str) -> None:
    dates = pd.date_range("2021-01-15", periods=ROWS, freq="17D")
    table = read(frame.assign(**{name: dates.strftime(form).astype(int)}))
    expected = pd.to_datetime(dates.strftime(form), format=form)
    np.testing.assert_array_equal(table.features[:, 2], (expected - expected[0]).days)
    assert "whole numbers that are dates became days since 2021-01-" in said(table, name)
    assert table.kinds[2] == "date"


def test_a_column_to_keep_must_be_there(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="There is no keep column 'z'; the columns are a, b, site, y"):
        read(frame, keep=["z"])
