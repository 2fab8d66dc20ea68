"""The oracle of `Shifts`: what moves in which environment, in NumPy and float64. Slow and obvious."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from settx_fast.scm.distributions import Constant, Distribution, LogUniform, Normal, Uniform, as_distribution
from settx_fast.scm.interventions import ODDS
from settx_fast.scm.prior import Prior
from settx_fast.scm.reference import Floats, Words, half_turn, philox, signed_uniform

FOR_WEIGHT, FOR_SHIFTS, FOR_MUTABLE, FOR_MOVE, FOR_MOVED_WEIGHT = 12, 28, 29, 30, 31
"""Purposes of random words, as csrc/scm/philox.h has them."""

MOST_LOG_SCALE = 2.0


def moved(
    prior: Prior,
    seed: int,
    index: int,
    is_target: NDArray[np.bool_],
    target: int,
    adjacency: NDArray[np.bool_],
    weights: Floats,
    bias: Floats,
    noise_scale: Floats,
) -> dict[str, NDArray]:
    """The tables of all K environments of a dataset, from those that it has without `prior.shifts`.

    is_target (K,): which environments are targets; target: the variable to predict; adjacency, weights (n, n), bias,
    noise_scale (n,). Returns weights (K, n, n), bias, noise_scale, hard, has_moved (K, n). The graph must be none whose
    edges have weights of their own.
    """
    K, n, shifts = len(is_target), len(bias), prior.shifts
    assert shifts is not None
    odds = {name: number(getattr(shifts, name), seed, index, 0, 0, FOR_SHIFTS, i) for i, name in enumerate(ODDS)}
    severity = number(shifts.target_severity, seed, index, 0, 0, FOR_SHIFTS, len(ODDS))
    weights, bias, noise_scale = (np.repeat(table[None], K, 0).astype(float) for table in (weights, bias, noise_scale))
    hard, has_moved = np.zeros((K, n), bool), np.zeros((K, n), bool)
    for v in range(n):
        for k in range(K):
            version, there = 0 if shifts.recurring else k + 1, k + 1
            whose = "target_" if v == target else ""
            choice = unit(words(seed, index, version, v, FOR_MUTABLE))
            is_mutable = v == target or choice[0] < odds["mutable"]
            moves, size = {}, {}
            for i, part in enumerate(("intercept", "slopes", "noise"), start=1):
                moves[part] = is_mutable and choice[i] < odds[f"{whose}moves_{part}"]
                law = shifts.target_strength if v == target else shifts.strength
                strength = number(law, seed, index, version, v, FOR_MUTABLE, i)
                size[part] = strength * (severity if is_target[k] else 1.0)
            has_moved[k, v] = any(moves.values())
            event = unit(words(seed, index, there, v, FOR_MOVE))
            if moves["intercept"]:
                bias[k, v] += size["intercept"] * number(shifts.intercept, seed, index, there, v, FOR_MOVE, 1)
            if moves["intercept"] and v != target and event[0] < odds["hard"]:
                hard[k, v], noise_scale[k, v], weights[k, :, v] = True, 0.0, 0.0
                continue
            for p in np.flatnonzero(adjacency[:, v] & moves["slopes"]).tolist():
                if event[1] < odds["redrawn"]:
                    weights[k, p, v] = number(prior.weight, seed, index, there, v, FOR_WEIGHT, p)
                else:
                    by = number(shifts.slope, seed, index, there, v, FOR_MOVED_WEIGHT, p)
                    weights[k, p, v] += size["slopes"] * by
            if moves["noise"]:
                by = size["noise"] * number(shifts.noise, seed, index, there, v, FOR_MOVE, 2)
                noise_scale[k, v] *= np.exp(np.clip(by, -MOST_LOG_SCALE, MOST_LOG_SCALE))
    return {"weights": weights, "bias": bias, "noise_scale": noise_scale, "hard": hard, "has_moved": has_moved}


def number(value: object, seed: int, index: int, environment: int, variable: int, purpose: int, block: int) -> float:
    """The number that a distribution gives at an address of the stream."""
    distribution: Distribution = as_distribution(value, "value")
    w = words(seed, index, environment, variable, purpose, block)
    match distribution:
        case Constant():
            return distribution.value
        case Normal():
            return distribution.mean + distribution.sd * float(normal(w))
        case Uniform():
            x = distribution.low + float(unit(w)[0]) * (distribution.high - distribution.low)
        case LogUniform():
            x = distribution.low * (distribution.high / distribution.low) ** float(unit(w)[0])
    return -x if distribution.signed and w[2] >> 31 else x


def normal(w: Words) -> Floats:
    """A normal from the first two words (Box & Muller 1958)."""
    sign, u = signed_uniform(w[:1])
    return (sign * np.sqrt(-2 * np.log(u)) * np.cos(half_turn(w[1:2])))[0]


def unit(w: Words) -> Floats:
    """Uniform numbers in [0, 1) from the upper 24 bits."""
    return (w >> 8) / 2**24


def words(seed: int, index: int, environment: int, variable: int, purpose: int, block: int = 0) -> Words:
    """(4,): the random words at an address of the stream."""
    place = (block, variable | purpose << 24, index & 0xFFFFFFFF, index >> 32 | environment << 16)
    return philox(np.array(place, np.uint32), seed)
