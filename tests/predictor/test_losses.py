"""Losses: where they are least, what they ignore, and what intervals they imply."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from settx_fast.predictor.losses import LOSSES, QUANTILES, Z90, loss_named, masked_mean, order_cost, penalty


def sample(size: int = 2001) -> torch.Tensor:
    """A skewed sample, in which mean, median and quantiles all differ."""
    return torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=size))


def gradient(loss: str, outputs: list[float]) -> torch.Tensor:
    parameters = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
    LOSSES[loss].cost(parameters.expand(len(sample()), -1), sample()).mean().backward()
    assert parameters.grad is not None
    return parameters.grad


def test_squared_error_is_least_at_the_mean():
    assert gradient("mse", [float(sample().mean())]).abs() < 1e-12


def test_absolute_error_is_least_at_the_median():
    below, above = (gradient("mae", [float(sample().median()) + step]) for step in (-0.01, 0.01))
    assert below < 0 < above


def test_huber_is_between_both():
    mean, median = float(sample().mean()), float(sample().median())
    assert gradient("huber", [median]) < 0 < gradient("huber", [mean])


def test_gaussian_likelihood_is_greatest_at_mean_and_variance():
    variance = sample().var(unbiased=False).log()
    assert gradient("gaussian_nll", [float(sample().mean()), float(variance)]).abs().max() < 1e-12


def test_pinball_is_least_at_the_quantiles():
    best = torch.tensor([float(np.quantile(sample().numpy(), level)) for level in QUANTILES])
    assert (gradient("pinball", (best - 0.02).tolist()) < 0).all()
    assert (gradient("pinball", (best + 0.02).tolist()) > 0).all()


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        ("mse", [2.0]),
        ("gaussian_nll", [2.0, 2 * np.log(0.5)]),
        ("pinball", [2 - Z90 * 0.5, 1.7, 2.0, 2.3, 2 + Z90 * 0.5]),
    ],
)
def test_ninety_percent_intervals_hold_ninety_percent_of_a_gaussian(loss, outputs):
    band = LOSSES[loss].band(torch.tensor(outputs), torch.tensor(0.5))
    draws = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 0.5 + 2.0
    inside = ((band.lower <= draws) & (draws <= band.upper)).double().mean()
    assert abs(inside - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 100_000)
    assert band.centre == pytest.approx(2.0)


def test_crossed_quantiles_are_put_in_order():
    band = LOSSES["pinball"].band(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), torch.tensor(1.0))
    assert (band.lower, band.centre, band.upper) == (1.0, 3.0, 5.0)


def test_an_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"expected one of mse, mae, huber, gaussian_nll, pinball, got 'accuracy'"):
        loss_named("accuracy")


def test_masked_costs_change_neither_the_mean_nor_its_gradient():
    cost = torch.tensor([1.0, 3.0, torch.nan], requires_grad=True)
    mean = masked_mean(cost, torch.tensor([True, True, False]))
    mean.backward()
    assert mean == 2.0
    assert cost.grad is not None
    assert cost.grad.tolist() == [0.5, 0.5, 0.0]


def test_a_mean_over_nothing_is_zero():
    assert masked_mean(torch.tensor([torch.nan]), torch.tensor([False])) == 0.0


def test_the_right_order_costs_less_and_ties_nothing():
    truth, steepness = torch.tensor([[0.0, 1.0, 1.0]]), torch.ones(3)
    right, wrong = order_cost(truth * 5, truth, steepness), order_cost(-truth * 5, truth, steepness)
    assert right == pytest.approx(np.log1p(np.exp(-5)), rel=1e-5)  # two pairs; the tied third does not count
    assert wrong == pytest.approx(np.log1p(np.exp(5)), rel=1e-5)


def test_penalties_weigh_matrices_and_leave_biases_free():
    weights = [torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([100.0])]
    assert penalty(weights, l1=0.1, l2=0.01) == pytest.approx(0.1 * 6 + 0.01 * 14)
    assert penalty(weights, l1=0.0, l2=0.0) == 0.0
