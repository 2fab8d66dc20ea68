"""What plain correlation says of a column's role: no trace of a relation speaks against one."""

from __future__ import annotations

import numpy as np

from settx_fast.predictor.table import Table
from settx_fast.predictor.targets import ROLES

_RELATED = np.array([role != "unrelated" for role in ROLES])


def weigh_roles(table: Table, probability: np.ndarray) -> np.ndarray:
    """Probabilities of roles (P, 4), lowered by Bayes' rule where a column shows no correlation with the target.

    A column in the Markov blanket of the target is correlated with it, alone or given all others (faithfulness; Pearl
    2009, section 2.4). If it is, its correlation may have any size; if not, it is noise of n rows. The ratio of the two
    densities weighs the roles of a related column, but never speaks for them: the model has seen the rows already.
    """
    ratio = np.maximum(*(_bayes_factor(*each) for each in _correlations(table)))
    weighed = probability * np.where(_RELATED, np.minimum(ratio, 1.0)[:, None], 1.0)
    total = weighed.sum(1, keepdims=True)
    return np.where(total > 0, weighed / np.where(total > 0, total, 1.0), probability)


def _bayes_factor(correlation: np.ndarray, rows: float) -> np.ndarray:
    """Of a correlation of any size, uniform on −1 … 1, against none, as `rows` observations tell."""
    score = correlation * np.sqrt(rows)
    with np.errstate(over="ignore"):
        return np.sqrt(2 * np.pi) * np.exp(np.minimum(score**2 / 2, 700.0)) / (2 * np.sqrt(rows))


def _correlations(table: Table) -> list[tuple[np.ndarray, float]]:
    """Correlation (P,) with the target within source environments, alone and given all others, and its rows.

    1 where a column does not vary within environments: nothing is known of it then.
    """
    columns, environments = within_sources(table)
    features = columns.shape[1] - 1
    rows = len(columns) - environments
    scale = np.sqrt((columns**2).mean(0))
    constant = scale <= 1e-9 * np.append(np.abs(table.features).max(0), np.abs(columns[:, -1]).max())
    standard = columns / np.where(constant, 1.0, scale)
    covariance = standard.T @ standard / len(standard)
    inverse = np.linalg.pinv(covariance, hermitian=True)
    spread = np.sqrt(np.outer(inverse.diagonal(), inverse.diagonal())[:-1, -1])
    partial = np.divide(-inverse[:-1, -1], spread, out=np.ones(features), where=spread > 0)
    alone = np.where(constant[:-1], 1.0, covariance[:-1, -1])
    partial = np.where(constant[:-1], 1.0, partial)
    return [(alone, max(rows - 1.0, 1.0)), (partial, max(rows - float(features), 1.0))]


def within_sources(table: Table) -> tuple[np.ndarray, int]:
    """Labelled source rows (n, P + 1), target last, less the mean of their environment; and how many environments."""
    rows = table.is_labelled & ~table.is_deploy
    columns = np.column_stack([table.features[rows], table.target[rows]])
    _, environment = np.unique(table.environment[rows], return_inverse=True)
    counts = np.bincount(environment)
    for index in range(columns.shape[1]):
        columns[:, index] -= (np.bincount(environment, columns[:, index]) / counts)[environment]
    return columns, len(counts)
