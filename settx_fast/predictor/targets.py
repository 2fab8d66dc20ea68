"""Which properties the model predicts, and the unit-free scale on which it learns them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from settx_fast.predictor.features import SetInputs

ROLES = ("cause", "effect", "spouse", "unrelated")
FRAMEWORKS = ("erm", "causal", "anticausal")
Convert = Callable[[Tensor, SetInputs], Tensor]


@dataclass(frozen=True)
class Target:
    """One property as the model sees it.

    level: one answer per "dataset" or per "variable" (feature). kind: "number" or "classes". labels: the names of
    the classes, or of the several numbers of a dataset. to_model and to_raw convert between the property's own units
    and the unit-free scale on which it is learned. compare: the scale on which errors are measured, where "either" is
    raw under a fixed graph, where a column means the same in every dataset, and unit-free otherwise.
    """

    name: str
    level: Literal["dataset", "variable"] = "dataset"
    kind: Literal["number", "classes"] = "number"
    labels: tuple[str, ...] = ()
    to_model: Convert = lambda raw, inputs: raw
    to_raw: Convert = lambda value, inputs: value
    compare: Literal["raw", "model", "either"] = "raw"

    @property
    def width(self) -> int:
        """Numbers or classes per dataset or variable."""
        return max(1, len(self.labels))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers of one dataset or variable: () for one, (several,) for more."""
        return (len(self.labels),) if self.kind == "number" and self.labels else ()

    def is_compared_unit_free(self, graph_is_fixed: bool) -> bool:
        """Whether errors are measured on the scale of the model."""
        return self.compare == "model" or (self.compare == "either" and not graph_is_fixed)


def _within(low: float, high: float) -> Convert:
    return lambda value, inputs: value.clamp(low, high)


def _ratio_to_share(raw: Tensor, inputs: SetInputs) -> Tensor:
    return torch.where(raw.isinf(), 1.0, raw / (1 + raw))


def _share_to_ratio(share: Tensor, inputs: SetInputs) -> Tensor:
    share = share.clamp(0.0, 0.999)
    return share / (1 - share)


def _log1p(raw: Tensor, inputs: SetInputs) -> Tensor:
    return raw.clamp(min=0).log1p()


def _expm1(value: Tensor, inputs: SetInputs) -> Tensor:
    return value.clamp(min=0).expm1()


def _feature_per_target(inputs: SetInputs) -> Tensor:
    """(B, F): standard deviation of the feature over that of the target."""
    return inputs.feature_scale / inputs.target_scale.unsqueeze(-1)


def _log_relative_risk(raw: Tensor, inputs: SetInputs) -> Tensor:
    return (raw / inputs.target_scale.square().unsqueeze(-1)).clamp(min=1e-6).log()


def _risk(value: Tensor, inputs: SetInputs) -> Tensor:
    return value.exp() * inputs.target_scale.square().unsqueeze(-1)


TARGETS: tuple[Target, ...] = (
    Target("edge_density", to_raw=_within(0, 1)),
    Target("num_parents", to_raw=_within(0, torch.inf)),
    Target("num_children", to_raw=_within(0, torch.inf)),
    Target("noise_to_signal", to_model=_ratio_to_share, to_raw=_share_to_ratio, compare="model"),
    Target("varsortability", to_raw=_within(0, 1)),
    Target("r2_sortability", to_raw=_within(0, 1)),
    Target("covariate_shift", to_model=_log1p, to_raw=_expm1, compare="model"),
    Target("mechanism_shift", to_model=_log1p, to_raw=_expm1, compare="model"),
    Target("risk", labels=FRAMEWORKS, to_model=_log_relative_risk, to_raw=_risk, compare="model"),
    Target("role", level="variable", kind="classes", labels=ROLES),
    Target(
        "direct_effect_on_target",
        level="variable",
        compare="either",
        to_model=lambda raw, inputs: raw * _feature_per_target(inputs),
        to_raw=lambda value, inputs: value / _feature_per_target(inputs),
    ),
    Target(
        "direct_effect_of_target",
        level="variable",
        compare="either",
        to_model=lambda raw, inputs: raw / _feature_per_target(inputs),
        to_raw=lambda value, inputs: value * _feature_per_target(inputs),
    ),
    Target(
        "total_effect",
        level="variable",
        compare="either",
        to_model=lambda raw, inputs: raw * _feature_per_target(inputs),
        to_raw=lambda value, inputs: value / _feature_per_target(inputs),
    ),
)
BY_NAME = {target.name: target for target in TARGETS}
