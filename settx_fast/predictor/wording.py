"""Properties and numbers as people read them; shared by the report and the command line."""

from __future__ import annotations

import math
from typing import NamedTuple


class Wording(NamedTuple):
    """Title and meaning of a property."""

    title: str
    meaning: str


PROPERTIES = {
    "edge_density": Wording("Edge density", "edges of the causal graph over all pairs of variables"),
    "num_parents": Wording("Parents of the target", "number of direct causes of the target"),
    "num_children": Wording("Children of the target", "number of direct effects of the target"),
    "noise_to_signal": Wording("Noise to signal", "variance of the target's noise over that of the rest of the target"),
    "varsortability": Wording("Varsortability", "how well variances alone give the causal order: 0.5 is by chance"),
    "r2_sortability": Wording(
        "R²-sortability", "how well predictability alone gives the causal order: 0.5 is by chance"
    ),
    "covariate_shift": Wording("Covariate shift", "how far the features differ in deployment, in nats"),
    "mechanism_shift": Wording(
        "Mechanism shift", "how far the target given the features differs in deployment, in nats"
    ),
    "risk": Wording("Risk", "mean squared error in deployment"),
    "role": Wording("Role", "cause, effect, spouse or unrelated"),
    "direct_effect_on_target": Wording("Effect on the target", "direct effect of the feature on the target"),
    "direct_effect_of_target": Wording("Effect of the target", "direct effect of the target on the feature"),
    "total_effect": Wording("Total effect", "total effect of the feature on the target"),
}
METRICS = {
    "r2": "R²",
    "mae": "mean absolute error",
    "coverage": "share within the 90 % interval",
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "calibration": "calibration error",
}


def title(key: str, names: tuple[str, ...] = ()) -> str:
    """A property by its key; `key/detail` where it has several parts, a number being the index of a feature."""
    name, _, detail = key.partition("/")
    known = PROPERTIES[name].title if name in PROPERTIES else name.replace("_", " ")
    if not detail:
        return known
    return f"{known}: {names[int(detail)] if detail.isdecimal() and names else detail}"


def number(value: float | None) -> str:
    """Three significant digits; an en dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
