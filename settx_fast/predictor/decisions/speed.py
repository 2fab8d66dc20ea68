"""How long a choice takes, beside fitting every framework on every set of sources but one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from settx_fast import scm
from settx_fast.predictor.data import observe
from settx_fast.predictor.decisions.real_tables import REAL_TABLES
from settx_fast.predictor.features import FeatureConfig, Observed
from settx_fast.predictor.frameworks import FRAMEWORKS, estimator, sources_of
from settx_fast.predictor.selector.committee import Committee
from settx_fast.predictor.selector.descriptors import describe
from settx_fast.predictor.selector.examples import alike
from settx_fast.predictor.selector.fits import fits_of
from settx_fast.predictor.selector.network import Seen
from settx_fast.predictor.selector.shipped import Selector
from settx_fast.predictor.selector.tables import recommend_for
from settx_fast.predictor.table import Table

TABLES = ("grunfeld", "crime", "midwest")
TOGETHER, ALONE, ROWS, SEED = 128, 8, 1000, 13 << 33  # datasets in a batch and fitted one by one; no training's seed


def speed(model: Path | None) -> dict[str, float]:
    """Seconds a table.

    Medians over real tables, one by one: a recommendation, and every framework fitted without every source, in
    scikit-learn. Means over held-out datasets: risks predicted for many together, and the same fits of some of these.
    """
    tables = [next(REAL_TABLES[name].tables()) for name in TABLES]
    ours = [_seconds(partial(recommend_for, _unlabelled(table), model)) for table in tables]
    theirs = [_seconds(partial(_fit_all_left_out, *_arrays(table))) for table in tables]
    prior = scm.presets.recurring(12, 6)
    batch = scm.sample(prior, TOGETHER, ROWS, seed=SEED)
    observed, _ = observe(batch, FeatureConfig(batch.values.shape[2], batch.bias.shape[1]))
    network = Selector.load(model).network
    together = _seconds(partial(_guess_together, observed, network)) / TOGETHER
    alone = sum(_seconds(partial(_fit_all_left_out, *_dataset(observed, row))) for row in range(ALONE))
    return {
        "a recommendation": float(np.median(ours)),
        "every framework, leave one out": float(np.median(theirs)),
        "predicted in a batch": together,
        "every framework on datasets of the batch": alone / ALONE,
    }


@torch.no_grad()
def _guess_together(observed: Observed, network: Committee) -> None:
    for _, group, _ in alike(sources_of(observed), torch.arange(len(observed.target))):
        network(Seen(describe(fits_of(group))))


def _dataset(observed: Observed, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, target and environment of the rows, and which of these are labelled source rows, of one dataset."""
    features = observed.features[row][:, observed.present[row]].numpy()
    source = (observed.labelled & ~observed.is_target)[row].numpy()
    return features, observed.target[row].numpy(), observed.environment[row].numpy(), source


def _unlabelled(table: Table) -> Table:
    return replace(table, target=np.where(table.is_deploy, np.nan, table.target))


def _arrays(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return table.features, table.target, table.environment, ~table.is_deploy


def _fit_all_left_out(features: np.ndarray, target: np.ndarray, environment: np.ndarray, source: np.ndarray) -> None:
    for name in FRAMEWORKS:
        for left_out in np.unique(environment[source]):
            rows, rest = source & (environment == left_out), source & (environment != left_out)
            model = estimator(name).fit(features[rest], target[rest], environment[rest], features[rows])
            model.predict(features[rows])


def _seconds(call: Callable[[], object]) -> float:
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
