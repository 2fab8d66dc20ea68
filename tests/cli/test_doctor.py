"""`settx-fast doctor`."""

import importlib
import json
import re
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
from command import run, run_without
from rich.console import Console

from settx_fast.cli.doctor import Advice, Diagnosis, Path, show, verdict

doctor = importlib.import_module("settx_fast.cli.doctor")  # the package has a command of that name


def test_doctor_prints_advice_with_its_brackets(capsys: pytest.CaptureFixture) -> None:
    show(Diagnosis({}, {}, {}, (), (Advice(True, "Do `pip install '.[app]'`."),)), Console())
    assert "'.[app]'" in capsys.readouterr().out


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


GPU = {"cuda:0": "NVIDIA T4, capability 7.5, 15 GiB"}
NATIVE = {"found": True, "cuda": True, "cuda_devices": 1}
FUSED = Path("ISAB forward", "cuda", "fused Triton kernels", None)
NOT_FUSED = Path("ISAB forward", "cuda", "library calls", "capability 7.5 is below 8.0")
ON_CPU = Path("ISAB forward", "cpu", "blockwise PyTorch", "the kernels need cuda")


@pytest.mark.parametrize(
    ("path", "attention"),
    [
        (FUSED, "fused Triton kernels"),
        (NOT_FUSED, "library calls (capability 7.5 is below 8.0)"),
    ],
)
def test_the_brief_verdict_is_that_of_the_gpu(path: Path, attention: str) -> None:
    assert verdict(Diagnosis({}, GPU, NATIVE, (ON_CPU, path), ())) == (
        "GPU: NVIDIA T4, capability 7.5, 15 GiB",
        f"set attention: {attention}",
        "sampler: native C++, CUDA; CUDA devices: 1",
    )


def test_the_brief_verdict_without_gpu_and_native_module_says_so() -> None:
    lost = {"found": False, "problem": "no module"}
    assert verdict(Diagnosis({}, {}, lost, (ON_CPU,), ())) == (
        "GPU: none that torch can use",
        "set attention: blockwise PyTorch (the kernels need cuda)",
        "sampler: none (no module)",
    )


def test_doctor_is_brief_where_that_is_asked_for() -> None:
    result = run("doctor", "--brief")
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["GPU", "set attention", "sampler"]


def test_doctor_without_the_native_module_says_how_to_build_it_and_exits_with_1() -> None:
    result = run_without(("settx_fast._native",), "doctor")
    assert result.returncode == 1
    assert result.stderr == ""
    assert "pip install ." in " ".join(result.stdout.split())


def test_doctor_without_an_application_package_says_how_to_install_it_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version_of_others(name: str) -> str:
        if name in ("lightning", "pyyaml"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", version_of_others)
    result = run("doctor")
    assert result.exit_code == 1
    assert "The predictor needs lightning, pyyaml: `pip install '.[app]'`." in result.stdout
    monkeypatch.undo()
    assert run("doctor").exit_code == 0


def test_doctor_looks_for_every_package_of_the_application() -> None:
    extras = [each for each in requires("settx_fast") or () if each.endswith('extra == "app"')]
    wanted = {re.split(r"[<>=!~; ]", each)[0].lower() for each in extras}
    assert wanted
    assert wanted == set(doctor.APP)


def test_doctor_shows_brackets_in_what_it_found(capsys: pytest.CaptureFixture) -> None:
    path = doctor.Path("ISAB [/]", "cpu", "[bold]", "a\\[/]")
    show(Diagnosis({"torch": "[red]1"}, {}, {"problem": "[/]", "found": False}, (path,), ()), Console(width=200))
    shown = capsys.readouterr().out
    for text in ("ISAB [/]", "[bold]", "a\\[/]", "[red]1", "[/]", "no"):
        assert text in shown
