"""Properties found from fresh samples: against the closed form where there is one, else by other means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from settx_fast import scm
from settx_fast.scm import properties
from settx_fast.scm.properties import FRAMEWORKS, chain_anticausal_wins
from settx_fast.scm.properties.graph import ancestors
from settx_fast.scm.properties.moments import at_target, sample_moments
from settx_fast.scm.properties.population import is_linear, linear_population, sampled_population, select

ROWS = 1 << 14
TANH = scm.Prior(
    num_variables=(2, 5),
    graph=scm.ErdosRenyi(expected_in_degree=1.5),
    mechanism=scm.MLP(hidden=8),
    source_environments=2,
    source_interventions=(scm.Intervention("shift", scm.Uniform(-1.0, 1.0)),),
    target="inner",
)


CLOSED = {"chain": scm.presets.chain(), "random_linear": scm.presets.random_linear(6)}
CLOSED["internal"] = replace(CLOSED["random_linear"], standardisation="internal")


@pytest.mark.parametrize("prior", CLOSED.values(), ids=CLOSED)
def test_a_sampled_population_is_that_of_the_closed_form(prior):
    batch = scm.sample(prior, 12, 200, seed=1)
    share = properties.environment_share(batch, target=False)
    exact, sampled = linear_population(batch, share), sampled_population(batch, share, ROWS, 2)
    there = batch.environment_mask
    deviation = exact.moments.variance.sqrt()[there]
    # standard errors: σ/√R of a mean; at most √(κ − 1) σσ/√R of a covariance, κ ≤ 6 for Laplace noise
    error = deviation / ROWS**0.5
    assert ((sampled.moments.mean - exact.moments.mean)[there].abs() <= 5 * error + 1e-6).all()
    limit = 5 * 5**0.5 * error[..., :, None] * deviation[..., None, :]
    assert ((sampled.moments.covariance - exact.moments.covariance)[there].abs() <= limit + 1e-6).all()
    torch.testing.assert_close(sampled.signal_variance, exact.signal_variance, rtol=5 * 5**0.5 / ROWS**0.5, atol=1e-4)
    torch.testing.assert_close(sampled.total_effect, exact.total_effect, rtol=1e-4, atol=1e-4)  # the noise cancels
    torch.testing.assert_close(sampled.target_noise, exact.target_noise)


def test_datasets_with_random_networks_say_that_they_were_sampled():
    batch = scm.sample(scm.presets.random(6), 40, 100, seed=3)
    computed = properties.compute(batch, monte_carlo_rows=256)
    linear = is_linear(batch)
    assert 0 < linear.sum() < len(batch)
    assert [method == "closed form" for method in computed.method] == linear.tolist()
    alone = properties.compute(select(batch, torch.nonzero(linear).flatten()))
    for name, value in computed.to_dict().items():
        torch.testing.assert_close(value[linear], alone.to_dict()[name], rtol=1e-4, atol=1e-5)


def test_random_networks_without_parents_are_linear():
    rootless = scm.Prior(num_variables=3, graph=scm.ErdosRenyi(expected_in_degree=0.0), mechanism=scm.MLP())
    assert is_linear(scm.sample(rootless, 4, 20, seed=0)).all()


def test_fresh_samples_repeat_with_their_seed_and_differ_from_the_rows_of_the_batch():
    batch = scm.sample(TANH, 4, 512, seed=5)
    first, again, other = (properties.compute(batch, monte_carlo_rows=512, seed=seed) for seed in (None, None, 6))
    for name, value in first.to_dict().items():
        assert torch.equal(value, again.to_dict()[name]), name
    assert not torch.equal(first.risk, other.risk)
    reused = properties.compute(batch, monte_carlo_rows=512, seed=batch.seed)
    assert not torch.equal(first.risk, reused.risk)


def test_the_total_effect_of_a_gaussian_root_is_its_regression_slope():
    # Stein's lemma: for X ~ N(μ, σ²) without causes, E[d/dx E[Y ∣ do(X = x)]] = Cov(X, Y) / Var(X)
    prior = replace(TANH, source_environments=1, source_interventions=(), noise_scale=(0.5, 1.0))
    batch = scm.sample(prior, 32, 20, seed=7)
    effect = properties.compute(batch, monte_carlo_rows=ROWS).total_effect
    moments = sample_moments(scm.resample(batch, ROWS, seed=8, environments=0).values)
    covariance = at_target(moments.covariance, batch.target_index)
    slope = covariance / moments.variance
    limit = 10 * (at_target(moments.variance, batch.target_index)[:, None] / moments.variance / ROWS).sqrt()
    root = ancestors(batch.adjacency, batch.target_index) & ~batch.adjacency.any(1)
    assert root.sum() > 20
    assert (slope[root].abs() > 2 * limit[root]).any()
    assert ((effect - slope).abs() <= limit)[root].all()


def test_the_signal_of_a_random_network_is_the_target_less_its_noise():
    batch = scm.sample(TANH, 8, 20, seed=9)
    computed = properties.compute(batch, monte_carlo_rows=ROWS)
    share = properties.environment_share(batch, target=False)
    noise = (share * at_target(batch.noise_scale.double() ** 2, batch.target_index)).sum(1)
    # noise is independent of the parents, so that variances add
    signal = computed.target_variance.double() - noise
    has_parents = computed.num_parents > 0
    torch.testing.assert_close(
        (noise / computed.noise_to_signal)[has_parents], signal[has_parents], rtol=0.02, atol=5 * ROWS**-0.5
    )


def test_on_the_chain_preset_the_derived_condition_names_the_better_framework():
    batch = scm.sample(scm.presets.chain(), 300, 4000, seed=11)
    risk = properties.compute(batch).risk.double()
    causal, anticausal = risk[:, FRAMEWORKS.index("causal")], risk[:, FRAMEWORKS.index("anticausal")]
    wins = chain_anticausal_wins(*chain_parameters(batch))
    assert torch.equal(wins, anticausal < causal)
    clear = (anticausal / causal).log().abs() > 0.2
    assert clear.sum() > 200
    assert torch.equal(wins[clear], sample_risk(batch, [0, 2])[clear] < sample_risk(batch, [0])[clear])


def chain_parameters(batch):
    scale = batch.noise_scale
    return batch.weights[:, 0, 1, 2], scale[:, 0, 1], scale[:, 0, 2], scale[:, 1, 2]


def sample_risk(batch, features):
    """(B,) error on the target rows of least squares on the source rows."""
    risks = []
    for values, environment in zip(batch.values.double().numpy(), batch.environment.numpy(), strict=True):
        design = np.column_stack([values[:, features], np.ones(len(values))])
        source = environment == 0
        coefficients = np.linalg.lstsq(design[source], values[source, 1], rcond=None)[0]
        risks.append(np.mean((values[~source, 1] - design[~source] @ coefficients) ** 2))
    return torch.tensor(risks)
