"""The table of mistakes that `python -m benchmarks.mutants` plants, and what it makes of the outcomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.mutants import __main__ as run
from benchmarks.mutants.table import Mistake, mistakes


def test_every_mistake_can_be_planted_where_the_table_says() -> None:
    assert [f"{each.holds}: {each.problem()}" for each in mistakes() if each.problem()] == []


def test_there_are_at_least_120_mistakes_over_python_native_code_and_kernels() -> None:
    files = [each.file for each in mistakes()]
    assert len(files) >= 120
    assert sum(name.startswith("csrc/") for name in files) >= 30
    assert sum("attention/triton" in name for name in files) >= 20
    assert len({each.holds for each in mistakes()}) == len(files)


MISTAKE = Mistake("area", "one and one is two", "a.py", "1 + 1", "1 + 2", "tests/test_mutants.py")


def test_a_mistake_is_there_while_it_is_tried_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "TREE", tmp_path)
    (tmp_path / "a.py").write_text("x = 1 + 1\n")
    with pytest.raises(KeyboardInterrupt), run.planted(MISTAKE):  # noqa: PT012
        assert (tmp_path / "a.py").read_text() == "x = 1 + 2\n"
        raise KeyboardInterrupt
    assert (tmp_path / "a.py").read_text() == "x = 1 + 1\n"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"old": "nowhere in this file"}, "holds the old text 0 times"),
        ({"old": "def "}, "times, not once"),
        ({"new": "from __future__"}, "the new text is the old one"),
        ({"file": "absent.py"}, "absent.py is not there"),
        ({"tests": "tests/absent.py -k x"}, "tests/absent.py is not there"),
    ],
)
def test_a_mistake_that_cannot_be_planted_says_why(change: dict[str, str], problem: str) -> None:
    mistake = replace(MISTAKE, file="benchmarks/mutants/table.py", old="from __future__", new="x")
    assert mistake.problem() is None
    assert problem in str(replace(mistake, **change).problem())


@pytest.mark.parametrize(
    ("outcomes", "explained", "code", "said"),
    [
        (["noticed"] * 20, "", 0, "20 of 20 mistakes noticed (100.0%)"),
        (["noticed"] * 19 + ["survived"], "", 1, "NOT EXPLAINED"),
        (["noticed"] * 19 + ["survived"], "it changes nothing", 0, "it changes nothing"),
        (["noticed"] * 18 + ["survived"] * 2, "it changes nothing", 1, "18 of 20 mistakes noticed (90.0%)"),
        (["noticed"] * 19 + ["broken"], "", 1, "fails without a mistake: tests/test_mutants.py"),
    ],
)
def test_too_many_survivors_and_survivors_without_a_reason_are_failures(
    outcomes: list[str], explained: str, code: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    tried = [
        replace(MISTAKE, file="CHANGELOG.md", new=str(number), explained=explained) for number in range(len(outcomes))
    ]
    found = run.Found({each.key: outcome for each, outcome in zip(tried, outcomes, strict=True)})
    assert run.report(tried, found) == code
    assert said in capsys.readouterr().out
