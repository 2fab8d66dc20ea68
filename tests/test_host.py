"""Host time of a call, by `benchmarks.host`: gross regressions only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="a driver of no-ops stands for the real one")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_call_takes_less_of_the_host_than_the_originals_eager_operations(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.host", "--shape", "dataset", "--json", str(tmp_path / "host.json")]
    subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], check=True, timeout=280)
    (figures,) = json.loads((tmp_path / "host.json").read_text()).values()
    assert figures["forward_us"] < figures["eager_forward_us"]
    assert figures["step_us"] < figures["eager_step_us"]
    assert 0 < figures["backward_launches"] <= 24
