"""`python -m builder`, with docs on the path: all pages of the site in build/pages, from which it is built."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from builder import cli_page, notebooks, prior_page, public, repository

ROOT = Path(__file__).parents[2]
COPIED = (".css", ".js", ".svg", ".png")


def main() -> None:
    """Stop where the reference lacks something, else write."""
    if found := public.problems(ROOT / "docs" / "reference"):
        sys.exit("The reference is incomplete:\n" + "\n".join(found))
    write(ROOT / "build" / "pages")


def write(out: Path) -> None:
    """What is written by hand, then what is generated, in a folder that holds nothing else."""
    docs = ROOT / "docs"
    shutil.rmtree(out, ignore_errors=True)
    pages: dict[str, str | bytes] = {
        "reference/cli.md": cli_page.page(),
        "reference/prior_yaml.md": prior_page.page(),
        **{str(path.relative_to(docs)): path.read_bytes() for path in docs.rglob("*") if path.suffix in COPIED},
        **repository.pages(ROOT),
        **notebooks.pages(ROOT),
    }
    for place, content in pages.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_bytes(content if isinstance(content, bytes) else content.encode())


if __name__ == "__main__":
    main()
