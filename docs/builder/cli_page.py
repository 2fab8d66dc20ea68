"""The command line's reference, as Typer writes it."""

from __future__ import annotations

import subprocess
import sys


def page() -> str:
    """Every command with its arguments and options."""
    command = [sys.executable, "-m", "typer", "settx_fast.cli", "utils", "docs", "--name", "settx-fast"]
    written = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    return written.replace("# `settx-fast`\n", f"# Command line\n\n{HEAD}", 1)


HEAD = """`settx-fast`, or `python -m settx_fast.cli` where the script is not on the path. Exit codes: 0 fine, 1
something failed that you can act on, 2 the input or the usage is wrong. An error is one sentence on stderr;
`--traceback` before the command shows where it came from.

"""
