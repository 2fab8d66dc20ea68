"""The suite: what is wrong is not timed, what is missing is said, and figures follow from the samples."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import attention, blocks, gpu, readings, run, suite
from benchmarks.blocks import Problem, Way
from benchmarks.machine import Machine
from benchmarks.suite import Contestant, Field, Setting, Subject
from settx_fast.testing import Shape, make_inputs

CPU = torch.device("cpu")
SETTING = Setting(CPU, torch.float32, Machine("a machine", 1e9, 1e9), quick=True, budget=0.0)
SMALL = Shape(2, 30, 16, 16, 2, 3)


def clock(*seconds: float) -> Callable[[], float]:
    turns: Iterator[float] = itertools.cycle(seconds)
    return lambda: next(turns)


def measured(unit: str, found: Field) -> dict[str, readings.Reading]:
    subject = Subject("s", "title", unit, lambda s: ("shape",), lambda s, name: found)
    return {r.provider: r for r in suite.measure(subject, "shape", found, SETTING)}


def contestant(name: str, units: float, *seconds: float) -> Contestant:
    return Contestant(name, lambda: None, units, seconds=clock(*seconds))


def test_quartiles_ratios_and_floors_follow_from_the_samples() -> None:
    rows = [contestant("original", 1, 0.2, 0.4, 0.6), contestant("settx_fast", 1, 0.1, 0.1, 0.1)]
    found = measured("ms", Field(rows, moved=5e7, flop=1e6))
    assert (found["original"].q1, found["original"].median, found["original"].q3) == pytest.approx((300, 400, 500))
    assert found["settx_fast"].ratio == pytest.approx(4)
    assert found["settx_fast"].floor == pytest.approx(50)
    assert found["settx_fast"].fraction == pytest.approx(0.5)


def test_a_rate_counts_units_and_its_floor_is_the_limits_rate() -> None:
    rows = [contestant("numpy", 1e6, 1.0), contestant("settx_fast", 4e6, 1.0), contestant("limit", 8e6, 1.0)]
    found = measured("Mvalues/s", Field(rows, limit="limit"))
    assert found["settx_fast"].median == pytest.approx(4)
    assert found["settx_fast"].ratio == pytest.approx(4)
    assert found["settx_fast"].floor == pytest.approx(8)
    assert found["settx_fast"].fraction == pytest.approx(0.5)


def test_a_provider_with_wrong_numbers_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(p: Problem) -> Way:
        way = blocks._sdpa(p)
        return Way(lambda: way.forward() * 1.01, way.leaves)

    monkeypatch.setitem(blocks.PROVIDERS, "SDPA", wrong)
    for training in (False, True):
        problem = Problem("isab", make_inputs(SMALL), training)
        found = attention._fill(Field(), ["original", "SDPA", "settx_fast"], problem)
        assert list(found.wrong) == ["SDPA"]
        assert [c.name for c in found.contestants] == ["original", "settx_fast"]


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            return 2 * grad

    def wrong(p: Problem) -> Way:
        way = blocks._sdpa(p)
        return Way(lambda: Twice.apply(way.forward()), way.leaves)

    monkeypatch.setitem(blocks.PROVIDERS, "SDPA", wrong)
    found = attention._fill(Field(), ["SDPA"], Problem("isab", make_inputs(SMALL), True))
    assert "gradient of" in found.wrong["SDPA"]


@pytest.mark.parametrize("kind", ["isab", "mab", "sab", "pma"])
def test_every_kind_of_layer_agrees_with_the_original(kind: str) -> None:
    problem = Problem(kind, make_inputs(SMALL), True)
    found = attention._fill(Field(), ["original", "SDPA", "settx_fast"], problem)
    assert not found.wrong
    assert [c.name for c in found.contestants] == ["original", "SDPA", "settx_fast"]


def test_a_package_that_is_not_there_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch_geometric", "tabicl", "bayesflow"):
        monkeypatch.setitem(sys.modules, name, None)
    found = attention._fill(Field(), ["PyG", "TabICL", "BayesFlow"], Problem("isab", make_inputs(SMALL), False))
    assert not found.contestants
    assert all("cannot be imported here" in why for why in found.absent.values())
    assert torch.is_grad_enabled()


def test_a_run_writes_readings_and_does_not_measure_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.machine, "measure", lambda *_: SETTING.limits)
    monkeypatch.setattr(readings, "commit", lambda: "0123456")
    monkeypatch.setattr(suite, "commit", readings.commit)
    out = tmp_path / "m.csv"
    command = ["run", "--quick", "--eager", "--seconds", "0", "--only", "mab-training", "--out", str(out), "--resume"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(attention, "shapes_of", lambda on_cuda: {"dataset": SMALL})
    run.main()
    found = {r.provider: r for r in readings.load(out) if r.subject == "mab-training"}
    assert {"original", "SDPA", "settx_fast"} <= set(found)
    assert found["settx_fast"].fraction > 0
    assert found["settx_fast"].memory >= 0
    monkeypatch.setattr(run, "_measure", lambda *_: pytest.fail("measured again"))
    run.main()


def test_an_unknown_subject_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--only", "isaab"])
    with pytest.raises(SystemExit):
        run.main()
    assert "expected one of isab-forward" in capsys.readouterr().err


def test_every_subject_has_a_quick_shape_and_a_title_in_the_pages() -> None:
    from benchmarks.pages import TITLES

    assert set(TITLES) == set(run.SUBJECTS)
    for subject in run.SUBJECTS.values():
        assert subject.chosen(SETTING), subject.name


def test_make_gpu_names_what_is_slower_than_a_peer_and_far_from_its_floor(tmp_path: Path) -> None:
    key = ("isab-training", "tabular")
    kind = ("bfloat16", "wall", "ms", 1.0, 1.0, 1.0, 3)
    base = readings.Reading(*key, "FlexAttention", *kind, ratio=3.0)
    ours = readings.Reading(*key, "settx_fast", *kind, ratio=2.0, fraction=0.05)
    readings.upsert(tmp_path / "readings.csv", [base, ours])
    said = [what for _, _, what in gpu.findings(tmp_path / "readings.csv")]
    assert said == ["1.50 × slower than FlexAttention", "5% of its floor, 30% wanted"]


def test_make_gpu_does_not_repeat_what_passed(tmp_path: Path) -> None:
    stage = gpu.Stage("a stage", ((sys.executable, "-c", "print('done')"),), 60)
    assert gpu.attempt(stage, 60, set(), tmp_path, dry=False) == "passed"
    assert "done" in (tmp_path / "a-stage-0.log").read_text()
    assert gpu.attempt(stage, 60, set(), tmp_path, dry=False) == "passed before"
    failing = gpu.Stage("another", ((sys.executable, "-c", "raise SystemExit(3)"),), 60)
    assert gpu.attempt(failing, 60, set(), tmp_path, dry=False) == "ended with exit code 3"
    slow = gpu.Stage("a third", ((sys.executable, "-c", "import time; time.sleep(60)"),), 0.5)
    assert gpu.attempt(slow, 60, set(), tmp_path, dry=False) == "ran past its 0 seconds"
