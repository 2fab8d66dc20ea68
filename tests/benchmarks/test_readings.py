"""The CSV of readings, and that README, docs/performance.md and the figures show what it holds."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest

from benchmarks import figures, pages, plot, readings
from benchmarks.readings import Reading, Readings

READING = Reading("isab-forward", "hidden", "original", "float32", "wall", "ms", 1.0, 2.0, 3.0, 5, ratio=1.0)


def test_a_reading_comes_back_as_it_was_written(tmp_path: Path) -> None:
    readings.upsert(tmp_path / "m.csv", [READING])
    (found,) = readings.load(tmp_path / "m.csv")
    assert isnan(found.memory)
    assert replace(found, **dict.fromkeys(("memory", "floor", "fraction", "bytes", "flop"), 0.0)) == replace(
        READING, **dict.fromkeys(("memory", "floor", "fraction", "bytes", "flop"), 0.0)
    )


@pytest.mark.parametrize("field", readings.KEY)
def test_a_newer_reading_replaces_only_that_of_its_own_key(tmp_path: Path, field: str) -> None:
    other = replace(READING, **{field: "another"})
    readings.upsert(tmp_path / "m.csv", [READING, other])
    readings.upsert(tmp_path / "m.csv", [replace(READING, median=9.0)])
    assert [r.median for r in readings.load(tmp_path / "m.csv")] == [9.0, 2.0]


def test_a_run_killed_while_it_writes_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings.upsert(tmp_path / "m.csv", [READING])
    monkeypatch.setattr(readings.os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        readings.upsert(tmp_path / "m.csv", [replace(READING, shape="large")])
    assert [r.shape for r in readings.load(tmp_path / "m.csv")] == ["hidden"]


@pytest.mark.parametrize("path", [plot.README, plot.PAGE], ids=lambda path: path.name)
def test_pages_hold_what_the_readings_say(path: Path) -> None:
    assert path.read_text() == dict(plot.written())[path], "python -m benchmarks.plot writes it anew"


@pytest.mark.parametrize("theme", [figures.LIGHT, figures.DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", figures.FIGURES)
def test_figures_are_drawn_from_the_readings(name: str, theme: figures.Theme) -> None:
    text = (plot.IMAGES / f"{name}-{theme.name}.svg").read_text()
    assert figures.fingerprint(readings.machines()) in text, "python -m benchmarks.plot draws it anew"


def test_the_best_peer_is_the_fastest_of_others() -> None:
    rows = [replace(READING, provider=p, ratio=r) for p, r in (("original", 1.0), ("SDPA", 2.0), ("settx_fast", 3.0))]
    best = pages.best_peer(Readings("m", rows), "isab-forward", "hidden")
    assert best is not None
    assert best.provider == "SDPA"


def test_a_crossing_is_where_the_curves_meet() -> None:
    ours, other = ((100, 1000, 10_000), (2.0, 2.0, 2.0)), ((100, 1000, 10_000), (0.2, 2.0, 20.0))
    assert figures._crossing(ours, other) == "from N ≈ 1,000 on"
    assert figures._crossing(ours, ((100, 1000), (3.0, 3.0))) == "at every size"
    assert figures._crossing(ours, ((100, 1000), (1.0, 1.0))) == "not at the largest size"


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected <!-- written by"):
        pages.replaced("no marks", "text")
