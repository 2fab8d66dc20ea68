"""Output on terminals and in files that cannot show every letter."""

from __future__ import annotations

import codecs
import sys

_PLAIN = str.maketrans({
    "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "…": "...", "•": "*", "²": "^2", "≤": "<=", "≥": ">=", "×": "x",
    "✓": "ok", "“": '"', "”": '"', "‘": "'", "’": "'", "─": "-", "━": "-", "│": "|", "╭": "+", "╮": "+", "╯": "+",
    "╰": "+", "\u00a0": " ", "\u202f": " ",
})  # fmt: skip


def show_every_letter() -> None:
    """Let stdout and stderr write what their encoding lacks in ASCII: known signs as such, others as escapes."""
    codecs.register_error("settx_fast.ascii", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="settx_fast.ascii")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end].translate(_PLAIN)
    return letters.encode("ascii", "backslashreplace").decode(), error.end
