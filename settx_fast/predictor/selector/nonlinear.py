"""Whether lines are enough for a table: gradient-boosted ERM, which is not ranked, beside ERM in left-out sources."""

from __future__ import annotations

import numpy as np
from scipy import stats
from sklearn.model_selection import GroupKFold, cross_val_predict

from settx_fast.predictor.frameworks import BOOSTED, estimator
from settx_fast.predictor.wording import number

FOLDS = 5
LEVEL = 0.1
LEAST_RATIO, MOST_RATIO = 0.05, 2.0  # beyond, a percentage says little


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
    said = f"Gradient-boosted ERM, which is not ranked, has {_beside(float(np.exp(gain.mean())))}"
    return f"{said} in left-out sources (geometric mean of {len(sources)})."


def _beside(ratio: float) -> str:
    if not LEAST_RATIO < ratio < MOST_RATIO:
        return f"{number(ratio)} times the risk of ERM"
    return f"{abs(ratio - 1):.0%} {'more' if ratio > 1 else 'less'} risk than ERM"


def _left_out_risks(name: str, features: np.ndarray, target: np.ndarray, environment: np.ndarray) -> np.ndarray:
    """(K,): mean squared errors in the sources."""
    sources = np.unique(environment)
    folds = GroupKFold(min(FOLDS, len(sources)))
    guess = cross_val_predict(estimator(name), features, target, groups=environment, cv=folds)
    return np.array([np.mean((guess - target)[environment == source] ** 2) for source in sources])
