"""The site builds strictly, and what is broken stops it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from builder import cli_page, repository
from builder.__main__ import write
from builder.docstrings import with_tables
from builder.prior_page import type_in_yaml

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "mkdocs.yml").read_text("utf-8")


def build(folder: Path, configuration: str = CONFIGURATION) -> subprocess.CompletedProcess[str]:
    """Build the pages in a folder, as `make docs` builds those of the repository."""
    text = configuration.replace("_dir: build/", "_dir: ")
    text = text.replace("paths: [.]", f"paths: [{ROOT}]").replace("[docs/builder", f"[{ROOT}/docs/builder")
    (folder / "mkdocs.yml").write_text(text, "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(folder / "mkdocs.yml")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all pages."""
    folder = tmp_path_factory.mktemp("site")
    write(folder / "pages")
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Path:
    """The site of these pages."""
    result = build(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "site"


@pytest.mark.timeout(600)
def test_the_site_builds(site: Path) -> None:
    reference = (site / "reference" / "attention.html").read_text("utf-8")
    assert "induced_set_attention" in reference
    assert "Source code in" in reference


def test_pages_load_nothing_from_the_network(site: Path) -> None:
    loaded = re.compile(r"""<(script|img|iframe|link)\b[^>]*\s(src|href)=["']?(https?:)?//[^>]*>""")
    pages = [*site.rglob("*.html")]
    assert len(pages) > 20
    assert {page.name: found[0] for page in pages if (found := loaded.search(page.read_text("utf-8")))} == {}


def test_every_page_is_in_the_navigation(folder: Path) -> None:
    navigation = CONFIGURATION.partition("\nnav:\n")[2]
    pages = [str(path.relative_to(folder / "pages")) for path in folder.glob("pages/**/*.md")]
    assert len(pages) > 20
    assert [page for page in pages if f" {page}\n" not in f"{navigation}\n"] == []


@pytest.mark.parametrize(
    ("line", "stops"),
    [("[public](index.md)", False), ("[lost](nowhere.md)", True), ("::: no_such_module.name", True)],
)
def test_a_broken_link_or_name_stops_a_build(line: str, stops: bool, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text(f"# A page\n\n{line}\n", "utf-8")
    assert (build(tmp_path, CONFIGURATION.partition("\nnav:\n")[0]).returncode != 0) is stops


def test_a_list_in_columns_becomes_a_table_and_prose_stays() -> None:
    text = (
        "First.\n\nvalues  (B, R)  float32  the rows,\n          all of them\na, b    two\n\nraises: ValueError, always"
    )
    assert with_tables(text).splitlines() == [
        "First.", "", "", "| | |", "|---|---|", "| `values` | (B, R) · float32 · the rows, all of them |",
        "| `a`, `b` | two |", "", "", "raises: ValueError, always",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ("int | tuple[int, int] | LogUniform", "whole number or `[low, high]` or LogUniform"),
        ("Mechanism | tuple[Mechanism, ...]", "mechanism or list of mechanism"),
        ("Literal['out', 'in']", "`out` or `in`"),
        ("Parameter | None", "number, `[low, high]` or distribution or `null`"),
    ],
)
def test_an_annotation_is_said_in_the_words_of_yaml(annotation: str, said: str) -> None:
    assert type_in_yaml(annotation) == said


def test_a_link_to_a_file_leads_to_its_page_and_a_lost_one_is_found(tmp_path: Path) -> None:
    for name in ("CHANGELOG.md", "csrc/a.h", "docs/e.md", "docs/tutorials/f.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def linked(text: str, source: str, page: str) -> str:
        return repository.with_links(tmp_path, text, source, page)

    text = "[a](CHANGELOG.md#x) [b](csrc/a.h) [c](https://c.org) [d](docs/e.md) [f](docs/tutorials/f.ipynb)"
    assert linked(text, "DESIGN.md", "design.md") == (
        "[a](changelog.md#x) b (`csrc/a.h`) [c](https://c.org) [d](e.md) [f](tutorials/f.md)"
    )
    text = "[a](../../CHANGELOG.md) [d](../e.md) [f](f.ipynb) [g](../reference/cli.md)"
    assert linked(text, "docs/tutorials/g.ipynb", "tutorials/g.md") == (
        "[a](../changelog.md) [d](../e.md) [f](f.md) [g](../reference/cli.md)"
    )
    with pytest.raises(FileNotFoundError, match=r"the link to gone.md leads nowhere"):
        linked("[a](gone.md)", "DESIGN.md", "design.md")


def test_the_list_of_commands_says_whole_sentences_and_code_has_no_entities() -> None:
    text = cli_page.page()
    commands = text.partition("**Commands**:\n\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) > 8
    assert [line for line in commands if not re.fullmatch(r"\* `\w+`: [A-Z].*[^.]\.", line)] == []
    assert "prior show random_linear > my.yaml" in text
    assert re.findall(r"&[#\w]+;", text) == []


def test_numbers_of_a_table_keep_to_a_line_and_words_may_break(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("| of the best | 23.0 ± 4.8 % | 1.1 (1 ×) |\n| a | 2 | – |\n", "utf-8")
    for document in repository.DOCUMENTS.values():
        (tmp_path / document).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / document).touch()
    no_break = "\N{NO-BREAK SPACE}"
    numbers = f"23.0{no_break}±{no_break}4.8{no_break}%"
    assert (
        repository.pages(tmp_path)["a.md"]
        == f"| of the best | {numbers} | 1.1{no_break}(1{no_break}×) |\n| a | 2 | – |\n"
    )


def test_a_figure_in_two_colours_follows_the_switch_of_the_site() -> None:
    text = repository.pages(ROOT)["performance.md"]
    assert "<picture>" not in text
    assert text.count("-light.svg#only-light") == text.count("-dark.svg#only-dark") == 4
