"""`settx-fast` as a user calls it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from settx_fast.cli import app

BLOCKED = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = ["settx-fast", *{arguments!r}]
from settx_fast.cli import main
main()
"""


def run(*arguments: str | Path) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(argument) for argument in arguments])


def run_without(names: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a fresh interpreter that cannot import some modules."""
    code = BLOCKED.format(names=names, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def sentence(result: Any) -> str:
    """What went to stderr, which must be one sentence and no traceback."""
    text = result.stderr.strip()
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1, text
    return text
