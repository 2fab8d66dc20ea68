"""Tutorials as pages: the notebooks that were executed, with their outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from builder.repository import with_links


def pages(root: Path) -> dict[str, str | bytes]:
    """Pages and figures by their place in the site."""
    result: dict[str, str | bytes] = {}
    for notebook in sorted((root / "docs" / "tutorials").glob("*.ipynb")):
        text, figures = page(root, notebook)
        result[f"tutorials/{notebook.stem}.md"] = text
        result |= {f"tutorials/{name}": figure for name, figure in figures.items()}
    return result


def page(root: Path, path: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown, and its figures by name."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_links(root, cell.source, str(path.relative_to(root)), f"tutorials/{path.stem}.md")
    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_figures"}
    text, made = MarkdownExporter().from_notebook_node(notebook, resources)
    text = re.sub(r"<style scoped>.*?</style>\s*", "", text, flags=re.DOTALL)
    return text.replace("![png]", f"![A figure of {path.stem}]"), made["outputs"]
