"""The terminal, and what may not reach it: names of columns, files and people's own text can hold anything."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # let text be read in another order than it is
REPLACED = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160), *_DIRECTIONS), "�")  # not tab and new line


class _PlainConsole(Console):
    """Prints no control sequence but those of its own styles."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """A console for a command; foreign text still wants `rich.markup.escape`."""
    return _PlainConsole(stderr=stderr, quiet=quiet, emoji=False)


def printable(text: str) -> str:
    """Text with what would steer a terminal replaced."""
    return text.translate(REPLACED)
