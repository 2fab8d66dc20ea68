"""A selector that has learned nothing, which does not matter to what is tested with it."""

from pathlib import Path

import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.decision import Calibration
from settx_fast.predictor.selector.descriptors import TRAITS
from settx_fast.predictor.selector.examples import Examples, of_batch
from settx_fast.predictor.selector.network import NetworkConfig, SelectorNetwork
from settx_fast.predictor.selector.shipped import Selector


@pytest.fixture(scope="session")
def examples() -> Examples:
    return of_batch(scm.sample(scm.presets.recurring(7, 4), 48, 300, seed=3, num_threads=1))


@pytest.fixture(scope="session")
def network(examples: Examples) -> SelectorNetwork:
    torch.manual_seed(0)
    network = SelectorNetwork(NetworkConfig(hidden=16, layers=2, num_heads=2, summary=16))
    network.standardise(examples.descriptors)
    return network.eval()


@pytest.fixture(scope="session")
def selector(network: SelectorNetwork) -> Selector:
    wide = (100.0,) * len(TRAITS)
    return Selector(Committee([network]), Calibration(0.0, (0.1,) * 15, tuple(-x for x in wide), wide), {})


@pytest.fixture(scope="session")
def model(selector: Selector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("selector") / "selector.safetensors"
    selector.save(path)
    return path
