"""Metrics that fit the quantity: R², MAE and coverage for numbers; AUROC, accuracy and calibration for classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import functional as F
from torchmetrics.functional.classification import binary_auroc

from settx_fast.predictor.model import Estimate
from settx_fast.predictor.targets import Target


def _r2(estimate: Estimate, truth: Tensor) -> Tensor:
    return F.r2_score(estimate.value, truth)


def _mae(estimate: Estimate, truth: Tensor) -> Tensor:
    return F.mean_absolute_error(estimate.value, truth)


def _coverage(estimate: Estimate, truth: Tensor) -> Tensor:
    """Share of truths inside the 90 % interval; NaN for a predictor that gives none."""
    if estimate.lower is None or estimate.upper is None:
        return torch.tensor(torch.nan)
    return ((estimate.lower <= truth) & (truth <= estimate.upper)).double().mean()


def _accuracy(estimate: Estimate, truth: Tensor) -> Tensor:
    return F.accuracy(estimate.value, truth, task="multiclass", num_classes=estimate.value.shape[-1], average="micro")


def _auroc(estimate: Estimate, truth: Tensor) -> Tensor:
    """One class against the rest, averaged over the classes that occur."""
    scores = [binary_auroc(estimate.value[:, each], (truth == each).long()) for each in truth.unique()]
    return torch.stack(scores).mean()


def _calibration(estimate: Estimate, truth: Tensor) -> Tensor:
    """Expected difference between the probability of the likeliest class and its frequency."""
    classes = estimate.value.shape[-1]
    return F.calibration_error(estimate.value, truth, task="multiclass", num_classes=classes)


METRICS: dict[str, dict[str, Callable[[Estimate, Tensor], Tensor]]] = {
    "number": {"r2": _r2, "mae": _mae, "coverage": _coverage},
    "classes": {"auroc": _auroc, "accuracy": _accuracy, "calibration": _calibration},
}


def measure(metric: str, target: Target, estimate: Estimate, truth: Tensor) -> float:
    """One metric of one property; estimate and truth (n,), probabilities (n, classes); NaN where it is undefined.

    Raises ValueError where the metric does not fit the property, such as the accuracy of a number.
    """
    fitting = METRICS[target.kind]
    if metric not in fitting:
        raise ValueError(f"{metric}: expected one of {', '.join(fitting)} for {target.name} ({target.kind})")
    return float(fitting[metric](estimate, truth))
