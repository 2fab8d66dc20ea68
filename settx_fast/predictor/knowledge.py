"""What a person knows of a table that no sample tells: which columns are causes, and which cannot be effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from settx_fast.predictor.files import TableError, listed
from settx_fast.predictor.table import Table
from settx_fast.predictor.targets import ROLES


@dataclass(frozen=True)
class Knowledge:
    """Names of columns, of the file or of features: `causes` of the target, and `not_effects` of it.

    A cause is no effect. What is known holds for all features that a column of the file became.
    """

    causes: tuple[str, ...] = ()
    not_effects: tuple[str, ...] = ()

    def check(self, table: Table) -> None:
        """Raise TableError for a name that the table does not have."""
        known = {*table.origins, *table.feature_names, *table.left_out}
        for name in (*self.causes, *self.not_effects):
            if name not in known:
                columns = listed(list(dict.fromkeys((*table.origins, *table.left_out))))
                raise TableError(f"There is no column '{name}' to know anything of; the columns are {columns}.")

    def are_causes(self, table: Table) -> list[bool]:
        """Of every feature, whether it is known to be a cause."""
        return [_is_named(table, index, self.causes) for index in range(len(table.feature_names))]

    def are_no_effects(self, table: Table) -> list[bool]:
        """Of every feature, whether it is known not to be an effect."""
        return [_is_named(table, index, (*self.causes, *self.not_effects)) for index in range(len(table.feature_names))]

    def of_roles(self, probability: dict[str, float], is_cause: bool, is_no_effect: bool) -> dict[str, float]:
        """Probabilities of roles, given what is known of one feature."""
        if is_cause:
            return {role: float(role == "cause") for role in ROLES}
        if not is_no_effect:
            return probability
        rest = {role: 0.0 if role == "effect" else chance for role, chance in probability.items()}
        total = sum(rest.values())
        return {role: chance / total for role, chance in rest.items()} if total else {**rest, "unrelated": 1.0}


def _is_named(table: Table, index: int, names: Sequence[str]) -> bool:
    return table.feature_names[index] in names or table.origins[index] in names
