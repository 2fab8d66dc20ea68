"""`Shifts`, imbalance and sizes by ratio: the laws that priors say, and the oracle's numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from settx_fast import scm
from settx_fast.scm import reference_shifts
from settx_fast.scm._cpu import draw_tables
from settx_fast.scm._native import native

DATASETS = 4000
U = 2.0**-24

ALL_MOVE = scm.Shifts(
    mutable=1.0,
    target_moves_intercept=1.0,
    target_moves_slopes=1.0,
    target_moves_noise=1.0,
    strength=1.0,
    target_strength=1.0,
)
DENSE = scm.ErdosRenyi(edge_probability=1.0)


def draw(shifts: scm.Shifts, datasets: int = DATASETS, **fields) -> scm.Batch:
    given = {"num_variables": 4, "graph": DENSE, "source_environments": 3, "shifts": shifts} | fields
    return scm.sample(scm.Prior(**given), datasets, 8, seed=21)


def of_target(table: torch.Tensor, batch: scm.Batch) -> torch.Tensor:
    """(B, K): table (B, K, V) at the target variable."""
    return table.gather(2, batch.target_index[:, None, None].expand(-1, table.shape[1], 1)).squeeze(2)


def moves(batch: scm.Batch) -> dict[str, torch.Tensor]:
    """(B, V) bool for each part: which variables move in some environment, from bias 0 and noise scale 1."""
    weights = batch.weights - batch.weights[:, :1]
    return {
        "intercept": (batch.bias != 0).any(1),
        "slopes": (weights != 0).any(1).any(1),
        "noise": (batch.noise_scale != 1).any(1),
    }


# ---- The oracle ------------------------------------------------------------------------------------------------------

VARIED = scm.Shifts(
    mutable=(0.3, 1.0),
    moves_intercept=(0.5, 1.0),
    moves_slopes=(0.5, 1.0),
    moves_noise=(0.5, 1.0),
    target_moves_intercept=0.7,
    target_moves_slopes=0.5,
    target_moves_noise=0.5,
    strength=scm.LogUniform(0.1, 3.0),
    target_strength=(0.5, 3.0),
    target_severity=scm.LogUniform(0.5, 8.0),
    slope=scm.Uniform(0.1, 0.5, signed=True),
    redrawn=(0.0, 0.5),
    hard=(0.0, 0.5),
)


@pytest.mark.parametrize("recurring", [True, False])
def test_moved_tables_are_the_oracles_within_rounding(recurring):
    """A normal errs by some 10 u (1 + |n|), a factor by 4 u: of a product of four, 64 u of its size and its scale."""
    prior = scm.Prior((3, 7), noise_scale=(0.5, 1.5), bias=(-1.0, 1.0), source_environments=(1, 4))
    prior = replace(prior, shifts=replace(VARIED, recurring=recurring))
    index = (1 << 33) + 5
    batch, base = (scm.sample(p, 60, 8, seed=3, first_index=index) for p in (prior, replace(prior, shifts=None)))
    seen = set()
    for b in range(len(batch)):
        K, n = int(batch.num_environments[b]), int(batch.num_variables[b])
        expected = reference_shifts.moved(
            prior,
            3,
            index + b,
            batch.is_target_environment[b, :K].numpy(),
            int(batch.target_index[b]),
            batch.adjacency[b, :n, :n].numpy(),
            *(getattr(base, name)[b, 0][..., :n].numpy()[:n] for name in ("weights", "bias", "noise_scale")),
        )
        for name in ("weights", "bias", "noise_scale"):
            got = getattr(batch, name)[b, :K, :n][..., :n].double().numpy()
            largest = 8.0 * 3.0 * 7.0 if name != "noise_scale" else np.exp(2) * 1.5  # severity · strength · 7 sd
            assert np.abs(got - expected[name]).max() < 64 * U * largest, name
            seen |= {name} if (got != got[:1]).any() else set()
        assert np.array_equal(batch.hard[b, :K, :n].numpy(), expected["hard"])
        code = np.where(expected["hard"], scm.INTERVENTIONS.index("hard"), scm.INTERVENTIONS.index("moved"))
        assert np.array_equal(batch.intervention[b, :K, :n].numpy(), np.where(expected["has_moved"], code, 0))
    assert seen == {"weights", "bias", "noise_scale"}


# ---- Laws ------------------------------------------------------------------------------------------------------------


def test_moves_of_an_environment_have_the_laws_that_the_shifts_name():
    batch = draw(replace(ALL_MOVE, intercept=scm.Normal(0.0, 2.0), slope=(-1.0, 1.0), noise=scm.Uniform(-1.5, 1.0)))
    for k in range(4):
        for v in range(4):
            assert stats.kstest(batch.bias[:, k, v].numpy(), stats.norm(0, 2).cdf).pvalue > 1e-4
            log_scale = batch.noise_scale[:, k, v].log().numpy()
            assert stats.kstest(log_scale, stats.uniform(-1.5, 2.5).cdf).pvalue > 1e-4
    base = scm.sample(replace(batch.prior, shifts=None), DATASETS, 8, seed=21)
    by = (batch.weights - base.weights)[batch.adjacency[:, None].expand_as(batch.weights)]
    assert stats.kstest(by.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    environments = torch.corrcoef(batch.bias.flatten(2).permute(1, 0, 2).flatten(1)).fill_diagonal_(0)
    assert environments.abs().max() < 5 / (4 * DATASETS) ** 0.5


def test_noise_grows_and_shrinks_by_e_squared_at_most():
    scale = draw(replace(ALL_MOVE, noise=scm.Uniform(4.0, 9.0, signed=True))).noise_scale
    ends = torch.tensor([-2.0, 2.0]).exp()
    torch.testing.assert_close(scale.unique().double(), ends.double(), rtol=8 * U, atol=0)


def test_what_recurs_moves_in_every_environment_and_what_is_fresh_in_its_own():
    shifts = scm.Shifts(mutable=0.5, moves_slopes=0.0, moves_noise=0.0, strength=scm.LogUniform(0.1, 10.0))
    for recurring in (True, False):
        batch = draw(replace(shifts, recurring=recurring))
        is_target = torch.nn.functional.one_hot(batch.target_index, 4).bool()
        number = (batch.bias != 0).sum(1)  # of the environments in which a variable moves
        assert not number[is_target].any()
        law = stats.binom(1, 0.5) if recurring else stats.binom(4, 0.5)
        observed = torch.bincount(number[~is_target] // (4 if recurring else 1)).numpy()
        assert torch.all(number % 4 == 0) == recurring
        assert stats.chisquare(observed, law.pmf(np.arange(len(observed))) * observed.sum()).pvalue > 1e-3


def test_each_part_moves_with_its_probability_and_the_targets_with_its_own():
    shifts = scm.Shifts(
        mutable=0.8,
        moves_intercept=0.5,
        moves_slopes=0.25,
        moves_noise=0.75,
        target_moves_intercept=0.9,
        target_moves_slopes=0.1,
        target_moves_noise=0.2,
    )
    batch = draw(shifts, graph=scm.Pattern("chain"))
    is_target = torch.nn.functional.one_hot(batch.target_index, 4).bool()
    has_parents = batch.adjacency.any(1)
    own = {"intercept": 0.9, "slopes": 0.1, "noise": 0.2}
    others = {"intercept": 0.4, "slopes": 0.2, "noise": 0.6}
    for part, moved in moves(batch).items():
        may = has_parents if part == "slopes" else torch.ones_like(has_parents)
        for among, expected in ((may & is_target, own[part]), (may & ~is_target, others[part])):
            assert stats.binomtest(int(moved[among].sum()), int(among.sum()), expected).pvalue > 1e-3, part


def test_probabilities_are_drawn_once_per_dataset():
    shifts = scm.Shifts(mutable=(0.0, 1.0), moves_slopes=0.0, moves_noise=0.0)
    number = (draw(shifts, num_variables=9).bias != 0).any(1).sum(1)  # of eight variables beside the target
    assert stats.chisquare(torch.bincount(number, minlength=9).numpy()).pvalue > 1e-3  # uniform mixture of binomials


def test_strength_is_drawn_per_variable_and_severity_per_dataset_for_target_environments():
    law = scm.LogUniform(0.1, 10.0)
    batch = draw(replace(ALL_MOVE, strength=law, target_strength=law, intercept=1.0, target_severity=(0.5, 4.0)))
    assert torch.equal(batch.bias[:, 0], batch.bias[:, 1])
    strength, severity = batch.bias[:, 0], batch.bias[:, 3] / batch.bias[:, 0]
    for v in range(4):
        assert stats.kstest(strength[:, v].numpy(), stats.loguniform(0.1, 10).cdf).pvalue > 1e-4
    assert (severity - severity[:, :1]).abs().max() < 8 * U * 4
    assert stats.kstest(severity[:, 0].numpy(), stats.uniform(0.5, 3.5).cdf).pvalue > 1e-3
    assert torch.corrcoef(strength.T).fill_diagonal_(0).abs().max() < 5 / DATASETS**0.5


def test_the_target_variable_has_a_strength_of_its_own():
    batch = draw(replace(ALL_MOVE, intercept=1.0, target_strength=(2.0, 3.0)))
    is_target = torch.nn.functional.one_hot(batch.target_index, 4).bool()
    assert torch.all(batch.bias[:, 0][~is_target] == 1)
    assert stats.kstest(batch.bias[:, 0][is_target].numpy(), stats.uniform(2, 1).cdf).pvalue > 1e-3


def test_redrawn_weights_have_the_law_of_the_prior_and_come_as_often_as_asked():
    batch = draw(replace(ALL_MOVE, redrawn=0.3), weight=(0.5, 2.0), graph=scm.UserGraph(((0, 1),)), num_variables=2)
    base = scm.sample(replace(batch.prior, shifts=None), DATASETS, 8, seed=21)
    redraws = scm.sample(
        replace(batch.prior, shifts=None, source_interventions=(scm.Intervention("redraw", variables=(1,)),)),
        DATASETS,
        8,
        seed=21,
    )
    sources = batch.weights[:, :3, 0, 1]
    redrawn = sources == redraws.weights[:, :3, 0, 1]  # the words are those of a redraw
    assert stats.binomtest(int(redrawn.sum()), redrawn.numel(), 0.3).pvalue > 1e-3
    assert torch.all(sources[~redrawn] != base.weights[:, :3, 0, 1][~redrawn])


def test_hard_moves_set_variables_to_their_moved_bias_and_spare_the_target():
    batch = draw(replace(ALL_MOVE, hard=0.4), bias=1.0)
    free = draw(replace(ALL_MOVE, hard=0.0), bias=1.0)
    is_target = torch.nn.functional.one_hot(batch.target_index, 4).bool()[:, None].expand_as(batch.hard)
    assert not batch.hard[is_target].any()
    assert stats.binomtest(int(batch.hard[~is_target].sum()), int((~is_target).sum()), 0.4).pvalue > 1e-3
    assert torch.equal(batch.bias, free.bias)
    assert not batch.noise_scale[batch.hard].any()
    assert not batch.weights.transpose(2, 3)[batch.hard].any()


def test_interventions_act_upon_what_has_moved():
    shift = scm.Intervention("shift", 5.0, variables=(0,))
    plain, shifted = draw(ALL_MOVE), draw(ALL_MOVE, target_interventions=(shift,))
    assert torch.equal(shifted.bias[:, 3, 0], plain.bias[:, 3, 0] + 5)


def test_without_shifts_and_imbalance_nothing_is_moved():
    batch = draw(None)
    assert torch.equal(batch.bias, torch.zeros_like(batch.bias))
    assert not batch.row_weight.any()
    still = draw(scm.Shifts(mutable=0.0))
    for name in ("values", "weights", "bias", "noise_scale", "intervention"):
        assert torch.equal(getattr(still, name), getattr(batch, name)), name


@pytest.mark.parametrize("path", native().path_names())
def test_shifts_have_the_same_bits_on_every_instruction_set_and_on_a_devices_threads(path):
    prior = scm.presets.recurring_linear(12, 6)
    best = draw_tables(prior, 200, 9, 1 << 40, 1).tensors
    for way in (path, "rows"):
        for name, table in draw_tables(prior, 200, 9, 1 << 40, 1, way).tensors.items():
            assert table.numpy().tobytes() == best[name].numpy().tobytes(), (way, name)


# ---- Rows of environments --------------------------------------------------------------------------------------------


def test_environments_have_rows_in_proportion_to_weights_of_a_log_uniform_law():
    prior = scm.Prior(2, source_environments=4, target_share=0.25, environment_imbalance=50.0)
    batch = scm.sample(prior, DATASETS, 10_000, seed=2)
    log_share = (batch.row_weight.double() / 2**20).log() / np.log(50.0)
    assert stats.kstest(-log_share.flatten().numpy(), "uniform").pvalue > 1e-3
    weight, rows = batch.row_weight[:, :4].double(), batch.row_counts[:, :4]
    assert torch.all((rows - 1 - weight / weight.sum(1, keepdim=True) * (7500 - 4)).abs() <= 1)
    assert torch.all(batch.row_counts[:, 4] == 2500)


@pytest.mark.parametrize("share", [None, 0.5, (0.01, 0.99)])
@pytest.mark.parametrize("rows", [7, 8, 61])
def test_every_environment_has_a_row_however_unequal_they_are(rows, share):
    prior = scm.Prior(2, source_environments=(1, 5), target_environments=(1, 2), target_share=share)
    batch = scm.sample(replace(prior, environment_imbalance=1e6), 500, rows, seed=2)
    assert torch.equal(batch.row_counts > 0, batch.environment_mask)
    assert torch.all(batch.row_counts.sum(1) == rows)
    again = scm.resample(batch, 300, seed=5)
    assert torch.equal(again.row_weight, batch.row_weight)


def test_an_imbalance_of_one_gives_equal_rows_but_for_rounding():
    prior = scm.Prior(2, source_environments=(2, 6), environment_imbalance=1.0)
    batch = scm.sample(prior, 200, 1000, seed=2)
    most = batch.row_counts.max(1).values
    least = batch.row_counts.masked_fill(~batch.environment_mask, 1000).min(1).values
    assert torch.all(most - least <= 1)


# ---- Sizes and mechanisms --------------------------------------------------------------------------------------------


def test_sizes_may_be_log_uniform():
    prior = scm.Prior(scm.LogUniform(4, 30), source_environments=scm.LogUniform(2, 20))
    assert (prior.min_variables, prior.max_variables, prior.max_environments) == (4, 30, 21)
    assert scm.Prior.from_json(prior.to_json()) == prior
    batch = scm.sample(prior, DATASETS, 30, seed=1)
    for got, low, high in ((batch.num_variables, 4, 30), (batch.num_environments - 1, 2, 20)):
        n = np.arange(low, high + 1)
        expected = np.log((n + 1) / n) / np.log((high + 1) / low)
        observed = torch.bincount(got, minlength=high + 1)[low:].numpy()
        assert stats.chisquare(observed, expected * DATASETS).pvalue > 1e-3


def test_mechanisms_are_alike_in_as_many_datasets_as_asked():
    mechanisms = (scm.Linear(), scm.MLP(3), scm.Quadratic())
    prior = scm.Prior(8, DENSE, mechanisms, same_mechanism=0.7, target_environments=0)
    kind = scm.sample(prior, DATASETS, 2, seed=1).mechanism
    alike = (kind == kind[:, :1]).all(1)
    share = 0.7 + 0.3 * 3.0**-7
    assert stats.binomtest(int(alike.sum()), DATASETS, share).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(kind[alike][:, 0]).numpy()[[0, 1, 5]]).pvalue > 1e-3


# ---- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: scm.Shifts(mutable=1.5), r"Shifts.mutable: expected values within \[0, 1\], got Const.*1.5"),
        (lambda: scm.Shifts(hard=(-0.1, 0.5)), r"Shifts.hard: expected values within \[0, 1\], got Uniform"),
        (lambda: scm.Shifts(strength=-1.0), r"Shifts.strength: expected values within \[0, 1e\+06\]"),
        (lambda: scm.Shifts(target_severity="big"), "Shifts.target_severity: expected a number, .* got 'big'"),
        (lambda: scm.Shifts(slope=1e7), r"Shifts.slope: expected values within \[-1e\+06, 1e\+06\]"),
        (lambda: scm.Shifts(recurring=1), "Shifts.recurring: expected True or False, got 1"),
        (lambda: scm.Prior(shifts="some"), "shifts: expected None or scm.Shifts, got 'some'"),
        (lambda: scm.Prior(environment_imbalance=0.5), r"environment_imbalance: expected values within \[1, 1e\+06\]"),
        (lambda: scm.Prior(scm.LogUniform(1.5, 4)), "num_variables: expected a LogUniform of whole numbers"),
        (lambda: scm.Prior(scm.LogUniform(1, 1e5)), r"num_variables: expected an int or \(low, high\) within 1…4096"),
        (lambda: scm.Prior(same_mechanism=2), r"same_mechanism: expected a number within \[0, 1\], got 2"),
        (lambda: scm.Intervention("moved"), "Intervention.kind: expected one of .*got 'moved'"),
    ],
)
def test_bad_shifts_are_refused_with_a_reason(build, message):
    with pytest.raises(ValueError, match=message):
        build()
