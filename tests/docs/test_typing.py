"""The package is typed: a user's file is checked against it as installed."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest


@pytest.mark.timeout(600)  # where mypy has nothing cached it reads all of torch
def test_a_users_file_type_checks_in_strict_mode() -> None:
    program = Path("tests/docs/user.py")
    strict = ["--config-file", "", "--strict", "--ignore-missing-imports", "--follow-imports", "silent"]
    command = [sys.executable, "-m", "mypy", *strict, str(program)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert files("settx_fast").joinpath("py.typed").is_file()
