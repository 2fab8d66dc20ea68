"""Internal standardisation by pilot rows, and standardisation by the sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from settx_fast import scm
from settx_fast.scm import properties, reference

LINEAR = scm.Prior(
    num_variables=(4, 8),
    graph=scm.ErdosRenyi(expected_in_degree=2),
    bias=scm.Normal(0, 3),
    noise=("gaussian", "student_t"),
    source_environments=(1, 3),
    source_interventions=(scm.Intervention("hard", (-2, 2), number=(0, 1)), scm.Intervention("shift", (1, 2))),
    standardisation="internal",
)


def source_rows(batch: scm.Batch, b: int) -> torch.Tensor:
    is_source = ~batch.is_target_environment[b, batch.environment[b]]
    return batch.values[b, is_source, : int(batch.num_variables[b])].double()


# ---- Internal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", [scm.Linear(), scm.MLP(8), scm.PostNonlinear("tanh")], ids=str)
def test_units_are_those_that_the_oracle_finds_in_its_own_pilot_rows(mechanism):
    batch = scm.sample(replace(LINEAR, mechanism=mechanism), 20, 4, seed=3)
    for b in range(len(batch)):
        _, centre, gain = reference.pilot(batch, b)
        spread = 1 / np.where(gain > 0, gain, 1)
        # Sums of 256 rounded rows at most 8 variables deep: thirty roundings of the largest size. A saturated tanh
        # leaves little of it, and its children see what is left in its own units.
        error = 30 * 2**-24 * np.max(1 + np.abs(centre) / spread)
        assert np.all(np.abs(batch.gain[b].numpy() - gain) <= error * gain)
        assert np.all(np.abs(batch.centre[b].numpy() - centre) <= error * (spread + np.abs(centre)))


def test_variables_have_mean_0_and_variance_1_up_to_the_pilots_error():
    prior = replace(LINEAR, source_interventions=(), noise="gaussian", target_environments=0)
    batch = scm.sample(prior, 200, 4000, seed=1)
    moments = [(x.mean(0), x.var(0)) for x in (source_rows(batch, b) for b in range(len(batch)))]
    mean, variance = (torch.cat(parts) for parts in zip(*moments, strict=True))
    error = (1 / 256 + 1 / 4000) ** 0.5  # of a mean; √2 as much of a Gaussian's variance
    assert mean.abs().max() < 5 * error
    assert (variance - 1).abs().max() < 5.5 * 2**0.5 * error
    assert abs(variance.mean() - 1) < 5 * 2**0.5 * error / len(batch) ** 0.5 + 2 / 256


def test_variances_do_not_betray_the_causal_order():
    raw = scm.sample(replace(LINEAR, source_interventions=(), standardisation="none"), 300, 10, seed=2)
    internal = scm.sample(replace(LINEAR, source_interventions=()), 300, 10, seed=2)
    sortability = [properties.compute_source(batch).varsortability.mean() for batch in (raw, internal)]
    assert sortability[0] > 0.85
    assert 0.4 < sortability[1] < 0.6


def test_correlations_are_those_of_an_iscm_that_numpy_draws():
    """Numbers of a published model class: x_v standardised over its own sample before its children see it."""
    prior = scm.Prior(num_variables=6, graph=scm.ErdosRenyi(edge_probability=1.0), target_environments=0)
    batch = scm.sample(replace(prior, standardisation="internal"), 20, 20_000, seed=4)
    rng = np.random.default_rng(1)
    for b in range(len(batch)):
        x = np.zeros((20_000, 6))
        for v in batch.order[b].tolist():
            raw = x @ batch.weights[b, 0, :, v].double().numpy() + rng.standard_normal(len(x))
            x[:, v] = (raw - raw.mean()) / raw.std()
        ours = np.corrcoef(batch.values[b].double().numpy().T)
        # A deviation read off 256 rows errs by 1/√512; five of them, and there are at most five parents.
        assert np.abs(ours - np.corrcoef(x.T)).max() < 5 / 512**0.5


def test_a_hard_intervention_sets_the_standardised_value():
    do = (scm.Intervention("hard", 1.5, variables=(0,)),)
    batch = scm.sample(replace(LINEAR, source_interventions=do, source_environments=2), 20, 30, seed=5)
    assert torch.all(batch.values[:, :20, 0] == 1.5)
    assert torch.all(batch.do({1: -0.5}).values[:, :, 1] == -0.5)


def test_interventions_are_seen_in_pilot_units():
    """A shift of the raw bias by 1 moves a root by 1 / its pilot deviation, and is not standardised away."""
    shift = (scm.Intervention("shift", 1.0, variables=(0,)),)
    prior = scm.Prior(2, scm.Pattern("chain"), noise_scale=4.0, target_interventions=shift, standardisation="internal")
    batch = scm.sample(prior, 50, 20_000, seed=6)
    root = batch.order[:, 0] == 0
    gap = batch.values[root, 10_000:, 0].mean(1) - batch.values[root, :10_000, 0].mean(1)
    assert torch.all((gap - batch.gain[root, 0]).abs() < 5 * (2 / 10_000) ** 0.5)
    assert torch.all((batch.gain[root, 0] * 4 - 1).abs() < 5 / 512**0.5)


def test_constants_are_centred_and_explosions_left_alone():
    still = scm.sample(scm.Prior(3, bias=7.0, noise_scale=0.0, standardisation="internal"), 5, 10, seed=0)
    assert torch.all(still.values == 0)
    assert torch.all(still.gain == 1)
    wild = scm.sample(scm.Prior(3, noise_scale=1e25, standardisation="internal"), 5, 10, seed=0)
    assert torch.all(wild.gain == 1)
    assert torch.all(wild.centre == 0)


# ---- By the sample ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [40, 3000])  # one chunk of sums, and several
def test_columns_are_standardised_over_their_own_source_rows(rows):
    prior = replace(LINEAR, standardisation="none")
    raw, batch = (scm.sample(p, 20, rows, seed=7) for p in (prior, replace(prior, standardisation="sample")))
    for b in range(len(batch)):
        n, x = int(batch.num_variables[b]), source_rows(raw, b)
        mean, deviation = x.mean(0), x.std(0, correction=0)
        moving = deviation > 0
        expected = (raw.values[b, :, :n].double() - mean) / torch.where(moving, deviation, 1.0)
        np.testing.assert_allclose(batch.values[b, :, :n], expected, rtol=1e-5, atol=1e-5)
        seen = source_rows(batch, b)
        assert torch.all(seen.mean(0).abs() < 1e-5)
        assert torch.all((seen.std(0, correction=0)[moving] - 1).abs() < 1e-5)


def test_fresh_rows_keep_the_units_of_the_batch():
    batch = scm.sample(replace(LINEAR, standardisation="sample"), 5, 60, seed=8)
    assert torch.equal(scm.resample(batch, 60, seed=8).values, batch.values)
    raw = scm.resample(batch, 60, seed=8, observed=False)
    unit = batch.column_gain[:, None]
    expected = (raw.values - batch.column_centre[:, None]) * unit
    assert torch.equal(expected, batch.values)


def test_units_are_the_same_whether_a_dataset_is_one_piece_of_work_or_several():
    prior, rows = scm.Prior(20, standardisation="sample", observation=(scm.Missing(),)), 6000
    alone, among_many = (scm.sample(prior, datasets, rows, seed=4, num_threads=2) for datasets in (1, 40))
    for name in ("values", "column_centre", "column_gain"):
        alone_bits, many_bits = (getattr(batch, name)[0].numpy().tobytes() for batch in (alone, among_many))
        assert alone_bits == many_bits, name


def test_properties_are_in_the_units_of_the_standardised_columns():
    prior = replace(LINEAR, standardisation="none", target="inner")
    raw, batch = (scm.sample(p, 20, 100, seed=9) for p in (prior, replace(prior, standardisation="sample")))
    before, after = properties.compute(raw), properties.compute(batch)
    unit = torch.where(batch.column_gain > 0, batch.column_gain, 1.0)
    target = unit.gather(1, batch.target_index[:, None])
    factor = {
        "risk": target**2,
        "target_variance": target.squeeze(1) ** 2,
        "total_effect": target / unit,
        "direct_effect_on_target": target / unit,
        "direct_effect_of_target": unit / target,
        **dict.fromkeys(("noise_to_signal", "r2_sortability", "covariate_shift", "mechanism_shift"), torch.ones(())),
    }
    for name, ratio in factor.items():
        torch.testing.assert_close(getattr(after, name), getattr(before, name) * ratio, rtol=2e-4, atol=1e-5)


def test_unknown_standardisation_is_refused():
    with pytest.raises(ValueError, match=r"standardisation: expected one of .'none', 'internal', 'sample'.*'zca'"):
        scm.Prior(standardisation="zca")
