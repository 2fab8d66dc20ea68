from dataclasses import replace

import numpy as np
import pytest
import torch

from settx_fast import scm
from settx_fast.predictor.frameworks import FRAMEWORKS, estimator, fit_all, risks
from settx_fast.predictor.selector import truth
from settx_fast.predictor.selector.truth import execute

ROWS = 400


def true_risks(batch: scm.Batch, fresh_rows: int = truth.FRESH_ROWS) -> torch.Tensor:
    executed = execute(batch, fresh_rows=fresh_rows)
    found = risks(fit_all(executed.sources), executed.target_mean, executed.target_covariance)
    return found * executed.sources.scale[:, -1:].square()


def risk_on_fresh_rows(batch: scm.Batch, dataset: int, name: str, rows: int) -> float:
    """Of the framework fitted by its estimator on the table, on fresh rows of the target environment."""
    X, y = (part.numpy().astype(float) for part in batch.xy(dataset))
    is_target, environment = batch.is_target_row[dataset].numpy(), batch.environment[dataset].numpy()
    centre = np.nanmean(X[~is_target], 0)
    X = np.where(np.isnan(X), centre, X)
    use = ~is_target & ~np.isnan(y)
    model = estimator(name).fit(X[use], y[use], environment[use], X[is_target])
    one = batch.is_target_environment.int().argmax(1)
    fresh_X, fresh_y = (
        p.numpy().astype(float) for p in scm.resample(batch, rows, seed=9, environments=one).xy(dataset)
    )
    labelled = ~np.isnan(fresh_y)
    guess = model.predict(np.where(np.isnan(fresh_X), centre, fresh_X)[labelled])
    return float(np.mean((guess - fresh_y[labelled]) ** 2))


@pytest.mark.parametrize(
    "prior", [scm.presets.recurring_linear(6, 3), scm.presets.recurring(6, 3)], ids=["linear", "any"]
)
def test_the_risk_is_that_of_the_fitted_estimator_on_fresh_rows_of_the_target_environment(prior: scm.Prior) -> None:
    batch = scm.sample(prior, 12, ROWS, seed=1, num_threads=1)
    found = true_risks(batch)
    for dataset in range(12):
        for name in ("erm", "stable", "within", "coral"):
            expected = risk_on_fresh_rows(batch, dataset, name, 40_000)
            assert float(found[dataset, FRAMEWORKS.index(name)]) == pytest.approx(expected, rel=0.1), (dataset, name)


def test_fresh_rows_come_to_what_the_closed_form_says(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = scm.sample(scm.presets.recurring_linear(6, 3), 12, ROWS, seed=2, num_threads=1)
    exact = true_risks(batch)
    monkeypatch.setattr(truth, "is_linear", lambda batch: torch.zeros(len(batch.index), dtype=torch.bool))
    torch.testing.assert_close(true_risks(batch, 100_000), exact, rtol=0.05, atol=0.0)
    assert not torch.equal(true_risks(batch, 100_000), exact)


def test_two_target_environments_are_refused() -> None:
    prior = replace(scm.presets.recurring_linear(6, 3), target_environments=2)
    with pytest.raises(ValueError, match="one target environment"):
        execute(scm.sample(prior, 2, ROWS, seed=0, num_threads=1))
