"""The package is typed: a user's file is checked against it as installed."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from builder import public

STRICT = """
disallow_any_generics = true
disallow_incomplete_defs = true
disallow_subclassing_any = true
disallow_untyped_calls = true
disallow_untyped_decorators = true
extra_checks = true
implicit_reexport = false
strict_equality = true
warn_return_any = true
"""
"""What mypy's strict mode adds to the settings of this repository."""


@pytest.mark.timeout(600)  # where mypy has nothing cached it reads all of torch
def test_a_users_file_type_checks_in_strict_mode(tmp_path: Path) -> None:
    """With the repository's settings for all that the user does not see: so `make lint` has filled the cache."""
    settings = re.search(r"^\[tool\.mypy\].*?(?=^\[tool\.(?!mypy))", Path("pyproject.toml").read_text(), re.M | re.S)
    assert settings is not None
    user = f'[[tool.mypy.overrides]]\nmodule = "user"\n{STRICT}'
    exports = f"[[tool.mypy.overrides]]\nmodule = {list(public.MODULES)}\nimplicit_reexport = false\n"
    configuration = tmp_path / "pyproject.toml"
    configuration.write_text(settings[0] + user + exports)
    command = [sys.executable, "-m", "mypy", "--config-file", str(configuration), "tests/docs/user.py"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert files("settx_fast").joinpath("py.typed").is_file()
