"""`settx-fast prior`."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from command import run, sentence

from settx_fast import scm
from settx_fast.predictor import training

PRESETS = ["chain", "lucas", "random", "random_linear", "recurring", "recurring_linear"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_shown_as_yaml_that_reads_back(preset: str) -> None:
    shown = run("prior", "show", preset)
    assert shown.exit_code == 0
    assert scm.Prior.from_yaml(shown.stdout) == getattr(scm.presets, preset)()


def test_every_field_has_its_meaning_above_it() -> None:
    lines = run("prior", "show", "chain").stdout.splitlines()
    for field in fields(scm.Prior):
        place = next(index for index, line in enumerate(lines) if line.startswith(f"{field.name}:"))
        assert lines[place - 1].startswith("# "), field.name


def test_what_is_printed_as_a_remedy_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(training, "train", lambda config, out, **_: calls.append((config, out)))
    shown = run("prior", "show", "random_linear").stdout
    (tmp_path / "my.yaml").write_text(shown.replace("source_environments:\n- 2\n- 4", "source_environments: [2, 20]"))
    assert run("train", tmp_path / "my.yaml", "--out", tmp_path / "my_model").exit_code == 0
    ((config, out),) = calls
    assert config.prior.source_environments == (2, 20)
    assert (config.name, out) == ("my", tmp_path / "my_model")


def test_an_unknown_key_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    shown = run("prior", "show", "random_linear").stdout
    (tmp_path / "my.yaml").write_text(shown.replace("noise_scale:", "noise_scales:"))
    result = run("prior", "show", tmp_path / "my.yaml")
    assert result.exit_code == 2
    assert "['noise_scales'] (did you mean 'noise_scale'?)" in sentence(result)
    (tmp_path / "my.yaml").write_text(shown.replace("type: LogUniform", "type: Loguniform"))
    assert "got 'Loguniform' (did you mean 'LogUniform'?)" in sentence(run("prior", "show", tmp_path / "my.yaml"))


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    result = run("prior", "show", "nope")
    assert result.exit_code == 2
    assert f"expected {', '.join(PRESETS)} or a file" in sentence(result)
