"""Networks that were trained apart and answer together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from settx_fast.predictor.features import Observed
from settx_fast.predictor.selector.decision import over_erm
from settx_fast.predictor.selector.descriptors import Descriptors
from settx_fast.predictor.selector.network import Guess, NetworkConfig, Seen, SelectorNetwork


class Committee(nn.Module):
    """The mean of its members' guesses, which errs less than a member does, as their errors differ.

    What they disagree about is doubtful: `Guess.doubt` is the deviation of the mixture of their normals.

    Members are of one `NetworkConfig`, trained from seeds of their own (deep ensembles: Lakshminarayanan, Pritzel and
    Blundell 2017, arXiv:1612.01474). Raises ValueError without members, or for members of several configurations.
    """

    def __init__(self, members: Sequence[SelectorNetwork]) -> None:
        super().__init__()
        configs = {member.config for member in members}
        if len(configs) != 1:
            raise ValueError(f"members: expected networks of one configuration, got {len(configs)} configurations")
        self.members = nn.ModuleList(members)
        self.config: NetworkConfig = configs.pop()

    def read(self, observed: Observed, descriptors: Descriptors) -> Seen:
        """What the members read of a dataset."""
        return self.members[0].read(observed, descriptors)  # type: ignore[operator]

    def forward(self, seen: Seen) -> Guess:
        """The guess for every dataset."""
        each = Guess(*map(torch.stack, zip(*(member(seen) for member in self.members), strict=True)))
        variance = (2 * each.doubt).exp().mean(0) + over_erm(each.log_risk).var(0, unbiased=False)
        return Guess(*(part.mean(0) for part in each))._replace(doubt=variance.log() / 2)
