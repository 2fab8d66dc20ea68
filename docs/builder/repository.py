"""Documents of the repository as pages of the site."""

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
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


def pages(root: Path) -> dict[str, str | bytes]:
    """Pages by their place in the site."""
    return {page: with_links(root, source, page) for page, source in DOCUMENTS.items()}


def with_links(root: Path, source: str, page: str) -> str:
    """A document whose links lead to other pages; a file that is no page keeps its name, without a link."""
    places = {path: place for place, path in DOCUMENTS.items()}

    def link(match: re.Match[str]) -> str:
        text, address = match[1], match[2]
        path, _, anchor = address.partition("#")
        target = os.path.normpath(Path(source).parent / path)
        if not (root / target).exists():
            raise FileNotFoundError(f"{source}: the link to {address} leads nowhere")
        place = places.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if place is None:
            return f"{text} (`{target}`)"
        return f"[{text}]({place}{'#' + anchor if anchor else ''})"

    return LINK.sub(link, (root / source).read_text("utf-8"))
