"""A model and a table for every command that wants them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from settx_fast.predictor.config import preset
from settx_fast.predictor.model import PropertyPredictor


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained model of few variables and environments."""
    directory = tmp_path_factory.mktemp("model")
    config = preset("random_linear")
    (directory / "config.json").write_text(config.to_json())
    PropertyPredictor(config.features, config.model).save(directory)
    return directory


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three sites of 30 rows with every awkwardness that is allowed; the third is not labelled."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"x": generator.normal(size=90), "colour": generator.choice(["red", "green"], size=90)})
    frame["site"] = np.repeat(["a", "b", "c"], 30)
    frame["y"] = frame["x"] + generator.normal(size=90)
    frame["constant"] = 1
    frame.loc[frame["site"] == "c", "y"] = np.nan
    frame.loc[3, "x"] = np.nan
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"
