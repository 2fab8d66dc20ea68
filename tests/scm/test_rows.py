"""The CUDA back end's order of work, run on a CPU: the same bits as every instruction set, case by case."""

import pytest
import torch
from priors import CASES

from settx_fast import scm
from settx_fast.scm._cpu import evaluate_tables
from settx_fast.scm._layout import LAYOUT, split_rows, tables_of
from settx_fast.scm._native import native
from settx_fast.scm.evaluation import wanted_of

WAYS = ("rows", "rows in place")  # tiles of shared memory, and none


def bits(values: torch.Tensor) -> torch.Tensor:
    """A NaN equals itself."""
    return values.view(torch.int32)


def evaluate(batch: scm.Batch, way: str, attempt: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """What is seen, the noise and all else that the batch has, in the units that the batch found."""
    tables = tables_of({name: getattr(batch, name) for name in LAYOUT})
    rows = batch.values.shape[1]
    offset = split_rows(tables.tensors, rows, batch.prior)
    columns = "given" if batch.prior.standardisation == "sample" else "raw"
    wanted = wanted_of(batch.prior, batch.noise is not None)._replace(columns=columns, attempt=attempt)
    return evaluate_tables(tables, offset, rows, batch.seed, 1, way, wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_rows_one_by_one_have_the_bits_of_the_vector_code(case, way):
    batch = scm.sample(CASES[case], 4 if case == "wide" else 30, 150, seed=5, first_index=1 << 33, return_noise=True)
    for name, found in evaluate(batch, way).items():
        expected = getattr(batch, name)
        assert found.shape == expected.shape, name
        assert found.numpy().tobytes() == expected.numpy().tobytes(), name


@pytest.mark.parametrize("way", WAYS)
def test_given_attempts_are_taken_row_by_row(way):
    batch = scm.sample(CASES["observed"], 20, 150, seed=5, return_noise=True)
    assert batch.attempt.max() > 1
    for name, found in evaluate(batch, way, batch.attempt.clone()).items():
        assert found.numpy().tobytes() == getattr(batch, name).numpy().tobytes(), name


@pytest.mark.parametrize("way", WAYS)
def test_the_last_of_too_many_attempts_is_the_same(way):
    selection = scm.Selection(1000.0, 1.0, variables=(0,), environments="all")
    batch = scm.sample(scm.Prior(2, observation=(selection,)), 2, 70, seed=5, return_noise=True)
    assert not batch.is_accepted.all()
    for name, found in evaluate(batch, way).items():
        assert found.numpy().tobytes() == getattr(batch, name).numpy().tobytes(), name


@pytest.mark.parametrize("way", [*native().path_names(), *WAYS])
@pytest.mark.parametrize("impossible", [-1, 1025, 4096, -(1 << 15)])
def test_an_attempt_that_no_row_can_have_is_the_last(impossible, way):
    batch = scm.sample(scm.Prior(2, observation=(scm.Selection(environments="all"),)), 2, 70, seed=5)
    given = torch.full_like(batch.attempt, impossible)
    assert torch.all(evaluate(batch, way, given)["attempt"] == 1024)


# Within a block of 64 and at its ends; at the ends of an item of the fewest lanes (128) and of the most (512); several.
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 128, 129, 511, 512, 513, 2000])
def test_items_cover_every_row_once(num_rows, way):
    prior = scm.Prior(5, target_environments=0)
    batch = scm.sample(prior, 3, num_rows, seed=1)
    rows = evaluate(batch, way)
    assert torch.equal(bits(rows["values"]), bits(batch.values))
    assert torch.equal(rows["environment"], batch.environment)


def test_not_a_number_has_the_same_bits_everywhere():
    batch = scm.sample(CASES["exploding"], 30, 150, seed=5)
    not_numbers = bits(batch.values)[batch.values.isnan()]
    assert len(not_numbers) > 100
    assert torch.all(not_numbers == 0x7FC00000)
