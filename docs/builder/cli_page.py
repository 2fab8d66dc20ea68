"""The command line's reference, as Typer writes it."""

from __future__ import annotations

import html
import re
import subprocess
import sys


def page() -> str:
    """Every command with its arguments and options."""
    command = [sys.executable, "-m", "typer", "settx_fast.cli", "utils", "docs", "--name", "settx-fast"]
    written = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    for entity in ("&gt;", "&#x27;", "&quot;"):  # of no use in Markdown, and shown as they are in code
        written = written.replace(entity, html.unescape(entity))
    written = written.replace("# `settx-fast`\n", f"# Command line\n\n{HEAD}", 1)
    return SUMMARY.sub(lambda cut: f"* `{cut[1]}`: {_first_sentence(written, cut[1])}", written)


def _first_sentence(written: str, command: str) -> str:
    """That of the command's own section: in the list of commands Typer cuts it."""
    section = written.partition(f"`settx-fast {command}`\n\n")[2] or written.partition(f" {command}`\n\n")[2]
    return section.partition("\n\n")[0].replace("\n", " ")


SUMMARY = re.compile(r"^\* `(\w+)`: .*\.\.\.$", re.MULTILINE)


HEAD = """`settx-fast`, or `python -m settx_fast.cli` where the script is not on the path. Exit codes: 0 fine, 1
something failed that you can act on, 2 the input or the usage is wrong. An error is one sentence on stderr;
`--traceback` before the command shows where it came from.

"""
