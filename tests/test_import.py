"""Importing the package is light: no kernel compiler, no native module, no application."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("statement", ["import settx_fast", "from settx_fast import ISAB, functional"])
def test_import_loads_neither_triton_nor_native_module_nor_application(statement: str) -> None:
    heavy = (
        "triton",
        "settx_fast._native",
        "settx_fast.scm",
        "settx_fast.attention.triton",
        "settx_fast.predictor",
        "pandas",
    )
    program = f"{statement}; import sys; print(*(m for m in {heavy!r} if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_import_keeps_random_state_and_threads() -> None:
    program = (
        "import torch; torch.manual_seed(0); before = torch.get_rng_state(), torch.get_num_threads();"
        "from settx_fast import SetTransformer;"
        "assert torch.equal(before[0], torch.get_rng_state()) and before[1] == torch.get_num_threads()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_training_step_on_a_cpu_loads_no_compiler() -> None:
    program = (
        "import torch; from settx_fast import ISAB;"
        "ISAB(3, 8, 2, 4)(torch.randn(1, 100_000, 3)).sum().backward();"
        "import sys; print(*(m for m in ('torch._dynamo', 'triton') if m in sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
