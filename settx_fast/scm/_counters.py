"""Random numbers that are a function of (seed, number, purpose, place), for many numbers at once."""

from __future__ import annotations

from typing import Any

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, numbers: np.ndarray, purpose: int, count: int) -> np.ndarray:
    """(B, count) float64 on [0, 1) for every one of B numbers: the finaliser of SplitMix64 (Steele et al. 2014).

    numbers: (B,) whole numbers below 2⁶⁴.
    """
    with np.errstate(over="ignore"):
        key = _mixed(_mixed(np.uint64(seed) + GOLDEN) ^ numbers.astype(np.uint64))
        key = _mixed(key + np.uint64(purpose) * GOLDEN)
        bits = _mixed(key[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)
    return (bits >> np.uint64(11)) * 2.0**-53


def _mixed(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
