"""The exogenous noise, and `Batch.do`: the same units under interventions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from priors import EVERYTHING, OBSERVED

from settx_fast import scm
from settx_fast.scm import NOISES, reference

LUCAS = scm.presets.lucas()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.numpy().tobytes() == b.numpy().tobytes()


# ---- The exogenous noise ---------------------------------------------------------------------------------------------


def test_noise_is_that_of_the_oracle_and_zero_in_padding():
    batch = scm.sample(EVERYTHING, 10, 150, seed=1, return_noise=True)
    for b in range(len(batch)):
        for k in range(int(batch.num_environments[b])):
            rows = batch.environment[b] == k
            for v in range(int(batch.num_variables[b])):
                kind, shape = NOISES[batch.noise_kind[b, v]], batch.noise_parameters[b, v].double().tolist()
                exact = reference.noise(kind, shape, 1, int(batch.index[b]), k, v, int(rows.sum()))
                error = np.abs(batch.noise[b, rows, v].numpy() - exact)
                assert np.all(error <= 1000 * 2.0**-24 * (1 + np.abs(exact)))
    assert not batch.noise[~batch.variable_mask[:, None].expand_as(batch.noise)].any()


def test_linear_rows_are_rebuilt_from_their_noise():
    batch = scm.sample(LUCAS, 5, 100, seed=2, return_noise=True)
    for b in range(len(batch)):
        k = batch.environment[b]
        total = batch.bias[b, k].double() + batch.noise_scale[b, k].double() * batch.noise[b].double()
        identity = torch.eye(12, dtype=torch.float64)
        x = torch.linalg.solve(identity - batch.weights[b, k].double().mT, total[..., None]).squeeze(-1)
        torch.testing.assert_close(batch.values[b].double(), x, rtol=1e-4, atol=1e-4)


def test_noise_is_kept_only_on_request():
    assert scm.sample(LUCAS, 2, 30, seed=2).noise is None
    asked = scm.sample(LUCAS, 2, 30, seed=2, return_noise=True)
    assert same_bits(asked.values, scm.sample(LUCAS, 2, 30, seed=2).values)
    assert same_bits(asked.do({"Genetics": 1.0}).noise, asked.noise)


def test_noise_of_selected_rows_is_that_of_the_accepted_attempt():
    prior = scm.Prior(3, scm.Pattern("chain"), observation=(scm.Selection(slope=3.0, environments="all"),))
    batch = scm.sample(prior, 5, 200, seed=3, return_noise=True)
    assert (batch.attempt > 0).float().mean() > 0.2
    for b in range(len(batch)):
        identity = torch.eye(3, dtype=torch.float64)
        x = batch.noise[b].double() @ torch.linalg.inv(identity - batch.weights[b, 0].double())
        torch.testing.assert_close(batch.values[b].double(), x, rtol=1e-4, atol=1e-4)


# ---- do --------------------------------------------------------------------------------------------------------------


def test_setting_a_variable_changes_descendants_only_and_keeps_the_noise():
    batch = scm.sample(LUCAS, 4, 200, seed=6)
    descendants = {"Genetics", "Lung_Cancer", "Attention_Disorder", "Coughing", "Fatigue", "Car_Accident"}
    changed, genetics = batch.do({"Genetics": 2.5}), batch.names.index("Genetics")
    same = (changed.values == batch.values).all(dim=1).all(dim=0)
    assert {name for name, unchanged in zip(batch.names, same, strict=True) if not unchanged} == descendants
    assert torch.all(changed.values[:, :, genetics] == 2.5)
    assert torch.all(changed.intervention[..., genetics][batch.environment_mask] == scm.INTERVENTIONS.index("hard"))
    assert not batch.hard.any()


def test_the_last_value_of_a_variable_counts_and_nothing_moves_it():
    batch = scm.sample(EVERYTHING, 5, 40, seed=6)
    shift = scm.Intervention("shift", 3.0, variables=(1,))
    assert same_bits(batch.do({1: -1.0}, {1: 2.0}, shift).values, batch.do({1: 2.0}).values)
    assert same_bits(batch.do({1: -1.0}).do({1: 2.0}).values, batch.do({1: 2.0}).values)


def test_a_counterfactual_of_a_linear_scm_moves_every_row_by_the_total_effect():
    batch = scm.sample(LUCAS, 3, 60, seed=7)
    shifted = batch.do(scm.Intervention("shift", 2.0, variables=("Smoking",)))
    smoking, cancer = batch.names.index("Smoking"), batch.names.index("Lung_Cancer")
    for b in range(len(batch)):
        identity = torch.eye(12, dtype=torch.float64)
        effect = torch.linalg.inv(identity - batch.weights[b].double())[batch.environment[b], smoking, cancer]
        moved = (shifted.values[b, :, cancer] - batch.values[b, :, cancer]).double()
        torch.testing.assert_close(moved, 2 * effect, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["scale", "noise"])
def test_noise_can_be_scaled_or_replaced_by_role(kind):
    batch = scm.sample(scm.presets.random_linear(5), 20, 30, seed=8)
    changed = batch.do(scm.Intervention(kind, 0.5, variables=("parents", "target")))
    for b in range(len(batch)):
        target = int(batch.target_index[b])
        chosen = batch.adjacency[b, :, target].clone()
        chosen[target] = True
        k = int(batch.num_environments[b])
        before, after = batch.noise_scale[b, :k], changed.noise_scale[b, :k]
        expected = before * 0.5 if kind == "scale" else torch.full_like(before, 0.5)
        moves = chosen & ~batch.hard[b, :k]
        assert torch.equal(after, torch.where(moves, expected, before))


def test_what_is_seen_of_a_counterfactual_has_the_same_selection_errors_and_losses():
    prior = replace(OBSERVED, target_environments=1, num_variables=9)
    batch = scm.sample(prior, 20, 80, seed=9)
    assert same_bits(batch.do({}).values, batch.values)
    changed = batch.do({3: 0.25})
    assert torch.equal(changed.attempt, batch.attempt)
    ancestors_only = replace(prior, observation=(scm.Selection(slope=5.0, environments="all"),))
    selected = scm.sample(ancestors_only, 20, 80, seed=9)
    set_last = selected.do({3: 0.25})
    for b in range(20):
        upstream = selected.order[b, : selected.order[b].tolist().index(3)]
        assert torch.equal(set_last.values[b][:, upstream], selected.values[b][:, upstream])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hard", "do: expected {variable: value} or an Intervention, got 'hard'"),
        ({"Asbestos": 1.0}, "do: variable: expected one of .* got 'Asbestos'"),
        ({12: 1.0}, "do: variable: expected 0…11, a variable of every dataset, got 12"),
        ({0: float("nan")}, "do: value of 0: expected a finite number below 1e.30 in size, got nan"),
        ({0: 1e300}, "do: value of 0: expected a finite number below .*, got 1e.300"),
        ({0: "1"}, "do: value of 0: expected a finite number below .*, got '1'"),
        ({(0,): 1.0}, r"do: variable: expected a number or a name, got \(0,\)"),
        ({True: 1.0}, "do: variable: expected a number or a name, got True"),
        ({-1: 1.0}, "do: variable: expected 0…11, a variable of every dataset, got -1"),
        (scm.Intervention("redraw", variables=(0,)), "do: Intervention.kind: expected one of .* got 'redraw'"),
        (scm.Intervention("shift", 1.0), "do: Intervention.variables: expected named variables, got None"),
        (scm.Intervention("shift", (0, 1), variables=(0,)), "do: Intervention.value: expected a constant"),
    ],
)
def test_impossible_interventions_name_field_expected_and_got(given, message):
    batch = scm.sample(LUCAS, 2, 30, seed=1)
    with pytest.raises(ValueError, match=message):
        batch.do(given)
