"""Properties and numbers as people read them; shared by the report and the command line."""

from __future__ import annotations

import math
from collections.abc import Collection
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
UNITS = {  # of everything that has one
    "risk": "({target})²",
    "covariate_shift": "nats",
    "mechanism_shift": "nats",
    "direct_effect_on_target": "{target} per unit of the column",
    "direct_effect_of_target": "units of the column per {target}",
    "total_effect": "{target} per unit of the column",
}
PREDICTED_BY = {
    "model": "model",
    "mean": "mean of the training distribution",
    "majority": "always the commoner one",
    "classical": "classical estimator",
    "informed": "classical estimator, told the true graph",
}
TITLES = {"erm": "ERM on all features", "causal": "causal ERM", "anticausal": "anticausal ERM"}
EXPLANATIONS = {
    "erm": "least squares on every feature",
    "causal": "least squares on the causes (parents) of the target",
    "anticausal": "least squares on the causes and effects (parents and children) of the target",
}
METRICS = {
    "r2": "R²",
    "mae": "MAE",
    "coverage": "within 90 %",
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "calibration": "calibration error",
}


def units(target: str) -> dict[str, str]:
    """The unit of every property but the roles, "1" where it has none; `target` stands for its own unit."""
    return {name: UNITS.get(name, "1").format(target=target) for name in PROPERTIES if name != "role"}


def title(key: str, names: tuple[str, ...] = (), target: str = "target") -> str:
    """A property by its key; `key/part` where it has several, a number being the index of a feature in `names`."""
    name, _, part = key.partition("/")
    known = PROPERTIES[name].title if name in PROPERTIES else name.replace("_", " ")
    if not part.isdecimal():
        return f"{known}: {TITLES.get(part, part)}" if part else known
    feature = names[int(part)] if int(part) < len(names) else f"column {part}"
    cause, effect = (target, feature) if name == "direct_effect_of_target" else (feature, target)
    return f"{'Total effect' if name == 'total_effect' else 'Effect'} {cause} → {effect}"


def titles(keys: Collection[str], names: tuple[str, ...], target: str | int) -> dict[str, str]:
    """Title of everything that was measured, by key; what is measured column by column is not shown as a whole.

    names: of all variables, () if they have none; target: name or number of the one to predict.
    """
    if isinstance(target, int) and names:
        target = names[target]
    features = tuple(name for name in names if name != target)
    target = str(target) if names else "target"
    by_column = {key.partition("/")[0] for key in keys if key.partition("/")[2].isdecimal()}
    return {key: title(key, features, target) for key in keys if key not in by_column}


def number(value: float | None) -> str:
    """Three significant digits; an en dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return (f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")
