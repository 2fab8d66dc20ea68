"""The mistakes: TOML files beside this one, a table [[mistake]] for each."""

from __future__ import annotations

import hashlib
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
DESCRIBES = ("holds", "file", "old", "new", "tests", "explained")


@dataclass(frozen=True)
class Mistake:
    """`old`, which `file` holds once, replaced by `new`; `tests`, as pytest's arguments, are the nearest.

    holds: what must hold and does not any more. explained: why no test can notice it, for one that none does.
    """

    area: str
    holds: str
    file: str
    old: str
    new: str
    tests: str
    explained: str = ""

    @property
    def is_native(self) -> bool:
        """Whether the native module has to be built again."""
        return self.file.startswith("csrc/")

    @property
    def test_files(self) -> list[str]:
        """The files that `tests` names."""
        return [word.split("::")[0] for word in shlex.split(self.tests) if ".py" in word]

    @cached_property
    def key(self) -> str:
        """Changes when the mistake, what it is made in or its tests change."""
        parts = [self.file, self.old, self.new, self.tests]
        parts += [(ROOT / name).read_text(encoding="utf-8") for name in (self.file, *self.test_files)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def problem(self) -> str | None:
        """Why it cannot be planted, or None."""
        missing = [name for name in (self.file, *self.test_files) if not (ROOT / name).exists()]
        if missing:
            return f"{', '.join(missing)} is not there"
        count = (ROOT / self.file).read_text(encoding="utf-8").count(self.old)
        if count != 1:
            return f"{self.file} holds the old text {count} times, not once: {self.old!r}"
        return "the new text is the old one" if self.old == self.new else None


def mistakes() -> list[Mistake]:
    """All of them; ValueError that names one that is described badly."""
    return list(_read())


def _read() -> Iterator[Mistake]:
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mistake"]:
            if unknown := set(entry) - set(DESCRIBES):
                raise ValueError(f"{path.name}: expected {', '.join(DESCRIBES)}, got {', '.join(unknown)} in {entry}")
            yield Mistake(path.stem, **entry)
