"""Text files as people and programs write them: every layout that is clear is read alike, the rest is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from settx_fast.predictor.table import Table, TableError, read_table

ROWS = 60
HEADER = "x,z,site,sex,y"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    x, z = generator.normal(size=(2, ROWS)).round(3)
    return pd.DataFrame({"x": x, "z": z, "site": np.repeat(["a", "b", "c"], ROWS // 3),
                         "sex": np.tile(["m", "f"], ROWS // 2), "y": (x + 2 * z).round(3)})  # fmt: skip


@pytest.fixture(scope="module")
def lines(frame: pd.DataFrame) -> list[str]:
    """Rows of the table without a header."""
    return frame.to_csv(index=False, header=False).splitlines()


def read(path: Path, header: str, rows: list[str]) -> Table:
    path.write_text("\n".join([header, *rows]) + "\n")
    return read_table(path, target="y", environment="site", deploy="c")


def is_the_table(table: Table, frame: pd.DataFrame) -> None:
    assert table.feature_names == ("x", "z", "sex=m")
    np.testing.assert_array_equal(table.features[:, :2], frame[["x", "z"]])
    np.testing.assert_array_equal(table.target, frame["y"])
    assert table.environment_names == ("a", "b", "c")


def numbered(rows: list[str]) -> list[str]:
    return [f"{number + 1},{row}" for number, row in enumerate(rows)]


def swapped(rows: list[str], separator: str) -> tuple[str, list[str]]:
    return HEADER.replace(",", separator), [row.replace(",", separator) for row in rows]


def quoted(row: str) -> str:
    return ", ".join(f'"{value}"' for value in row.split(","))


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda rows: (HEADER, rows), id="plain"),
        pytest.param(lambda rows: (HEADER, [f"{row}," for row in rows]), id="separator after rows"),
        pytest.param(lambda rows: (f"{HEADER},", [f"{row}," for row in rows]), id="separator after lines"),
        pytest.param(lambda rows: (HEADER, [f"{row}, " for row in rows]), id="a blank after the last separator"),
        pytest.param(lambda rows: (HEADER, numbered(rows)), id="R's row numbers"),
        pytest.param(lambda rows: (HEADER, [f'"r{n}",{row}' for n, row in enumerate(rows)]), id="R's row names"),
        pytest.param(lambda rows: (f",{HEADER}", numbered(rows)), id="pandas' row numbers"),
        pytest.param(lambda rows: ("x, z, site, sex, y", [row.replace(",", ", ") for row in rows]), id="blanks after"),
        pytest.param(lambda rows: (" x ,z ,site , sex,y ", [row.replace(",", " , ") for row in rows]), id="around"),
        pytest.param(lambda rows: ('"x", "z", "site", "sex", "y"', [quoted(row) for row in rows]), id="before quotes"),
        pytest.param(lambda rows: swapped(rows, "|"), id="bars"),
        pytest.param(lambda rows: swapped(rows, " "), id="blanks only"),
        pytest.param(lambda rows: swapped(rows, "\t"), id="tabs"),
        pytest.param(lambda rows: swapped(rows, ";"), id="semicolons and decimal points"),
    ],
)  # fmt: skip
def test_every_clear_layout_is_the_same_table(tmp_path: Path, frame: pd.DataFrame, lines: list[str], layout) -> None:
    is_the_table(read(tmp_path / "t.csv", *layout(lines)), frame)


@pytest.mark.parametrize(
    ("change", "row", "fields"),
    [
        pytest.param(lambda rows: [f"{row},7" for row in rows], 1, 6, id="fractions cannot be names"),
        pytest.param(lambda rows: [f"a,{row}" for row in rows], 1, 6, id="names that repeat"),
        pytest.param(lambda rows: [*rows[:5], f"n,{rows[5]}", *rows[6:]], 6, 6, id="one row longer"),
        pytest.param(lambda rows: [f"{row},,7" for row in rows], 1, 7, id="two fields more"),
    ],
)
def test_rows_that_do_not_fit_their_header_are_refused(
    tmp_path: Path, lines: list[str], change, row: int, fields: int
) -> None:
    with pytest.raises(TableError, match=f"Row {row} has {fields} fields, the header names 5"):
        read(tmp_path / "t.csv", HEADER, change(lines))


def test_a_row_far_down_that_is_longer_is_refused_too(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(TableError, match="could not be read"):
        read(tmp_path / "t.csv", HEADER, lines * 20 + [f"n,{lines[0]}"])


def test_an_empty_first_line_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(TableError, match="its first line should name the columns"):
        read(tmp_path / "t.csv", "", lines)


def test_a_frame_is_left_as_it_was(frame: pd.DataFrame) -> None:
    from settx_fast.predictor.table import table_from_frame

    mine = frame.rename(columns={"x": 1, "z": " z "})
    assert table_from_frame(mine, target="y", environment=" site").feature_names == ("1", "z", "sex=m")
    assert list(mine.columns) == [1, " z ", "site", "sex", "y"]
