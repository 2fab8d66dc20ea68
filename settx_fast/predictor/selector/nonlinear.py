"""Whether lines are enough for a table: gradient-boosted ERM, which is not ranked, beside ERM in left-out sources."""

from __future__ import annotations

import numpy as np
from scipy import stats
from sklearn.model_selection import GroupKFold, cross_val_predict

from settx_fast.predictor.frameworks import BOOSTED, estimator

FOLDS = 5
LEVEL = 0.1


def beyond_lines(features: np.ndarray, target: np.ndarray, environment: np.ndarray) -> str | None:
    """What left-out sources say of trees: rows (R, p), (R,), (R,) → a sentence; None where that could be chance.

    Sources are left out in at most five groups. The log ratios of both risks, one a source, are held against 0 by
    Student's test at 10 %.
    """
    sources = np.unique(environment)
    if len(sources) < 3:
        return None
    linear, trees = (_left_out_risks(name, features, target, environment) for name in ("erm", BOOSTED))
    if min(linear.min(), trees.min()) == 0:
        return None
    gain = np.log(trees / linear)
    if not stats.ttest_1samp(gain, 0.0).pvalue < LEVEL:
        return None
    change = np.exp(gain.mean()) - 1
    said = f"Gradient-boosted ERM, which is not ranked, has {abs(change):.0%} {'more' if change > 0 else 'less'} risk"
    return f"{said} than ERM in left-out sources (geometric mean of {len(sources)})."


def _left_out_risks(name: str, features: np.ndarray, target: np.ndarray, environment: np.ndarray) -> np.ndarray:
    """(K,): mean squared errors in the sources."""
    sources = np.unique(environment)
    folds = GroupKFold(min(FOLDS, len(sources)))
    guess = cross_val_predict(estimator(name), features, target, groups=environment, cv=folds)
    return np.array([np.mean((guess - target)[environment == source] ** 2) for source in sources])
