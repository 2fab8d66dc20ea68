"""The computed properties of a batch of datasets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from settx_fast.scm.properties.risk import FRAMEWORKS

if TYPE_CHECKING:
    import pandas as pd

CLOSED_FORM = "closed form"
"""In `SourceProperties.method`: exact, from the tables of the SCM."""

MONTE_CARLO = "monte carlo"
"""In `SourceProperties.method`: from fresh rows of the SCM."""


@dataclass(frozen=True, eq=False, repr=False)
class SourceProperties:
    """Properties that need no target environment, of B datasets with up to V variables; float32 unless noted.

    edge_density             (B,)    edges over V(V − 1)/2
    num_parents              (B,)    int64, of the target
    num_children             (B,)    int64, of the target
    role                     (B, V)  int64 `Role`; −1 for the target and padding
    direct_effect_on_target  (B, V)  weight of v → target, source average
    direct_effect_of_target  (B, V)  weight of target → v, source average
    total_effect             (B, V)  change in the target per unit of do(v), source average; 1 for the target itself
    noise_to_signal          (B,)    Var(noise of the target) / Var(target − noise); ∞ for a root
    varsortability           (B,)    1/2 for a graph without edges
    r2_sortability           (B,)    1/2 for a graph without edges
    target_variance          (B,)    of the pooled sources: the unit of risk
    method                           per dataset, how moments and effects were found: "closed form" or "monte carlo"

    What rests on the graph or the tables alone (the first six lines) is exact whatever `method` says.
    """

    edge_density: Tensor
    num_parents: Tensor
    num_children: Tensor
    role: Tensor
    direct_effect_on_target: Tensor
    direct_effect_of_target: Tensor
    total_effect: Tensor
    noise_to_signal: Tensor
    varsortability: Tensor
    r2_sortability: Tensor
    target_variance: Tensor
    method: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.method)

    def __repr__(self) -> str:
        exact = self.method.count(CLOSED_FORM)
        head = f"{type(self).__name__} of {len(self)} datasets ({exact} closed form, {len(self) - exact} Monte Carlo)"
        return "\n".join([head, *(_describe(name, value) for name, value in self.to_dict().items())])

    def to_dict(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "method"}

    def to_pandas(self) -> pd.DataFrame:
        """One row per dataset: a (B,) property under its name, a (B, V) one as name_0 …, risk as risk_erm …; method."""
        import pandas as pd

        columns: dict[str, object] = {}
        for name, value in self.to_dict().items():
            if value.dim() == 1:
                columns[name] = value.cpu().numpy()
                continue
            labels = FRAMEWORKS if name == "risk" else tuple(map(str, range(value.shape[1])))
            columns |= {f"{name}_{label}": value[:, i].cpu().numpy() for i, label in enumerate(labels)}
        return pd.DataFrame(columns | {"method": self.method})


@dataclass(frozen=True, eq=False, repr=False)
class Properties(SourceProperties):
    """`SourceProperties`, and those that compare the sources with the target environment; float32.

    covariate_shift          (B,)    KL(P_target(X) ‖ P_source(X)), nats
    mechanism_shift          (B,)    E_{x∼target} KL(P_target(Y∣x) ‖ P_source(Y∣x)), nats
    risk                     (B, 3)  mean squared error in the target environment of `FRAMEWORKS`
    """

    covariate_shift: Tensor
    mechanism_shift: Tensor
    risk: Tensor


def _describe(name: str, value: Tensor) -> str:
    finite = value[torch.isfinite(value)].double()
    shape = f"({', '.join(map(str, value.shape))}{',' if value.dim() == 1 else ''})"
    line = f"  {name:<24} {shape:<10}"
    if finite.numel():
        line += f" mean {finite.mean():.4g}, from {finite.min():.4g} to {finite.max():.4g}"
    infinite = value.numel() - finite.numel()
    return line + (f", {infinite} infinite" if infinite else "")
