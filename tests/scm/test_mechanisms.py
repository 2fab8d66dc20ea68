"""Mechanisms on their own: every one of them against the oracle, and their laws against SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import rounding_bound
from scipy import stats

from settx_fast import scm
from settx_fast.scm import reference

MECHANISMS = {f"elementwise {name}": scm.Elementwise(name) for name in scm.FUNCTIONS}
MECHANISMS |= {f"network {name}": scm.MLP(7, 2, name) for name in scm.FUNCTIONS}
MECHANISMS |= {f"post-nonlinear {name}": scm.PostNonlinear(name) for name in scm.FUNCTIONS}
MECHANISMS |= {
    "linear": scm.Linear(),
    "product": scm.Elementwise("sigmoid", "product"),
    "fourier": scm.Fourier(50),
    "quadratic": scm.Quadratic(0.5),
    "trees": scm.Trees(3, 4),
    "categories": scm.Categories(5, 2.0),
    "clusters": scm.Clusters(5, 1.0),
    "most clusters": scm.Clusters(64, (0.0, 0.5)),
    "functions multiplied": scm.Product(
        (scm.MLP(5), scm.Trees(2), scm.Clusters(), scm.Linear(), scm.Fourier(8)), (2, 4)
    ),
    "deep network": scm.MLP(20, 3, "sine"),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_mechanism_equals_the_oracle_within_rounding(name):
    own = {"bias": (-1.0, 1.0), "noise_scale": 0.5}
    prior = scm.Prior(num_variables=6, graph=scm.Layered(2), mechanism=MECHANISMS[name], **own)
    batch = scm.sample(prior, 5, 200, seed=1)
    for b in range(len(batch)):
        error = np.abs(batch.values[b].numpy() - reference.evaluate(batch, b))
        bound = rounding_bound(batch, b)
        assert np.all(error <= bound)
        assert np.median(bound) < 1e-2 * batch.values[b].std().item()


@pytest.mark.parametrize("effect", scm.NOISE_EFFECTS)
@pytest.mark.parametrize("kind", scm.NOISES)
def test_noise_and_its_effect_equal_the_oracle_within_rounding(kind, effect):
    prior = scm.Prior(num_variables=4, graph=scm.Pattern("fork"), bias=1.0, noise=kind, noise_effect=effect)
    batch = scm.sample(prior, 5, 200, seed=2)
    for b in range(len(batch)):
        assert np.all(np.abs(batch.values[b].numpy() - reference.evaluate(batch, b)) <= rounding_bound(batch, b))


SEEN = scm.PerVariable((1.0, 0.0))
"""Scales of noise: a cause, and what it does unblurred."""


def effects(mechanism: scm.mechanisms.Mechanism, rows: int, datasets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noiseless effect f(x) of one cause x, and x, in two (datasets, rows) tensors."""
    graph = scm.UserGraph(((0, 1),))
    prior = scm.Prior(2, graph, mechanism, weight=1.0, noise_scale=SEEN, target_environments=0)
    batch = scm.sample(prior, datasets, rows, seed=3)
    return batch.values[:, :, 1].double(), batch.values[:, :, 0].double()


def test_many_fourier_features_are_a_gaussian_process_with_the_squared_exponential_kernel():
    f, x = effects(scm.Fourier(500, length_scale=0.7), 2, 10_000)
    kernel = torch.exp(-((x[:, 0] - x[:, 1]) ** 2) / (2 * 0.7**2))
    assert stats.kstest(f[:, 0].numpy(), "norm").pvalue > 1e-3
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1.5), (1.5, 4)):
        near = ((x[:, 0] - x[:, 1]).abs() >= low) & ((x[:, 0] - x[:, 1]).abs() < high)
        product = (f[:, 0] * f[:, 1] - kernel)[near]
        assert abs(product.mean()) < 5 * product.std() / len(product) ** 0.5


def test_trees_are_piecewise_constant_with_at_most_two_to_the_depth_values():
    f, _ = effects(scm.Trees(1, 3), 500, 200)
    numbers = [len(row.unique()) for row in f]
    assert max(numbers) <= 4  # three thresholds on one cause cut the line into four
    assert max(numbers) > 2
    leaves = torch.cat([row.unique() for row in effects(scm.Trees(1, 1), 500, 3000)[0]])
    assert stats.kstest(leaves.numpy(), "norm").pvalue > 1e-3


def test_trees_ask_every_parent_equally_at_normal_thresholds():
    prior = scm.Prior(4, scm.Pattern("collider"), scm.Trees(5, 3), target_environments=0)
    batch = scm.sample(prior, 2000, 1, seed=3)
    trees = batch.mechanism_parameters.reshape(2000, -1)[:, 2:].reshape(2000, 5, 2 * 3 + 8)
    levels = trees[..., :6].reshape(-1, 2)
    assert stats.chisquare(torch.bincount(levels[:, 0].long(), minlength=3).numpy()).pvalue > 1e-3
    assert stats.kstest(levels[:, 1].numpy(), "norm").pvalue > 1e-3
    assert stats.kstest((trees[..., 6:] * 5**0.5).flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", ["log", "sign", "step", "sawtooth"])
def test_a_function_is_what_it_says(name):
    f, x = (t.numpy() for t in effects(scm.Elementwise(name), 500, 20))
    exact = {
        "log": np.copysign(np.log1p(np.abs(x)), x),
        "sign": np.where(x > 0, 1, -1),
        "step": x > 0,
        "sawtooth": (x + 0.5) % 1 - 0.5,
    }
    np.testing.assert_allclose(f, exact[name], atol=1e-6)


def test_powers_and_warps_have_exponents_of_their_own_log_uniform_from_a_quarter_to_four():
    for name, count in (("power", 1), ("warp", 2)):
        prior = scm.Prior(2, scm.UserGraph(((0, 1),)), scm.Elementwise(name), weight=1.0, noise_scale=SEEN)
        batch = scm.sample(prior, 4000, 3, seed=3)
        x, f = batch.values.double().unbind(2)
        if name == "power":
            exponent = (f.abs().log() / x.abs().log())[:, 0, None]
            assert torch.equal(f.sign(), x.sign())
        else:
            u = batch.mechanism_parameters[:, None].double() % 1 * 256
            exponent = 4 ** (2 * torch.cat([u.floor() / 256, u % 1], 1) - 1)
            p, q = exponent[:, :1], exponent[:, 1:]
            torch.testing.assert_close(f, 1 - (1 - x.sigmoid() ** p) ** q, atol=1e-4, rtol=0)
        assert exponent.shape == (4000, count)
        for column in exponent.T.numpy():
            assert stats.kstest(np.log(column) / np.log(4), stats.uniform(-1, 2).cdf).pvalue > 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 256), st.floats(0.1, 5), st.integers(0, 2**32), st.sampled_from(["none", "internal"]))
def test_a_child_sees_of_categories_which_one_it_is(levels, spread, seed, standardisation):
    chain = scm.UserGraph(((0, 1), (1, 2), (2, 3)))
    mechanism, scale = (scm.Categories(levels, spread), scm.MLP(5)), scm.PerVariable((1.0, 0.0, 0.0, 0.0))
    prior = scm.Prior(4, chain, mechanism, noise_scale=scale, target_environments=0, standardisation=standardisation)
    batch = scm.sample(prior, 6, 300, seed=seed)
    for x, kinds in zip(batch.values, batch.mechanism.tolist(), strict=True):
        for v, child in ((v, v + 1) for v in range(3) if scm.MECHANISMS[kinds[v]] == "categories"):
            known = x[:, v].unique()
            assert len(known) <= levels
            assert all(len(x[x[:, v] == value, child].unique()) == 1 for value in known)


def test_categories_part_the_line_at_normal_thresholds_and_have_normal_values():
    batch = scm.sample(scm.Prior(1, mechanism=scm.Categories(4, 2.5), target_environments=0), 4000, 50, seed=2)
    parameters = batch.mechanism_parameters.reshape(4000, 8)
    assert torch.all(parameters[:, 0] == 4)
    assert stats.kstest((parameters[:, 1:4] / 2.5).flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(parameters[:, 4:].flatten().numpy(), "norm").pvalue > 1e-3
    thresholds, highest = parameters[:, 1:4].double(), parameters[:, 7]
    share = (batch.values[:, :, 0] == highest[:, None]).double().mean(1)
    expected = torch.special.ndtr(-thresholds.amax(1))
    assert abs((share - expected).mean()) < 5 * (expected * (1 - expected) / 50 / 4000).mean().sqrt()


def test_clusters_have_normal_centres_and_values_and_log_normal_widths():
    prior = scm.Prior(4, scm.Pattern("collider"), scm.Clusters(6, 0.7), target_environments=0)
    drawn = scm.sample(prior, 2000, 1, seed=3).mechanism_parameters.reshape(2000, 1 + 6 * 6).double()
    assert torch.all(drawn[:, 0] == 6)
    log_widths, precisions, values = drawn[:, 1:19].reshape(2000, 3, 6).unbind(1)
    torch.testing.assert_close(precisions, 0.5 * torch.exp(-2 * log_widths), rtol=1e-5, atol=0)
    for part in (log_widths / 0.7, values, drawn[:, 19:]):
        assert stats.kstest(part.flatten().numpy(), "norm").pvalue > 1e-3


def test_clusters_blend_their_values_and_far_away_that_of_the_widest_is_left():
    far = (scm.Intervention("hard", 1e4, variables=(0,)),)
    mechanism = scm.Clusters(4, 0.5)
    prior = scm.Prior(2, scm.UserGraph(((0, 1),)), mechanism, weight=1.0, noise_scale=SEEN, target_interventions=far)
    batch = scm.sample(prior, 200, 400, seed=3)
    log_widths, _, values, _ = batch.mechanism_parameters.reshape(200, 17)[:, 1:].reshape(200, 4, 4).unbind(1)
    near, away = batch.values[:, :200, 1], batch.values[:, 200:, 1]
    assert torch.all(near >= values.amin(1)[:, None] - 1e-5)
    assert torch.all(near <= values.amax(1)[:, None] + 1e-5)
    assert torch.equal(away[:, 0], values.gather(1, log_widths.argmax(1, keepdim=True))[:, 0])


def test_a_product_is_of_functions_that_are_drawn_apart():
    product = scm.Product((scm.Linear(), scm.Quadratic(1.0), scm.Elementwise("abs")), (2, 3))
    f, x = effects(product, 300, 600)
    prior = scm.Prior(2, scm.UserGraph(((0, 1),)), product, weight=1.0, noise_scale=SEEN, target_environments=0)
    batch, counts, differ = scm.sample(prior, 600, 300, seed=3), [], 0
    for b, offset in enumerate(batch.mechanism_offset[:, 0, 1].tolist()):
        own = batch.mechanism_parameters[offset:].double().numpy()
        expected, kinds, coefficients = np.ones(300), [], []
        for kind, parameters in reference.unpack_factors(own):
            z = x[b].numpy()
            of_z = {"linear": z, "sum": np.abs(z), "quadratic": z + parameters[0] * z * z if len(parameters) else z}
            expected, kinds = expected * of_z[kind], [*kinds, kind]
            coefficients += [parameters[0]] if kind == "quadratic" else []
        np.testing.assert_allclose(f[b], expected, rtol=1e-4, atol=1e-5)
        counts.append(len(kinds))
        differ += len(set(kinds)) > 1
        assert len(set(coefficients)) == len(coefficients)
    assert set(counts) == {2, 3}
    assert 400 < differ < 540  # of two 2 in 3, of three 8 in 9


@pytest.mark.parametrize(
    ("factors", "number", "message"),
    [
        ((), 2, r"Product.factors: expected one or several of Linear, .* got \(\)"),
        (scm.MLP(4, 2), 2, "Product.factors: expected .* networks of one layer"),
        (scm.Fourier(2000), 2, "Product.factors: expected .* at most 1024 units"),
        ((scm.Linear(), scm.Categories()), 2, "Product.factors: expected"),
        ((scm.Product(),), 2, "Product.factors: expected"),
        (scm.Linear(), 5, "Product.number: expected an int or .low, high. within 2…4, got 5"),
    ],
)
def test_factors_that_do_not_fit_are_refused(factors, number, message):
    with pytest.raises(ValueError, match=message):
        scm.Product(factors, number)


def test_a_new_mechanism_keeps_the_function_that_its_variable_drew():
    redrawn = (scm.Intervention("mechanism", variables=(1,)),)
    prior = scm.Prior(2, scm.UserGraph(((0, 1),)), scm.MLP(3, 1, "warp"), target_interventions=redrawn)
    batch = scm.sample(prior, 20, 4, seed=1)
    header, weight = ((batch.mechanism_offset[:, :, 1] + place).T for place in (2, 3))
    source, target = batch.mechanism_parameters[header]
    assert torch.equal(source, target)
    assert len(source.unique()) > 15
    assert not torch.equal(*batch.mechanism_parameters[weight])


def test_a_product_is_one_function_of_every_parent_multiplied():
    seen = scm.PerVariable((1.0, 1.0, 1.0, 0.0))
    graph = scm.UserGraph(((0, 3), (1, 3), (2, 3)))
    for name, g in (("sine", np.sin), ("tanh", np.tanh), ("bump", lambda z: np.exp(-z * z))):
        prior = scm.Prior(4, graph, scm.Elementwise(name, "product"), weight=1.5, noise_scale=seen)
        x = scm.sample(prior, 3, 100, seed=7).values.double().numpy()
        np.testing.assert_allclose(x[..., 3], np.prod(g(1.5 * x[..., :3]), axis=-1), atol=1e-6)


def test_quadratic_coefficients_have_their_strength():
    f, x = effects(scm.Quadratic(0.4), 1, 20_000)
    coefficient = ((f - x) / x**2)[x.abs() > 1e-2]
    assert stats.kstest(coefficient.numpy(), stats.norm(0, 0.4).cdf).pvalue > 1e-3


def test_heteroscedastic_noise_is_scaled_by_the_parents():
    prior = scm.Prior(
        2, scm.UserGraph(((0, 1),)), weight=1.0, noise_effect="heteroscedastic", noise_scale=0.5, target_environments=0
    )
    x, y = scm.sample(prior, 1, 400_000, seed=4).values[0].double().unbind(1)
    residual = (y - x) / (2 * torch.sigmoid(x) * 0.5)
    assert stats.kstest(residual.numpy(), "norm").pvalue > 1e-3


def test_multiplicative_noise_scales_the_whole_variable():
    prior = scm.Prior(
        2, scm.UserGraph(((0, 1),)), weight=1.0, noise_effect="multiplicative", noise_scale=0.5, target_environments=0
    )
    x, y = scm.sample(prior, 1, 400_000, seed=5).values[0].double().unbind(1)
    assert stats.kstest(((y / x - 1) / 0.5).numpy(), "norm").pvalue > 1e-3


def test_hard_interventions_silence_every_mechanism():
    for mechanism in MECHANISMS.values():
        do = scm.Intervention("hard", 0.5, variables=(1,))
        prior = scm.Prior(2, scm.UserGraph(((0, 1),)), mechanism, target_interventions=(do,))
        batch = scm.sample(prior, 2, 20, seed=6)
        assert torch.all(batch.values[:, 10:, 1] == 0.5)
