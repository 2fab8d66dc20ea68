"""Tutorials as pages: the notebooks that were executed, with their outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter


def pages(folder: Path) -> dict[str, str | bytes]:
    """Pages and figures by their place in the site."""
    result: dict[str, str | bytes] = {}
    for notebook in sorted(folder.glob("*.ipynb")):
        text, figures = page(notebook)
        result[f"tutorials/{notebook.stem}.md"] = text
        result |= {f"tutorials/{name}": figure for name, figure in figures.items()}
    return result


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown, and its figures by name."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_figures"}
    text, made = MarkdownExporter().from_notebook_node(notebook, resources)
    text = re.sub(r"<style scoped>.*?</style>\s*", "", text, flags=re.DOTALL)
    return text.replace("![png]", f"![A figure of {path.stem}]"), made["outputs"]
