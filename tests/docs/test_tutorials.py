"""Tutorials run from their first cell to the last, and the notebooks beside them are theirs."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
import pytest
from builder.tutorials import CLIENTS, FOLDER, executed

SCRIPTS = sorted(FOLDER.glob("*.py"))
NEEDS_CLIENTS = ("faster_tabular",)


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def script(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.mark.timeout(600)
def test_a_tutorial_runs_in_small_settings(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if script.stem in NEEDS_CLIENTS and not CLIENTS.is_dir():
        pytest.skip("TabICL and PyG are not in build/clients: make build/clients")
    monkeypatch.setenv("SETTX_SMALL", "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # the tests' own setting
    notebook = executed(script)
    streams = [out for cell in notebook.cells for out in cell.get("outputs", ()) if out.output_type == "stream"]
    assert [out.text for out in streams if out.name == "stderr"] == []
    assert streams[0].text.startswith("GPU: ")
    assert len(streams[0].text.split("\n\n")[0].strip().splitlines()) == 3


def test_a_notebook_has_the_cells_of_its_script_and_outputs_of_an_execution(script: Path) -> None:
    notebook, cells = nbformat.read(script.with_suffix(".ipynb"), as_version=4), jupytext.read(script).cells
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(c.cell_type, c.source) for c in cells]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        out for cell in code for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"
    ]


def test_a_notebook_was_executed_at_full_size(script: Path) -> None:
    figures = sum(
        "image/png" in out.get("data", {})
        for cell in nbformat.read(script.with_suffix(".ipynb"), as_version=4).cells
        for out in cell.get("outputs", ())
    )
    assert figures == script.read_text(encoding="utf-8").count("plt.show()")


def test_a_tutorial_that_fails_is_seen(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("# %%\n1 / 0\n")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        executed(broken)
