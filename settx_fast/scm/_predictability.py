"""Whether the columns of a dataset say anything of its target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEATURES = 64
"""Random rectified features that the target is regressed on."""


def surprise(X: Tensor, y: Tensor, num_features: Tensor, num_classes: Tensor) -> Tensor:
    """(B,) p-values: that a ridge regression on random features does not beat the mean on rows it has not seen.

    X (B, R, C) standardised, 0 beyond num_features (B,); y (B, R) numbers, or codes where num_classes (B,) > 0. Each
    half of the rows is predicted from the other; the gain in squared error (Brier's, for classes) is held against its
    standard error, one-sided.
    """
    y = torch.nn.functional.one_hot(y, int(num_classes.max())).to(X.dtype) if y.dtype == torch.int64 else y[:, :, None]
    weight, bias = _random_layer(X.shape[2], X.dtype, X.device)
    hidden = X @ weight
    hidden *= num_features.clamp(min=1).rsqrt()[:, None, None]
    hidden = hidden.add_(bias).clamp_(0.0, 6.0)  # outliers saturate
    halves = [(hidden[:, i::2], y[:, i::2]) for i in (0, 1)]
    gain = torch.cat([_gain(*here, *there) for here, there in (halves, halves[::-1])], 1)
    spread = gain.std(1) / math.sqrt(gain.shape[1])
    score = torch.where(spread > 0, gain.mean(1) / spread, -torch.inf)
    return torch.special.erfc(score / math.sqrt(2.0)) / 2


def _random_layer(columns: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(FEATURES, columns, generator=generator).T  # other rows for more columns
    return weight.to(device, dtype), torch.randn(FEATURES, generator=generator).to(device, dtype)


def _gain(hidden: Tensor, y: Tensor, hidden_there: Tensor, y_there: Tensor) -> Tensor:
    """(B, rows there): by how much less the squared error is than that of the mean; all learnt here."""
    mean, centre = y.mean(1, keepdim=True), hidden.mean(1, keepdim=True)
    basis = hidden - centre
    gram = basis.mT @ basis
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += diagonal.mean(1, keepdim=True) + 1e-6
    coefficients = torch.linalg.solve(gram, basis.mT @ (y - mean))
    there = y_there - mean
    return (there.square() - (there - (hidden_there - centre) @ coefficients).square()).sum(2)
