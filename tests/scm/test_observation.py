"""What is seen of the rows: against the oracle bit by bit of chance, and against NumPy and SciPy in law."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from priors import OBSERVED
from scipy import stats

from settx_fast import scm
from settx_fast.scm import properties, reference

ONE_SOURCE = scm.Prior(6, scm.ErdosRenyi(2.0), source_environments=1, target_environments=0)


def sample(*observation, datasets=200, rows=500, seed=1, **fields) -> scm.Batch:
    return scm.sample(replace(ONE_SOURCE, observation=observation, **fields), datasets, rows, seed=seed)


def at_target(batch: scm.Batch, table: torch.Tensor) -> torch.Tensor:
    return table.gather(1, batch.target_index[:, None]).squeeze(1)


# ---- The oracle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardisation", ["internal", "sample"])
def test_what_is_seen_equals_the_oracle(standardisation):
    """Rounding decides otherwise only where a number lies within 1e-6 of a border: none of these does."""
    batch = scm.sample(replace(OBSERVED, standardisation=standardisation), 12, 90, seed=4)
    wrong_attempts = wrong_losses = wrong_levels = 0
    for b in range(len(batch)):
        exact, table = reference.evaluate(batch, b), reference.tables_of(batch, b)
        for k in range(int(batch.num_environments[b])):
            rows = (batch.environment[b] == k).numpy()
            attempts = reference.accepted_rows(table, k, int(rows.sum()), batch.seed)[1]
            wrong_attempts += (attempts != batch.attempt[b].numpy()[rows]).sum()
        lost, seen = np.isnan(exact), batch.values[b].numpy()
        wrong_losses += (lost != batch.is_missing[b].numpy()).sum()
        assert np.array_equal(np.isnan(seen), batch.is_missing[b].numpy())
        has_levels = batch.num_levels[b].numpy() > 0
        known = ~lost & ~np.isnan(seen)
        wrong_levels += (exact != seen)[known & has_levels].sum()
        error, size = np.abs(exact - seen), 1 + np.abs(exact)
        assert np.all((error <= 1e-4 * size)[known & ~has_levels])
    assert (wrong_attempts, wrong_losses, wrong_levels) == (0, 0, 0)


def test_tables_are_those_that_the_pilot_rows_show():
    batch = scm.sample(replace(OBSERVED, standardisation="none", source_interventions=()), 60, 20, seed=5)
    for b in range(len(batch)):
        table = reference.tables_of(batch, b)
        x = reference.pilot(batch, b)[0]
        for k in range(int(batch.num_environments[b])):
            for slope, intercept, v in zip(
                table["accept_slope"][k], table["accept_intercept"][k], table["accept_variable"][k], strict=True
            ):
                if slope:  # at half the highest probability lies the quantile, or the mean, of the variable
                    share = np.mean(x[..., v] < -intercept / slope)
                    assert 0.19 <= share <= 0.81
                    assert abs(slope) * x[..., v].std() <= 4 * (1 + 1e-4)
        for v in range(int(batch.num_variables[b])):
            spread = x[..., v].std()
            assert table["error_scale"][v] == 0 or 0.1 <= table["error_scale"][v] / spread * (1 + 1e-5) <= 0.5001
            for k in range(len(x)):
                x[k, :, v] = reference.measured(
                    table | {"num_levels": 0 * table["num_levels"]}, k, v, x[k, :, v], batch.seed, 26
                )
            levels = int(table["num_levels"][v])
            if levels:
                gap = np.abs(x[..., v].ravel()[:, None] - table["thresholds"][v, : levels - 1]).min(0)
                assert np.all(gap <= 1e-5 * (1 + spread))
                assert sorted(table["codes"][v, :levels]) == list(range(levels))
                place = (x[..., v, None] > table["thresholds"][v, : levels - 1] * (1 - 1e-6)).sum(-1)
                x[..., v] = table["codes"][v][place]
        for v in np.flatnonzero(table["loss_rate"]):
            cause, slope = x[..., table["loss_cause"][v]], float(table["loss_slope"][v])
            rate = reference.logistic(cause, slope, float(table["loss_intercept"][v])).mean()
            assert abs(rate - table["loss_rate"][v]) < 0.02


# ---- Hidden variables ------------------------------------------------------------------------------------------------


def test_common_causes_are_hidden_first_and_the_target_never():
    batch = sample(scm.Hidden(2), datasets=2000, rows=2)
    children = batch.adjacency.sum(2)
    target = torch.nn.functional.one_hot(batch.target_index, 6).bool()
    assert torch.all(batch.is_hidden.sum(1) == 2)
    assert not (batch.is_hidden & target).any()
    confounders = (children >= 2) & ~target
    enough = confounders.sum(1) >= 2
    assert not (batch.is_hidden & ~confounders)[enough].any()
    assert torch.all((batch.is_hidden | ~confounders)[~enough])  # all of them where they are few
    three = confounders.sum(1) == 3
    rank = torch.where(confounders, confounders.cumsum(1) - 1, -1)[three]
    counts = np.bincount(rank[batch.is_hidden[three]].numpy(), minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_one_feature_always_stays_and_the_probability_is_that_of_every_variable():
    assert torch.all(sample(scm.Hidden(9), rows=2).is_hidden.sum(1) == 4)
    few = sample(scm.Hidden(probability=0.3), datasets=3000, rows=2).is_hidden.sum(1)
    expected = stats.binom(5, 0.3).pmf(np.arange(5))
    expected[4] += stats.binom(5, 0.3).pmf(5)
    observed = np.bincount(few.numpy(), minlength=5)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_hidden_variables_keep_their_values_and_leave_the_table():
    seen = (scm.MeasurementError(), scm.Levels(probability=1.0), scm.Missing())
    raw, batch = sample(rows=20), sample(scm.Hidden(2), *seen, rows=20)
    hidden = batch.is_hidden[:, None].expand_as(raw.values)
    assert torch.equal(batch.values[hidden], raw.values[hidden])
    table, names = batch.to_pandas(3), [f"x{v}" for v in torch.nonzero(~batch.is_hidden[3]).flatten()]
    assert list(table.columns) == [*names, "environment", "is_target_environment"]
    assert sum(hidden for _, hidden in batch.graph(3).nodes(data="hidden")) == 2


# ---- Selection and label shift ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [3.0, -1.0])
def test_selected_values_have_the_tilted_density(slope):
    prior = scm.Prior(1, observation=(scm.Selection(slope, 0.3, environments="all"),), target_environments=0)
    batch = scm.sample(prior, 20, 5000, seed=2)
    grid = np.linspace(-6, 6, 4001)
    for b in range(len(batch)):
        chance = reference.logistic(grid, float(batch.accept_slope[b, 0, 0]), float(batch.accept_intercept[b, 0, 0]))
        density = stats.norm.pdf(grid) * chance
        cdf = np.cumsum(density) / density.sum()
        assert stats.kstest(batch.values[b, :, 0].numpy(), lambda x, cdf=cdf: np.interp(x, grid, cdf)).pvalue > 1e-4
        tries = (batch.attempt[b] + 1).double()
        share = density.sum() * (grid[1] - grid[0])
        assert abs(tries.mean() - 1 / share) < 5 * ((1 - share) / share**2 / 5000) ** 0.5
    assert batch.is_accepted.all()


def test_selection_acts_in_the_environments_it_is_meant_for():
    for where, sides in (("source", (True, False)), ("target", (False, True)), ("all", (True, True))):
        batch = sample(scm.Selection(environments=where), target_environments=1, rows=10)
        assert torch.equal((batch.accept_slope[:, :, 0] != 0).all(0), torch.tensor(sides))


def test_rows_that_are_never_accepted_are_flagged():
    prior = scm.Prior(2, weight=0.0, observation=(scm.Selection(1000.0, variables=(0,), environments="all"),))
    far = (scm.Intervention("shift", -1e4, variables=(0,)),)
    batch = scm.sample(replace(prior, target_interventions=far), 3, 40, seed=0)
    rejected = torch.zeros(3, 40, dtype=torch.bool)
    rejected[:, 20:] = True
    assert torch.equal(batch.is_accepted, ~rejected)
    assert torch.all(batch.attempt[rejected] == 1024)
    assert batch.values.isfinite().all()


def test_label_shift_changes_the_target_and_nothing_given_the_target():
    label = scm.Intervention("label", 2.0)
    chain = scm.Prior(3, scm.UserGraph(((0, 1), (1, 2))), target=1, weight=1.0, target_interventions=(label,))
    batch = scm.sample(chain, 10, 40_000, seed=3)
    assert torch.all(batch.intervention[:, 1, 1] == scm.INTERVENTIONS.index("label"))
    for b in range(len(batch)):
        x, y, z = batch.values[b].double().T.reshape(3, 2, -1).contiguous()
        assert y[1].mean() - y[0].mean() > 0.5
        for feature in (x, z):
            for power in (1, 2):  # E(feature | y) and its square, by bins of y
                edges = torch.linspace(-2, 2, 9, dtype=torch.float64)
                place = torch.bucketize(y, edges)
                for bin_ in range(1, 9):
                    one, two = (feature[k][place[k] == bin_] ** power for k in (0, 1))
                    # Within a bin y is tilted too: a little of its width of ½, times a slope of 1 (of the square, 4).
                    tilt = 0.06 * (1 if power == 1 else 4)
                    assert (
                        abs(one.mean() - two.mean()) < tilt + 5 * (one.var() / len(one) + two.var() / len(two)) ** 0.5
                    )


# ---- Errors, levels, losses ------------------------------------------------------------------------------------------


def test_errors_are_gaussian_independent_and_relative_to_the_variable():
    raw, batch = sample(rows=2000), sample(scm.MeasurementError((0.2, 0.4)), rows=2000)
    target = torch.nn.functional.one_hot(batch.target_index, 6).bool()
    assert torch.equal(batch.error_scale == 0, target)
    share = (batch.error_scale / raw.values.std(1))[~target]
    assert 0.2 * 0.78 < share.min() < share.max() < 0.4 * 1.22  # five errors of a deviation from 256 rows
    error = ((batch.values - raw.values) / batch.error_scale[:, None])[~target[:, None].expand_as(raw.values)]
    assert stats.kstest(error.reshape(-1)[:200_000].numpy(), "norm").pvalue > 1e-3
    one = (batch.values - raw.values)[0].double()
    correlation = torch.corrcoef(torch.cat([one[:, ~target[0]], raw.values[0].double()], 1).T)
    assert (correlation[:5].fill_diagonal_(0)).abs().max() < 5 / 2000**0.5


def test_children_do_not_see_errors_or_levels():
    chain = scm.Prior(2, scm.UserGraph(((0, 1),)), target=1, noise_scale=scm.PerVariable((1.0, 0.0)), weight=1.0)
    seen = (scm.MeasurementError(0.5), scm.Levels(2, probability=1.0, variables=(0,)))
    raw, batch = (scm.sample(p, 5, 50, seed=1) for p in (chain, replace(chain, observation=seen)))
    assert torch.equal(raw.values[..., 1], batch.values[..., 1])
    assert not torch.equal(raw.values[..., 0], batch.values[..., 0])


def test_levels_have_their_shares_and_codes():
    levels = scm.Levels((2, 5), imbalance=(1.0, 9.0), probability=1.0, on_target=True)
    batch = sample(levels, datasets=300, rows=2000)
    raw = sample(datasets=300, rows=2000)
    assert stats.chisquare(torch.bincount(batch.num_levels.flatten())[2:].numpy()).pvalue > 1e-3
    largest = []
    for b in range(300):
        for v in range(6):
            count = int(batch.num_levels[b, v])
            seen = batch.values[b, :, v]
            shares = np.bincount(seen.long().numpy(), minlength=count) / 2000
            assert len(shares) == count
            assert torch.all(seen[raw.values[b, :, v].argsort()].diff() >= 0)
            largest.append(shares.max() / max(shares.min(), 1e-3) if count == 2 else np.nan)
    ratio = np.array(largest)[~np.isnan(largest)]
    # imbalance is uniform on (1, 9); shares read off 256 rows and off 2,000 err by a tenth or so
    assert abs(np.median(ratio) - 5) < 0.6
    assert (ratio > 1.5).mean() > 0.85


def test_there_may_be_256_levels():
    batch = sample(scm.Levels((200, 256), ordered=False, probability=1.0, on_target=True), datasets=20, rows=2000)
    raw = sample(datasets=20, rows=2000)
    assert set(batch.num_levels.flatten().tolist()) <= set(range(200, 257))
    for b, v in itertools.product(range(20), range(6)):
        number = int(batch.num_levels[b, v])
        place = torch.searchsorted(batch.thresholds[b, v, : number - 1], raw.values[b, :, v].contiguous())
        assert torch.equal(batch.values[b, :, v], batch.codes[b, v, :number][place])
        assert sorted(batch.codes[b, v, :number].tolist()) == list(range(number))
        assert len(place.unique()) > 100


def test_a_constant_lies_on_its_thresholds_and_has_the_lowest_level():
    silent, levels = scm.PerVariable((0.0, 1.0)), scm.Levels(3, probability=1.0, variables=(0,))
    chain = scm.Prior(2, scm.UserGraph(((0, 1),)), target=1, bias=2.0, noise_scale=silent, observation=(levels,))
    assert torch.all(scm.sample(chain, 4, 30, seed=0).values[..., 0] == 0)


def test_categories_are_permuted_and_orders_are_not():
    for ordered in (True, False):
        batch = sample(scm.Levels(3, ordered=ordered, probability=1.0), datasets=1000, rows=2)
        codes = batch.codes[batch.num_levels > 0].long().numpy()
        patterns, counts = np.unique(codes, axis=0, return_counts=True)
        if ordered:
            assert patterns.tolist() == [[0, 1, 2]]
        else:
            assert len(patterns) == 6
            assert stats.chisquare(counts).pvalue > 1e-3


def test_an_unbalanced_target_has_two_classes_with_shares_by_the_imbalance():
    classes = scm.Levels(2, imbalance=9.0, probability=1.0, variables=("target",))
    batch = sample(classes, datasets=400, rows=1000)
    target = at_target(batch, batch.values.transpose(1, 2).reshape(400, 6, -1).mean(2))
    share = torch.minimum(target, 1 - target)
    assert abs(share.mean() - 0.1) < 0.01
    assert stats.binomtest(int((target < 0.5).sum()), 400).pvalue > 1e-3
    assert torch.equal(batch.num_levels > 0, torch.nn.functional.one_hot(batch.target_index, 6).bool())


def test_values_missing_completely_at_random_depend_on_nothing():
    raw, batch = sample(rows=2000), sample(scm.Missing("mcar", 0.25), rows=2000)
    features = torch.nn.functional.one_hot(batch.target_index, 6) == 0
    lost = batch.is_missing.transpose(1, 2)[features]
    assert not batch.is_missing.transpose(1, 2)[~features].any()
    assert abs(lost.double().mean() - 0.25) < 5 * (0.25 * 0.75 / lost.numel()) ** 0.5
    values = raw.values.transpose(1, 2)[features]
    gap = [stats.ks_2samp(x[m], x[~m]).pvalue for x, m in zip(values[:200].numpy(), lost[:200].numpy(), strict=True)]
    assert stats.kstest(gap, "uniform").pvalue > 1e-3


def test_values_missing_at_random_depend_on_a_feature_that_is_always_seen():
    batch = sample(scm.Missing("mar", 0.3, slope=3.0), rows=4000)
    raw = sample(rows=4000)
    for b in range(50):
        lost = batch.is_missing[b].any(0)
        target, witness = int(batch.target_index[b]), int(batch.loss_cause[b][lost][0])
        assert set(torch.nonzero(~lost).flatten().tolist()) == {target, witness}
        assert torch.all(batch.loss_cause[b][lost] == witness)
        cause = raw.values[b, :, witness].double().numpy()
        chance = reference.logistic(cause, *(float(t[b][lost][0]) for t in (batch.loss_slope, batch.loss_intercept)))
        for mask in batch.is_missing[b][:, lost].T.numpy():
            bins = np.digitize(cause, np.quantile(cause, [0.2, 0.4, 0.6, 0.8]))
            for bin_ in range(5):
                expected = chance[bins == bin_]
                error = np.sqrt((expected * (1 - expected)).sum())
                assert abs(mask[bins == bin_].sum() - expected.sum()) < 5 * error + 1
    rate = batch.is_missing.double().mean(1)[batch.loss_rate > 0]
    assert abs(rate.mean() - 0.3) < 0.01


def test_values_missing_not_at_random_depend_on_themselves():
    raw, batch = sample(rows=2000), sample(scm.Missing("mnar", 0.3, slope=4.0), rows=2000)
    chosen = batch.loss_rate > 0
    assert torch.all(batch.loss_cause[chosen] == torch.arange(6).expand(200, 6)[chosen])
    for b, v in torch.nonzero(chosen)[:100].tolist():
        lost = batch.is_missing[b, :, v]
        assert raw.values[b, lost, v].mean() > raw.values[b, ~lost, v].mean() + 0.5 * raw.values[b, :, v].std()
        assert torch.equal(batch.values[b, ~lost, v], raw.values[b, ~lost, v])
        assert batch.values[b, lost, v].isnan().all()
    assert batch.is_finite.all()


def test_missing_values_do_not_hide_an_explosion():
    squares = scm.Prior(12, scm.Pattern("chain"), scm.Elementwise("square"), weight=3.0, observation=(scm.Missing(),))
    batch = scm.sample(squares, 20, 50, seed=8)
    exploded = ~scm.sample(replace(squares, observation=()), 20, 50, seed=8).is_finite
    assert exploded.any()
    assert torch.equal(~batch.is_finite & exploded, ~batch.is_finite)
    assert (~batch.is_finite).sum() >= exploded.sum() - 1


# ---- Properties ------------------------------------------------------------------------------------------------------

SHIFTED = scm.Prior(
    5,
    scm.ErdosRenyi(2.0),
    source_environments=2,
    source_interventions=(scm.Intervention("shift", (-1.0, 1.0)),),
    target_interventions=(scm.Intervention("scale", (0.5, 2.0)),),
    target="inner",
)


def test_closed_forms_stay_exact_with_errors_hidden_variables_and_losses():
    seen = (scm.Hidden((0, 2)), scm.MeasurementError((0.2, 0.5), on_target=True), scm.Missing())
    batch = scm.sample(replace(SHIFTED, observation=seen, standardisation="internal"), 6, 300, seed=6)
    exact = properties.compute(batch)
    assert set(exact.method) == {"closed form"}
    rows = scm.resample(replace(batch, loss_rate=torch.zeros_like(batch.loss_rate)), 400_000, seed=9)
    for b in range(6):
        is_target = rows.is_target_environment[b, rows.environment[b]]
        visible = torch.nonzero(batch.visible_mask[b]).flatten().tolist()
        target = int(batch.target_index[b])
        X = rows.values[b][:, [v for v in visible if v != target]].double().numpy()
        y = rows.values[b, :, target].double().numpy()
        source = ~is_target.numpy()
        design = np.c_[np.ones(len(X)), X]
        fit = np.linalg.lstsq(design[source], y[source], rcond=None)[0]
        risk = np.mean((y - design @ fit)[~source] ** 2)
        assert float(exact.risk[b, 0]) == pytest.approx(risk, rel=0.03)
        assert float(exact.target_variance[b]) == pytest.approx(y[source].var(), rel=0.02)


@pytest.mark.parametrize(
    "seen",
    [scm.Selection(environments="all"), scm.Levels(probability=1.0), scm.Levels(2, variables=("target",))],
    ids=str,
)
def test_selections_and_levels_are_sampled_and_say_so(seen):
    prior = replace(SHIFTED, observation=(seen,))
    batch = scm.sample(prior, 10, 20_000, seed=7)
    found, plain = properties.compute(batch), properties.compute(scm.sample(SHIFTED, 10, 20_000, seed=7))
    changed = torch.tensor([method == "monte carlo" for method in found.method])
    assert changed.any()
    for name in ("total_effect", "noise_to_signal", "role", "direct_effect_on_target"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name))
    for b in torch.nonzero(changed).flatten().tolist():
        source = ~batch.is_target_environment[b, batch.environment[b]]
        variance = batch.values[b, source, int(batch.target_index[b])].double().var()
        assert float(found.target_variance[b]) == pytest.approx(float(variance), rel=0.1, abs=0.01)


# ---- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: scm.Hidden(), "Hidden: expected number or probability"),
        (lambda: scm.Hidden(1, 0.5), "Hidden: expected number or probability"),
        (lambda: scm.Hidden(-1), "Hidden.number: expected an int"),
        (lambda: scm.Hidden(probability=2), r"Hidden.probability: expected values within \[0, 1\]"),
        (lambda: scm.Selection(environments="both"), "Selection.environments: expected one of .* got 'both'"),
        (lambda: scm.Selection(quantile=1.5), r"Selection.quantile: expected values within \[0, 1\]"),
        (lambda: scm.Selection(variables=1.5), "Selection.variables: expected None or a tuple of numbers and names"),
        (lambda: scm.MeasurementError(-1), "MeasurementError.scale: expected values within"),
        (lambda: scm.MeasurementError(on_target=1), "MeasurementError.on_target: expected True or False, got 1"),
        (lambda: scm.Levels(1), "Levels.number: expected an int"),
        (lambda: scm.Levels(257), r"Levels.number: expected an int or \(low, high\) within 2…256, got 257"),
        (
            lambda: scm.Levels(113, probability=(0.0, 1.0)),
            "Levels.probability: expected a number where there may be more",
        ),
        (lambda: scm.Levels(imbalance=0.5), r"Levels.imbalance: expected values within \[1"),
        (lambda: scm.Levels(ordered="yes"), "Levels.ordered: expected True or False, got 'yes'"),
        (lambda: scm.Missing("often"), "Missing.kind: expected one of .* got 'often'"),
        (lambda: scm.Missing(rate=1.0), r"Missing.rate: expected values within \[0, 0.99\]"),
        (lambda: scm.Prior(observation=scm.Missing()), "observation: expected a tuple"),
        (lambda: scm.Prior(observation=(scm.Missing(variables=(99,)),)), "Missing.variables: expected 0…9, got 99"),
        (
            lambda: scm.Prior(observation=(scm.Hidden(1, variables="target"),)),
            "Hidden.variables: expected .* other than",
        ),
        (lambda: scm.Prior(observation=(scm.Selection(),) * 2), "observation: expected at most one Selection"),
        (lambda: scm.Intervention("label", 1.0, variables=(0,)), "Intervention.variables: expected None for 'label'"),
        (lambda: scm.Intervention("label"), "Intervention.value: expected a number"),
    ],
)
def test_bad_observations_name_field_expected_and_got(build, message):
    with pytest.raises(ValueError, match=message):
        build()
