"""Random priors and requests, valid and not: an error that says what was expected, or datasets that keep every promise.

`make sanitize` runs this against a build that stops at the first access out of bounds or undefined operation.
"""

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from settx_fast import scm
from settx_fast.scm._cpu import draw_tables, evaluate_tables
from settx_fast.scm._layout import split_rows
from settx_fast.scm._native import native
from settx_fast.scm.evaluation import wanted_of
from settx_fast.scm.prior import MAX_VARIABLES

EXAMPLES = max(300, settings().max_examples)

# ---- Values: mostly sensible, at times extreme or of a wrong kind ----------------------------------------------------

EXTREMES = (0.0, -0.0, -1.0, 1e-45, 1e-30, 2.5, 1e6, 1e30, 3e38, 1e308, float("nan"), float("inf"), -float("inf"))
WRONG = (None, True, "x", "target", "gaussian", (), (1,), (1, 2, 3), (2, 1), [0.5], {}, b"", 1j, 1 << 70, -(1 << 70))
WRONG_EXAMPLE = st.sampled_from(WRONG)


def often(usual, *unusual):
    """`usual` nine times out of ten or so."""
    return st.integers(0, 9).flatmap(lambda i: st.one_of(*unusual) if i == 9 else usual)


flag = often(st.booleans(), WRONG_EXAMPLE)


def number(low=0.0, high=1.0):
    return often(st.floats(low, high), st.sampled_from(EXTREMES), WRONG_EXAMPLE)


def parameter(low=0.0, high=1.0):
    ends = st.tuples(number(low, high), number(low, high)).map(lambda e: tuple(sorted(e, key=str)))
    made = (
        build(scm.Constant, number(low, high)),
        build(scm.Uniform, number(low, high), number(low, high), signed=flag),
        build(scm.LogUniform, number(low, high), number(low, high), signed=flag),
        build(scm.Normal, number(low, high), number(0, high)),
    )
    return st.one_of(number(low, high), ends, *made)


def size(low=1, high=6):
    pairs = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted).map(tuple)
    usual = st.one_of(st.integers(low, high), pairs)
    return often(usual, st.sampled_from((0, -1, 2.0, 1 << 31, 1 << 40, MAX_VARIABLES + 1)), WRONG_EXAMPLE)


def several(strategy):
    return often(st.one_of(strategy, st.lists(strategy, min_size=1, max_size=3).map(tuple)), WRONG_EXAMPLE)


class Unmade:
    """In place of what was refused; whatever contains it is refused too."""


def build(cls, *args, **kwargs):
    def made(given):
        values, names = given
        parts = [*values, *names.values()]
        refused = next((part for part in parts if isinstance(part, Unmade)), None)
        return refused or attempt(cls, *values, **names)

    return st.tuples(st.tuples(*args), st.fixed_dictionaries(kwargs)).map(made)


def attempt(call, *args, **kwargs):
    """call(…), or its refusal, which must say what was expected and what came."""
    try:
        return call(*args, **kwargs)
    except ValueError as error:
        said = str(error)
    assert "expected" in said, said
    assert "got" in said, said
    return Unmade()


# ---- Priors ----------------------------------------------------------------------------------------------------------

functions = several(st.sampled_from(scm.FUNCTIONS))
variables = st.one_of(st.integers(-1, 6), st.sampled_from(("a", "b", "target", "parents", "children")))
edge = st.one_of(st.tuples(variables, variables), st.tuples(variables, variables, parameter(-2, 2)))
graphs = st.one_of(
    build(scm.ErdosRenyi, parameter(0, 3)),
    build(scm.ErdosRenyi, edge_probability=parameter()),
    build(scm.ScaleFree, size(0, 3), hubs=often(st.sampled_from(("in", "out")), WRONG_EXAMPLE)),
    build(scm.StochasticBlock, size(), parameter(), parameter()),
    build(scm.WattsStrogatz, size(), parameter()),
    build(scm.Geometric, parameter()),
    build(scm.Bipartite, parameter(), parameter()),
    build(scm.Tree),
    build(scm.Pattern, often(st.sampled_from(("chain", "fork", "collider")), WRONG_EXAMPLE)),
    build(scm.Layered, size(), parameter()),
    build(scm.UserGraph, often(st.lists(edge, max_size=4).map(tuple), WRONG_EXAMPLE)),
)
factors = st.one_of(
    build(scm.Linear),
    build(scm.MLP, size(1, 9), often(st.just(1), size(1, 3)), functions),
    build(scm.Fourier, size(1, 9), parameter(0.1, 3)),
    build(scm.Elementwise, functions, often(st.sampled_from(("sum", "product")), WRONG_EXAMPLE)),
    build(scm.Quadratic, parameter()),
    build(scm.Trees, size(), size(1, 8)),
    build(scm.Clusters, size(2, 9), parameter(0, 3)),
)
mechanisms = st.one_of(
    factors,
    build(scm.MLP, size(1, 9), size(1, 3), functions),
    build(scm.PostNonlinear, functions),
    build(scm.Categories, size(2, 9), parameter(0.1, 3)),
    several(factors).flatmap(lambda several: build(scm.Product, st.just(several), size(2, 4))),
)
noises = st.one_of(
    st.sampled_from(scm.NOISES),
    build(scm.StudentT, parameter(2.1, 9)),
    build(scm.ClippedCauchy, parameter(0.1, 20)),
    build(scm.Mixture, parameter(), parameter(-5, 5), parameter(0, 3)),
)
named = st.one_of(st.none(), st.lists(variables, max_size=3).map(tuple), WRONG_EXAMPLE)
interventions = build(
    scm.Intervention,
    often(st.sampled_from(scm.INTERVENTIONS), WRONG_EXAMPLE),
    st.one_of(st.none(), parameter()),
    variables=named,
    number=size(0, 4),
    on_target=flag,
)
sides = often(st.sampled_from(("source", "target", "all")), WRONG_EXAMPLE)
losses = often(st.sampled_from(("mcar", "mar", "mnar")), WRONG_EXAMPLE)
observations = st.one_of(
    build(scm.Hidden, st.one_of(st.none(), size(0, 4)), st.one_of(st.none(), parameter()), named),
    build(scm.Selection, parameter(-3, 3), parameter(), named, flag, sides),
    build(scm.MeasurementError, parameter(), parameter(), named, flag),
    build(scm.Levels, size(2, 6), flag, parameter(1, 9), parameter(), named, flag),
    build(scm.Missing, losses, parameter(0, 0.9), parameter(-3, 3), parameter(), named, flag),
)
sizes_by_ratio = build(scm.LogUniform, often(st.integers(1, 3), number()), often(st.integers(3, 7), number(1, 7)))
PARTS = ("intercept", "slopes", "noise")
ODDS = ("mutable", "redrawn", "hard", *(f"{whose}moves_{part}" for whose in ("", "target_") for part in PARTS))
MOVES = {"recurring": flag} | dict.fromkeys(("strength", "target_strength", "target_severity"), parameter(0, 5))
MOVES |= dict.fromkeys(("intercept", "slope", "noise"), parameter(-2, 2)) | dict.fromkeys(ODDS, parameter())
shifts = st.sets(st.sampled_from(list(MOVES))).flatmap(
    lambda names: build(scm.Shifts, **{name: MOVES[name] for name in sorted(names)})
)
per_variable = build(scm.PerVariable, st.lists(parameter(), max_size=4).map(tuple))
FIELDS = {
    "num_variables": st.one_of(size(1, 7), sizes_by_ratio),
    "same_mechanism": number(),
    "shifts": st.one_of(st.none(), shifts, WRONG_EXAMPLE),
    "environment_imbalance": st.one_of(st.none(), parameter(1, 50)),
    "graph": several(graphs),
    "mechanism": several(mechanisms),
    "weight": parameter(-2, 2),
    "bias": st.one_of(parameter(-2, 2), per_variable),
    "noise": several(noises),
    "noise_scale": st.one_of(parameter(), per_variable),
    "noise_effect": several(st.sampled_from(scm.NOISE_EFFECTS)),
    "source_environments": st.one_of(size(1, 4), sizes_by_ratio),
    "target_environments": size(0, 3),
    "source_interventions": often(st.lists(interventions, max_size=3).map(tuple), WRONG_EXAMPLE),
    "target_interventions": often(st.lists(interventions, max_size=3).map(tuple), WRONG_EXAMPLE),
    "observation": often(st.lists(observations, max_size=4).map(tuple), WRONG_EXAMPLE),
    "standardisation": often(st.sampled_from(("none", "internal", "sample")), WRONG_EXAMPLE),
    "target_share": st.one_of(st.none(), parameter()),
    "target": often(st.sampled_from(("random", "inner", 0, 1)), variables, WRONG_EXAMPLE),
    "names": st.sampled_from(((), (), (), ("a", "b"), ("a", "a"), ("a", "target"), "ab", 3)),
}
priors = st.sets(st.sampled_from(list(FIELDS))).flatmap(
    lambda names: build(scm.Prior, **{name: FIELDS[name] for name in sorted(names)})
)
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


# ---- What must hold --------------------------------------------------------------------------------------------------


def check_promises(batch):
    """What every batch promises, whatever the prior."""
    lost = torch.zeros(batch.values.shape, dtype=torch.bool) if batch.is_missing is None else batch.is_missing
    assert torch.equal(batch.is_finite, (batch.values.isfinite() | lost).all(2).all(1))
    assert batch.values[lost].isnan().all()
    assert (batch.visible_mask.sum(1) >= torch.minimum(batch.num_variables, torch.tensor(2))).all()
    assert torch.all(batch.row_counts > 0) or not torch.all(batch.environment_mask)
    for b in range(len(batch)):
        n = int(batch.num_variables[b])
        order = batch.order[b, :n]
        assert sorted(order.tolist()) == list(range(n))
        assert not batch.adjacency[b][order][:, order].tril().any()
        assert 0 <= int(batch.target_index[b]) < n
        assert not batch.values[b, :, n:].any()


def check_same_rows(a, b):
    for name in ("values", "is_missing", "attempt"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert ours is theirs or ours.numpy().tobytes() == theirs.numpy().tobytes(), name


@pytest.mark.timeout(3600)
@fuzz
@given(prior=priors, seed=st.integers(0, 2**64 - 1), index=st.integers(0, 2**48 - 4), rows=st.integers(1, 200))
def test_any_prior_is_refused_with_a_reason_or_sampled(prior, seed, index, rows):
    event("prior refused" if isinstance(prior, Unmade) else "prior made")
    if isinstance(prior, Unmade) or prior.max_variables > 64:
        return
    batch = attempt(scm.sample, prior, 3, rows, seed=seed, first_index=index, num_threads=2)
    if isinstance(batch, Unmade):
        return
    event("finite" if batch.is_finite.all() else "flagged as not finite")
    check_promises(batch)
    check_same_rows(scm.resample(batch, rows, seed=seed, attempt=batch.attempt), batch)
    check_same_rows(batch.do({}), batch)
    assert batch.do({0: 0.25}).hard[batch.environment_mask][:, 0].all()
    offset = split_rows(vars(batch), rows, prior)
    slow = ["rows"] if seed % 8 == 0 else []
    for path in [*native().path_names(), *slow]:
        tables = draw_tables(prior, 3, seed, index, 1, path)
        values = evaluate_tables(tables, offset, rows, seed, 1, path, wanted_of(prior, noise=False))["values"]
        assert torch.equal(values.view(torch.int32), batch.values.view(torch.int32)), path
