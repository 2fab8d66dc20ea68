"""Rows of a linear model whose environments differ by recurring shifts, as arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    environments: np.ndarray
    X_deploy: np.ndarray


def make_rows(seed: int, environments: int = 3, rows: int = 120, columns: int = 4) -> Rows:
    """Two causes, then effects of the target; effects' shifts and noise, and the target's level, move."""
    random = np.random.default_rng(seed)
    slopes, loadings = random.normal(size=2), random.normal(size=columns - 2)
    blocks = []
    for _ in range(environments + 1):
        size = rows + int(random.integers(0, rows))
        causes = random.normal(size=(size, 2)) * random.uniform(0.5, 2) + random.normal(size=2)
        y = causes @ slopes + random.normal(size=size) + 0.3 * random.normal()
        noise = random.uniform(0.3, 2, columns - 2) * random.normal(size=(size, columns - 2))
        effects = y[:, None] * (loadings + 0.5 * random.normal(size=columns - 2)) + noise + random.normal()
        blocks.append((np.concatenate([causes, effects], 1) * 3 + 10, 5 * y - 2))
    *sources, (X_deploy, _) = blocks
    labels = np.concatenate([np.full(len(y), f"place {k}") for k, (_, y) in enumerate(sources)])
    order = random.permutation(len(labels))
    X, y = (np.concatenate(part)[order] for part in zip(*sources, strict=True))
    return Rows(X, y, labels[order], X_deploy)


def by_environment(rows: Rows) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(rows.X[rows.environments == e], rows.y[rows.environments == e]) for e in np.unique(rows.environments)]


def standardised(rows: Rows) -> Rows:
    """In the units in which penalties are meant: all source columns of mean 0 and variance 1."""
    centre, scale = rows.X.mean(0), rows.X.std(0)
    return Rows(
        (rows.X - centre) / scale,
        (rows.y - rows.y.mean()) / rows.y.std(),
        rows.environments,
        (rows.X_deploy - centre) / scale,
    )
