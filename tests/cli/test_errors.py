"""Exit codes, and errors in one sentence."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from command import run, run_without, sentence

from settx_fast import scm


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("predict",),
        ("predict", "absent.csv", "--target", "y", "--model", "."),
        ("sample", "chain", "--out", "x.parquet", "--num-datasets", "0"),
        ("evaluate", "absent"),
        ("train", "chain"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"--target": "z"}, "There is no target column 'z'; the columns are x, colour, site, y, constant."),
        ({"--environment": "z"}, "There is no environment column 'z'"),
        ({"--deploy": "z"}, "No row has 'z' in the column 'site'; its values are a, b, c."),
        ({"--target": "colour", "--environment": "colour"}, "must be different columns"),
    ],
)
def test_bad_tables_exit_with_2_and_one_sentence(
    table: Path, model: Path, changed: dict[str, str], expected: str
) -> None:
    options = {"--target": "y", "--environment": "site", "--deploy": "c"} | changed
    result = run("predict", table, "--model", model, *(part for option in options.items() for part in option))
    assert result.exit_code == 2
    assert expected in sentence(result)


def test_files_that_are_no_table_exit_with_2(tmp_path: Path, model: Path) -> None:
    for name, expected in (("empty.csv", "could not be read"), ("notes.txt", "expected one of .csv")):
        (tmp_path / name).write_text("")
        result = run("predict", tmp_path / name, "--target", "y", "--environment", "e", "--model", model)
        assert result.exit_code == 2
        assert expected in sentence(result)


def test_a_directory_without_a_model_exits_with_2(table: Path, tmp_path: Path) -> None:
    result = run("predict", table, "--target", "y", "--environment", "site", "--model", tmp_path)
    assert result.exit_code == 2
    assert "no training run" in sentence(result)
    assert run("report", tmp_path).exit_code == 2


def test_a_broken_model_file_is_refused_with_what_to_do(table: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    result = run("predict", table, "--target", "y", "--environment", "site", "--model", tmp_path)
    assert result.exit_code == 2
    assert "train it again" in sentence(result)


def test_traceback_shows_where_an_error_came_from(table: Path, model: Path) -> None:
    result = run("--traceback", "predict", table, "--target", "z", "--model", model)
    assert type(result.exception).__name__ == "TableError"


def test_brackets_in_an_error_are_text(tmp_path: Path) -> None:
    result = run("sample", "[red]", "--out", tmp_path / "x.parquet")
    assert "There is no preset '[red]'" in sentence(result)


def test_help_and_errors_of_usage_need_neither_torch_nor_pandas() -> None:
    hidden = ("torch", "pandas", "pyarrow", "lightning", "matplotlib", "sklearn", "jinja2")
    assert run_without(hidden, "predict", "--help").returncode == 0
    assert run_without(hidden, "nonsense").returncode == 2


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("lightning", ("train", "chain", "--out", "unused")),
        ("safetensors", ("evaluate", ".")),
        ("yaml", ("sample", "prior.yaml", "--out", "unused.parquet")),
    ],
)
def test_a_missing_extra_says_how_to_install_it(
    missing: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(scm.__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prior.yaml").write_text("{}")
    result = run_without((missing,), *command)
    assert result.returncode == 1
    assert "pip install '.[app]'" in sentence(result)


def test_sampling_without_the_native_module_exits_with_1(tmp_path: Path) -> None:
    result = run_without(("settx_fast._native",), "sample", "chain", "--out", str(tmp_path / "x.parquet"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


HOSTILE = ("[/]", "[bold", "a\\[/]", "[red]x[/red]", "\\", ":warning:")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_looks_like_markup_is_text_in_errors_and_answers(
    name: str, table: Path, model: Path, tmp_path: Path
) -> None:
    absent = run("predict", table, "--target", name, "--environment", "site", "--model", model)
    assert absent.exit_code == 2
    assert f"There is no target column '{name}'" in sentence(absent)
    frame = pd.read_csv(table).rename(columns={"y": f"y{name}", "x": f"x{name}", "site": f"site{name}"})
    directory = tmp_path / f"dir{name}"
    shutil.copytree(model, directory)
    frame.to_csv(directory / "t.csv", index=False)
    columns = ("--target", f"y{name}", "--environment", f"site{name}")
    found = run("predict", directory / "t.csv", *columns, "--model", directory)
    assert found.exit_code == 0, found.stderr
    assert f"'y{name}'" in found.stdout
    assert f"x{name}" in found.stdout
    assert f"dir{name}" in "".join(found.stderr.splitlines())
    sampled = run("sample", "chain", "-n", "1", "-r", "9", "--out", directory / "s.parquet")
    assert sampled.exit_code == 0
    assert f"dir{name}" in "".join(sampled.stderr.splitlines())


def test_control_sequences_in_names_do_not_reach_the_terminal(table: Path, model: Path) -> None:
    escape = "\x1b[31m\x07\x9b"
    frame = pd.read_csv(table).rename(columns={"y": f"y{escape}", "x": f"x{escape}"})
    frame.to_csv(table, index=False)
    options = ("--environment", "site", "--model", model, "--no-save")
    found = run("predict", table, "--target", f"y{escape}", *options)
    absent = run("predict", table, "--target", f"z{escape}", *options)
    assert found.exit_code == 0, found.stderr
    assert "y�[31m��" in found.stdout
    assert "z�[31m��" in sentence(absent)
    for text in (found.stdout, found.stderr, absent.stderr):
        assert not set(text) & set(escape) - set("[31m")
