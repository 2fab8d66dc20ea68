"""Rows of a dataset as a network reads them: attention over the columns of a row, induced attention over rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from settx_fast.nn import ISAB, SAB
from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks.sources import CONSTANT

CELL = 9
CLIP = 6.0  # standard deviations


class RowsInput(NamedTuple):
    """Cells (B, R, p, 9) float32 of R rows and p columns; is_row (B, R) and is_column (B, p) bool.

    A cell: the value, its source's mean, and the value within its source, of the column and of the target, each in
    standard deviations over the source rows (0 where the target is unknown), the products of the column's and the
    target's, as a whole and within, and whether the row is labelled. Signs of columns are such that they correlate
    positively with the target, that of the target such that it is skewed to the right, so that neither units nor signs
    matter.
    """

    cells: Tensor
    is_row: Tensor
    is_column: Tensor


def rows_input(observed: Observed) -> RowsInput:
    """The cells of datasets as they are seen; nothing depends on the numbers of environments."""
    labelled = observed.labelled & ~observed.is_target
    present = observed.present[:, None]
    columns = torch.cat([observed.features.where(present, 0.0), observed.target[..., None]], -1).double()
    known = torch.cat([present.expand(observed.features.shape), labelled[..., None]], -1)
    columns = _standard(columns, known, labelled)
    sign = _signs(columns, labelled)
    columns = columns * sign[:, None]
    member = one_hot(observed.environment).double()
    rows = (member.mT @ known.double()).clamp(min=1.0)
    mean = member @ ((member.mT @ columns.where(known, 0.0)) / rows)
    within = (columns - mean).where(known, 0.0)
    x, y = columns[..., :-1], columns[..., -1:].expand(columns[..., :-1].shape)
    apart, target_apart = within[..., :-1], within[..., -1:].expand(x.shape)
    flag = labelled[..., None].double().expand(x.shape)
    level, target_level = mean[..., :-1], mean[..., -1:].expand(x.shape)
    parts = [x, level, apart, y, target_level, target_apart, x * y, apart * target_apart, flag]
    cells = torch.stack(parts, -1).clamp(-CLIP, CLIP).float()
    seen = labelled | observed.is_target
    return RowsInput(cells * seen[..., None, None], seen, observed.present)


class RowsEncoder(nn.Module):
    """(B, R, p) cells → (B, p, width): what rows say of every column, whatever the order of rows and columns."""

    def __init__(self, hidden: int, num_inds: int, width: int) -> None:
        super().__init__()
        block: dict[str, Any] = {"norm": "layer", "norm_first": True, "residual": "input", "output_projection": True}
        self.embed = nn.Linear(CELL, hidden)
        self.across = SAB(hidden, hidden, 2, ffn_dim=hidden, **block)
        self.along = ISAB(hidden, hidden, 2, num_inds, ffn_dim=hidden, **block)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(2 * hidden, width)

    def forward(self, rows: RowsInput) -> Tensor:
        """Means over the rows of the sources and over those of the deployment, through a linear layer."""
        cells = self.embed(rows.cells)
        sets, number, width, hidden = cells.shape
        mask = rows.is_column[:, None].expand(-1, number, -1)
        cells = self.across(cells.flatten(0, 1), mask=mask.flatten(0, 1)).view(cells.shape)
        along = cells.transpose(1, 2).flatten(0, 1)
        there = rows.is_row[:, None].expand(-1, width, -1)
        along = self.norm(self.along(along, mask=there.flatten(0, 1))).view(sets, width, number, hidden)
        labelled = rows.cells[..., -1].transpose(1, 2) > 0
        pooled = [_mean(along, there & labelled), _mean(along, there & ~labelled)]
        return self.out(torch.cat(pooled, -1)) * rows.is_column[..., None]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B, p, R, h) over the rows of a mask (B, p, R)."""
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    return (values * mask[..., None]).sum(-2) / count


def _standard(columns: Tensor, known: Tensor, labelled: Tensor) -> Tensor:
    """Of mean 0 and variance 1 over the labelled source rows; 0 where not known."""
    share = labelled.double()[..., None]
    share = share / share.sum(1, keepdim=True).clamp(min=1.0)
    columns = columns.where(known, 0.0)
    mean = (share * columns).sum(1, keepdim=True)
    deviation = (share * (columns - mean).square()).sum(1, keepdim=True).sqrt()
    varies = deviation > CONSTANT * mean.abs()
    return ((columns - mean) / deviation.where(varies, 1.0)).where(known & varies, 0.0)


def _signs(columns: Tensor, labelled: Tensor) -> Tensor:
    """(B, p + 1)."""
    target = columns[..., -1] * labelled
    target_sign = torch.where(target.pow(3).sum(1) < 0, -1.0, 1.0).double()
    correlation = (columns[..., :-1] * target[..., None]).sum(1) * target_sign[:, None]
    return torch.cat([torch.where(correlation < 0, -1.0, 1.0), target_sign[:, None]], 1)
