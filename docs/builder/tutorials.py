"""`python -m builder.tutorials [NAME …]`, with docs on the path: execute tutorials and write their notebooks.

A tutorial is a script in jupytext's percent format; the notebook beside it has the same cells and their outputs.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorials"
CLIENTS = Path(__file__).parents[2] / "build" / "clients"  # packages that a tutorial imports: `make build/clients`
TORCH_LOG = re.compile(r"W\d{4} [\d:.]+ \d+ torch/fx/")  # of how torch traces itself, with the time of day
LONGEST = 3600  # seconds that a cell may take at full size on a busy machine


def main() -> None:
    """The tutorials that are named, or all."""
    scripts = [FOLDER / f"{name}.py" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.py"))
    for script in scripts:
        print(script.stem, flush=True)
        nbformat.write(executed(script), script.with_suffix(".ipynb"))


def executed(script: Path) -> nbformat.NotebookNode:
    """The notebook of a script with its outputs; raises CellExecutionError where a cell does."""
    notebook = jupytext.read(script)
    # nothing empty: it would be the directory at hand
    paths = os.pathsep.join(filter(None, [str(CLIENTS), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths}
    client = NotebookClient(
        notebook, timeout=LONGEST, kernel_name="python3", record_timing=False, coalesce_streams=True
    )
    client.execute(env=environment)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # not drawn anew by every execution
        if "outputs" in cell:
            cell.outputs = [each for each in cell.outputs if not TORCH_LOG.match(each.get("text", ""))]
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    return notebook


KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}

if __name__ == "__main__":
    main()
