"""`settx-fast doctor`."""

import json

import pytest
from command import run_without
from rich.console import Console

from settx_fast.cli.doctor import Advice, Diagnosis, show


def test_doctor_prints_advice_with_its_brackets(capsys: pytest.CaptureFixture) -> None:
    show(Diagnosis({}, {}, {}, (), (Advice(True, "Do `pip install 'settx_fast[app]'`."),)), Console())
    assert "'settx_fast[app]'" in capsys.readouterr().out


def test_doctor_names_the_path_of_every_operation_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # the tests' own setting
    result = run_without((), "doctor", "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 0
    assert found["healthy"]
    assert found["versions"]["torch"]
    attention = [path for path in found["paths"] if path["operation"].startswith("ISAB") and path["device"] == "cpu"]
    assert {path["path"].split(",")[0] for path in attention} == {"blockwise PyTorch", "library calls"}
    assert all("the kernels need cuda" in path["reason"] for path in attention)
    assert {"operation": "scm.sample", "device": "cpu", "path": "native C++", "reason": None} in found["paths"]


def test_doctor_without_the_native_module_says_how_to_build_it_and_exits_with_1() -> None:
    result = run_without(("settx_fast._native",), "doctor")
    assert result.returncode == 1
    assert result.stderr == ""
    assert "pip install ." in " ".join(result.stdout.split())
