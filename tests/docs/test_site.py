"""The site builds strictly, and what is broken stops it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builder import repository
from builder.__main__ import write
from builder.docstrings import with_tables
from builder.prior_page import type_in_yaml

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the pages in a folder, as `make docs` builds those of the repository."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    text = text.replace("_dir: build/", "_dir: ")
    text = text.replace("paths: [.]", f"paths: [{ROOT}]").replace("[docs/builder", f"[{ROOT}/docs/builder")
    (folder / "mkdocs.yml").write_text(text, "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(folder / "mkdocs.yml")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.timeout(600)
def test_the_site_builds_and_a_broken_link_or_name_stops_it(tmp_path: Path) -> None:
    write(tmp_path / "pages")
    result = build(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    reference = (tmp_path / "site" / "reference" / "attention.html").read_text("utf-8")
    assert "induced_set_attention" in reference
    assert "Source code in" in reference
    assert "fonts.googleapis" not in reference
    page = tmp_path / "pages" / "public.md"
    page.write_text(page.read_text("utf-8") + "\n[lost](nowhere.md)\n", "utf-8")
    assert build(tmp_path).returncode != 0


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


def test_a_document_s_links_lead_to_pages_and_a_lost_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "DESIGN.md").write_text("[a](CHANGELOG.md#x) [b](csrc/a.h) [c](https://c.org) [d](docs/e.md)")
    for name in ("CHANGELOG.md", "csrc/a.h", "docs/e.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert repository.with_links(tmp_path, "DESIGN.md", "design.md") == (
        "[a](changelog.md#x) b (`csrc/a.h`) [c](https://c.org) [d](e.md)"
    )
    (tmp_path / "DESIGN.md").write_text("[a](gone.md)")
    with pytest.raises(FileNotFoundError, match=r"the link to gone.md leads nowhere"):
        repository.with_links(tmp_path, "DESIGN.md", "design.md")
