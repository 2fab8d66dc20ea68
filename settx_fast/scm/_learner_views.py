"""Several columns of one variable: the first as it is, others functions of it, exact or rounded once on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from settx_fast.scm._counters import uniforms

NUMBER, ORDER, FUNCTION, SLOPE, SHIFT = range(6, 11)
"""Purposes of random numbers; those below 6 are of `_learner`."""

TO_WHOLE = 12582912.0
"""1.5·2²³: what is added to it and taken off again is the nearest whole number, up to ±2²²."""


def _whole(t: Tensor) -> Tensor:
    return (t + TO_WHOLE) - TO_WHOLE


FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.abs,
    torch.square,
    lambda t: t.where(t > 0, 0.0),
    lambda t: (t > 0).to(t.dtype),
    lambda t: t - _whole(t),
    _whole,
)
"""The code of a view is its place here plus one; 0 is the variable as it is. csrc/scm/learner.cpp has the same."""


class Views(NamedTuple):
    """(B, C) the variable that a column shows, its function, and slope and shift, float32; (B,) how many there are.

    A function is of slope · u + shift, u the variable standardised by the rows to learn from.
    """

    variable: Tensor
    function: Tensor
    slope: Tensor
    shift: Tensor
    number: Tensor


def drawn_views(is_feature: Tensor, seed: int, index: np.ndarray, columns: tuple[int, int]) -> Views:
    """Views of the features, (B, V), in random order: of each as many as are drawn, uniform over `columns`."""
    V, (low, most) = is_feature.shape[1], columns

    def draws(purpose: int, count: int) -> Tensor:
        return torch.from_numpy(uniforms(seed, index, purpose, count)).to(is_feature.device)

    number = low + (draws(NUMBER, V) * (most - low + 1)).long()
    place = torch.arange(most, device=is_feature.device)
    is_there = (is_feature[:, :, None] & (place < number[:, :, None])).flatten(1)
    order = torch.where(is_there, draws(ORDER, V * most), 2.0).argsort(dim=1, stable=True)[:, : (V - 1) * most]
    function = 1 + (draws(FUNCTION, V * most) * len(FUNCTIONS)).long()
    function = function * (place > 0).repeat(V)
    slope, shift = 0.5 + 1.5 * draws(SLOPE, V * most), 2.0 * draws(SHIFT, V * most) - 1.0
    function, slope, shift = (t.gather(1, order) for t in (function, slope.float(), shift.float()))
    return Views(order // most, function, slope, shift, is_there.sum(1))


def seen_by(views: Views, X: Tensor, standardised: Tensor) -> Tensor:
    """(B, R, C) from the columns of `views`, as they are and standardised; a missing value is missing in each."""
    t = standardised * views.slope[:, None] + views.shift[:, None]
    for code, function in enumerate(FUNCTIONS, 1):
        seen = function(t).where(~t.isnan(), torch.nan)
        X = torch.where(views.function[:, None] == code, seen, X)
    return X
