"""Options: `--native FILE` tests another build of the native module, `--hypothesis-profile thorough` 10,000 cases.

`--shard 2/8` runs every eighth test from the third on: `make gpu` needs no plugin to use all cores.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # the kernels' tests need it, before any other test has triton loaded

if importlib.util.find_spec("hypothesis") is not None:  # a bare environment tests what does not need it
    from hypothesis import settings

    settings.register_profile("thorough", max_examples=10_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--native", metavar="FILE", help="the build of settx_fast._native to test")
    parser.addoption("--shard", metavar="I/N", default="0/1", help="of N equal parts of the tests, number I from 0 on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, shards = map(int, config.getoption("--shard").split("/"))
    items[:] = items[number::shards]


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
