"""When anticausal ERM beats causal ERM on the chain: the derivation against simulation and against the general case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import chain_batch
from sklearn.linear_model import LinearRegression

from settx_fast.scm import properties
from settx_fast.scm.properties import FRAMEWORKS, chain_anticausal_wins

CAUSAL, ANTICAUSAL = FRAMEWORKS.index("causal"), FRAMEWORKS.index("anticausal")


def random_parameters(num: int, seed: int) -> tuple[np.ndarray, ...]:
    """γ, ε, η_source, η_target as the chain preset draws them, and float32 as its tables hold them."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(0, 1, num), rng.uniform(0, 0.5, num), rng.uniform(0, 0.5, num), rng.uniform(0.01, 1.99, num)
    return tuple(each.astype(np.float32) for each in drawn)


def test_the_condition_is_that_of_the_general_closed_form():
    parameters = random_parameters(2000, 1)
    risk = properties.compute(chain_batch(*parameters)).risk.double()
    wins = chain_anticausal_wins(*map(torch.from_numpy, parameters))
    clear = (risk[:, ANTICAUSAL] / risk[:, CAUSAL] - 1).abs() > 1e-5
    assert clear.sum() > 1900
    assert (wins == (risk[:, ANTICAUSAL] < risk[:, CAUSAL]))[clear].all()
    assert 0.05 < wins.double().mean() < 0.95


def test_the_derived_risks_are_those_of_the_general_closed_form():
    parameters = random_parameters(200, 2)
    risk = properties.compute(chain_batch(*parameters)).risk
    gamma, epsilon, eta_source, eta_target = (each.astype(np.float64) for each in parameters)
    s = gamma**2 * epsilon**2 + eta_source**2
    anticausal = epsilon**2 * (eta_source**4 + gamma**2 * epsilon**2 * eta_target**2) / s**2
    np.testing.assert_allclose(risk[:, CAUSAL], epsilon**2, rtol=1e-5)
    np.testing.assert_allclose(risk[:, ANTICAUSAL], anticausal, rtol=1e-5)


def test_the_condition_holds_in_simulation():
    rng, rows, checked = np.random.default_rng(3), 20_000, 0
    for gamma, epsilon, eta_source, eta_target in np.stack(random_parameters(60, 4), 1).astype(float):
        bound = gamma**2 * epsilon**2 + 2 * eta_source**2
        if abs(gamma * epsilon) < 0.03 or 0.8 < eta_target**2 / bound < 1.25:
            continue  # too close for so few rows
        risks = []
        source, target = (chain_rows(rng, rows, gamma, epsilon, eta) for eta in (eta_source, eta_target))
        for features in ([0], [0, 2]):
            model = LinearRegression().fit(source[:, features], source[:, 1])
            risks.append(np.mean((target[:, 1] - model.predict(target[:, features])) ** 2))
        assert bool(chain_anticausal_wins(gamma, epsilon, eta_source, eta_target)) == (risks[1] < risks[0])
        checked += 1
    assert checked > 30


def chain_rows(rng, rows: int, gamma: float, epsilon: float, eta: float) -> np.ndarray:
    x, n, m = rng.standard_normal((3, rows))
    y = 0.6 * x + epsilon * n
    return np.stack([x, y, gamma * y + eta * m], 1)


@pytest.mark.parametrize(("gamma", "epsilon"), [(0.0, 0.3), (0.5, 0.0)])
def test_an_effect_that_tells_nothing_wins_nothing(gamma, epsilon):
    assert not chain_anticausal_wins(gamma, epsilon, 0.2, 0.01)
    arrays = (np.array([p], np.float32) for p in (gamma, epsilon, 0.2, 0.01))
    risk = properties.compute(chain_batch(*arrays)).risk[0]
    assert risk[ANTICAUSAL].item() == pytest.approx(risk[CAUSAL].item(), rel=1e-6)
