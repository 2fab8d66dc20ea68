"""`Prior` and its parts: checks, JSON, text."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from priors import EVERYTHING, NAMED

from settx_fast import scm


@pytest.mark.parametrize("name", NAMED)
def test_a_prior_survives_json_and_yaml_and_is_hashable(name):
    prior = NAMED[name]
    for again in (scm.Prior.from_json(prior.to_json()), scm.Prior.from_yaml(prior.to_yaml())):
        assert again == prior
        assert hash(again) == hash(prior)


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_a_prior_survives_a_file(tmp_path, suffix):
    NAMED["observed"].write(tmp_path / f"prior{suffix}")
    assert scm.Prior.read(tmp_path / f"prior{suffix}") == NAMED["observed"]


def test_yaml_can_be_written_by_hand():
    text = (
        "type: Prior\nnum_variables: [3, 5]\nmechanism:\n- {type: Linear}\n- {type: MLP, hidden: 8}\nnoise: laplace\n"
    )
    assert scm.Prior.from_yaml(text) == scm.Prior((3, 5), mechanism=(scm.Linear(), scm.MLP(8)), noise="laplace")


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a file that ends in .json, .yaml or .yml, got 'prior.toml'"):
        scm.Prior.read("prior.toml")
    with pytest.raises(ValueError, match=r"path: expected a file that ends in .json"):
        scm.Prior().write(tmp_path / "prior")


numbers = st.floats(-1e5, 1e5)
ranges = st.tuples(numbers, numbers).map(sorted).map(tuple)
positive = st.floats(1e-3, 1e3)
distributions = st.one_of(
    numbers.map(scm.Constant),
    st.builds(lambda ends, signed: scm.Uniform(*ends, signed), ranges, st.booleans()),
    st.tuples(positive, positive).map(lambda ends: scm.LogUniform(*sorted(ends))),
    st.builds(scm.Normal, numbers, positive),
)


@settings(max_examples=100, deadline=None)
@given(
    weight=distributions,
    bias=distributions,
    number=st.integers(0, 5),
    on_target=st.booleans(),
    name=st.text(max_size=5),
    rate=st.floats(0, 0.99),
)
def test_any_prior_survives_json_and_yaml(weight, bias, number, on_target, name, rate):
    shift = scm.Intervention("shift", bias, number=number, on_target=on_target)
    missing = scm.Missing("mnar", rate, on_target=on_target)
    names = tuple(f"{name} {v}" for v in range(10))
    prior = scm.Prior(weight=weight, bias=bias, source_interventions=(shift,), observation=(missing,), names=names)
    assert scm.Prior.from_json(prior.to_json()) == prior
    assert scm.Prior.from_yaml(prior.to_yaml()) == prior


def test_a_drawn_limit_and_target_share_survive_files_and_print():
    prior = scm.Prior(noise=scm.ClippedCauchy((1, 5)), target_share=scm.LogUniform(0.1, 0.9))
    assert scm.Prior.from_json(prior.to_json()) == prior
    assert scm.Prior.from_yaml(prior.to_yaml()) == prior
    assert "noise                 Cauchy clipped at ±U(1, 5)" in str(prior)
    assert "target_share          LogU(0.1, 0.9)" in str(prior)
    assert scm.Prior.from_yaml("type: Prior\ntarget_share: 0.25\n") == scm.Prior(target_share=0.25)


def test_a_number_is_a_constant_and_a_pair_is_uniform():
    prior = scm.Prior(weight=2, bias=(-1, 1), noise_scale=0.5)
    assert prior == scm.Prior(weight=scm.Constant(2.0), bias=scm.Uniform(-1.0, 1.0), noise_scale=scm.Constant(0.5))


def test_numbers_of_numpy_are_numbers():
    prior = scm.Prior(weight=np.float32(0.5), bias=(np.int64(-1), np.float64(1)), noise_scale=np.uint8(2))
    assert prior == scm.Prior(weight=0.5, bias=(-1, 1), noise_scale=2)
    assert scm.Prior.from_json(prior.to_json()) == prior


def test_priors_that_are_equal_draw_equal_bits():
    """Priors are kept by their value, and −0 equals 0."""
    zero, minus = (scm.Prior(2, bias=bias, noise_scale=0.0) for bias in (0.0, -0.0))
    assert zero == minus
    values = [scm.sample(prior, 1, 4, seed=0).values for prior in (minus, zero)]
    assert not any(torch.signbit(x).any() for x in values)


def test_a_graph_of_weights_has_exactly_these():
    weights = np.array([[0, 0, 0], [0.5, 0, 0], [0, -2, 0]])
    batch = scm.sample(scm.Prior(3, scm.UserGraph.from_weights(weights)), 2, 10, seed=0)
    assert np.array_equal(batch.weights.numpy(), np.broadcast_to(weights, (2, 2, 3, 3)))


def test_a_prior_says_what_it_is():
    text = str(EVERYTHING)
    for part in (
        "Erdős–Rényi, edge probability U(0.2, 0.9)",
        "in-hubs",
        "±LogU(0.2, 1.5)",
        "student_t",
        "hard U(-1, 1)",
        " | scale-free, 2 edges per variable, in-hubs | ",
    ):
        assert part in text
    assert re.search(r"^  observation +none$", text, re.MULTILINE)


CHAIN = ((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: scm.Prior(num_variables=0), "num_variables: expected an int or .* got 0"),
        (lambda: scm.Prior(num_variables=(5, 3)), r"num_variables: .* got \(5, 3\)"),
        (lambda: scm.Prior(num_variables=2.5), "num_variables: .* got 2.5"),
        (lambda: scm.Prior(noise_scale=-1), r"noise_scale: expected values within \[0, .*-1"),
        (lambda: scm.Prior(noise_scale=scm.Normal(1.0, 1.0)), "noise_scale: expected values within"),
        (lambda: scm.Prior(noise_scale=(0.5, math.nan)), "noise_scale: Uniform.high: expected a finite .* got nan"),
        (lambda: scm.Prior(weight=math.inf), "weight: expected a number, .* got inf"),
        (lambda: scm.Prior(weight="big"), "weight: expected a number, .* got 'big'"),
        (lambda: scm.Prior(weight=True), "weight: expected a number, .* got True"),
        (lambda: scm.Uniform(2, 1), "Uniform.high: expected at least low = 2, got 1"),
        (lambda: scm.LogUniform(0, 1), "LogUniform.low: expected at least 1e-30, got 0"),
        (lambda: scm.LogUniform(1e-40, 1), "LogUniform.low: expected at least 1e-30, got 1e-40"),
        (lambda: scm.Prior(weight=10**400), "weight: expected a number, .* got 1000"),
        (lambda: scm.Uniform(0, 10**400), "Uniform.high: expected a finite number .* got 1000"),
        (lambda: scm.Constant(1j), "Constant.value: expected a finite number .* got 1j"),
        (lambda: scm.Prior(noise_scale=1e31), "noise_scale: Constant.value: expected a finite number below 1e.30"),
        (lambda: scm.Prior(bias=(2, 1)), "bias: Uniform.high: expected at least low = 2, got 1"),
        (lambda: scm.Normal(0, -1), "Normal.sd: expected a number ≥ 0, got -1"),
        (lambda: scm.Uniform(0, 1, "yes"), "Uniform.signed: expected True or False, got 'yes'"),
        (lambda: scm.Intervention("shift", 1.0, {}), "Intervention.variables: expected None or a tuple .*, got {}"),
        (lambda: scm.Intervention("shift", 1.0, (0.5,)), r"Intervention.variables: expected .*, got \(0.5,\)"),
        (lambda: scm.Prior(noise="pink"), "noise: expected one of .* got 'pink'"),
        (lambda: scm.Prior(noise=()), r"noise: expected at least one noise, got \(\)"),
        (lambda: scm.StudentT(2.0), r"StudentT.degrees: expected values within \(2"),
        (lambda: scm.Prior(mechanism="linear"), "mechanism: expected one of the mechanisms .* got 'linear'"),
        (lambda: scm.MLP(hidden=0), "MLP.hidden: expected an int"),
        (lambda: scm.MLP(layers=4), "MLP.layers: expected an int"),
        (lambda: scm.MLP(activation="gelu"), "MLP.activation: expected one or several of .* got 'gelu'"),
        (lambda: scm.Fourier(length_scale=0), "Fourier.length_scale: expected values within"),
        (lambda: scm.Elementwise(()), r"Elementwise.function: expected one or several of .* got \(\)"),
        (lambda: scm.Elementwise("tanh", "mean"), "Elementwise.combine: expected 'sum' or 'product', got 'mean'"),
        (lambda: scm.Quadratic(-1), "Quadratic.strength: expected values within"),
        (lambda: scm.Trees(depth=9), "Trees.depth: expected an int"),
        (lambda: scm.PostNonlinear("gelu"), "PostNonlinear.function: expected one or several of .* got 'gelu'"),
        (lambda: scm.Mixture(share=2), "Mixture.share: expected values within"),
        (lambda: scm.ClippedCauchy(0), r"ClippedCauchy.limit: expected values within \[1e-30, 1e\+06\]"),
        (lambda: scm.ClippedCauchy((1.0, 2e6)), "ClippedCauchy.limit: expected values within"),
        (lambda: scm.ClippedCauchy(scm.Normal(5.0, 1.0)), r"ClippedCauchy.limit: expected .* got Normal\("),
        (lambda: scm.ClippedCauchy(True), "ClippedCauchy.limit: expected a number, .* got True"),
        (lambda: scm.Prior(noise_effect="subtractive"), "noise_effect: expected one or several of"),
        (lambda: scm.Prior(graph="chain"), "graph: expected one of the graphs .* got 'chain'"),
        (lambda: scm.ErdosRenyi(), "ErdosRenyi: expected expected_in_degree or edge_probability"),
        (lambda: scm.ErdosRenyi(edge_probability=1.5), r"ErdosRenyi.edge_probability: expected values within \[0, 1\]"),
        (lambda: scm.ScaleFree(0), "ScaleFree.edges_per_variable: expected an int"),
        (lambda: scm.ScaleFree(2, "sideways"), "ScaleFree.hubs: expected 'out' or 'in', got 'sideways'"),
        (lambda: scm.StochasticBlock(within=-0.1), r"StochasticBlock.within: expected values within \[0, 1\]"),
        (lambda: scm.WattsStrogatz(0), "WattsStrogatz.neighbours: expected an int"),
        (lambda: scm.Geometric(-1), "Geometric.radius: expected values within"),
        (lambda: scm.Bipartite(causes=2), "Bipartite.causes: expected values within"),
        (lambda: scm.Pattern("loop"), "Pattern.kind: expected one of .* got 'loop'"),
        (lambda: scm.Layered(0), "Layered.layers: expected an int"),
        (lambda: scm.UserGraph(((0, 0),)), "UserGraph.edges: expected two different variables"),
        (lambda: scm.UserGraph(((0, 1, 1e7),)), "UserGraph.edges 0 → 1: expected values within"),
        (lambda: scm.UserGraph.from_adjacency([[0, 1]]), r"adjacency: expected a square matrix, got .*shape \(1, 2\)"),
        (lambda: scm.UserGraph.from_adjacency([[0, 1], [0]]), "adjacency: expected a square matrix of numbers, got"),
        (lambda: scm.UserGraph.from_adjacency(3), r"adjacency: expected a square matrix, got .*shape \(\)"),
        (lambda: scm.UserGraph.from_adjacency([[0, 0.5], [0, 0]]), "adjacency: expected entries 0 and 1, got"),
        (lambda: scm.UserGraph.from_adjacency([[0, math.nan], [0, 0]]), "adjacency: expected entries 0 and 1, got"),
        (lambda: scm.UserGraph.from_weights([[0, 1j], [0, 0]]), "weights: expected a square matrix of numbers, got"),
        (lambda: scm.UserGraph.from_weights([[0, math.nan], [0, 0]]), "weights: expected finite numbers, got"),
        (
            lambda: scm.Prior(2, scm.UserGraph.from_weights([[0, 1], [0.5, 0]])),
            "UserGraph.edges: expected an acyclic graph",
        ),
        (
            lambda: scm.Prior(num_variables=3, graph=scm.UserGraph((*CHAIN, (2, 0)))),
            "UserGraph.edges: expected an acyclic graph, got the cycle 0 → 1 → 2 → 0",
        ),
        (lambda: scm.Prior(num_variables=2, graph=scm.UserGraph(CHAIN)), "graph: expected 0…1, got 2"),
        (lambda: scm.Prior(num_variables=3, graph=scm.UserGraph((*CHAIN, (0, 1)))), "graph: expected every edge once"),
        (lambda: scm.Prior(num_variables=3, graph=scm.UserGraph((("A", "B"),))), "graph: expected one of the names"),
        (lambda: scm.Intervention("erase"), "Intervention.kind: expected one of .* got 'erase'"),
        (lambda: scm.Intervention("shift"), "Intervention.value: expected a number, .* got None"),
        (lambda: scm.Intervention("redraw", 1.0), "Intervention.value: expected None for 'redraw', got 1.0"),
        (lambda: scm.Intervention("scale", -1.0), r"Intervention.value: expected values within \[0"),
        (lambda: scm.Intervention("cut", 1.5), r"Intervention.value: expected values within \[0, 1\]"),
        (lambda: scm.Intervention("mechanism", 1.0), "Intervention.value: expected None for 'mechanism', got 1.0"),
        (lambda: scm.Prior(num_variables=1, names=("parents",)), "names: expected none of the words"),
        (lambda: scm.Intervention("shift", 1.0, number=-1), "Intervention.number: expected an int"),
        (lambda: scm.Prior(source_interventions=scm.Intervention("redraw")), "source_interventions: expected a tuple"),
        (
            lambda: scm.Prior(source_interventions=(scm.Intervention("redraw", variables=(99,)),)),
            "source_interventions.variables: expected 0…9, got 99",
        ),
        (
            lambda: scm.Prior(target_interventions=(scm.Intervention("redraw"),) * 65),
            "target_interventions: expected a tuple of up to 64 Intervention",
        ),
        (lambda: scm.Prior(source_environments=0), "source_environments: expected an int"),
        (lambda: scm.Prior(target="Z"), "target: expected one of the names"),
        (lambda: scm.Prior(target=10), "target: expected 0…9, got 10"),
        (
            lambda: scm.Prior(target_share=1.0),
            r"target_share: expected values within \(0, 1\), got Const.*1.0",
        ),
        (
            lambda: scm.Prior(target_share=(0, 0.5)),
            r"target_share: expected .* \(0, 1\), got Uniform\(low=0.0",
        ),
        (
            lambda: scm.Prior(target_share=scm.Normal(0.5, 0.1)),
            r"target_share: expected .* \(0, 1\), got Normal",
        ),
        (lambda: scm.Prior(target_share="half"), "target_share: expected a number, .* got 'half'"),
        (lambda: scm.Prior(target_share=(0.2, 0.4), target_environments=(0, 1)), "target_share: expected None where"),
        (lambda: scm.Prior(target_share=0.5, target_environments=0), "target_share: expected None"),
        (lambda: scm.Prior(num_variables=2, names=("a", "a")), "names: expected different names"),
        (lambda: scm.Prior(num_variables=2, names=("a",)), "names: expected 2 of them"),
        (lambda: scm.Prior(num_variables=1, names=("random",)), "names: expected none of the words"),
        (lambda: scm.Prior(noise_scale=scm.PerVariable((1.0, 2.0))), "noise_scale: expected one distribution for each"),
        (
            lambda: scm.Prior(num_variables=2, noise_scale=scm.PerVariable((1.0, -2.0))),
            r"noise_scale\[1\]: expected values within \[0",
        ),
    ],
)
def test_bad_priors_name_field_expected_and_got(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "prior: expected JSON"),
        ("[]", "prior: expected JSON of a Prior, got 'tuple'"),
        ('{"type": "Linear"}', "prior: expected JSON of a Prior, got 'Linear'"),
        ('{"type": "Posterior"}', "prior.type: expected one of .* got 'Posterior'"),
        ('{"type": ["Prior"]}', "prior.type: expected one of .* got .'Prior'"),
        ('{"type": "Prior", "graph": {"type": "Pattern"}}', r"Pattern fields: expected at least .'kind'., got \[\]"),
        ('{"type": "Prior", "graph": {"type": "Pattern", "kind": "loop"}}', "Pattern.kind: expected one of"),
        ('{"type": "Prior", "weight": NaN}', "weight: expected a number, .* got nan"),
        ("[" * 100_000, "prior: expected JSON, got"),
        (None, "prior: expected JSON text, got None"),
        ('{"type": "Prior", "colour": 1}', "Prior fields: expected a subset of .* got .'colour'"),
    ],
)
def test_bad_json_names_field_expected_and_got(text, message):
    with pytest.raises(ValueError, match=message):
        scm.Prior.from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "prior: expected YAML"),
        ("- 1", "prior: expected YAML of a Prior, got 'tuple'"),
        ("", "got 'NoneType'"),
        (b"type: Prior", "prior: expected YAML text, got b'type: Prior'"),
        ("type: Prior\n3: 1\ncolour: red\n", r"Prior fields: expected a subset of .* got \['3', 'colour'\]"),
        ("type: Prior\nnum_variables: three\n", "num_variables: expected an int .* got 'three'"),
        ("type: Prior\nnum_variables: 2\nnames: [no, yes]\n", r"names: expected a tuple of str, got \(False, True\)"),
        ("&a [*a]", "prior: expected YAML of a Prior, got something nested too deep"),
        ("!!python/object/apply:os.getcwd []", "prior: expected YAML, got"),
    ],
)
def test_bad_yaml_names_field_expected_and_got(text, message):
    with pytest.raises(ValueError, match=message):
        scm.Prior.from_yaml(text)


def test_json_may_leave_out_fields():
    assert scm.Prior.from_json(json.dumps({"type": "Prior", "num_variables": 4})) == scm.Prior(num_variables=4)
