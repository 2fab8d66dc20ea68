"""The CUDA back end's order of work, run on a CPU: the same bits as every instruction set, case by case."""

import pytest
import torch
from priors import CASES

from settx_fast import scm
from settx_fast.scm._tables import LAYOUT, Wanted, evaluate_tables, split_rows

WAYS = ("rows", "rows in place")  # tiles of shared memory, and none


def bits(values: torch.Tensor) -> torch.Tensor:
    """A NaN equals itself."""
    return values.view(torch.int32)


def evaluate(batch: scm.Batch, way: str) -> dict[str, torch.Tensor]:
    tables = {name: getattr(batch, name) for name in LAYOUT}
    rows = batch.values.shape[1]
    offset = split_rows(batch.is_target_environment, batch.num_environments, rows, batch.prior.target_share)
    wanted = Wanted("given" if batch.prior.standardisation == "sample" else "raw")
    return evaluate_tables(tables, offset, rows, batch.seed, 1, way, wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_rows_one_by_one_have_the_bits_of_the_vector_code(case, way):
    batch = scm.sample(CASES[case], 4 if case == "wide" else 30, 150, seed=5, first_index=1 << 33)
    rows = evaluate(batch, way)
    assert torch.equal(bits(rows["values"]), bits(batch.values))
    assert torch.equal(rows["environment"], batch.environment)


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
