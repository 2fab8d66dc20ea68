"""Options: `--native FILE` tests another build of the native module, `--hypothesis-profile thorough` 10,000 cases."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from hypothesis import settings

settings.register_profile("thorough", max_examples=10_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--native", metavar="FILE", help="the build of settx_fast._native to test")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--native")
    if path is None:
        return
    spec = importlib.util.spec_from_file_location("settx_fast._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["settx_fast._native"] = module
