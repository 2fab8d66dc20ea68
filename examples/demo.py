"""The main job, end to end: sample, train, evaluate, recommend a framework for a real table, report.

Every step is a command line that can be typed as it is printed. The real table is Palmer penguins (Horst et al. 2020):
body mass predicted from the other columns, islands as environments, Torgersen as the place of deployment.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from settx_fast.cli import app

QUICK_TRAINING = ["--steps", "2", "--batch-size", "4", "--validation-datasets", "8", "--quiet"]
QUICK_EVALUATION = ["--num-datasets", "16", "--num-rows", "200"]


def penguins() -> Path:
    """The CSV file that the package palmerpenguins ships."""
    package = find_spec("palmerpenguins")
    if package is None or not package.submodule_search_locations:
        sys.exit("The demo needs the Palmer penguins table: pip install palmerpenguins")
    return Path(package.submodule_search_locations[0]) / "data" / "penguins.csv"


def commands(out: Path, quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Every stage with its command line."""
    training, evaluation = (QUICK_TRAINING, QUICK_EVALUATION) if quick else ([], [])
    datasets = "20" if quick else "1000"
    yield "sample", ["sample", "random_linear", "--num-datasets", datasets, "--out", f"{out / 'datasets.parquet'}"]
    yield "train", ["train", "chain", "--out", f"{out / 'chain'}", *training]
    yield "evaluate", ["evaluate", f"{out / 'chain'}", *evaluation]
    table = ["--target", "body_mass_g", "--environment", "island", "--deploy", "Torgersen"]
    yield "recommend", ["recommend", f"{out / 'penguins.csv'}", *table, "--save", str(out)]
    yield "predict", ["predict", f"{out / 'penguins.csv'}", *table]
    yield "report", ["report", str(out)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="directory to write")
    parser.add_argument("--quick", action="store_true", help="a few steps only: shows the way, learns nothing")
    arguments = parser.parse_args()
    console = Console()
    shutil.rmtree(arguments.out / "chain", ignore_errors=True)  # an earlier demo's
    arguments.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(penguins(), arguments.out / "penguins.csv")
    timings = Table("stage", "seconds", title="Where the time went", title_justify="left", box=None, padding=(0, 2))
    for stage, command in commands(arguments.out, arguments.quick):
        console.rule(f"[bold]{stage}", align="left")
        console.print(f"$ settx-fast {shlex.join(command)}", style="cyan", soft_wrap=True, highlight=False)
        start = time.perf_counter()
        if code := app(command, prog_name="settx-fast", standalone_mode=False):
            sys.exit(code)
        timings.add_row(stage, f"{time.perf_counter() - start:.1f}")
    console.rule()
    console.print(timings)
    console.print(f"\nThe report: [bold]{(arguments.out / 'report.html').resolve()}[/]", soft_wrap=True)


if __name__ == "__main__":
    main()
