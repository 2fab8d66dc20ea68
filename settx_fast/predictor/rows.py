"""Fewer rows of a large table, chosen by what they hold: not by their order, nor by units or signs."""

from __future__ import annotations

import numpy as np

from settx_fast.predictor.table import Table


def deal(table: Table, hands: int) -> np.ndarray:
    """(R,) int: which of `hands` equal samples each row falls into, every environment dealt out evenly.

    Labels never enter. Rows are told apart by the ranks of their values, counted from the nearer end.
    """
    order = np.lexsort((_keys(table.features), table.environment))
    starts = np.flatnonzero(np.diff(table.environment[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    hand = np.empty(len(order), dtype=np.int64)
    hand[order] = place % hands
    return hand


def _keys(features: np.ndarray) -> np.ndarray:
    """(R,) uint64: a hash of every row that ignores the order, the units and the signs of columns."""
    total = np.zeros(len(features), dtype=np.uint64)
    for column in features.T:
        values, rank = np.unique(column, return_inverse=True)
        total += _mixed(np.minimum(rank, len(values) - 1 - rank).astype(np.uint64))
    return _mixed(total)


def _mixed(value: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele et al. 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
