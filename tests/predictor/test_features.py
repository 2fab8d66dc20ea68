"""Rows to set elements: what the encoding keeps, and what it must not depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from settx_fast import scm
from settx_fast.predictor.data import observe, view
from settx_fast.predictor.features import FeatureConfig, Observed, encode

CONFIG = FeatureConfig(max_variables=12, max_environments=5)


def observed(seed: int = 0, rows: int = 120, sets: int = 3, config: FeatureConfig = CONFIG) -> Observed:
    """Datasets of 3 to 12 variables: most are padded."""
    batch = scm.sample(scm.presets.random_linear(config.max_variables), sets, rows, seed=seed)
    return observe(batch, config)[0]


@settings(max_examples=15, deadline=None)
@given(
    scale=st.lists(st.floats(0.01, 1000.0), min_size=12, max_size=12),
    shift=st.lists(st.floats(-1000.0, 1000.0), min_size=12, max_size=12),
)
def test_without_units_elements_do_not_change_when_columns_are_shifted_or_rescaled(scale, shift):
    plain = observed()
    scale, shift = torch.tensor(scale, dtype=torch.float64), torch.tensor(shift, dtype=torch.float64)
    columns = plain.features.double(), plain.target.double()
    moved = plain._replace(features=columns[0] * scale[:-1] + shift[:-1], target=columns[1] * scale[-1] + shift[-1])
    # Values of order 1 on an offset of at most 1e5 scales keep 1e-16 · 1e5 in float64; products are at most 100.
    torch.testing.assert_close(encode(moved, CONFIG).elements, encode(plain, CONFIG).elements, rtol=1e-5, atol=1e-6)


def test_with_units_a_column_s_scale_is_part_of_every_element():
    config = FeatureConfig(12, 5, units=True)
    plain = observed()
    moved = plain._replace(target=plain.target * 3.0)
    difference = encode(moved, config).elements - encode(plain, config).elements
    expected = torch.zeros(config.element_dim)
    expected[-1] = np.log(3.0)  # the target is the last column, its scale the last feature
    torch.testing.assert_close(difference, expected.expand_as(difference), rtol=0, atol=1e-5)


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("interactions", [False, True])
def test_elements_have_the_width_the_config_promises(units, interactions):
    config = FeatureConfig(12, 5, units, interactions)
    assert encode(observed(config=config), config).elements.shape == (3, 120, config.element_dim)


def test_means_of_products_are_the_correlations_of_the_sources():
    seen = observed(sets=1, rows=400)
    inputs, source = encode(seen, CONFIG), ~seen.is_target[0]
    left, right = torch.triu_indices(12, 12)
    products = torch.zeros(12, 12)
    products[left, right] = inputs.elements[0, source, -len(left) :].mean(0)
    products = products + products.triu(1).T
    there = seen.present[0].nonzero().flatten()
    columns = torch.cat(
        [seen.features[0, :, there] * inputs.feature_scale[0, there].sign(), seen.target[0, :, None]], 1
    )
    slots = [*inputs.slot[0, there].tolist(), 11]
    expected = np.corrcoef(columns[source].double().numpy(), rowvar=False)
    # Column values are float32 rounded once, and no value of this sample lies beyond the clip.
    np.testing.assert_allclose(products[slots][:, slots], expected, atol=1e-5)


def test_neither_order_nor_sign_of_columns_changes_the_elements():
    plain = observed()
    order = torch.argsort(torch.rand(plain.present.shape, generator=torch.Generator().manual_seed(1)), -1)
    sign = torch.where(torch.rand(order.shape, generator=torch.Generator().manual_seed(2)) < 0.5, -1.0, 1.0)
    features = plain.features.gather(2, order[:, None].expand_as(plain.features)) * sign[:, None]
    moved = encode(plain._replace(features=features, present=plain.present.gather(1, order)), CONFIG)
    before = encode(plain, CONFIG)
    torch.testing.assert_close(moved.elements, before.elements, rtol=0, atol=0)
    assert not torch.equal(moved.slot, before.slot)
    there = plain.present.gather(1, order)
    assert torch.equal(moved.slot[there], before.slot.gather(1, order)[there])
    assert torch.equal(moved.feature_scale[there], (before.feature_scale.gather(1, order) * sign)[there])


@pytest.mark.parametrize("kind", ["numbers", "classes", "balanced classes"])
def test_elements_do_not_depend_on_the_sign_of_the_target(kind: str) -> None:
    plain = observed(sets=8)
    if kind != "numbers":
        middle = (
            0.0 if kind == "classes" else plain.target.where(plain.labelled, torch.nan).nanmedian(1, keepdim=True)[0]
        )
        plain = plain._replace(target=(plain.target > middle).float())
    before, after = encode(plain, CONFIG), encode(plain._replace(target=-plain.target), CONFIG)
    assert torch.equal(before.elements, after.elements)
    assert torch.equal(before.slot, after.slot)
    assert torch.equal(before.target_scale, -after.target_scale)
    assert torch.equal(before.feature_scale, after.feature_scale)
    assert len(before.target_scale.sign().unique()) == 2  # both signs occur


def test_the_number_of_rows_is_a_log_relative_to_a_thousand_and_capped_there() -> None:
    config = FeatureConfig(5, 5)
    for rows, expected in ((100, np.log(0.1)), (1000, 0.0), (5000, 0.0)):
        elements = encode(observed(rows=rows, sets=1, config=config), config).elements
        assert elements[0, 0, _place_of_count(config)] == pytest.approx(expected, abs=1e-6)


def _place_of_count(config: FeatureConfig) -> int:
    """Behind columns, shifts, log scales, presence, two flags and environments."""
    return 3 * config.max_variables + config.max_features + 2 + config.max_environments


def test_an_environment_of_one_row_has_a_log_scale_of_zero() -> None:
    feature = torch.tensor([0.0, 2.0, 0.0, 2.0, 7.0]).view(1, 5, 1)
    environment = torch.tensor([[0, 0, 0, 0, 1]])
    none = torch.zeros(1, 5).bool()
    seen = Observed(feature, torch.arange(5.0)[None], environment, none, ~none, torch.ones(1, 1).bool())
    elements = encode(seen, FeatureConfig(2, 2)).elements[0]
    assert elements[4, 4:6].tolist() == [0, 0]
    assert (elements[0, 4:6] != 0).all()


def test_truth_follows_its_column_when_columns_are_shuffled():
    batch = scm.sample(scm.presets.random_linear(), 4, 60, seed=3)
    plain, shuffled = view(batch, CONFIG), view(batch, CONFIG, torch.Generator().manual_seed(1))
    assert not torch.equal(plain.columns, shuffled.columns)
    for name in ("role", "total_effect", "direct_effect_on_target", "direct_effect_of_target"):
        for b, slot in shuffled.observed.present.nonzero().tolist():
            home = int((plain.columns[b] == shuffled.columns[b, slot]).nonzero()[0])
            assert shuffled.truth[name][b, slot] == plain.truth[name][b, home]


def test_environments_keep_their_rows_when_their_ids_are_shuffled():
    batch = scm.sample(scm.presets.random_linear(), 4, 60, seed=3)
    ids = observe(batch, CONFIG, torch.Generator().manual_seed(1))[0].environment
    for before, after in zip(batch.environment, ids, strict=True):
        same = before[:, None] == before[None]
        assert torch.equal(same, after[:, None] == after[None])
    assert not torch.equal(ids, batch.environment)


def test_what_is_not_seen_never_influences_elements():
    plain = observed()
    hidden = plain._replace(
        features=plain.features.where(plain.present[:, None], torch.nan),
        target=plain.target.where(plain.labelled, torch.inf),
    )
    assert torch.equal(encode(hidden, CONFIG).elements, encode(plain, CONFIG).elements)


def test_a_far_target_environment_stays_in_range_and_says_how_far_it_is():
    config = FeatureConfig(2, 2)
    feature = torch.tensor([0.0, 2.0, 0.0, 2.0, 1e6, 3e6]).view(1, 6, 1)
    source = torch.tensor([[True] * 4 + [False] * 2])
    seen = Observed(feature, torch.arange(6.0)[None], (~source).long(), ~source, source, torch.ones(1, 1).bool())
    elements = encode(seen, config).elements[0]
    assert elements[:, 0].tolist() == [-1, 1, -1, 1, -1, 1]
    shift, log_scale = elements[4, 2], elements[4, 4]
    assert shift == pytest.approx(np.arcsinh(2e6 - 1))
    assert log_scale == pytest.approx(np.log(1e6))


def test_constant_columns_and_frozen_environments_give_finite_elements():
    seen = observed()
    features = seen.features.clone()
    features[:, :, 0] = 7.0  # constant everywhere
    features[:, :, 1] = features[:, :, 1].where(~seen.is_target, 3.0)  # do(x = 3) in the target environment
    inputs = encode(seen._replace(features=features), CONFIG)
    assert inputs.elements.isfinite().all()
    for dataset, slot in enumerate(inputs.slot[:, 0].tolist()):
        assert (inputs.elements[dataset, :, slot] == 0).all()
    assert (inputs.feature_scale[:, 0] == 1).all()


@pytest.mark.parametrize(("rows", "expected"), [(100, np.log(0.1)), (1000, 0.0), (5000, 0.0)])
def test_elements_tell_the_log_of_the_rows_relative_to_a_thousand_and_no_more_of_a_larger_dataset(rows, expected):
    elements = encode(observed(rows=rows, sets=1), CONFIG).elements
    count = 3 * CONFIG.max_variables + CONFIG.max_features + 2 + CONFIG.max_environments
    np.testing.assert_allclose(elements[..., count], expected, rtol=1e-6)


def test_an_outlier_says_no_more_than_one_at_the_limit():
    plain = observed(rows=400, sets=1)
    features = plain.features.clone()
    features[0, 3, 0] = 1e6
    columns = encode(plain._replace(features=features), CONFIG).elements[..., : CONFIG.max_variables]
    assert columns.abs().max() == 10


def test_an_environment_of_one_row_has_log_scale_0():
    config = FeatureConfig(2, 2, interactions=False)
    feature = torch.tensor([0.0, 2.0, 0.0, 2.0, 7.0]).view(1, 5, 1)
    alone = torch.tensor([[False] * 4 + [True]])
    seen = Observed(feature, torch.arange(5.0)[None], alone.long(), alone, ~alone, torch.ones(1, 1).bool())
    shift, log_scale = encode(seen, config).elements[0, 4, [2, 4]]
    assert log_scale == 0
    assert shift == pytest.approx(np.arcsinh(6.0))  # 7 is six standard deviations from the sources' mean of 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seen: {"target": seen.target[:, :5]}, r"target: expected shape \(3, 120\)"),
        (lambda seen: {"features": seen.features[..., :4], "present": seen.present[:, :4]}, "expected 11 columns"),
        (lambda seen: {"environment": seen.environment + 5}, "environment: expected ids 0 … 4"),
        (lambda seen: {"labelled": seen.is_target}, "at least one labelled source row"),
        (lambda seen: {"features": seen.features * torch.nan}, "expected finite values"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(change, message):
    seen = observed()
    with pytest.raises(ValueError, match=message):
        encode(seen._replace(**change(seen)), CONFIG)


def test_a_prior_with_more_variables_than_the_model_is_refused():
    batch = scm.sample(scm.presets.lucas(), 1, 50, seed=0)
    with pytest.raises(ValueError, match="max_variables: expected at least the prior's 12, got 5"):
        observe(batch, FeatureConfig(5, 25))


def test_hidden_variables_are_no_features_and_missing_values_become_the_mean_of_the_sources():
    seen = (scm.Hidden(1), scm.Missing("mcar", 0.2, on_target=True))
    prior = replace(scm.presets.random_linear(6), num_variables=6, observation=seen)
    batch = scm.sample(prior, 5, 200, seed=2)
    observed, columns = observe(batch, FeatureConfig(6, 5))
    assert torch.all(observed.present.sum(1) == 4)
    assert not (batch.is_hidden.gather(1, columns) & observed.present).any()
    assert encode(observed, FeatureConfig(6, 5)).elements.isfinite().all()
    for b in range(5):
        source = ~batch.is_target_environment[b, batch.environment[b]]
        target = int(batch.target_index[b])
        assert torch.equal(observed.labelled[b], source & ~batch.is_missing[b, :, target])
        for f in torch.nonzero(observed.present[b]).flatten().tolist():
            values, lost = batch.values[b, :, columns[b, f]], batch.is_missing[b, :, columns[b, f]]
            assert torch.equal(observed.features[b, ~lost, f], values[~lost])
            mean = values[source & ~lost].double().mean().float()
            torch.testing.assert_close(observed.features[b, lost, f], mean.expand(int(lost.sum())))
