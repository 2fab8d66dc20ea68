"""A recommendation for a table that was read from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks import FRAMEWORKS, estimator
from settx_fast.predictor.selector.nonlinear import beyond_lines
from settx_fast.predictor.selector.recommendation import Ranked, Recommendation, recommend
from settx_fast.predictor.selector.shipped import Selector
from settx_fast.predictor.table import Table

MOST_COLUMNS, MOST_SOURCES = 60, 60


def recommend_for(table: Table, model: str | Path | None = None, *, beside_trees: bool = False) -> Recommendation:
    """Choose a framework for a table; labels of its deployment only measure what was fitted without them.

    beside_trees: also measure gradient-boosted ERM in left-out sources, which takes longer than all else, and give what
    it says as a reason. Raises FileNotFoundError if there is no trained model.
    """
    whole, table = table, table.limited_to(MOST_COLUMNS, MOST_SOURCES)
    found = recommend(observe_table(table), table.feature_names, Selector.load(model))
    if beside_trees and (said := beyond_lines(*_source_rows(table))):
        found = replace(found, reasons=(found.reasons[0], said, *found.reasons[1:]))
    deploy = None if table.deploy is None else table.environment_names[table.deploy]
    notes = (*_unread(whole, table), *table.notes)
    found = replace(found, notes=notes, table=table.name, target=table.target_name, deploy=deploy, source=table.source)
    measured = measured_in_deployment(table)
    if not measured:
        return found
    ranking = tuple(Ranked(entry.framework, entry.risk, measured[entry.framework]) for entry in found.ranking)
    return replace(found, ranking=ranking, measured_on="deployment")


def _unread(whole: Table, read: Table) -> tuple[str, ...]:
    """A note on the columns that nothing here knows of, if there are any."""
    unread = len(whole.feature_names) - len(read.feature_names)
    if not unread:
        return ()
    kept = f"the {len(read.feature_names)} most correlated with '{read.target_name}' in the sources"
    return (f"Of {len(whole.feature_names)} columns only {kept} were read: all that is said and measured is of these.",)


def observe_table(table: Table) -> Observed:
    """A table as a batch of one dataset, nothing labelled in deployment."""
    is_deploy = torch.from_numpy(table.is_deploy)[None]
    return Observed(
        features=torch.from_numpy(table.features)[None],
        target=torch.from_numpy(np.nan_to_num(table.target))[None],
        environment=torch.from_numpy(table.environment)[None],
        is_target=is_deploy,
        labelled=torch.from_numpy(table.is_labelled)[None] & ~is_deploy,
        present=torch.ones(1, table.features.shape[1], dtype=torch.bool),
    )


def _source_rows(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, target and environment of the labelled rows to learn from."""
    source = ~table.is_deploy & table.is_labelled
    return table.features[source], table.target[source], table.environment[source]


def measured_in_deployment(table: Table) -> dict[str, float]:
    """Mean squared error of every framework on the labelled rows of the deployment; {} if there are none."""
    rows = table.is_deploy & table.is_labelled
    if not rows.any():
        return {}
    errors = {}
    for name in FRAMEWORKS:
        model = estimator(name).fit(*_source_rows(table), table.features[table.is_deploy])
        errors[name] = float(np.mean((model.predict(table.features[rows]) - table.target[rows]) ** 2))
    return errors
