"""Roots, constants, point masses, missing environments: what is decided for them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import hand_batch, make_batch, pooled_rows

from settx_fast.scm import properties
from settx_fast.scm.properties import FRAMEWORKS

ERM, CAUSAL, ANTICAUSAL = range(len(FRAMEWORKS))


def test_causal_erm_of_a_root_predicts_the_source_mean():
    batch = hand_batch({(0, 1): 1.0}, [[1.0, 1.0], [2.0, 1.0]], [[0.5, 0.0], [1.5, 0.0]], target=0)
    computed = properties.compute(batch)
    assert math.isinf(computed.noise_to_signal.item())
    assert computed.risk[0, CAUSAL].item() == pytest.approx(2.0**2 + (1.5 - 0.5) ** 2)


def test_a_target_without_children_has_the_same_causal_and_anticausal_risk():
    computed = properties.compute(hand_batch({(0, 1): 1.0}, [[1.0, 1.0], [2.0, 3.0]], [[0, 0], [1, 1]], target=1))
    assert computed.risk[0, CAUSAL] == computed.risk[0, ANTICAUSAL]


def test_parents_that_never_move_carry_no_signal():
    computed = properties.compute(
        hand_batch({(0, 1): 2.0}, [[0.0, 1.0], [1.0, 1.0]], [[3, 0], [3, 0]], target=1, hard=[(0, 0)])
    )
    assert math.isinf(computed.noise_to_signal.item())


def test_rounding_in_the_mean_of_a_constant_is_no_variation():
    # in floating point, 3/7, 3/7 and 1/7 of a constant 0.7 do not add up to it
    edges, hard = {(0, 1): 1.0}, [(k, 0) for k in range(4)]
    batch = hand_batch(edges, [[0, 0.3]] * 4, [[0.7, 0.1]] * 4, target=1, hard=hard)
    batch = replace(batch, environment=torch.tensor([[0] * 3 + [1] * 3 + [2] + [3] * 5]))
    assert pooled_source(batch).covariance[0, 0, 0] != 0
    assert pooled_source(batch).variance[0, 0] == 0
    computed = properties.compute(batch)
    assert math.isinf(computed.noise_to_signal.item())
    assert computed.covariate_shift.item() == 0
    assert computed.risk[0].tolist() == pytest.approx([0.09] * 3)


@pytest.mark.parametrize("rounding", [1e-16, 0.0, -1e-16])
def test_a_signal_of_rounding_errors_is_no_signal(rounding):
    noise, signal, parents = torch.tensor([1.0]), torch.tensor([rounding]), torch.tensor([1])
    assert properties.noise_to_signal(noise, signal, parents).item() == math.inf


def test_a_target_without_noise_has_none_to_compare():
    computed = properties.compute(hand_batch({(0, 1): 2.0}, [[1.0, 0.0], [1.0, 0.0]], [[0, 0], [0, 0]], target=1))
    assert computed.noise_to_signal.item() == 0
    assert computed.risk[0].tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_a_single_variable_is_a_dataset_too():
    computed = properties.compute(hand_batch({}, [[1.0], [2.0]], [[0.0], [1.0]], target=0))
    assert computed.edge_density.item() == computed.covariate_shift.item() == 0
    assert computed.varsortability.item() == computed.r2_sortability.item() == 0.5
    assert computed.mechanism_shift.item() == pytest.approx(0.5 * (4 - 1 + 1 - math.log(4)), rel=1e-5)
    assert computed.risk[0].tolist() == pytest.approx([5, 5, 5])


def test_a_feature_constant_in_the_sources_gets_no_coefficient():
    # 0 and 1 cause 2; 1 is set by hand in the source and moves in the target environment
    batch = hand_batch(
        {(0, 2): 1.0, (1, 2): 1.0}, [[1, 0, 0.5], [1, 2.0, 0.5]], [[0, 4, 0], [0, 4, 0]], target=2, hard=[(0, 1)]
    )
    computed = properties.compute(batch)
    assert computed.risk[0].tolist() == pytest.approx([0.25 + 4.0] * 3)
    assert computed.covariate_shift.item() > 1e6  # the target environment goes where the sources never were


def test_collinear_features_get_the_solution_of_least_norm_in_standardised_units():
    # 1 copies 0 without noise, both cause 2; in the target environment the copy breaks
    edges = {(0, 1): 3.0, (0, 2): 1.0, (1, 2): 1.0}
    batch = hand_batch(edges, [[1, 0, 0.5], [1, 1.0, 0.5]], np.zeros((2, 3)), target=2)
    (source, share), (deployed, deployed_share) = (pooled_rows(batch, 0, target=which) for which in (False, True))
    scale = np.sqrt(share @ source**2)[:2]
    root = np.sqrt(share)[:, None]
    coefficients = np.linalg.lstsq(root * source[:, :2] / scale, root[:, 0] * source[:, 2], rcond=1e-10)[0] / scale
    expected = deployed_share @ (deployed[:, 2] - deployed[:, :2] @ coefficients) ** 2
    computed = properties.compute(batch)
    assert computed.risk[0].tolist() == pytest.approx([expected] * 3, rel=1e-6)
    explained = properties.r_squared(pooled_source(batch))[0]
    assert explained[:2].tolist() == pytest.approx([1, 1], abs=1e-9)


def test_a_feature_frozen_in_the_target_environment_costs_about_nine_nats():
    batch = hand_batch({(1, 2): 1.0}, [[2.0, 1, 1], [0.0, 1, 1]], [[0, 0, 0], [1, 0, 0]], target=2, hard=[(1, 0)])
    computed = properties.compute(batch)
    blur = 1e-8 * (4.0 + 1.0)
    expected = 0.5 * (blur / 4 + 1.0 / 4 - 1 - math.log(blur / 4))
    assert computed.covariate_shift.item() == pytest.approx(expected, rel=1e-5)
    assert computed.mechanism_shift.item() == pytest.approx(0, abs=1e-6)


def test_a_variable_that_is_the_same_constant_everywhere_costs_nothing():
    with_constant = hand_batch({(1, 2): 1.0}, [[0, 1, 1], [0, 2, 1]], [[5, 0, 0], [5, 0, 0]], target=2)
    without = hand_batch({(0, 1): 1.0}, [[1, 1], [2, 1]], np.zeros((2, 2)), target=1)
    got, expected = properties.compute(with_constant), properties.compute(without)
    torch.testing.assert_close(got.covariate_shift, expected.covariate_shift)
    torch.testing.assert_close(got.risk, expected.risk)
    assert properties.r_squared(pooled_source(with_constant))[0, 0].item() == 0


def test_differences_between_source_means_are_part_of_the_source_distribution():
    # two sources whose feature differs in nothing but its mean, ±3: only pooled do they show the slope of 2
    edges, bias = {(0, 1): 2.0}, [[3, 0], [-3, 0], [0, 0]]
    computed = properties.compute(hand_batch(edges, [[0, 1], [0, 1], [1, 1]], bias, target=1))
    assert computed.risk[0].tolist() == pytest.approx([1, 1, 1], rel=1e-6)
    assert computed.target_variance.item() == pytest.approx(4 * 9 + 1)
    assert computed.noise_to_signal.item() == pytest.approx(1 / 36)


def test_environments_weigh_by_their_rows_and_equally_without_any():
    batch = hand_batch({}, [[1.0], [3.0], [1.0]], np.zeros((3, 1)), target=0)
    environment = torch.tensor([[0] * 3 + [1] * 9 + [2] * 24])
    share = properties.environment_share(replace(batch, environment=environment), target=False)
    assert share.tolist() == [[0.25, 0.75, 0]]
    rowless = replace(batch, environment=torch.full_like(environment, 2))
    assert properties.environment_share(rowless, target=False).tolist() == [[0.5, 0.5, 0]]
    assert properties.environment_share(rowless, target=True).tolist() == [[0, 0, 1]]
    padded = replace(
        rowless,
        num_environments=torch.tensor([2]),
        is_target_environment=torch.tensor([[False, True, False]]),
    )
    assert properties.environment_share(padded, target=False).tolist() == [[1, 0, 0]]


def test_without_a_target_environment_the_error_names_what_is_missing():
    batch = make_batch(3)
    is_target = batch.is_target_environment.clone()
    is_target[2] = False
    lacking = replace(batch, is_target_environment=is_target)
    with pytest.raises(ValueError, match=r"covariate_shift, mechanism_shift and risk need a target environment.*: 2$"):
        properties.compute(lacking)
    rest = properties.compute_source(lacking)
    assert "risk" not in rest.to_dict()
    torch.testing.assert_close(rest.noise_to_signal[0], properties.compute(batch).noise_to_signal[0])


def test_without_a_source_environment_the_error_says_so():
    batch = make_batch(3)
    with pytest.raises(ValueError, match=r"need a source environment, but 6 of 6 datasets .*: 0, 1, 2, 3, 4, …$"):
        properties.compute(replace(batch, is_target_environment=torch.ones_like(batch.is_target_environment)))


def test_too_few_monte_carlo_rows_are_refused():
    with pytest.raises(ValueError, match="monte_carlo_rows: expected at least 2, got 1"):
        properties.compute(make_batch(3), monte_carlo_rows=1)


def test_the_record_prints_and_exports_every_property():
    computed = properties.compute(make_batch(1))
    names = {
        "edge_density", "num_parents", "num_children", "role", "direct_effect_on_target", "direct_effect_of_target",
        "total_effect", "noise_to_signal", "varsortability", "r2_sortability", "target_variance", "covariate_shift",
        "mechanism_shift", "risk",
    }  # fmt: skip
    assert set(computed.to_dict()) == names
    assert "6 datasets (6 closed form, 0 Monte Carlo)" in repr(computed)
    assert all(name in repr(computed) for name in names)
    table = computed.to_pandas()
    assert len(table) == len(computed) == 6
    assert table.method.eq("closed form").all()
    np.testing.assert_array_equal(table[["risk_erm", "risk_causal", "risk_anticausal"]], computed.risk)
    np.testing.assert_array_equal(table.role_3, computed.role[:, 3])
    for name, value in computed.to_dict().items():
        whole = name in ("num_parents", "num_children", "role")
        assert value.dtype == (torch.int64 if whole else torch.float32), name


def pooled_source(batch) -> properties.Moments:
    moments = properties.linear_moments(batch.weights.double(), batch.bias.double(), batch.noise_scale.double() ** 2)
    return moments.pooled(properties.environment_share(batch, target=False))
