import math

import pytest
import torch

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.decision import (
    COVERED,
    ERM,
    LEAST_GAIN,
    Calibration,
    calibrate,
    decide,
    interval,
    mean_regret,
    over_erm,
    unlike,
)
from settx_fast.predictor.selector.descriptors import TRAITS
from settx_fast.predictor.selector.network import Guess, NetworkConfig

F = len(FRAMEWORKS)


def guess_of(log_risk: torch.Tensor, half: float = 0.5, deviation: float = 1.0) -> Guess:
    quantiles = torch.stack([log_risk - half, log_risk, log_risk + half], -1)
    doubt = torch.full_like(log_risk, math.log(deviation))
    return Guess(log_risk, quantiles, torch.zeros(len(log_risk), 2, 4), doubt)


def test_erm_stays_unless_another_surely_gains() -> None:
    risk = torch.zeros(3, F)
    risk[0, 5], risk[1, 5], risk[2, ERM] = -0.05, -0.15, -0.3
    guess = guess_of(risk, deviation=0.2)
    assert decide(guess, 2.0).tolist() == [ERM, 5, ERM]
    assert decide(guess, 0.0).tolist() == [5, 5, ERM]
    assert guess.log_risk[0, 5] == -0.05  # nothing was written into the guess


def test_nobody_leaves_erm_for_next_to_nothing() -> None:
    risk = torch.zeros(2, F)
    risk[0, 5], risk[1, 5] = -0.9 * LEAST_GAIN, -1.1 * LEAST_GAIN
    assert decide(guess_of(risk, deviation=1e-3), 0.5).tolist() == [ERM, 5]


def test_a_surer_gain_goes_before_a_greater_one() -> None:
    guess = guess_of(torch.zeros(1, F), deviation=0.2)
    guess.log_risk[0, 5], guess.log_risk[0, 7] = -0.30, -0.25
    guess.doubt[0, 5] = math.log(0.4)
    assert decide(guess, 0.0).tolist() == [5]
    assert decide(guess, 0.5).tolist() == [7]
    assert decide(guess, 7.0).tolist() == [ERM]


def test_a_caution_of_one_half_chooses_the_least_mean_of_log_normal_risks() -> None:
    torch.manual_seed(0)
    guess = guess_of(torch.randn(100, F))
    guess.doubt.copy_(torch.rand(100, F).log())
    means = (over_erm(guess.log_risk) + guess.doubt.exp().square() / 2).exp()
    means[:, ERM] = math.exp(-LEAST_GAIN)
    assert decide(guess, 0.5).tolist() == means.argmin(1).tolist()
    assert decide(guess, 0.0).tolist() != means.argmin(1).tolist()


def test_a_committee_doubts_what_its_members_doubt_and_what_they_disagree_about() -> None:
    class Member(torch.nn.Module):
        config = NetworkConfig()

        def __init__(self, gain: float, deviation: float) -> None:
            super().__init__()
            self.guess = guess_of(torch.zeros(1, F), deviation=deviation)
            self.guess.log_risk[0, 5] = -gain

        def forward(self, seen: object) -> Guess:
            return self.guess

    found = Committee([Member(0.1, 0.3), Member(0.5, 0.5)])(None)  # type: ignore[arg-type, list-item]
    assert float(found.log_risk[0, 5]) == pytest.approx(-0.3)
    assert float(found.doubt[0, 5].exp()) == pytest.approx(math.sqrt((0.3**2 + 0.5**2) / 2 + 0.2**2))
    assert float(found.doubt[0, 6].exp()) == pytest.approx(math.sqrt((0.3**2 + 0.5**2) / 2))


def test_regret_is_a_geometric_mean_over_the_best() -> None:
    risk = torch.zeros(2, F)
    risk[0, ERM], risk[1, ERM] = math.log(2.0), math.log(8.0)
    assert float(mean_regret(risk, torch.tensor([ERM, ERM]))) == pytest.approx(3.0)
    assert float(mean_regret(risk, torch.tensor([1, 1]))) == 0.0


def test_intervals_are_widened_until_they_cover_a_little_more_of_fresh_datasets_than_they_promise() -> None:
    torch.manual_seed(0)
    truth = torch.randn(8000, F) * torch.linspace(0.1, 3, F)
    guess = guess_of(torch.zeros(8000, F))  # too wide for some, too narrow for others
    first, second = slice(0, 4000), slice(4000, 8000)
    found = calibrate(Guess(*(t[first] for t in guess)), truth[first], torch.zeros(4000, len(TRAITS)))
    low, high = interval(Guess(*(t[second] for t in guess)), found)
    covered = ((truth[second] >= low) & (truth[second] <= high)).double().mean(0)
    assert COVERED > 0.9
    assert (covered - COVERED).abs().max() < 4 * math.sqrt(2 * COVERED * (1 - COVERED) / 4000)  # of either half


def test_caution_grows_where_gains_are_noise_and_stays_small_where_they_are_real() -> None:
    torch.manual_seed(0)
    truth = 0.3 * torch.randn(4000, F)
    traits = torch.zeros(4000, len(TRAITS))
    real = calibrate(guess_of(truth), truth, traits)
    noise = calibrate(guess_of(0.02 * torch.randn(4000, F)), truth - truth[:, ERM : ERM + 1] + 0.2, traits)
    assert real.caution < 0.05
    assert noise.caution > 0.05


def test_a_table_is_unlike_training_beyond_what_training_had() -> None:
    low, high = (-1.0,) * len(TRAITS), (1.0,) * len(TRAITS)
    calibration = Calibration(0.0, (0.0,) * F, low, high)
    inside = torch.zeros(len(TRAITS))
    assert unlike(inside, calibration) == []
    outside = inside.clone()
    outside[1] = 2.0
    assert unlike(outside, calibration) == [("columns", 2.0, -1.0, 1.0)]
    many = inside.clone()
    many[2] = 2.0  # rows: more of them are no reason to abstain
    assert unlike(many, calibration) == []
    assert [name for name, *_ in unlike(-many, calibration)] == ["labelled rows"]


def test_a_trait_that_all_of_training_has_is_familiar_whatever_its_rounding() -> None:
    exact = torch.full((500, len(TRAITS)), math.log(2.0))
    found = calibrate(guess_of(torch.zeros(500, F)), torch.zeros(500, F), exact.half().float())
    assert (exact.half().float() != exact).all()
    assert unlike(exact[0], found) == []
