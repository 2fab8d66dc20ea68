"""`sample`, `resample` and `Batch`: determinism, the model they promise, and refusals."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from priors import CASES, EVERYTHING, LINEAR, NAMED, UNOBSERVED
from rounding import rounding_bound

from settx_fast import scm
from settx_fast.scm import _cpu, reference, sampler
from settx_fast.scm._cpu import draw_tables, evaluate_tables
from settx_fast.scm._layout import split_rows
from settx_fast.scm._native import native
from settx_fast.scm.evaluation import wanted_of

TENSORS = [field.name for field in fields(scm.Batch) if field.name not in ("prior", "seed", "stream_version")]
ROWS_OF_DATASETS = [name for name in TENSORS if name not in ("mechanism_parameters", "mechanism_offset")]


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """The same bits; a NaN equals itself."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def assert_same(a: scm.Batch, b: scm.Batch, names: list[str] = TENSORS) -> None:
    for name in names:
        assert same(getattr(a, name), getattr(b, name)), name


# ---- A dataset is a pure function of (seed, index, prior) ------------------------------------------------------------

# SHA-256 of values, weights and mechanism_parameters of 20 datasets × 100 rows, seed 12345. Other numbers mean another
# stream: then STREAM_VERSION goes up.
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize("name", NAMED)
def test_named_draws_have_their_golden_checksums(name):
    batch = scm.sample(NAMED[name], 20, 100, seed=12345)
    digest = hashlib.sha256()
    for tensor in (batch.values, batch.weights, batch.mechanism_parameters):
        digest.update(tensor.numpy().tobytes())
    assert (scm.STREAM_VERSION, digest.hexdigest()) == (GOLDEN["stream_version"], GOLDEN[name])


WHOLE = {name: NAMED[name] for name in NAMED if name not in ("chain", "lucas", "random", "drawn_linear")}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num_threads", [2, 7])
def test_number_of_threads_never_changes_a_bit(num_threads, name):
    size = (4 if name == "wide" else 60, 130)
    one = scm.sample(CASES[name], *size, seed=3, num_threads=1)
    assert_same(one, scm.sample(CASES[name], *size, seed=3, num_threads=num_threads))


@pytest.mark.parametrize("standardisation", ["none", "sample"])
def test_many_rows_are_split_over_threads_without_changing_a_bit(standardisation):
    prior = scm.Prior(num_variables=3, source_environments=3, standardisation=standardisation)
    one = scm.sample(prior, 2, 100_000, seed=3, num_threads=1)  # chunks of 16384 rows start inside environments
    assert_same(one, scm.sample(prior, 2, 100_000, seed=3, num_threads=5))


@pytest.mark.parametrize("rows", [255, 257, 1001])
def test_threads_that_share_one_dataset_change_nothing(rows):
    """Rows of networks are dealt out from 256 on; 1,001 leave a last piece that is no whole block."""
    prior = scm.Prior(6, mechanism=scm.MLP(hidden=100), standardisation="sample", observation=EVERYTHING.observation)
    one = scm.sample(prior, 1, rows, seed=3, num_threads=1, return_noise=True)
    assert_same(one, scm.sample(prior, 1, rows, seed=3, num_threads=7, return_noise=True))


@settings(max_examples=25, deadline=None)
@given(
    start=st.integers(0, 1 << 40),
    split=st.integers(1, 7),
    seed=st.integers(0, 2**64 - 1),
    prior=st.sampled_from(list(WHOLE.values())),
)
def test_splitting_a_batch_never_changes_a_bit(start, split, seed, prior):
    whole = scm.sample(prior, 8, 33, seed=seed, first_index=start)
    first = scm.sample(prior, split, 33, seed=seed, first_index=start)
    second = scm.sample(prior, 8 - split, 33, seed=seed, first_index=start + split)
    for name in ROWS_OF_DATASETS:
        parts = [getattr(first, name), getattr(second, name)]
        assert same(getattr(whole, name), None if parts[0] is None else torch.cat(parts)), name
    parameters = torch.cat([first.mechanism_parameters, second.mechanism_parameters])
    assert torch.equal(whole.mechanism_parameters, parameters)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("path", native().path_names())
def test_every_instruction_set_gives_the_same_bits(path, name):
    prior, size = CASES[name], 4 if name == "wide" else 40
    best = scm.sample(prior, size, 150, seed=5, return_noise=True)
    tables = draw_tables(prior, size, 5, 0, 1, path)
    offset = split_rows(tables.tensors, 150, prior)
    rows = evaluate_tables(tables, offset, 150, 5, 1, path, wanted_of(prior, noise=True))
    for name, expected in (dict(tables.tensors) | rows).items():
        assert same(getattr(best, name), expected), name


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is mapped")
def test_a_system_without_threads_to_give_changes_no_bit():
    """Stacks of 1,000 threads do not fit in what memory the process may still map."""
    code = (
        "import resource, torch; from settx_fast import scm;"
        "one = scm.sample(scm.Prior(3), 2000, 20, seed=0, num_threads=1);"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (500 << 20),) * 2);"
        "few = scm.sample(scm.Prior(3), 2000, 20, seed=0, num_threads=1000);"
        "assert torch.equal(one.values, few.values)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_process_draws_the_same_bits():
    code = (
        "from settx_fast import scm; import hashlib;"
        "b = scm.sample(scm.presets.random(), 5, 50, seed=9);"
        "print(hashlib.sha256(b.values.numpy().tobytes()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = scm.sample(scm.presets.random(), 5, 50, seed=9)
    assert other.stdout.strip() == hashlib.sha256(here.values.numpy().tobytes()).hexdigest()


def test_datasets_and_seeds_differ():
    batch = scm.sample(LINEAR, 50, 20, seed=0)
    other = scm.sample(LINEAR, 50, 20, seed=1)
    high = scm.sample(LINEAR, 50, 20, seed=1 << 32)
    everything = torch.cat([batch.values[:, :, 0], other.values[:, :, 0], high.values[:, :, 0]]).flatten()
    assert len(everything.unique()) == everything.numel()


# ---- The rows follow the tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNOBSERVED)
def test_rows_equal_the_oracle_within_rounding(name):
    batch = scm.sample(NAMED[name], 20, 120, seed=11)
    for b in range(len(batch)):
        error = np.abs(batch.values[b].numpy() - reference.evaluate(batch, b))
        assert np.all(error <= rounding_bound(batch, b)), (name, b)


def test_rounding_bound_is_tight_enough_to_see_a_wrong_weight():
    batch = scm.sample(EVERYTHING, 40, 120, seed=11)
    ratios = [np.median(rounding_bound(batch, b)) / batch.values[b].std().item() for b in range(len(batch))]
    assert np.median(ratios) < 1e-3


def test_linear_gaussian_covariance_is_what_the_tables_say():
    prior = scm.Prior(num_variables=5, weight=scm.Uniform(0.3, 1.0, signed=True), noise_scale=(0.5, 2.0), bias=(-1, 1))
    rows = 200_000
    batch = scm.sample(prior, 5, rows, seed=1)
    for b in range(5):
        inverse = torch.linalg.inv(torch.eye(5) - batch.weights[b, 0]).double()
        mean = batch.bias[b, 0].double() @ inverse
        covariance = inverse.T @ torch.diag(batch.noise_scale[b, 0].double() ** 2) @ inverse
        x = batch.values[b].double()
        standard_error = covariance.diagonal().sqrt() / rows**0.5
        assert torch.all((x.mean(0) - mean).abs() < 5 * standard_error)
        scale = covariance.diagonal().sqrt()
        assert torch.all((x.T.cov() - covariance).abs() < 5 * (2 / rows) ** 0.5 * scale[:, None] * scale)


def test_padding_is_zero_and_order_is_topological():
    batch = scm.sample(EVERYTHING, 60, 50, seed=2)
    V, K = batch.values.shape[2], batch.bias.shape[1]
    assert (V, K) == (9, 6)
    absent, unused = ~batch.variable_mask, ~batch.environment_mask
    assert absent.any()
    assert unused.any()
    assert not batch.values[absent[:, None].expand_as(batch.values)].any()
    for name in ("bias", "noise_scale", "hard", "intervention"):
        assert not getattr(batch, name)[absent[:, None].expand(-1, K, -1)].any()
        assert not getattr(batch, name)[unused[:, :, None].expand(-1, -1, V)].any()
    assert not batch.weights[unused].any()
    for b in range(len(batch)):
        n = int(batch.num_variables[b])
        order = batch.order[b, :n]
        assert sorted(order.tolist()) == list(range(n))
        assert not batch.order[b, n:].any()
        permuted = batch.adjacency[b][order][:, order]
        assert not permuted.tril().any()
        assert not batch.weights[b][:, ~batch.adjacency[b]].any()


def test_rows_are_grouped_by_environment_and_target_environments_come_last():
    batch = scm.sample(EVERYTHING, 30, 50, seed=2)
    assert torch.all(batch.environment.diff(dim=1) >= 0)
    assert torch.equal(batch.row_counts.sum(1), torch.full((30,), 50))
    assert torch.equal(batch.row_counts > 0, batch.environment_mask)
    is_target = batch.is_target_environment.int()
    last = torch.arange(is_target.shape[1]) == batch.num_environments[:, None] - 1
    assert torch.all(batch.is_target_environment[last])
    assert torch.all((is_target.diff(dim=1) >= 0)[:, :-1] | ~batch.environment_mask[:, 1:-1])
    target_rows = (batch.row_counts * is_target).sum(1)
    assert torch.all(target_rows == round(0.4 * 50))


@pytest.mark.parametrize(
    ("rows", "share", "expected"), [(10, None, [3, 3, 4]), (10, 0.5, [2, 3, 5]), (3, 0.9, [1, 1, 1])]
)
def test_rows_are_split_evenly_or_by_the_target_share(rows, share, expected):
    is_target = torch.tensor([[False, False, True, False]])
    counts, no_share = torch.tensor([3]), torch.zeros(1)  # a prior that names one share draws none
    tables = {"is_target_environment": is_target, "num_environments": counts, "target_share": no_share}
    prior = scm.Prior(source_environments=(1, 3), target_share=share)
    offset = split_rows(tables, rows, prior)
    assert offset.diff().tolist() == [[*expected, 0]]


def target_rows(batch: scm.Batch) -> torch.Tensor:
    return batch.is_target_row.sum(1)


def test_a_drawn_target_share_is_that_of_the_rows_and_stays_with_the_dataset():
    prior = replace(EVERYTHING, target_share=(0.1, 0.6))
    batch = scm.sample(prior, 300, 1000, seed=2)
    share = batch.target_share.double()
    assert torch.equal(target_rows(batch), (share * 1000).round().long())
    assert len(share.unique()) > 290
    assert torch.equal(target_rows(batch.do({0: 1.0})), target_rows(batch))
    fresh = scm.resample(batch, 400, seed=77)
    assert torch.equal(fresh.target_share, batch.target_share)
    assert torch.equal(target_rows(fresh), (share * 400).round().long())
    streamed = next(iter(scm.stream(prior, 300, seed=2, rank=0, world_size=1, num_rows=1000, prefetch=0)))
    assert_same(streamed, batch)


def test_a_target_share_of_two_equal_ends_gives_the_rows_of_the_constant():
    constant, drawn = (replace(EVERYTHING, target_share=share) for share in (0.4, (0.4, 0.4)))
    ours, theirs = (scm.sample(prior, 50, 101, seed=2) for prior in (drawn, constant))
    assert_same(ours, theirs)
    assert torch.all(theirs.target_share == np.float32(0.4))
    assert not scm.sample(scm.Prior(), 3, 10, seed=2).target_share.any()


def test_rows_of_a_constant_target_share_are_rounded_in_double_precision():
    """Half of 5 goes to the even 2; 0.3 is more in float32 than in double, so that 0.3 · 15 would be rounded up."""
    for share, rows, expected in ((0.5, 5, 2), (0.3, 15, 4)):
        assert expected == round(share * rows)
        batch = scm.sample(scm.Prior(2, target_share=share), 1, rows, seed=0)
        assert target_rows(batch).tolist() == [expected]


# ---- Fresh rows and interventions ------------------------------------------------------------------------------------


def test_resampling_with_the_same_seed_gives_the_same_rows():
    batch = scm.sample(EVERYTHING, 20, 64, seed=4)
    assert_same(batch, scm.resample(batch, 64, seed=4))
    assert not torch.equal(scm.resample(batch, 64, seed=5).values, batch.values)


def test_resampling_one_environment_gives_the_rows_that_it_had():
    batch = scm.sample(EVERYTHING, 20, 60, seed=4)
    again = scm.resample(batch, 500, seed=4, environments=batch.num_environments - 1)
    for b in range(20):
        k = int(batch.num_environments[b]) - 1
        assert torch.all(again.environment[b] == k)
        before = batch.values[b, batch.environment[b] == k]
        assert torch.equal(again.values[b, : len(before)], before)


# ---- Handling --------------------------------------------------------------------------------------------------------


def test_batch_describes_itself():
    batch = scm.sample(scm.presets.chain(), 3, 10, seed=8, first_index=4)
    assert len(batch) == 3
    assert batch.first_index == 4
    assert batch.names == ("X", "Y", "Z")
    assert "3 datasets × 10 rows × 3 variables" in repr(batch)
    assert "datasets 4…6" in repr(batch)


def test_a_dataset_becomes_a_table():
    batch = scm.sample(EVERYTHING, 3, 20, seed=8)
    table = batch.to_pandas(2)
    n = int(batch.num_variables[2])
    assert list(table.columns) == [*batch.names[:n], "environment", "is_target_environment"]
    assert np.array_equal(table.iloc[:, :n].to_numpy(), batch.values[2, :, :n].numpy())
    assert np.array_equal(table.environment, batch.environment[2])
    assert table.is_target_environment.sum() == round(0.4 * 20)


def test_a_dataset_becomes_a_graph():
    graph = scm.sample(scm.presets.lucas(), 2, 50, seed=8).graph(1)
    assert set(graph.edges) == set(scm.presets.LUCAS_EDGES)
    assert len(graph) == 12


def test_a_batch_comes_apart_into_features_and_target():
    hidden = replace(EVERYTHING, observation=(scm.Hidden((1, 2)),))
    batch = scm.sample(hidden, 20, 30, seed=8)
    for b in range(len(batch)):
        target = int(batch.target_index[b])
        seen = [v for v in batch.visible_mask[b].nonzero().flatten().tolist() if v != target]
        X, y = batch.xy(b)
        assert torch.equal(X, batch.values[b][:, seen])
        assert torch.equal(y, batch.values[b, :, target])
        assert torch.equal(batch.features[b][:, batch.feature_mask[b]], X)
        assert torch.equal(batch.target[b], y)
        assert not batch.features[b][:, ~batch.feature_mask[b]].any()
        assert batch.feature_index[b][batch.feature_mask[b]].tolist() == seen
        assert batch.is_target_row[b].tolist() == batch.to_pandas(b).is_target_environment.tolist()


@pytest.mark.parametrize("ask", ["to_pandas", "graph", "xy"])
@pytest.mark.parametrize("dataset", [3, -4, 1.0, "x0", None, True])
def test_a_dataset_that_is_not_there_is_refused(ask, dataset):
    batch = scm.sample(LINEAR, 3, 10, seed=8)
    with pytest.raises(ValueError, match=r"dataset: expected an int in 0…2, got "):
        getattr(batch, ask)(dataset)


def test_exploding_datasets_are_flagged():
    squares = scm.Prior(12, scm.Pattern("chain"), scm.Elementwise("square"), weight=3.0)
    batch = scm.sample(squares, 20, 50, seed=8)
    assert not batch.is_finite.all()
    assert torch.equal(batch.is_finite, batch.values.isfinite().all(2).all(1))


def test_the_default_prior_never_explodes():
    assert all(scm.sample(scm.Prior(), 500, 50, seed=seed).is_finite.all() for seed in range(20))


GOOD = {"prior": LINEAR, "num_datasets": 2, "num_rows": 10, "seed": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_rows": 0}, "num_rows: expected an int"),
        ({"num_rows": 1}, "a row for each of up to 2 environments, got 1"),
        ({"num_rows": 10.0}, "num_rows: .* got 10.0"),
        ({"num_rows": True}, "num_rows: .* got True"),
        ({"num_datasets": 0}, "num_datasets: expected an int ≥ 1, got 0"),
        (
            {"num_datasets": 10**12},
            "num_datasets, num_rows: expected a batch within this machine's free memory of .* GB",
        ),
        ({"num_rows": 1 << 32, "num_datasets": 1000}, "memory of .* GB, got 13743.* GB"),
        ({"num_rows": 1 << 33}, "num_rows: expected an int"),
        ({"seed": -1}, "seed: expected an int in 0…2⁶⁴ − 1, got -1"),
        ({"seed": 1 << 64}, "seed: expected"),
        ({"seed": None}, "seed: expected .* got None"),
        ({"first_index": -1}, "first_index: expected an int ≥ 0, got -1"),
        ({"first_index": 1 << 48}, "first_index \\+ num_datasets: expected at most 2⁴⁸"),
        ({"num_threads": 0}, "num_threads: expected None or an int in 1…1024, got 0"),
        ({"device": "abacus"}, "device: expected 'cpu', 'cuda' .*, got 'abacus'"),
        ({"device": None}, "device: expected 'cpu', 'cuda' .*, got 'None'"),
        ({"device": "meta"}, "device: expected 'cpu', 'cuda' .*, got 'meta'"),
        ({"return_noise": "yes"}, "return_noise: expected True or False, got 'yes'"),
        ({"num_datasets": True}, "num_datasets: expected an int ≥ 1, got True"),
        ({"num_datasets": 1 << 70}, "first_index . num_datasets: expected at most 2⁴⁸"),
        ({"num_rows": 10**12}, "num_rows: expected an int in 1…2³² .* got 1000000000000"),
        ({"first_index": 0.0}, "first_index: expected an int ≥ 0, got 0.0"),
        ({"prior": "chain"}, "prior: expected an scm.Prior, got 'chain'"),
    ],
)
def test_bad_requests_name_field_expected_and_got(change, message):
    with pytest.raises(ValueError, match=message):
        scm.sample(**(GOOD | change))


def test_values_land_in_the_tensor_given_for_them():
    out = torch.full((7, 33, EVERYTHING.max_variables), torch.nan)
    batch = scm.sample(EVERYTHING, 7, 33, seed=2, out=out)
    assert batch.values.data_ptr() == out.data_ptr()
    assert_same(batch, scm.sample(EVERYTHING, 7, 33, seed=2))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((2, 10, 6), np.float32), "out: expected None or a tensor, got 'ndarray'"),
        (torch.zeros(2, 10, 6, dtype=torch.float64), "out.dtype: expected torch.float32, got torch.float64"),
        (torch.zeros(2, 10, 5), r"out.shape: expected .* = \(2, 10, 6\), got \(2, 10, 5\)"),
        (torch.zeros(120), r"out.shape: expected .* got \(120,\)"),
        (torch.zeros(2, 6, 10).mT, r"out.stride\(\): expected a contiguous tensor, got \(60, 1, 10\)"),
        (torch.zeros(1, 10, 6).expand(2, 10, 6), r"out.stride\(\): .* got \(0, 6, 1\)"),
        (torch.zeros(2, 10, 6, device="meta"), "out.device: expected 'cpu', got 'meta'"),
        (torch._neg_view(torch.zeros(2, 10, 6)), r"out.stride\(\): expected a contiguous tensor"),
        (torch.zeros(2, 10, 6).to_sparse(), "out.layout: expected torch.strided, not nested, got torch.sparse_coo"),
        (torch.zeros(2, 10, 6).to_mkldnn(), "out.layout: .* got torch._mkldnn"),
        (torch.zeros(2, 10, 6, requires_grad=True), "out.requires_grad: expected False, got True"),
    ],
)
def test_a_tensor_that_cannot_hold_the_values_is_refused_before_anything_is_drawn(out, message, monkeypatch):
    monkeypatch.setattr("settx_fast.scm.sampler.draw_tables", None)
    with pytest.raises(ValueError, match=message):
        scm.sample(**GOOD, out=out)


def test_a_batch_is_held_against_the_memory_that_is_free_not_against_all(monkeypatch):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < _cpu.available_memory() < total
    monkeypatch.setattr(_cpu, "available_memory", lambda: 100 << 20)
    monkeypatch.setattr(sampler, "draw_tables", lambda *_: pytest.fail("drawn before the check"))
    rows = (100 << 20) // (4 * 10 + 8)
    with pytest.raises(ValueError, match=r"num_datasets, num_rows: expected a batch within .* 0\.1 GB, got 0\.1 GB"):
        scm.sample(scm.Prior(), 1, rows, seed=0)
    with pytest.raises(ValueError, match=r"got 0\.2 GB"):
        scm.sample(scm.Prior(), 1, rows, seed=0, return_noise=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_rows": 0}, "num_rows: expected an int"),
        ({"environments": 2}, "environments: expected below num_environments"),
        ({"environments": -1}, "environments: expected below num_environments"),
        ({"environments": torch.zeros(3, dtype=torch.int64)}, "environments: expected one for each of 2"),
        ({"environments": torch.zeros(2)}, "environments: expected an int or int64"),
        ({"environments": "first"}, "environments: expected an int or int64 .* got 'first'"),
        ({"environments": True}, "environments: expected an int or int64 .* got True"),
        ({"batch": None}, "batch: expected an scm.Batch, got 'NoneType'"),
        ({"observed": 1}, "observed: expected True or False, got 1"),
        ({"attempt": torch.zeros(2, 10, dtype=torch.int16)}, "attempt: expected None where no row is selected"),
    ],
)
def test_bad_resampling_names_field_expected_and_got(change, message):
    batch = scm.sample(**GOOD)
    with pytest.raises(ValueError, match=message):
        scm.resample(**({"batch": batch, "num_rows": 10, "seed": 0} | change))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        ("first", "attempt: expected None or an int16 tensor .* got 'first'"),
        (torch.zeros(2, 10), r"attempt: expected a contiguous torch.int16 \(2, 10\), got .*float32 \(2, 10\)"),
        (torch.zeros(2, 9, dtype=torch.int16), r"attempt: .* got 'torch.int16 \(2, 9\)"),
        (torch.zeros(10, 2, dtype=torch.int16).T, r"attempt: expected a contiguous .* with strides \(1, 2\)"),
        (torch.full((2, 10), -1, dtype=torch.int16), "attempt: expected numbers in 0…1024, got '-1…-1'"),
        (torch.full((2, 10), 1025, dtype=torch.int16), "attempt: expected numbers in 0…1024, got '1025…1025'"),
        (torch.zeros(2, 10, dtype=torch.int16, device="meta"), "attempt.device: expected cpu, got 'meta'"),
    ],
)
def test_attempts_that_no_row_can_have_are_refused(attempt, message):
    batch = scm.sample(scm.Prior(observation=(scm.Selection(),)), 2, 10, seed=0)
    with pytest.raises(ValueError, match=message):
        scm.resample(batch, 10, seed=0, attempt=attempt)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bias", lambda t: t.double(), r"expected torch.float32 \(2, 2, 6\) on cpu, got 'torch.float64 "),
        ("adjacency", lambda t: t[:, 1:], r"expected torch.bool \(2, 6, 6\) on cpu, got 'torch.bool \(2, 5, 6\)"),
        ("index", lambda t: t.to("meta"), r"expected torch.int64 \(2,\) on cpu, got 'torch.int64 \(2,\) on meta"),
        ("codes", lambda t: t[0], r"expected 3 dimensions, got \(6, 0\)"),
    ],
)
def test_a_batch_with_a_table_of_another_shape_type_or_place_is_refused(name, change, message):
    batch = scm.sample(**GOOD)
    with pytest.raises(ValueError, match=rf"batch\.{name}: {message}"):
        scm.resample(replace(batch, **{name: change(getattr(batch, name))}), 10, seed=0)


def test_tables_are_read_wherever_they_lie():
    batch = scm.sample(**GOOD)
    spread = replace(batch, weights=batch.weights.mT.contiguous().mT, bias=batch.bias.clone())
    assert same(scm.resample(spread, 10, seed=4).values, scm.resample(batch, 10, seed=4).values)


def test_native_module_refuses_what_it_does_not_know():
    tables = draw_tables(LINEAR, 2, 0, 0, 1)
    offset = split_rows(tables.tensors, 10, LINEAR)
    with pytest.raises(ValueError, match="path: expected one that this machine runs, got 'abacus'"):
        evaluate_tables(tables, offset, 10, 0, 1, "abacus")
    with pytest.raises(ValueError, match="tables: expected 36 addresses, got 35"):
        evaluate_tables(tables._replace(addresses=tables.addresses[1:]), offset, 10, 0, 1)


def test_a_missing_native_module_says_how_to_build_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "settx_fast._native", None)
    with pytest.raises(ImportError, match="pip install"):
        scm.sample(**GOOD)
