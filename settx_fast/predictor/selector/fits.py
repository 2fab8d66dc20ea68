"""All frameworks on a batch of datasets, and on these without each source."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from settx_fast.predictor.frameworks import Fold, Linear, Sources, fit_all, leave_one_out, risk, risks


class Fits(NamedTuple):
    """All frameworks on B datasets and on these without each source; in_sample and left_out (B, K, F) are risks.

    Where there is one source nothing can be left out, and left_out is in_sample.
    """

    sources: Sources
    fold: Fold
    whole: Linear
    left: Linear
    in_sample: Tensor
    left_out: Tensor

    @property
    def levels(self) -> Tensor:
        """(B, K, F): mean residual of every framework in every source."""
        predicted = self.sources.mean[..., :-1] @ self.whole.coefficients.mT + self.whole.intercept[:, None]
        return self.sources.mean[..., -1:] - predicted

    @property
    def left_out_levels(self) -> Tensor:
        """(B, K, F): the same in every source that was left out."""
        fold, left = self.fold, self.left
        predicted = (left.coefficients * fold.mean[:, None, :-1]).sum(-1) + left.intercept
        return ((fold.mean[:, -1:] - predicted) * fold.unit[:, None]).unflatten(0, self.sources.rows.shape)


def fits_of(sources: Sources) -> Fits:
    """Fit every framework on standardised `sources`, whole and leave-one-source-out, in one batch."""
    fold = leave_one_out(sources)
    several = sources.is_there.sum(1, keepdim=True) > 1
    index = torch.nonzero((sources.is_there & several).flatten()).flatten()
    together = fit_all(_joined(sources, fold.sources.part(index)))
    number = len(sources.rows)
    whole = Linear(*(tensor[:number] for tensor in together))
    left = Linear(*(_scattered(tensor[number:], index, sources.rows.numel()) for tensor in together))
    each = Linear(whole.coefficients[:, None], whole.intercept[:, None])
    in_sample = risk(each, sources.mean[:, :, None], sources.covariance[:, :, None])
    left_out = risks(left, fold.mean, fold.covariance) * fold.unit.square()[:, None]
    left_out = torch.where(several[..., None], left_out.unflatten(0, sources.rows.shape), in_sample)
    return Fits(sources, fold, whole, left, in_sample, left_out)


def _joined(first: Sources, second: Sources) -> Sources:
    return Sources(*(torch.cat(pair) for pair in zip(first, second, strict=True)))


def _scattered(some: Tensor, index: Tensor, number: int) -> Tensor:
    """Of `number` datasets, `some` at index and zero elsewhere."""
    return some.new_zeros(number, *some.shape[1:]).index_copy_(0, index, some)
