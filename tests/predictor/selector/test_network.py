from pathlib import Path

import numpy as np
import pytest
import torch

from settx_fast.predictor.frameworks.base import as_observed, environment_ids
from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.descriptors import Descriptors
from settx_fast.predictor.selector.examples import Examples, _padded
from settx_fast.predictor.selector.network import NetworkConfig, Seen, SelectorNetwork
from settx_fast.predictor.selector.rows import RowsEncoder, RowsInput, rows_input
from settx_fast.predictor.selector.shipped import Selector
from tests.predictor.frameworks.rows import Rows, make_rows


def test_the_order_of_columns_and_sources_does_not_matter(network: SelectorNetwork, examples: Examples) -> None:
    given = examples.descriptors
    columns, sources = torch.randperm(given.columns.shape[1]), torch.randperm(given.sources.shape[1])
    other = given._replace(
        columns=given.columns[:, columns],
        is_column=given.is_column[:, columns],
        sources=given.sources[:, sources],
        is_source=given.is_source[:, sources],
    )
    before, after = network(Seen(given)), network(Seen(other))
    torch.testing.assert_close(after.log_risk, before.log_risk, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.quantiles, before.quantiles, rtol=1e-4, atol=1e-5)
    there = other.is_column
    torch.testing.assert_close(after.roles[there], before.roles[:, columns][there], rtol=1e-4, atol=1e-5)


def test_padding_does_not_matter(network: SelectorNetwork, examples: Examples) -> None:
    wide = _padded(examples, examples.role.shape[1] + 3, examples.descriptors.sources.shape[1] + 2).descriptors
    before, after = network(Seen(examples.descriptors)), network(Seen(wide))
    torch.testing.assert_close(after.log_risk, before.log_risk, rtol=1e-4, atol=1e-5)


def test_every_kind_of_descriptor_has_a_say(network: SelectorNetwork, examples: Examples) -> None:
    given = examples.descriptors
    before = network(Seen(given)).log_risk
    for name in ("frameworks", "columns", "sources", "dataset"):
        changed = given._replace(**{name: getattr(given, name).roll(1, 0)})
        assert not torch.allclose(network(Seen(changed)).log_risk, before), name


def test_quantiles_are_in_order(network: SelectorNetwork, examples: Examples) -> None:
    assert (network(Seen(examples.descriptors)).quantiles.diff(dim=-1) >= 0).all()


def test_a_network_that_reads_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        NetworkConfig(descriptors=False, rows=False)


def cells(rows: Rows) -> RowsInput:
    return rows_input(as_observed(rows.X, rows.y, environment_ids(rows.environments, len(rows.y)), rows.X_deploy))


@pytest.mark.parametrize("seed", range(3))
def test_what_rows_say_does_not_depend_on_units_signs_or_orders(seed: int) -> None:
    torch.manual_seed(0)
    encoder = RowsEncoder(8, 4, 6).eval()
    rows, random = make_rows(seed), np.random.default_rng(seed)
    columns, order = random.permutation(4), random.permutation(len(rows.y))
    unit = np.array([2.0, -0.1, 30.0, -1.0])
    other = Rows(
        (rows.X * unit - 2)[order][:, columns],
        (-5 * rows.y + 3)[order],
        np.array([9, 4, 6])[[int(label[-1]) for label in rows.environments]][order],
        (random.permutation(rows.X_deploy) * unit - 2)[:, columns],
    )
    torch.testing.assert_close(encoder(cells(other)), encoder(cells(rows))[:, columns], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("descriptors", [True, False])
def test_rows_can_be_read_with_descriptors_or_alone(descriptors: bool, examples: Examples) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(hidden=16, layers=1, num_heads=2, descriptors=descriptors, rows=True, row_hidden=8)
    network = SelectorNetwork(config).eval()
    rows, others = make_rows(0), make_rows(1)
    given = _first(examples.descriptors, 4, 3)
    observed = [as_observed(r.X, r.y, environment_ids(r.environments, len(r.y)), r.X_deploy) for r in (rows, others)]
    guesses = [network(network.read(each, given)).log_risk for each in observed]
    assert not torch.allclose(*guesses)
    other = given._replace(frameworks=given.frameworks + 1, dataset=given.dataset - 1)
    changed = network(network.read(observed[0], other)).log_risk
    assert torch.allclose(changed, guesses[0]) == (not descriptors)


def _first(given: Descriptors, columns: int, sources: int) -> Descriptors:
    one = Descriptors(*(part[:1] for part in given))
    return one._replace(
        columns=one.columns[:, :columns],
        is_column=torch.ones(1, columns, dtype=torch.bool),
        sources=one.sources[:, :sources],
        is_source=torch.ones(1, sources, dtype=torch.bool),
    )


def test_a_committee_answers_with_the_mean_of_its_members(network: SelectorNetwork, examples: Examples) -> None:
    torch.manual_seed(1)
    other = SelectorNetwork(network.config).eval()
    other.standardise(examples.descriptors)
    seen = Seen(examples.descriptors)
    both = Committee([network, other])(seen)
    for name, together, one, two in zip(both._fields, both, network(seen), other(seen), strict=True):
        if name != "doubt":
            torch.testing.assert_close(together, (one + two) / 2, msg=name)


def test_members_of_several_configurations_are_refused(network: SelectorNetwork) -> None:
    with pytest.raises(ValueError, match="one configuration, got 2"):
        Committee([network, SelectorNetwork(NetworkConfig(hidden=8, layers=1, num_heads=2))])
    with pytest.raises(ValueError, match="one configuration, got 0"):
        Committee([])


def test_a_saved_selector_says_the_same(selector: Selector, model: Path, examples: Examples) -> None:
    loaded = Selector.load(model)
    assert loaded.calibration == selector.calibration
    seen = Seen(examples.descriptors)
    torch.testing.assert_close(loaded.network(seen).log_risk, selector.network(seen).log_risk)


def test_a_file_that_is_no_selector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make pretrained"):
        Selector.load(tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a selector of this version"):
        Selector.load(tmp_path / "bad.safetensors")
