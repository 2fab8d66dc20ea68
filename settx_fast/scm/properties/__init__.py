"""Properties of datasets, computed from their SCMs.

`compute(batch)` returns all of them. Every property is also a function of its own, of plain tensors and `Moments`.

The source distribution is the mixture of the source environments, weighted by their rows (differences between the
environments' means are part of its covariance); several target environments are mixed the same way. For linear SCMs the
first two moments, and with them everything here, have a closed form, whatever the shape of the noise. Other mechanisms
are sampled afresh, and `Properties.method` says so.
"""

from settx_fast.scm.properties.computation import compute, compute_source, environment_share
from settx_fast.scm.properties.effects import (
    direct_effect_of_target,
    direct_effect_on_target,
    noise_to_signal,
    total_effect,
)
from settx_fast.scm.properties.graph import Role, edge_density, num_children, num_parents, role
from settx_fast.scm.properties.moments import Moments, linear_moments
from settx_fast.scm.properties.record import CLOSED_FORM, MONTE_CARLO, Properties, SourceProperties
from settx_fast.scm.properties.risk import FRAMEWORKS, chain_anticausal_wins, risk
from settx_fast.scm.properties.shift import covariate_shift, mechanism_shift, shift_decomposition
from settx_fast.scm.properties.sortability import order_alignment, r2_sortability, r_squared, varsortability

__all__ = [
    "CLOSED_FORM",
    "FRAMEWORKS",
    "MONTE_CARLO",
    "Moments",
    "Properties",
    "Role",
    "SourceProperties",
    "chain_anticausal_wins",
    "compute",
    "compute_source",
    "covariate_shift",
    "direct_effect_of_target",
    "direct_effect_on_target",
    "edge_density",
    "environment_share",
    "linear_moments",
    "mechanism_shift",
    "noise_to_signal",
    "num_children",
    "num_parents",
    "order_alignment",
    "r2_sortability",
    "r_squared",
    "risk",
    "role",
    "shift_decomposition",
    "total_effect",
    "varsortability",
]
