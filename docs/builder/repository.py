"""Documents of the repository as pages of the site, and links that lead somewhere in either."""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCUMENTS = {
    "design.md": "DESIGN.md",
    "contributing.md": "CONTRIBUTING.md",
    "releasing.md": "RELEASING.md",
    "changelog.md": "CHANGELOG.md",
    "model_card.md": "settx_fast/predictor/pretrained/MODEL_CARD.md",
}
GENERATED = ("reference/cli.md", "reference/prior_yaml.md")
PICTURE = re.compile(
    r'<picture><source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">'
    r'<img alt="([^"]+)" src="([^"]+)"></picture>'
)
NUMBERS = re.compile(r"(?<=\|)[\d., ×%±…()–−]+(?=\|)")  # a cell of a table
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


def pages(root: Path) -> dict[str, str | bytes]:
    """Pages by their place in the site: documents, and what is written in docs."""
    written = {str(path.relative_to(root / "docs")): path for path in (root / "docs").rglob("*.md")}
    sources = {page: root / source for page, source in DOCUMENTS.items()} | written
    return {
        page: with_links(root, _for_the_site(path.read_text("utf-8")), str(path.relative_to(root)), page)
        for page, path in sources.items()
    }


def with_links(root: Path, text: str, source: str, page: str) -> str:
    """A text whose links to files lead to their pages; a file that is no page keeps its name, without a link."""
    places = {path: place for place, path in DOCUMENTS.items()}

    def link(match: re.Match[str]) -> str:
        name, address = match[1], match[2]
        path, _, anchor = address.partition("#")
        target = os.path.normpath(Path(source).parent / path)
        place = places.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if place not in GENERATED and not (root / target).exists():
            raise FileNotFoundError(f"{source}: the link to {address} leads nowhere")
        if place is None:
            return f"{name} (`{target}`)"
        there = os.path.relpath(place, Path(page).parent).replace(".ipynb", ".md")
        return f"[{name}]({there}{'#' + anchor if anchor else ''})"

    return LINK.sub(link, text)


def _for_the_site(text: str) -> str:
    """A figure in two colours follows the site's own switch, not only the system's; a number keeps to its line."""
    text = PICTURE.sub(r"![\2](\3#only-light)![\2](\1#only-dark)", text)
    return NUMBERS.sub(lambda cell: "\N{NO-BREAK SPACE}".join(cell[0].split()).join("  "), text)
