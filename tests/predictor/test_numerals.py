"""Numbers as spreadsheets and people write them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from settx_fast.predictor.columns import encode_column


def column(values: list) -> pd.Series:
    return pd.Series(values, name="c")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1,234", "12", "1,234,567.5"], [1234, 12, 1234567.5]),
        (["12.5%", "7%", "-3 %"], [12.5, 7, -3]),
        (["$9.99", "$1,234", "-$5"], [9.99, 1234, -5]),
        (["9,99 €", "1.234,50 €", "7 €"], [9.99, 1234.5, 7]),
        (["1 234,5", "12", "0,25"], [1234.5, 12, 0.25]),
        (["1\u202f234.5", "2\u00a0000", "1'000'000"], [1234.5, 2000, 1e6]),
        (["1,5", "2,25", "0,125"], [1.5, 2.25, 0.125]),
        (["0,125", "1,234", "3"], [0.125, 1.234, 3]),
        (["(1,234)", "12.5", "−3"], [-1234, 12.5, -3]),
        (["1.234.567", "2.000"], [1234567, 2000]),
    ],
)  # fmt: skip
def test_every_style_that_a_column_keeps_is_read_and_shown(texts: list[str], expected: list[float]) -> None:
    encoded = encode_column(column(texts))
    np.testing.assert_array_equal(encoded.values[:, 0], expected)
    assert encoded.kind == "number"
    assert "was read as" in encoded.notes[0]


def grouped(number: int, blank: str) -> str:
    return f"{number:,}".replace(",", blank)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 99)), min_size=3, max_size=8, unique=True),
    style=st.sampled_from([(",", "."), (".", ","), (" ", ","), ("\u202f", "."), ("’", ".")]),
    unit=st.sampled_from(["{}", "{}%", "${}", "{} €", "£{}"]),
)
def test_a_column_reads_as_it_was_written_in_any_style(numbers, style, unit) -> None:
    thousands, decimal = style
    texts = [unit.format(f"{grouped(whole, thousands)}{decimal}{cents:02}") for whole, cents in numbers]
    expected = [float(f"{whole}.{cents:02}") for whole, cents in numbers]
    encoded = encode_column(column(texts), keep=True)
    np.testing.assert_array_equal(encoded.values[:, 0], expected)


@pytest.mark.parametrize(
    ("texts", "cell"),
    [
        (["1.5", "2.5", "3.5", "about 4", "5 or 6"], "'about 4' in row 4"),
        (["0.5", "12%", "0.25", "7%", "0.3"], "'12%' in row 2"),
        (["$5", "$6", "$7", "4 €", "5 €"], "'4 €' in row 4"),
    ],
)
def test_a_column_that_stays_text_names_the_cell_that_keeps_it_so(texts: list[str], cell: str) -> None:
    encoded = encode_column(column(texts))
    assert encoded.kind == "level"
    assert f"is text because of cells like {cell}" in " ".join(encoded.notes)


def test_plain_words_are_not_told_why_they_are_no_numbers() -> None:
    assert "is text because" not in " ".join(encode_column(column(["red", "green", "1", "red"])).notes)


@pytest.mark.parametrize("mark", ["?", "-", ".", "unknown", "NA", "n/a", "None", ""])
def test_what_stands_for_missing_among_numbers_is_missing_however_often(mark: str) -> None:
    texts = [f"{number / 8}" for number in range(20)] + [mark] * 15
    encoded = encode_column(column(texts))
    np.testing.assert_array_equal(encoded.values[:20, 0], np.arange(20) / 8)
    assert np.isnan(encoded.values[20:]).all()


def test_a_mostly_empty_text_column_is_judged_by_what_is_there() -> None:
    few = ["1"] * 9 + ["2"] * 9 + ["low", "high"]
    encoded = encode_column(column([*few, *[None] * 80]))  # a tenth of what is there reads as no number
    assert encoded.kind == "level"
    assert encoded.levels == ("1", "2", "high", "low")
    assert encode_column(column([*["1"] * 30, *["2"] * 8, "low", "high", *[None] * 160])).kind == "number"
