"""`tabular_stream`: what a learner of tables is shown, and that it is a function of seed, index and prior alone."""

import itertools
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from priors import EXPLODING, LINEAR, OBSERVED
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from settx_fast import scm
from settx_fast.scm import _learner, _learner_rows, _learner_views
from settx_fast.scm._counters import _mixed, uniforms
from settx_fast.scm._predictability import surprise
from settx_fast.scm.tabular import BLOCK

ROWS, SEED = 60, 3

NUMBERS = scm.Prior((2, 9), mechanism=(scm.Linear(), scm.Trees()), noise_scale=(0.0, 1.0), target_environments=0)
ENVIRONMENTS = replace(
    OBSERVED,
    observation=(
        scm.Hidden((0, 2)),
        scm.Levels((2, 4), probability=0.4, on_target=True),
        scm.Missing(probability=0.5),
    ),
)
CLASSES = replace(NUMBERS, observation=(scm.Levels((2, 5), ordered=False, variables=("target",), on_target=True,
                                                   probability=1.0, imbalance=(1.0, 4.0)),))  # fmt: skip
LOSSES = replace(NUMBERS, observation=(scm.Missing(rate=(0.1, 0.9)),))
PRIORS = {"numbers": NUMBERS, "environments": ENVIRONMENTS, "classes": CLASSES, "losses": LOSSES}


def stream(prior=NUMBERS, batch_size=6, seed=SEED, **options):
    return scm.tabular_stream(prior, batch_size, seed, **{"num_rows": ROWS, "num_threads": 1, "prefetch": 0} | options)


def take(batches, number):
    return list(itertools.islice(batches, number))


def datasets(batches):
    """Every dataset by its index."""
    for batch in batches:
        for b, index in enumerate(batch.index.tolist()):
            parts = (batch.X, batch.y, batch.num_features, batch.num_classes, batch.feature_index)
            yield index, [part[b] for part in parts], batch.train_size


def alike(left, right):
    """Bit for bit, so that NaN equals NaN."""
    return all(
        a.shape == b.shape and a.cpu().numpy().tobytes() == b.cpu().numpy().tobytes()
        for a, b in zip(left, right, strict=True)
    )


def same(left, right):
    return len(left) == len(right) and all(
        a.train_size == b.train_size and alike(a.memory, b.memory) for a, b in zip(left, right, strict=True)
    )


def source(prior, index, rows=ROWS):
    return scm.sample(prior, 1, rows, seed=SEED, first_index=index, num_threads=1)


# ---- Datasets --------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(st.sampled_from(list(PRIORS)), st.integers(0, 2**64 - 1), st.integers(2, 12), st.booleans())
def test_codes_have_no_gaps_and_every_class_is_on_both_sides(name, seed, max_classes, standardise):
    for batch in take(stream(PRIORS[name], seed=seed, max_classes=max_classes, standardise=standardise), 3):
        n = batch.train_size
        for y, number in zip(batch.y, batch.num_classes.tolist(), strict=True):
            assert 2 <= number <= max_classes
            assert y[:n].unique().tolist() == y[n:].unique().tolist() == list(range(number))


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(st.sampled_from(list(PRIORS)), st.integers(0, 2**64 - 1), st.booleans(), st.sampled_from(["regression", None]))
def test_columns_are_other_variables_that_are_seen_and_vary_over_the_rows_to_learn_from(name, seed, standardise, task):
    batches = stream(PRIORS[name], seed=seed, standardise=standardise, task=task or "classification")
    for index, (X, _, number, _, feature), n in datasets(take(batches, 2)):
        shown = scm.sample(PRIORS[name], 1, ROWS, seed=seed, first_index=index, num_threads=1)
        seen = {v for v in shown.visible_mask[0].nonzero()[:, 0].tolist() if v != shown.target_index[0]}
        columns = feature[:number].tolist()
        assert number >= 1
        assert len(set(columns)) == number
        assert set(columns) <= seen
        assert (feature[number:] == -1).all()
        assert (X[:, number:] == 0).all()
        assert all(len(column[~column.isnan()].unique()) >= 2 for column in X[:n, :number].T)


@pytest.mark.parametrize("name", ["numbers", "classes", "losses"])
def test_columns_are_standardised_by_the_rows_to_learn_from(name):
    for index, (X, _, number, _, feature), n in datasets(take(stream(PRIORS[name]), 4)):
        exact = source(PRIORS[name], index).values[0, :, feature[:number]].double().numpy()
        exact = (exact - np.nanmean(exact[:n], 0)) / np.nanstd(exact[:n], 0, ddof=1)
        np.testing.assert_allclose(X[:, :number], exact.clip(-100, 100), atol=2e-5, rtol=2e-5)


def test_columns_are_the_sampled_ones_where_they_are_not_to_be_standardised():
    for index, (X, _, number, _, feature), _ in datasets(take(stream(LOSSES, standardise=False), 4)):
        assert alike([X[:, :number]], [source(LOSSES, index).values[0, :, feature[:number]]])


def test_rows_of_several_environments_are_mixed_and_none_is_lost():
    apart = scm.Prior(3, weight=0.0, target_interventions=(scm.Intervention("shift", 50.0, number=3),))
    for index, (X, _, _, _, feature), n in datasets(take(stream(apart, standardise=False, train_size=0.5), 3)):
        given = source(apart, index).values[0][:, feature]
        assert not torch.equal(X, given)
        assert torch.equal(X[X[:, 0].argsort()], given[given[:, 0].argsort()])
        in_target = (X[:n].abs() > 20).any(1).sum()
        assert 5 < in_target < n - 5  # of 30: hypergeometric, beyond in one of 10⁷


def test_a_class_is_an_interval_of_the_target():
    for index, (_, y, _, number, _), _ in datasets(take(stream(), 8)):
        target = source(NUMBERS, index).target[0]
        ends = sorted((float(target[y == k].min()), float(target[y == k].max())) for k in range(number))
        assert all(high < low for (_, high), (low, _) in itertools.pairwise(ends))


@pytest.mark.parametrize("standardisation", ["none", "sample"])
def test_a_target_of_levels_keeps_them(standardisation):
    prior = replace(CLASSES, standardisation=standardisation)
    for index, (_, y, _, number, _), _ in datasets(take(stream(prior), 8)):
        target = source(prior, index).target[0]
        assert len(set(zip(target.tolist(), y.tolist(), strict=True))) == number == len(target.unique())


def test_a_regression_predicts_the_standardised_target():
    for batch in take(stream(task="regression"), 3):
        assert batch.y.dtype == torch.float32
        assert (batch.num_classes == 0).all()
        for index, (_, y, *_), n in datasets([batch]):
            exact = source(NUMBERS, index).target[0].double()
            exact = (exact - exact[:n].mean()) / exact[:n].std()
            torch.testing.assert_close(y.double(), exact.clamp(-100, 100), atol=2e-5, rtol=2e-5)


# ---- Several columns of a variable -----------------------------------------------------------------------------------


def features_of(batch, train_size):
    """(V,) which variables of a single dataset are columns."""
    train = batch.values[0, :train_size].numpy()
    varies = np.array([np.nanmax(x) > np.nanmin(x) if not np.isnan(x).all() else False for x in train.T])
    return torch.from_numpy(varies) & batch.visible_mask[0] & (torch.arange(len(varies)) != batch.target_index[0])


FUNCTIONS_OF_U = (
    np.abs,
    np.square,
    lambda t: np.maximum(t, 0),
    lambda t: np.where(np.isnan(t), np.nan, t > 0),
    lambda t: t - np.round(t),
    np.round,
)


@pytest.mark.parametrize("name", ["numbers", "losses"])
@pytest.mark.parametrize("standardise", [False, True])
def test_further_columns_of_a_variable_are_functions_of_it_and_the_first_is_itself(name, standardise):
    columns, itself, others = (1, 4), 0, 0
    options = {"columns_per_variable": columns, "standardise": standardise, "train_size": 0.5}
    for index, (X, _, number, _, feature), n in datasets(take(stream(PRIORS[name], **options), 4)):
        batch = source(PRIORS[name], index)
        is_feature = features_of(batch, n)
        views = _learner_views.drawn_views(is_feature[None], SEED, np.array([index]), columns)
        count = int(views.number[0])
        x = batch.values[0].double().numpy()[:, views.variable[0, :count].numpy()].reshape(ROWS, count)
        u = (x - np.nanmean(x[:n], 0)) / np.nanstd(x[:n], 0, ddof=1)
        slope, shift = (t[0, :count].numpy() for t in (views.slope, views.shift))
        t, expected = slope * u.clip(-100, 100) + shift, []
        for place in range(count):
            code = int(views.function[0, place])
            seen = FUNCTIONS_OF_U[code - 1](t[:, place]) if code else x[:, place]
            near_step = np.abs(t[:, place] - np.round(2 * t[:, place]) / 2) < 1e-4  # of rounding, and 0
            if len(np.unique(seen[:n][~np.isnan(seen[:n])])) > 1:
                expected.append((int(views.variable[0, place]), code, seen, near_step))
        assert feature[:number].tolist() == [v for v, *_ in expected]
        assert {v for v, code, *_ in expected if code == 0} == set(is_feature.nonzero()[:, 0].tolist())
        for place, (_, code, seen, near_step) in enumerate(expected):
            itself, others = itself + (code == 0), others + (code > 0)
            shown = X[:, place].double().numpy()
            if standardise and not near_step[:n].any():
                seen = ((seen - np.nanmean(seen[:n])) / np.nanstd(seen[:n], ddof=1)).clip(-100, 100)
            elif standardise:
                continue
            keep = ~near_step if code else slice(None)
            np.testing.assert_allclose(shown[keep], seen[keep], atol=1e-4, rtol=1e-4)
    assert itself > 20
    assert others > 20


def test_a_variable_has_as_many_columns_as_are_drawn_and_every_function_occurs():
    is_feature = torch.ones(500, 6, dtype=torch.bool)
    is_feature[:, 4] = False
    views = _learner_views.drawn_views(is_feature, SEED, np.arange(500), (2, 4))
    shown = [views.variable[b, :count] for b, count in enumerate(views.number.tolist())]
    numbers = torch.stack([torch.bincount(v, minlength=6) for v in shown])
    assert (numbers[:, 4] == 0).all()
    of_features = numbers[:, [0, 1, 2, 3, 5]]
    assert set(of_features.flatten().tolist()) == {2, 3, 4}
    assert abs(of_features.double().mean() - 3) < 5 * (2 / 3 / 2500) ** 0.5
    is_there = torch.arange(20) < views.number[:, None]
    codes = torch.bincount(views.function[is_there], minlength=7)
    assert len(codes) == 7
    assert codes[0] == 2500
    np.testing.assert_allclose(codes[1:] / codes[1:].sum(), 1 / 6, atol=5 * (5 / 36 / 5000) ** 0.5)
    assert (views.function[:, 0] == 0).float().mean() < 0.5  # the first columns are not those as they are


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(st.sampled_from(list(PRIORS)), st.integers(0, 2**64 - 1), st.booleans(), st.integers(2, 5))
def test_columns_of_a_variable_vary_and_are_at_most_as_many_as_asked(name, seed, standardise, most):
    options = {"columns_per_variable": (1, most), "standardise": standardise, "train_size": (2, 6)}
    for index, (X, _, number, _, feature), n in datasets(take(stream(PRIORS[name], seed=seed, **options), 2)):
        batch = scm.sample(PRIORS[name], 1, ROWS, seed=seed, first_index=index, num_threads=1)
        assert X.shape[1] == (PRIORS[name].max_variables - 1) * most
        assert torch.bincount(feature[:number]).max() <= most
        assert int(batch.target_index[0]) not in feature.tolist()
        assert (feature[number:] == -1).all()
        assert (X[:, number:] == 0).all()
        assert all(len(column[~column.isnan()].unique()) >= 2 for column in X[:n, :number].T)


# ---- How they are spread ---------------------------------------------------------------------------------------------


def test_columns_and_codes_are_in_random_order():
    prior = scm.Prior(4, target=0, target_environments=0)
    found = [(index, *parts) for index, parts, _ in datasets(take(stream(prior, 100, num_rows=200), 6))]
    first = np.bincount([int(feature[0]) for *_, feature in found], minlength=4)[1:]
    np.testing.assert_allclose(first / 600, 1 / 3, atol=4 * np.sqrt(2 / 9 / 600))
    two = [(index, y) for index, _, y, _, number, _ in found if number == 2][:60]
    of_lowest = [int(y[source(prior, index, 200).target[0].argmin()]) for index, y in two]
    assert 15 < sum(of_lowest) < 45  # of 60; beyond in one of 10⁴


def test_half_of_the_datasets_have_two_classes_and_others_up_to_the_most():
    numbers = torch.cat([b.num_classes for b in take(stream(batch_size=200, num_rows=1000, train_size=0.5), 2)])
    share = float((numbers == 2).float().mean())
    assert 0.5 - 0.1 < share < 0.5 + 0.1 + 1 / 18  # some of the others too
    assert set(numbers.tolist()) == set(range(2, 11))


def test_rows_and_splits_vary_between_micro_batches_within_their_ranges():
    sizes = [(b.X.shape[1], b.train_size) for b in take(stream(num_rows=(20, 80), train_size=(0.2, 0.6)), 12)]
    assert len(set(sizes)) > 6
    assert all(20 <= rows <= 80 and 0.2 * rows - 1 < n < 0.6 * rows + 1 for rows, n in sizes)
    whole = {b.train_size for b in take(stream(train_size=(5, 7)), 30)}
    assert whole == {5, 6, 7}


# ---- What they are a function of -------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, (1, 3)])
@pytest.mark.parametrize("name", PRIORS)
def test_a_dataset_depends_on_seed_and_index_alone(name, columns):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    several = stream(PRIORS[name], 11, num_threads=2, columns_per_variable=columns)
    one = {i: parts for i, parts, _ in datasets(take(several, 2))}
    torch.set_num_threads(before)
    for size in (1, 4):
        for index, parts, _ in datasets(take(stream(PRIORS[name], size, columns_per_variable=columns), 2)):
            assert alike(parts, one[index])


def test_a_micro_batch_holds_the_first_datasets_of_use():
    batch = stream(EXPLODING, 20, first_batch=7, num_rows=40).batch(0)
    last = int(batch.index.max())
    drawn = scm.sample(EXPLODING, last - 7 * BLOCK + 1, 40, seed=SEED, first_index=7 * BLOCK)
    failure = _learner.learnt(drawn, SEED, batch.train_size, 10, True).failure
    assert (failure >= 0).any()
    assert sorted(batch.index.tolist()) == drawn.index[failure < 0].tolist()
    assert batch.X.isfinite().all()
    assert (batch.X.abs() <= 100).all()


def test_another_seed_gives_other_datasets():
    assert not alike([stream(seed=0).batch(0).X], [stream(seed=1).batch(0).X])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 1000))
def test_a_sum_of_rows_is_that_of_every_column_alone(rows, columns, seed):
    x = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(seed))
    whole, alone = (_learner_rows.sum_of_rows(part.clone()) for part in (x, x[1:, :, -1:]))
    assert torch.equal(whole[1:, -1:], alone)
    torch.testing.assert_close(whole.double(), x.double().sum(1), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(4, 90), st.integers(2, 70), st.integers(0, 2**32), st.booleans(), st.booleans(),
    st.integers(1, 3), st.data(),
)  # fmt: skip
def test_a_host_shows_rows_as_other_devices_do(datasets, rows, variables, seed, loses, mixes, threads, data):
    rng, train_size = np.random.default_rng(seed), data.draw(st.integers(2, rows - 2))
    values = (rng.standard_normal((datasets, rows, variables)) * 10 ** rng.uniform(-3, 3, variables)).astype(np.float32)
    values[rng.random(values.shape) < 0.01] = rng.choice([np.inf, -np.inf, 3e38])
    is_missing = torch.from_numpy(rng.random(values.shape) < 0.3) if loses else None
    if is_missing is not None:
        values[is_missing.numpy()] = np.nan
    order = torch.from_numpy(rng.random((datasets, rows)).argsort(1)) if mixes else None
    drawn = _learner_rows.DrawnRows(torch.from_numpy(values), is_missing, order, train_size)
    native, torch_steps = _learner_rows.NativeSteps(drawn, threads), _learner_rows.TorchSteps(drawn)
    surveys = native.survey(), torch_steps.survey()
    assert alike(*surveys)
    columns = torch.from_numpy(rng.random((datasets, variables)).argsort(1)[:, : variables - 1])
    is_tame = torch.from_numpy(np.isfinite(values) | np.isnan(values)).all(1).gather(1, columns)
    count = is_tame.cumprod(1).sum(1)  # what explodes is not shown
    for standardise in (False, True):
        shown = [steps.show(columns, count, standardise) for steps in (native, torch_steps)]
        torch.testing.assert_close(*shown, atol=0, rtol=0, equal_nan=True)
    views = _learner_views.drawn_views(
        torch.from_numpy(rng.random((datasets, variables)) < 0.8), seed, np.arange(datasets), (1, 3)
    )
    views = views._replace(variable=columns[:, :1].expand_as(views.variable), number=views.number * (count > 0))
    ours, theirs = (steps.view(views) for steps in (native, torch_steps))
    torch.testing.assert_close(ours.values, theirs.values, atol=0, rtol=0, equal_nan=True)
    assert (ours.is_missing is None) == (is_missing is None)
    assert ours.is_missing is None or torch.equal(ours.is_missing, theirs.is_missing)
    x = torch.from_numpy(rng.standard_normal((datasets, rows)).astype(np.float32))
    cuts = x[:, torch.from_numpy(rng.integers(0, rows, 5))].sort(1).values
    cuts[:, 3:] = torch.inf
    (classes, counts), theirs = native.classify(x, cuts), torch_steps.classify(x, cuts)
    assert alike((classes, counts), theirs)
    code = torch.from_numpy(rng.integers(0, 9, (datasets, 6)))
    assert torch.equal(native.recode(classes.clone(), code), torch_steps.recode(classes, code))


def test_a_stream_wakes_none_of_torchs_threads():
    program = (
        "import os, torch; from settx_fast import scm; torch.set_num_threads(4)\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "prior = scm.Prior(60, target_environments=0); before = threads()\n"
        "for columns in (1, (1, 2)):\n"
        "    options = dict(num_rows=2000, prefetch=0, num_threads=2, columns_per_variable=columns)\n"
        "    scm.tabular_stream(prior, 32, 1, **options).batch(0)\n"
        "    assert threads() == before, (before, threads())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_random_numbers_are_those_of_splitmix64():
    assert int(_mixed(np.array([0x9E3779B97F4A7C15], np.uint64))[0]) == 0xE220A8397B1DCDAF  # of seed 0, the first
    found = uniforms(5, np.arange(200), 1, 50)
    assert len(np.unique(found)) == 10_000
    np.testing.assert_allclose(np.quantile(found, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)
    assert not np.array_equal(found, uniforms(5, np.arange(200), 2, 50))


# ---- Predictability --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_targets_without_a_cause_or_effect_among_the_columns_are_passed_over(task):
    alone, caused = (scm.Prior(4, scm.ErdosRenyi(edge_probability=p), target_environments=0) for p in (0.0, 1.0))
    noise = stream(alone, 40, task=task, num_rows=300, train_size=0.5).batch(0)
    signal = stream(caused, 40, task=task, num_rows=300, train_size=0.5).batch(0)
    levels = [surprise(b.X, b.y, b.num_features, b.num_classes) for b in (noise, signal)]
    assert (levels[0] < 0.05).sum() <= 6  # of 40 at one in twenty; 7 or more in one of 290
    assert (levels[1] < 0.05).sum() >= 34
    mixed = replace(caused, graph=(alone.graph, caused.graph))
    kept = stream(mixed, 40, task=task, num_rows=300, train_size=0.5, predictable=0.01).batch(0)
    edges = torch.stack([source(mixed, i, 300).adjacency.any() for i in kept.index.tolist()])
    assert edges.float().mean() > 0.9


def test_a_curve_without_slope_is_predictable():
    scales = scm.PerVariable((1.0, 0.3))
    square = scm.Prior(2, scm.UserGraph(((0, 1),)), scm.Elementwise("square"), noise_scale=scales, target=1,
                       target_environments=0)  # fmt: skip
    batch = stream(square, 20, task="regression", num_rows=300).batch(0)
    assert (surprise(batch.X, batch.y, batch.num_features, batch.num_classes) < 0.01).all()


# ---- As a stream -----------------------------------------------------------------------------------------------------


def test_ranks_workers_and_a_resumed_stream_deal_what_one_process_draws():
    alone = take(stream(), 6)
    assert same(take(stream(prefetch=2), 6), alone)
    ranks = [take(stream(rank=rank, world_size=2), 3) for rank in range(2)]
    assert same([batch for pair in zip(*ranks, strict=True) for batch in pair], alone)
    assert same(take(DataLoader(stream(), batch_size=None, num_workers=2), 4), alone[:4])
    first, second = stream(), stream()
    head = take(iter(first), 2)
    second.load_state_dict(first.state_dict())
    assert first.state_dict()["first_batch"] == 2
    assert same(head + take(second, 4), alone)
    assert same(take(pickle.loads(pickle.dumps(stream(first_batch=4))), 2), alone[4:])


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stateful_loader_resumes_a_stream():
    first, second = (StatefulDataLoader(stream(), batch_size=None) for _ in range(2))
    head = take(iter(first), 2)
    second.load_state_dict(first.state_dict())
    assert same(head + take(iter(second), 2), take(stream(), 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": "chain"}, "prior: expected an scm.Prior, got 'chain'"),
        ({"prior": scm.Prior(1)}, "prior.num_variables: expected at least 2 variables, one of them the target, got 1"),
        (
            {"prior": scm.Prior(3, observation=(scm.Missing(on_target=True),))},
            "expected a target that is never missing",
        ),
        ({"batch_size": 0}, "batch_size: expected an int in 1…1000, got 0"),
        ({"seed": -1}, "seed: expected an int"),
        ({"num_rows": 3}, "num_rows: expected an int or .low, high. within 4"),
        ({"train_size": 0.0}, r"train_size: expected a share .* or ints in 2…18, two fewer than rows, got 0.0"),
        ({"train_size": (0.5, 1.0)}, "train_size: expected a share"),
        ({"train_size": (2, 0.5)}, "train_size: expected a share"),
        ({"train_size": 19}, "train_size: expected .* got 19"),
        ({"task": "ranking"}, "task: expected one of .'classification', 'regression'., got 'ranking'"),
        ({"max_classes": 1}, "max_classes: expected an int in 2…1000, got 1"),
        ({"standardise": 1}, "standardise: expected True or False, got 1"),
        ({"columns_per_variable": 0}, "columns_per_variable: expected an int or .low, high. within 1…16, got 0"),
        ({"columns_per_variable": (1, 17)}, "columns_per_variable: expected .* within 1…16"),
        ({"predictable": 1.5}, r"predictable: expected None or a number in \(0, 1\), got 1.5"),
        ({"first_batch": 1 << 32}, "first_batch: expected an int in 0…4294967295"),
        ({"rank": 1}, "rank, world_size: expected both or neither"),
        ({"prefetch": -1}, "prefetch: expected an int in 0…64, got -1"),
        ({"device": "abacus"}, "device: expected 'cpu', 'cuda'"),
        ({"num_threads": 0}, "num_threads: expected None or an int"),
        ({"num_rows": 10**9}, "expected a batch within this machine's free memory"),
    ],
)
def test_bad_streams_name_field_expected_and_got(change, message):
    with pytest.raises(ValueError, match=message):
        scm.tabular_stream(**{"prior": LINEAR, "batch_size": 2, "seed": 0, "num_rows": 20} | change)


def test_a_prior_without_datasets_of_use_is_named_with_what_they_lack():
    with pytest.raises(RuntimeError, match=r"got 0 among \d+; others have no column that varies \(\d+\)"):
        stream(scm.Prior(3, noise_scale=0.0)).batch(0)


def test_a_batch_says_what_it_is_and_moves():
    batch = stream().batch(0)
    assert repr(batch).startswith("TabularBatch(6 datasets × 60 rows × 8 columns, classes, train_size=")
    assert len(batch) == 6
    assert all(tensor.is_meta for tensor in batch.to("meta").memory)
