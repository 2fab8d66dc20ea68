"""Every block of code of README and docs runs as it stands: Python, YAML, and what is typed into a shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from builder import prior_page
from typer.testing import CliRunner

from settx_fast import scm
from settx_fast.cli import app

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("clients.md",)  # by tests/compat, in whose process the packages are that it needs
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASING.md")), *(ROOT / "docs").rglob("*.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE = [page for page in sorted(PAGES) if page.name not in ELSEWHERE]
BLOCKS = [(page, *block) for page in HERE for block in FENCE.findall(page.read_text("utf-8"))]
SHELL = ("", "bash", "console")

GIVEN = """
import numpy as np
import pandas as pd
import torch

x, lengths = torch.randn(2, 10, 128), torch.tensor([3, 10])
draw = np.random.default_rng(0)
site = np.repeat(["north", "south"], 100)
X, X_new = draw.normal(size=(200, 3)), draw.normal(size=(50, 3))
y = X[:, 0] + 0.1 * draw.normal(size=200)
frame = pd.read_csv("penguins.csv")
"""
"""What a reader has: a tensor of sets, an array of rows from several sites, the penguins in the folder."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it who downloaded the penguins."""
    folder = tmp_path_factory.mktemp("reader")
    package = find_spec("palmerpenguins")
    assert package is not None
    assert package.submodule_search_locations is not None
    shutil.copy(Path(package.submodule_search_locations[0]) / "data" / "penguins.csv", folder)
    return folder


def run_app(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"settx-fast {shlex.join(arguments)}: {result.output}{result.stderr}"


def test_there_are_blocks_of_every_kind() -> None:
    assert {page.name for page, kind, _ in BLOCKS if kind == "python"} >= {"README.md", "index.md"}
    assert sum(kind in SHELL for _, kind, _ in BLOCKS) > 5
    assert {kind for _, kind, _ in BLOCKS} <= {"python", *SHELL}, "a block that no test would run"


@pytest.mark.parametrize("page", sorted({page for page, kind, _ in BLOCKS if kind == "python"}), ids=lambda p: p.name)
def test_python_of_a_page_runs_from_top_to_bottom(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(GIVEN, names)
    for where, kind, text in BLOCKS:
        if where == page and kind == "python":
            exec(compile(text, str(page.relative_to(ROOT)), "exec"), names)


def test_yaml_of_the_prior_page_is_a_prior() -> None:
    blocks = [text for kind, text in FENCE.findall(prior_page.page()) if kind == "yaml"]
    assert len(blocks) == 1
    prior = scm.Prior.from_yaml(blocks[0])
    assert prior.num_variables == (5, 20)
    assert scm.sample(prior, 2, 10, seed=0).values.isfinite().all()


def commands(text: str) -> list[list[str]]:
    """The words of every line that is typed, comments and settings of the environment left out."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [[w for w in line if not re.fullmatch(r"[A-Z_]+=\S*", w)] for line in words if line]


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, command) for page, kind, text in BLOCKS if kind in SHELL for command in commands(text)],
    ids=lambda value: value.name if isinstance(value, Path) else shlex.join(value),
)
def test_what_is_typed_into_a_shell_is_there(
    page: Path, command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = re.sub(r"^python[\d.]+$", "python", Path(command[0]).name)
    CHECKS.get(program, on_the_path)(command, folder, monkeypatch)


def settx_fast(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself is run."""
    monkeypatch.chdir(folder)
    run_app(command[1:])


def make(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target exists, and so does what it needs."""
    result = subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def pip(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extras exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"\[([\w,]+)\]", " ".join(command))
    assert {extra for group in asked for extra in group.split(",")} <= extras.keys()


def python(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module or the script exists."""
    if command[1] == "-m":
        spec = find_spec(command[2])
        assert spec is not None
        assert spec.origin is not None, f"{command[2]} is a folder, not a module"
    elif not command[1].startswith("-"):
        assert (ROOT / command[1]).exists()


def on_the_path(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program exists."""
    beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    there = (ROOT / command[0]).exists() or shutil.which(command[0], path=beside_python)
    assert there, f"there is no {command[0]}"


Check = Callable[[list[str], Path, pytest.MonkeyPatch], None]
CHECKS: dict[str, Check] = {"settx-fast": settx_fast, "make": make, "pip": pip, "python": python}
