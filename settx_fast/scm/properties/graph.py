"""Properties of the causal graph around its target."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class Role(IntEnum):
    """Part of a variable in the target's Markov blanket; `NONE` marks the target itself and padding."""

    NONE = -1
    CAUSE = 0
    EFFECT = 1
    SPOUSE = 2
    UNRELATED = 3


def present(num_variables: Tensor, width: int) -> Tensor:
    """(B, V) bool: which of `width` columns hold a variable, given the (B,) counts; the rest is padding."""
    return torch.arange(width, device=num_variables.device) < num_variables[:, None]


def is_target(target_index: Tensor, width: int) -> Tensor:
    """(B, V) bool, true at the target."""
    return torch.arange(width, device=target_index.device) == target_index[:, None]


def parents(adjacency: Tensor, target_index: Tensor) -> Tensor:
    """(B, V) bool, true at the target's parents; adjacency (B, V, V) with [i, j] = edge i → j."""
    return adjacency.gather(2, target_index.view(-1, 1, 1).expand(-1, adjacency.shape[1], 1)).squeeze(2)


def children(adjacency: Tensor, target_index: Tensor) -> Tensor:
    """(B, V) bool, true at the target's children."""
    return parents(adjacency.mT, target_index)


def ancestors(adjacency: Tensor, target_index: Tensor) -> Tensor:
    """(B, V) bool, true where a directed path leads to the target; not at the target itself."""
    reached = parents(adjacency, target_index)
    for _ in range(adjacency.shape[1] - 1):
        further = reached | (adjacency & reached[:, None, :]).any(2)
        if torch.equal(further, reached):
            break
        reached = further
    return reached


def edge_density(adjacency: Tensor, num_variables: Tensor) -> Tensor:
    """(B,) float64: edges over the V(V − 1)/2 that a DAG on V variables can have; 0 for a single variable."""
    possible = num_variables * (num_variables - 1) / 2
    return adjacency.sum((1, 2)) / possible.double().clamp_min(1.0)


def num_parents(adjacency: Tensor, target_index: Tensor) -> Tensor:
    """(B,) int64: parents of the target."""
    return parents(adjacency, target_index).sum(1)


def num_children(adjacency: Tensor, target_index: Tensor) -> Tensor:
    """(B,) int64: children of the target."""
    return children(adjacency, target_index).sum(1)


def role(adjacency: Tensor, target_index: Tensor, num_variables: Tensor) -> Tensor:
    """(B, V) int64 `Role` of every variable: the partition by the target's Markov blanket (Pearl 1988).

    A parent of the target is a cause, a child an effect, another parent of a child a spouse, the rest is unrelated. A
    parent that is a spouse too is a cause, a child that is a spouse too an effect.
    """
    width = adjacency.shape[1]
    child = children(adjacency, target_index)
    spouse = (adjacency & child[:, None, :]).any(2)
    result = torch.full(spouse.shape, int(Role.UNRELATED), device=adjacency.device)
    result = result.masked_fill(spouse, int(Role.SPOUSE))
    result = result.masked_fill(child, int(Role.EFFECT))
    result = result.masked_fill(parents(adjacency, target_index), int(Role.CAUSE))
    outside = is_target(target_index, width) | ~present(num_variables, width)
    return result.masked_fill(outside, int(Role.NONE))
