"""What reaches the driver: the same bytes by the native launcher, by Triton's own and by the launch code."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
OTHER_TRITON = ROOT / "build" / "triton-3.6"
"""pip install --no-deps --target build/triton-3.6 triton==3.6.0"""

native = pytest.mark.skipif(find_spec("settx_fast._native") is None, reason="the native module is not built")


def run(script: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """A script of this folder in a process without the interpreter of kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*paths, ROOT)))
    command = [sys.executable, str(Path(__file__).with_name(script))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@native
@pytest.mark.skipif(torch.cuda.is_available(), reason="a driver of no-ops stands for the real one")
@pytest.mark.parametrize("version", ["installed", "3.6"])
def test_all_ways_to_launch_hand_the_driver_the_same_bytes(version: str) -> None:
    if version == "3.6" and not OTHER_TRITON.exists():
        pytest.skip(f"{OTHER_TRITON} is not there")
    done = run("driver_calls.py", *([OTHER_TRITON] if version == "3.6" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "launches alike" in done.stdout


@native
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_without_a_driver_a_plan_says_so() -> None:
    from settx_fast import _native

    with pytest.raises(RuntimeError, match="no CUDA driver"):
        _native.LaunchPlan(0, 0, [])
