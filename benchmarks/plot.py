"""Figures, README's table and docs/performance.md out of benchmarks/results/*.csv.

python -m benchmarks.plot
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import pages, readings

ROOT = Path(__file__).parents[1]
README, PAGE, IMAGES = ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "images"


def written() -> Iterator[tuple[Path, str]]:
    """The pages as the readings have them, whole."""
    machines = readings.machines()
    for path, part in ((README, pages.summary(machines)), (PAGE, pages.performance(machines))):
        yield path, pages.replaced(path.read_text(), part)


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    from benchmarks import figures

    for path in figures.write(readings.machines(), IMAGES):
        print(f"drew {path.relative_to(ROOT)}")
    for path, text in written():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
