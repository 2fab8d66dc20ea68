"""The selector that travels with the package."""

import fnmatch
import tomllib
from pathlib import Path

import pytest

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector.estimator import FrameworkSelector
from settx_fast.predictor.selector.model_card import model_card
from settx_fast.predictor.selector.shipped import SHIPPED, Selector
from tests.predictor.frameworks.rows import make_rows


def test_it_is_small_and_its_card_says_what_the_file_says() -> None:
    assert SHIPPED.stat().st_size <= 8_000_000
    card = SHIPPED.with_name("MODEL_CARD.md").read_text()
    assert card == model_card(Selector.load(), SHIPPED.stat().st_size)


def test_the_wheel_holds_it() -> None:
    patterns = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["settx_fast"]
    package = SHIPPED.parent.parent.parent
    for name in ("selector.safetensors", "MODEL_CARD.md"):
        path = (SHIPPED.parent / name).relative_to(package)
        assert any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns), name


def test_its_record_is_better_than_no_choice() -> None:
    """On held-out datasets of its prior; what it says of itself, not a promise for any table."""
    regret = Selector.load().record["regret"]
    assert regret["selector"] < min(regret["erm"], regret["leave-one-source-out"])


@pytest.mark.parametrize("seed", range(2))
def test_it_works_without_a_model_of_ones_own(seed: int) -> None:
    rows = make_rows(seed)
    found = FrameworkSelector().fit(rows.X, rows.y, environments=rows.environments, X_deploy=rows.X_deploy)
    assert found.recommended_ in FRAMEWORKS
    assert found.predict(rows.X_deploy).shape == (len(rows.X_deploy),)
    assert "held-out datasets of its training prior" in found.explain()
