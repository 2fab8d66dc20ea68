"""From predicted risks to a decision that is cautious: ERM unless another gains something, doubt deducted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector.descriptors import TRAITS
from settx_fast.predictor.selector.network import Guess

ERM = FRAMEWORKS.index("erm")
LEAST_GAIN = 0.005  # as a log ratio of risks: for less nobody leaves ERM
COVERED = 0.92  # of held-out datasets, by intervals that promise 90 %: tables of others are no draws of the prior
PRICE = 1.01  # the regret that caution may cost on held-out datasets, as a factor
CAUTIONS = tuple(0.05 * step for step in range(41))
NO_MOST = ("labelled rows", "rows of the deployment", "rows of the smallest source")
NO_LEAST = ("rows of the deployment",)
ROUNDING = 2**-10  # of the half precision in which examples are kept
OUTSIDE = 1e-4  # share of training datasets beyond a trait's limits, on each side


@dataclass(frozen=True)
class Calibration:
    """What held-out datasets say of a network.

    caution: the variances that are taken off what another framework is expected to gain over ERM. widen (F): what is
    added to the logarithm of both ends of each framework's interval so that it covers `COVERED`. low, high (traits):
    the range of the traits of training datasets.
    """

    caution: float
    widen: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def calibrate(guess: Guess, log_risk: Tensor, dataset: Tensor) -> Calibration:
    """From the guesses for B held-out datasets, their true log risks (B, F); traits (D, len(TRAITS)) of training's.

    Intervals: conformalised quantile regression (Romano, Patterson and Candès 2019, arXiv:1905.03222). The caution is
    the greatest whose regret is at most 1 % above the least.
    """
    regrets = torch.stack([mean_regret(log_risk, decide(guess, caution)) for caution in CAUTIONS])
    allowed = regrets <= PRICE * regrets.min()
    caution = CAUTIONS[int(torch.nonzero(allowed).max())]
    missed = torch.maximum(guess.quantiles[..., 0] - log_risk, log_risk - guess.quantiles[..., -1])
    level = min(1.0, COVERED * (1 + 1 / len(log_risk)))
    low, high = (dataset.quantile(share, 0) for share in (OUTSIDE, 1 - OUTSIDE))
    low, high = low - ROUNDING * (1 + low.abs()), high + ROUNDING * (1 + high.abs())
    widen = missed.quantile(level, 0)
    return Calibration(caution, tuple(widen.tolist()), tuple(low.tolist()), tuple(high.tolist()))


def decide(guess: Guess, caution: float) -> Tensor:
    """(B,) number of the framework that gains most over ERM, doubt deducted; ERM's own gain is 0.

    What counts is the expected gain less `caution` variances, and less what is not worth the while: leaving ERM for a
    framework that is better on average but often much worse has to pay for it. Were logarithms normal, a caution of ½
    would choose by the mean of risks over ERM's, 0 by that of their logarithms.
    """
    gain = -over_erm(guess.log_risk) - caution * (2 * guess.doubt).exp() - LEAST_GAIN
    gain[:, ERM] = 0.0
    return gain.argmax(1)


def over_erm(log_risk: Tensor) -> Tensor:
    """(…, F) logarithms of risks less ERM's: what other frameworks lose over it."""
    return log_risk - log_risk[..., ERM : ERM + 1]


def interval(guess: Guess, calibration: Calibration) -> tuple[Tensor, Tensor]:
    """Ends (B, F) of the 90 % intervals of log risks; they hold the expected one."""
    widen = guess.log_risk.new_tensor(calibration.widen)
    low = torch.minimum(guess.quantiles[..., 0] - widen, guess.log_risk)
    return low, torch.maximum(guess.quantiles[..., -1] + widen, guess.log_risk)


def unlike(dataset: Tensor, calibration: Calibration) -> list[tuple[str, float, float, float]]:
    """The traits (len(TRAITS),) of one dataset outside training: name, value, least and greatest in training.

    More rows than in training are no reason to be careful; nor are rows of a deployment that are few, or not known.
    """
    found = zip(TRAITS, dataset.tolist(), calibration.low, calibration.high, strict=True)
    return [
        (name, value, low, high)
        for name, value, low, high in found
        if not (value >= low or name in NO_LEAST) or not (value <= high or name in NO_MOST)
    ]


def mean_regret(log_risk: Tensor, chosen: Tensor) -> Tensor:
    """Geometric mean over datasets of the chosen framework's true risk over the least, less 1: (B, F), (B,) → ()."""
    regret = log_risk.gather(1, chosen[:, None]).squeeze(1) - log_risk.min(1).values
    return regret.double().mean().expm1()
