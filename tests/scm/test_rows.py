"""The CUDA back end's order of work, run on a CPU: the same bits as every instruction set, case by case."""

import re
from dataclasses import replace

import pytest
import torch
from priors import CASES

from settx_fast import scm
from settx_fast.scm._cpu import evaluate_tables
from settx_fast.scm._cuda import deep_width, has_products
from settx_fast.scm._layout import LAYOUT, split_rows, tables_of
from settx_fast.scm._native import native
from settx_fast.scm.evaluation import wanted_of

SHAPES = native().row_shapes()
WAYS = ("rows", "rows tiles 128", "rows in place 128")  # what the rule chooses; lanes on their own, without tiles too


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


def suits(shape: str, prior: scm.Prior) -> bool:
    """Whether a launch of that shape can evaluate whatever the prior draws."""
    deep = deep_width(prior)
    if shape.startswith("tiles"):
        return prior.max_variables * (int(shape.split()[1]) + 1) * 4 <= 232_448
    if shape.startswith("in place"):
        return True
    return (
        not prior.rejects_rows
        and not has_products(prior)
        and prior.max_variables <= 400
        and {
            "linear": all(isinstance(mechanism, scm.Linear) for mechanism in prior.mechanisms),
            "shallow": deep == 0,
            "deep": deep <= 128,
        }[shape.split()[0]]
    )


def assert_same_bits(found: dict[str, torch.Tensor], batch: scm.Batch) -> None:
    for name, tensor in found.items():
        expected = getattr(batch, name)
        assert tensor.shape == expected.shape, name
        assert tensor.numpy().tobytes() == expected.numpy().tobytes(), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_rows_one_by_one_have_the_bits_of_the_vector_code(case, way):
    if not suits(way[5:] or "in place", CASES[case]):  # the rule finds a shape for all
        pytest.skip("a tile of so many variables fits no card")
    batch = scm.sample(CASES[case], 4 if case == "wide" else 30, 150, seed=5, first_index=1 << 33, return_noise=True)
    assert_same_bits(evaluate(batch, way), batch)


# Every mechanism in networks of one layer, and of several; edges that shared memory has no room for; many variables.
LAUNCHED = {
    "everything": CASES["everything"],
    "internal": CASES["internal"],
    "seen": replace(
        CASES["everything"],
        mechanism=scm.Linear(),
        observation=tuple(o for o in CASES["observed"].observation if not isinstance(o, scm.Selection)),
    ),
    "shallow": replace(CASES["everything"], mechanism=(scm.MLP((3, 90), 1), scm.Fourier(20), scm.Quadratic())),
    "linear": replace(CASES["everything"], mechanism=scm.Linear()),
    "gaussian": scm.Prior((18, 20), scm.ErdosRenyi(2.0), target_environments=0),
    "odd": scm.Prior((5, 7), scm.ErdosRenyi(2.0)),
    "dense": scm.Prior(40, scm.ErdosRenyi(edge_probability=0.9), weight=0.1),
    "many": scm.Prior(100, scm.ErdosRenyi(2.0)),
    "deepest": scm.Prior(6, scm.ErdosRenyi(2.0), scm.MLP((1, 128), (2, 3)), noise_effect=scm.NOISE_EFFECTS),
}


@pytest.mark.parametrize(("case", "shape"), [(c, s) for c in LAUNCHED for s in SHAPES if suits(s, LAUNCHED[c])])
def test_every_shape_of_a_launch_has_the_bits_of_the_vector_code(case, shape):
    batch = scm.sample(LAUNCHED[case], 3, 1300, seed=5, first_index=1 << 33, return_noise=True)
    assert_same_bits(evaluate(batch, f"rows {shape}"), batch)


def test_every_shape_is_tried():
    assert {shape for shape in SHAPES for prior in LAUNCHED.values() if suits(shape, prior)} == set(SHAPES)


@pytest.mark.parametrize(
    ("case", "shape"),
    [("observed", "linear 256"), ("everything", "shallow 256"), ("deepest", "linear 128"), ("odd", "?")],
)
def test_a_shape_that_does_not_suit_the_models_is_refused(case, shape):
    batch = scm.sample((CASES | LAUNCHED)[case], 20, 50, seed=5)
    with pytest.raises(ValueError, match=rf"shape: expected one that suits the models, got '{re.escape(shape)}'"):
        evaluate(batch, f"rows {shape}")


@pytest.mark.parametrize("way", WAYS)
def test_given_attempts_are_taken_row_by_row(way):
    batch = scm.sample(CASES["observed"], 20, 150, seed=5, return_noise=True)
    assert batch.attempt.max() > 1
    assert_same_bits(evaluate(batch, way, batch.attempt.clone()), batch)


@pytest.mark.parametrize("way", WAYS)
def test_the_last_of_too_many_attempts_is_the_same(way):
    selection = scm.Selection(1000.0, 1.0, variables=(0,), environments="all")
    batch = scm.sample(scm.Prior(2, observation=(selection,)), 2, 70, seed=5, return_noise=True)
    assert not batch.is_accepted.all()
    assert_same_bits(evaluate(batch, way), batch)


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
