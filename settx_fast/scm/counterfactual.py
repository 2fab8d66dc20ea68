"""The tables of SCMs under interventions: what `Batch.do` evaluates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from settx_fast.scm._fields import check, is_int, is_number
from settx_fast.scm.distributions import LARGEST, Constant
from settx_fast.scm.interventions import INTERVENTIONS, ROLES, Intervention

KINDS = ("hard", "shift", "scale", "noise")
CHANGED = ("weights", "bias", "noise_scale", "hard", "intervention")


def intervened(
    tables: Mapping[str, Tensor],
    names: Sequence[str],
    interventions: Iterable[Mapping[int | str, float] | Intervention],
) -> dict[str, Tensor]:
    """The tables that change, in every environment; `tables` holds all of `LAYOUT`, and stays as it is."""
    changed = {name: tables[name].clone() for name in CHANGED}
    for each in interventions:
        for which, kind, value in _steps(each):
            _apply(changed, _chosen(tables, names, which), kind, value)
    return changed


def _steps(given: Mapping[int | str, float] | Intervention) -> list[tuple[int | str, str, float]]:
    """(variable, kind, value) of every single intervention."""
    if isinstance(given, Intervention):
        check(given.kind in KINDS, "do: Intervention.kind", f"one of {KINDS}", given.kind)
        check(given.variables is not None, "do: Intervention.variables", "named variables", given.variables)
        value = given.value
        check(isinstance(value, Constant), "do: Intervention.value", "a constant", value)
        assert isinstance(value, Constant)
        return [(which, given.kind, value.value) for which in given.variables or ()]
    check(isinstance(given, Mapping), "do", "{variable: value} or an Intervention", given)
    for which, number in given.items():
        check(is_int(which) or isinstance(which, str), "do: variable", "a number or a name", which)
        within = is_number(number) and abs(float(number)) < LARGEST
        check(within, f"do: value of {which!r}", f"a finite number below {LARGEST:g} in size", number)
    return [(which, "hard", float(number)) for which, number in given.items()]


def _chosen(tables: Mapping[str, Tensor], names: Sequence[str], which: int | str) -> Tensor:
    """(B, V) bool: the variable in every dataset."""
    target = tables["target_index"][:, None]
    number = torch.arange(len(names), device=target.device).expand(len(target), -1)
    if which not in ROLES:
        return number == _number(tables, names, which)
    is_target = number == target
    if which == "target":
        return is_target
    sign = tables["adjacency"] if which == "parents" else tables["adjacency"].mT
    return (sign & is_target[:, None]).any(2)


def _number(tables: Mapping[str, Tensor], names: Sequence[str], which: int | str) -> int:
    if isinstance(which, str):
        check(which in names, "do: variable", f"one of {tuple(names)}", which)
        return names.index(which)
    fewest = int(tables["num_variables"].min())
    check(0 <= which < fewest, "do: variable", f"0…{fewest - 1}, a variable of every dataset", which)
    return which


def _apply(tables: dict[str, Tensor], chosen: Tensor, kind: str, value: float) -> None:
    """Change `tables` in place where chosen (B, V), but for what is hard already; hard itself replaces a value."""
    free = chosen[:, None] & (~tables["hard"] | (kind == "hard"))
    if kind == "shift":
        tables["bias"] += value * free
    elif kind == "scale":
        tables["noise_scale"] *= 1 + (value - 1) * free
    else:
        tables["bias" if kind == "hard" else "noise_scale"].masked_fill_(free, value)
    if kind == "hard":
        tables["hard"] |= free
        tables["noise_scale"].masked_fill_(free, 0.0)
        tables["weights"].masked_fill_(free[:, :, None], 0.0)
    tables["intervention"].masked_fill_(free, INTERVENTIONS.index(kind))
