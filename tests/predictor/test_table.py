import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from settx_fast.predictor.columns import MAX_INDICATOR_LEVELS, encode_column
from settx_fast.predictor.table import MERGED_ENVIRONMENT, Table, TableError, read_table, table_from_frame

ROWS = 60


@pytest.fixture
def frame() -> pd.DataFrame:
    """Three environments of 20 rows, two numeric features, a numeric target."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, 2))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "site": np.repeat(["n", "s", "w"], 20), "y": x @ [1.0, -2.0]})


def read(frame: pd.DataFrame, deploy: object = None, **names: object) -> Table:
    return table_from_frame(frame, **{"target": "y", "environment": "site", "deploy": deploy} | names)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_every_file_format_gives_the_same_table(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    table, direct = read_table(path, target="y", environment="site", deploy="w"), read(frame, "w")
    np.testing.assert_allclose(table.features, direct.features, rtol=1e-14)
    np.testing.assert_array_equal(table.environment, direct.environment)
    assert (table.environment_names, table.deploy, table.notes) == (("n", "s", "w"), 2, ())


def test_semicolons_and_decimal_commas_are_recognised(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "table.csv", sep=";", decimal=",", index=False)
    table = read_table(tmp_path / "table.csv", target="y", environment="site")
    np.testing.assert_allclose(table.target, frame["y"], rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("table.xlsx", b"", "expected one of .csv"),
        ("table.csv", b"", "could not be read"),
        ("table.csv", b"a,b,site,y\n", "holds no rows"),
        ("table.csv", b"\xff\xfe\x00\x81", "is not text in UTF-8"),
        ("table.csv", b"a,b,a,y\n1,2,3,n\n", "repeated: a"),
        ("table.parquet", b"not parquet", "could not be read"),
        ("table.csv.gz", b"not gzip", "could not be read"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=sentence):
        read_table(tmp_path / name, target="y", environment="site")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"There is no file .*absent\.csv"):
        read_table(tmp_path / "absent.csv", target="y", environment="site")


def test_gzipped_text_needs_no_unpacking(frame: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    assert read_table(tmp_path / "t.csv.gz", target="y", environment="site").num_rows == ROWS


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"target": "z"}, "no target column 'z'; the columns are a, b, site, y"),
        ({"environment": "where"}, "no environment column 'where'"),
        ({"environment": "y"}, "must be different columns"),
        ({"environment": "a"}, "60 different values in 60 rows"),
        ({"deploy": "x"}, r"No row has 'x' in the column 'site'; its values are n, s, w\.$"),
        ({"environment": "sit"}, "columns are a, b, site, y. Did you mean 'site'?"),
        ({"target": "Y"}, "Did you mean 'y'?"),
        ({"keep": ["A"]}, "no keep column 'A'; .* Did you mean 'a'?"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(
    frame: pd.DataFrame, changed: dict[str, str], sentence: str
) -> None:
    with pytest.raises(TableError, match=sentence):
        read(frame, **changed)


def test_columns_whose_names_are_numbers_are_named_by_these(frame: pd.DataFrame) -> None:
    numbered = frame.set_axis(range(4), axis=1)
    table = table_from_frame(numbered, target=3, environment=2, deploy="w")
    assert (table.target_name, table.feature_names) == ("3", ("0", "1"))
    np.testing.assert_array_equal(table.target, read(frame, "w").target)


@pytest.mark.parametrize(("rows", "kind"), [(np.zeros((9, 3)), "numpy.ndarray"), ({"y": [1.0]}, "builtins.dict")])
def test_what_is_no_data_frame_is_refused(rows: object, kind: str) -> None:
    with pytest.raises(TableError, match=f"frame: expected a pandas.DataFrame, got {kind}"):
        table_from_frame(rows, target="y", environment=None)


def test_a_deployment_that_is_spelt_almost_alike_is_suggested(frame: pd.DataFrame) -> None:
    frame["site"] = frame["site"].map({"n": "north", "s": "south", "w": "west"})
    with pytest.raises(TableError, match=r"its values are north, south, west\. Did you mean 'west'\?"):
        read(frame, "Wset")


def test_deploy_rows_may_be_unlabelled_but_source_rows_may_not(frame: pd.DataFrame) -> None:
    frame.loc[frame["site"] == "w", "y"] = np.nan
    frame.loc[:4, "y"] = np.nan
    table = read(frame, "w")
    assert table.rows_per_environment == {"n": 15, "s": 20, "w": 20}
    assert not table.is_labelled[table.is_deploy].any()
    assert table.is_labelled[~table.is_deploy].all()
    assert table.notes == ("5 of 60 rows were left out: no value in the target column 'y'.",)


def test_an_unlabelled_environment_is_proposed_as_the_deployment(frame: pd.DataFrame) -> None:
    frame.loc[frame["site"] == "w", "y"] = np.nan
    table = read(frame)
    assert table.environment_names == ("n", "s")
    assert "name 'w' as the deployment to predict for it" in " ".join(table.notes)


def test_gaps_become_the_mean_of_the_source_rows(frame: pd.DataFrame) -> None:
    frame.loc[[0, 45], "a"] = np.nan
    frame.loc[frame["site"] == "w", "a"] += 100
    table = read(frame, "w")
    np.testing.assert_allclose(table.features[[0, 45], 0], frame["a"][1:40].mean(), rtol=1e-12)
    assert table.notes == ("Column 'a': 2 of 60 values were missing and became the mean.",)


def test_columns_without_information_in_the_sources_are_left_out(frame: pd.DataFrame) -> None:
    frame["constant"] = 3
    frame["empty"] = np.nan
    frame["deploy_only"] = np.where(frame["site"] == "w", frame["a"], 0.0)
    frame["deploy_seen"] = np.where(frame["site"] == "w", frame["a"], np.nan)
    frame["one_text"] = "same"
    table = read(frame, "w")
    assert table.feature_names == ("a", "b")
    assert [note.split("'")[1] for note in table.notes] == [
        "constant", "empty", "deploy_only", "deploy_seen", "one_text"
    ]  # fmt: skip


def test_a_table_without_usable_features_says_why(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match=r"No column is left to predict from: .*'a' was left out: it is constant"):
        read(frame.drop(columns="b").assign(a=1))


def test_a_constant_target_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="target column 'y' is constant"):
        read(frame.assign(y=2.0))


@pytest.mark.parametrize("column", ["a", "y"])
@pytest.mark.parametrize("factor", [1e-200, 1e-18, 1e18, 1e300])
def test_units_in_which_squares_do_not_fit_are_refused(frame: pd.DataFrame, column: str, factor: float) -> None:
    frame[column] *= factor
    with pytest.raises(TableError, match=f"Column '{column}': expected values that spread over 1e-15 to 1e.15"):
        read(frame)


def test_too_few_labelled_rows_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="Only 5 labelled rows"):
        read(frame.iloc[15:25], "s")


def test_a_text_target_is_refused_unless_it_has_two_categories(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="must hold numbers or two categories; it holds 'n', 's', 'w'"):
        read(frame.assign(y=frame["site"]))
    table = read(frame.assign(y=np.where(frame["y"] > 0, "yes", "no")))
    assert set(table.target) == {0.0, 1.0}


def test_one_environment_is_read_but_cannot_be_the_deployment(frame: pd.DataFrame) -> None:
    assert read(frame.assign(site="n")).environment_names == ("n",)
    assert table_from_frame(frame.drop(columns="site"), target="y", environment=None).environment_names == ("all rows",)
    with pytest.raises(TableError, match="'n' is the only environment"):
        read(frame.assign(site="n"), "n")


@pytest.mark.parametrize("values", [[2, 10, 7], [2.0, 10.0, 7.0], [False, True, True], ["10", "2", "7"]])
def test_environment_values_of_any_type_are_named_as_they_are_written(frame: pd.DataFrame, values: list) -> None:
    table = read(frame.assign(site=np.repeat(values, 20)))
    assert table.environment_names == (("False", "True") if values[0] is False else ("2", "7", "10"))


def test_rows_without_an_environment_are_left_out(frame: pd.DataFrame) -> None:
    frame["site"] = np.repeat([1.0, 2.0, np.nan], 20)
    table = read(frame, "2")
    assert table.num_rows == 40
    assert "20 of 60 rows were left out: no value in the environment column 'site'" in table.notes[0]


def test_repeated_column_names_are_refused(frame: pd.DataFrame) -> None:
    frame.columns = pd.Index(["a", "a", "site", "y"])
    with pytest.raises(TableError, match="repeated: a"):
        read(frame)


def test_the_features_most_correlated_with_the_target_are_kept(frame: pd.DataFrame) -> None:
    frame["noise"] = np.random.default_rng(1).normal(size=ROWS)
    table = read(frame).limited_to(max_features=1, max_environments=3)
    assert table.feature_names == table.origins == ("b",)
    assert read(frame).limited_to(1, 3, first=["noise"]).feature_names == ("noise",)


@pytest.mark.parametrize("poison", [np.nan, 1e9])
def test_the_features_that_are_kept_do_not_depend_on_labels_of_the_deployment(
    frame: pd.DataFrame, poison: float
) -> None:
    generator = np.random.default_rng(1)
    for index in range(6):
        frame[f"noise {index}"] = generator.normal(size=ROWS)
    there = frame["site"] == "w"
    frame.loc[there, "noise 0"] = np.linspace(-9, 9, 20)
    poisoned = frame.assign(y=frame["y"].where(~there, poison * frame["noise 0"]))
    names = [read(each, "w").limited_to(2, 3).feature_names for each in (frame, poisoned)]
    assert names == [("a", "b"), ("a", "b")]


def test_the_smallest_sources_are_merged_and_the_deployment_is_kept(frame: pd.DataFrame) -> None:
    frame["site"] = np.repeat(["big", "c", "d", "deploy"], [30, 12, 10, 8])
    table = read(frame, "deploy").limited_to(max_features=9, max_environments=3)
    assert table.rows_per_environment == {"big": 30, "deploy": 8, MERGED_ENVIRONMENT: 22}
    assert table.environment_names[table.deploy] == "deploy"
    assert table.is_deploy.sum() == 8


def test_a_table_within_the_limits_is_left_alone(frame: pd.DataFrame) -> None:
    table = read(frame)
    assert table.limited_to(max_features=2, max_environments=3) is table


def column(values: list, **options: str) -> pd.Series:
    return pd.Series(values, name="c", **options)


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (column([True, False, True]), [1, 0, 1], None),
        (column([True, None, False]), [1, np.nan, 0], None),
        (column([1, 2, None], dtype="Int64"), [1, 2, np.nan], None),
        (column([1.0, np.inf, 2.0]), [1, np.nan, 2], "1 infinite value treated as missing"),
        (column(["1.5", "2", "-3e1"]), [1.5, 2, -30], None),
        (column([*map(str, range(30)), "?"]), [*range(30), np.nan], r"1 value not a number \('\?'\)"),
        (column(["2024-02-28", "2024-03-01", None]), [0, 2, np.nan], "days since 2024-02-28"),
        (column(pd.to_datetime(["2024-01-01 12:00", "2024-01-01 00:00"])), [0.5, 0], "days since 2024-01-01"),
        (column(pd.to_timedelta(["12h", "2D"])), [0.5, 2], None),
        (column(["m", "f", "m", None]), [0, 1, 0, np.nan], "2 categories became 1 0/1 column, 'm' being 0"),
        (column(["m", "f", "m "], dtype="category"), [0, 1, 0], "'m' being 0"),
    ],
)  # fmt: skip
def test_every_kind_of_column_becomes_numbers(values: pd.Series, expected: list, note: str | None) -> None:
    encoded = encode_column(values)
    np.testing.assert_array_equal(encoded.values[:, 0], expected)
    if note is None:
        assert encoded.notes == ()
    else:
        assert pd.Series(encoded.notes).str.contains(note).all()
        assert encoded.notes


def test_few_levels_become_indicators_of_all_but_the_most_frequent() -> None:
    encoded = encode_column(column(["r", "g", "b", "g"]))
    assert encoded.names == ("c=b", "c=r")
    np.testing.assert_array_equal(encoded.values, [[0, 1], [0, 0], [1, 0], [0, 0]])


def test_many_levels_become_codes_by_frequency() -> None:
    levels = [f"level {index}" for index in range(MAX_INDICATOR_LEVELS + 1)]
    encoded = encode_column(column(levels * 9 + levels[-1:]))
    assert encoded.names == ("c",)
    assert encoded.values[-1, 0] == 0
    assert encoded.values.max() == MAX_INDICATOR_LEVELS


@pytest.mark.parametrize("values", [[f"id {n}" for n in range(50)], [[1, 2]] * 50, [1j] * 50, [None] * 50])
def test_columns_that_are_no_measurement_are_left_out_with_the_reason(values: list) -> None:
    encoded = encode_column(column(values))
    assert encoded.names == ()
    assert encoded.values.shape == (50, 0)
    assert "Column 'c' was left out" in encoded.notes[0]


def test_na_is_a_value_of_the_environment(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["site"] = np.repeat(["NA", "ZA", "None"], 20)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", target="y", environment="site", deploy="NA")
    assert table.rows_per_environment == {"NA": 20, "None": 20, "ZA": 20}
    assert table.environment_names[table.deploy] == "NA"


def test_na_is_a_category_where_no_number_says_that_it_means_missing(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["continent"] = np.tile(["NA", "EU", "AS"], 20)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", target="y", environment="site")
    assert table.feature_names == ("a", "b", "continent=EU", "continent=NA")
    assert table.origins[2:] == ("continent", "continent")
    assert "Column 'continent': 20 values 'NA' taken for a category of that name." in table.notes


def test_na_among_numbers_makes_na_among_words_missing(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["sex"] = np.tile(["m", "f", "m", "f", None], 12)
    frame.loc[3, "a"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False, na_rep="NA")
    table = read_table(tmp_path / "t.csv", target="y", environment="site", deploy="w")
    assert table.feature_names == ("a", "b", "sex=m")
    assert "Column 'sex': 12 values 'NA' treated as missing." in table.notes
    assert "Column 'a': 1 of 60 values were missing and became the mean." in table.notes


@pytest.mark.parametrize(
    ("values", "wanted", "name"),
    [
        (["1", "2", "3"], "3.0", "3"),
        (["1", "2", "3"], "03", "3"),
        (["01", "02", "03"], "3", "03"),
        (["01", "02", "03"], "3.0", "03"),
        (["1.0", "2.0", "3.0"], "3", "3"),
        ([1.0, 2.0, 3.0], "03", "3"),
        ([1, 2, 3], 3, "3"),
        ([1, 2, 3], np.int64(3), "3"),
        ([1, 2, 3], 3.0, "3"),
        ([False, False, True], "true", "True"),
        (["False", "False", "True"], "TRUE", "True"),
        ([False, False, True], True, "True"),
        (["north", "south", "South West"], "south west", "South West"),
        (["1", "01", "2"], "01", "01"),
        (["a", "A", "b"], "A", "A"),
    ],
)
def test_a_deployment_is_found_by_what_its_value_means(
    frame: pd.DataFrame, tmp_path: Path, values: list, wanted: object, name: str
) -> None:
    frame["site"] = np.repeat(pd.Series(values), 20).to_numpy()
    table = read(frame, wanted)
    assert table.environment_names[table.deploy] == name
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv", target="y", environment="site", deploy=wanted).deploy == table.deploy


@pytest.mark.parametrize(
    ("values", "wanted", "listed"), [(["3", "03", "4"], "3.0", "03, 3"), (["aB", "Ab", "b"], "ab", "Ab, aB")]
)
def test_a_deployment_of_several_meanings_is_refused_with_them(
    frame: pd.DataFrame, values: list[str], wanted: str, listed: str
) -> None:
    frame["site"] = np.repeat(values, 20)
    with pytest.raises(TableError, match=f"'{wanted}' may mean several values of the column 'site': {listed}"):
        read(frame, wanted)


def test_a_column_that_is_empty_in_the_deployment_only_is_left_out(frame: pd.DataFrame) -> None:
    frame["sex"] = np.where(frame["site"] == "w", None, np.tile(["m", "f"], 30))
    frame.loc[frame["site"] == "w", "a"] = np.nan
    table = read(frame, "w")
    assert table.feature_names == ("b",)
    assert table.emptied == ("a", "sex")
    assert "Column 'a' was left out: it is empty in the deployment." in table.notes
    assert read(frame, "s").feature_names == ("a", "b", "sex=m")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([0, 1], ("0", "1")),
        ([1, 2], ("1", "2")),
        ([False, True], ("False", "True")),
        (["no", "yes"], ("no", "yes")),
        (["0", "1"], ("0", "1")),
        ([-1.0, 1.0], ("-1", "1")),
    ],
)
def test_two_values_of_the_target_are_two_classes(frame: pd.DataFrame, values: list, classes: tuple[str, str]) -> None:
    is_second = frame["y"].to_numpy() > frame["y"].quantile(0.6)
    table = read(frame.assign(y=np.array(values, dtype=object)[is_second.astype(int)]))
    assert table.classes == classes
    np.testing.assert_array_equal(table.target, is_second)


@pytest.mark.parametrize("codes", [[0, 1, 2], [1, 2, 3, 4, 5], [10, 20, 30, 40]])
def test_several_classes_are_refused_and_may_be_said_to_be_amounts(frame: pd.DataFrame, codes: list[int]) -> None:
    coded = frame.assign(y=np.resize(codes, ROWS))
    with pytest.raises(
        TableError, match=f"holds {len(codes)} different whole numbers only .* as classes do: .*`--keep 'y'`"
    ):
        read(coded)
    assert read(coded, keep=["y"]).classes == ()


def test_amounts_are_no_classes(frame: pd.DataFrame) -> None:
    assert read(frame).classes == ()
    assert read(frame.assign(y=np.arange(ROWS) % 13)).classes == ()
    assert read(frame.assign(y=np.arange(ROWS) % 4 / 2 + 0.25)).classes == ()


def test_reading_tells_how_far_it_is(frame: pd.DataFrame, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    frame.to_csv(tmp_path / "t.csv", index=False)
    read_table(tmp_path / "t.csv", target="y", environment="site", progress=lambda *step: told.append(step))
    assert told == [("Reading t.csv", 0, 1), ("Reading columns", 0, 2), ("Reading columns", 1, 2)]
