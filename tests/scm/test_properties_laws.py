"""What must hold for every SCM, degenerate ones included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from handmade import make_batch, relabelled
from hypothesis import given, settings
from hypothesis import strategies as st

from settx_fast.scm import properties
from settx_fast.scm.batch import Batch
from settx_fast.scm.properties import FRAMEWORKS, shift_decomposition

PER_VARIABLE = ("role", "direct_effect_on_target", "direct_effect_of_target", "total_effect")
seeds = st.integers(0, 10**6)
frozen = st.sampled_from([0.0, 0.15, 0.5])
each = settings(max_examples=60, deadline=None, derandomize=True)


def assert_same(got: torch.Tensor, expected: torch.Tensor, name: str, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=atol, msg=lambda text: f"{name}: {text}")


@each
@given(seeds, frozen)
def test_relabelling_variables_permutes_their_properties_and_leaves_the_others(seed, hard):
    batch = make_batch(seed, hard_probability=hard)
    rng, width = np.random.default_rng(seed), batch.adjacency.shape[1]
    permutation = torch.stack(
        [torch.tensor([*rng.permutation(n), *range(n, width)]) for n in batch.num_variables.tolist()]
    )
    before, after = properties.compute(batch), properties.compute(relabelled(batch, permutation))
    for name, value in before.to_dict().items():
        expected = value.scatter(1, permutation, value) if name in PER_VARIABLE else value
        assert_same(after.to_dict()[name], expected, name)


@each
@given(seeds, frozen)
def test_a_change_of_units_scales_effects_and_risk_and_leaves_the_rest(seed, hard):
    batch = make_batch(seed, hard_probability=hard)
    unit = torch.from_numpy(2.0 ** np.random.default_rng(seed).integers(-6, 7, batch.order.shape)).float()  # (B, V)
    target_unit = unit.gather(1, batch.target_index[:, None])  # (B, 1)
    changed = replace(
        batch,
        weights=batch.weights * unit[:, None, None, :] / unit[:, None, :, None],
        bias=batch.bias * unit[:, None],
        noise_scale=batch.noise_scale * unit[:, None],
    )
    before, after = properties.compute(batch).to_dict(), properties.compute(changed).to_dict()
    expected = before | {
        "direct_effect_on_target": before["direct_effect_on_target"] * target_unit / unit,
        "direct_effect_of_target": before["direct_effect_of_target"] * unit / target_unit,
        "total_effect": before["total_effect"] * target_unit / unit,
        "target_variance": before["target_variance"] * target_unit.squeeze(1) ** 2,
        "risk": before["risk"] * target_unit**2,
    }
    del expected["varsortability"]  # what a change of units betrays
    for name, value in expected.items():
        torch.testing.assert_close(
            after[name], value, rtol=1e-4, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@each
@given(seeds)
def test_the_causal_risk_is_the_noise_whatever_changes_but_the_target(seed):
    batch = with_one_target_mechanism(make_batch(seed))
    batch = with_frozen_features_after_deployment(batch, seed)
    noise = batch.noise_scale[:, 0].gather(1, batch.target_index[:, None]).squeeze(1) ** 2
    computed = properties.compute(batch)
    has_parents = computed.num_parents > 0
    assert_same(computed.risk[has_parents, FRAMEWORKS.index("causal")], noise[has_parents], "causal risk")


@each
@given(seeds)
def test_without_any_change_nothing_shifts_and_more_features_never_hurt(seed):
    batch = make_batch(seed, num_sources=(1, 1))
    first = {name: getattr(batch, name)[:, :1].expand(-1, 2, *getattr(batch, name).shape[2:]) for name in TABLES}
    computed = properties.compute(replace(batch, **first))
    assert_same(computed.covariate_shift, torch.zeros(len(batch)), "covariate_shift")
    assert_same(computed.mechanism_shift, torch.zeros(len(batch)), "mechanism_shift")
    erm, causal, anticausal = computed.risk.T
    assert (erm <= anticausal * 1.00001).all()
    assert (anticausal <= causal * 1.00001).all()
    assert (causal <= computed.target_variance * 1.00001).all()


@each
@given(seeds, frozen)
def test_the_joint_divergence_does_not_depend_on_which_variable_is_the_target(seed, hard):
    batch = make_batch(seed, hard_probability=hard)
    source, target = pooled(batch, target=False), pooled(batch, target=True)
    joint = sum(shift_decomposition(source, target, batch.target_index))
    other = sum(shift_decomposition(source, target, torch.zeros_like(batch.target_index)))
    torch.testing.assert_close(joint, other, rtol=1e-5, atol=1e-6)


@each
@given(seeds, frozen)
def test_no_property_is_ever_nan_and_only_the_noise_to_signal_ratio_is_infinite(seed, hard):
    computed = properties.compute(make_batch(seed, hard_probability=hard, num_variables=(1, 6))).to_dict()
    for name, value in computed.items():
        assert not torch.isnan(value.double()).any(), name
        assert name == "noise_to_signal" or torch.isfinite(value.double()).all(), name
        if name not in PER_VARIABLE:
            assert (value >= 0).all(), name


@each
@given(seeds, frozen)
def test_padding_and_the_company_of_other_datasets_change_nothing(seed, hard):
    batch = make_batch(seed, num_datasets=3, hard_probability=hard)
    together = properties.compute(batch).to_dict()
    for b in range(len(batch)):
        n, k = int(batch.num_variables[b]), int(batch.num_environments[b])
        alone = properties.compute(cropped(batch, b, n, k)).to_dict()
        for name, value in together.items():
            assert_same(alone[name][0], value[b, :n] if name in PER_VARIABLE else value[b], name)


TABLES = ("weights", "bias", "noise_scale", "hard")


def pooled(batch: Batch, *, target: bool) -> properties.Moments:
    moments = properties.linear_moments(batch.weights.double(), batch.bias.double(), batch.noise_scale.double() ** 2)
    return moments.pooled(properties.environment_share(batch, target=target))


def with_one_target_mechanism(batch: Batch) -> Batch:
    """The target keeps the parameters of the first environment everywhere."""
    tables = {name: getattr(batch, name).clone() for name in TABLES}
    for b, target in enumerate(batch.target_index.tolist()):
        for table in tables.values():
            table[b, ..., target] = table[b, :1, ..., target].clone()
    return replace(batch, **tables)


def with_frozen_features_after_deployment(batch: Batch, seed: int) -> Batch:
    """About a third of the other variables are set by hand in the target environment."""
    rng, tables = np.random.default_rng(seed), {name: getattr(batch, name).clone() for name in TABLES}
    for b, target in enumerate(batch.target_index.tolist()):
        k = int(batch.num_environments[b]) - 1
        for v in np.flatnonzero(rng.random(int(batch.num_variables[b])) < 0.3):
            if v != target:
                tables["weights"][b, k, :, v] = tables["noise_scale"][b, k, v] = 0
                tables["hard"][b, k, v] = True
    return replace(batch, **tables)


def cropped(batch: Batch, b: int, n: int, k: int) -> Batch:
    """Dataset b alone, without padding."""
    cut = {
        "weights": batch.weights[b, :k, :n, :n],
        "adjacency": batch.adjacency[b, :n, :n],
        "is_target_environment": batch.is_target_environment[b, :k],
        "values": batch.values[b, :, :n],
        "accept_slope": batch.accept_slope[b, :k],
    }
    cut |= {name: getattr(batch, name)[b, :k, :n] for name in ("bias", "noise_scale", "hard", "mechanism_offset")}
    noise = ("noise_kind", "noise_parameters", "noise_effect")
    units = ("centre", "gain", "column_centre", "column_gain", "is_hidden", "error_scale", "num_levels", "loss_rate")
    cut |= {name: getattr(batch, name)[b, :n] for name in ("order", "mechanism", *noise, *units)}
    cut |= {
        name: getattr(batch, name)[b] for name in ("num_variables", "num_environments", "target_index", "environment")
    }
    return replace(batch, **{name: table[None] for name, table in cut.items()}, index=batch.index[b : b + 1])
