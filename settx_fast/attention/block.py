"""What a multihead attention block computes: the record that every implementation reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple, get_args

from torch import Tensor

Norm = Literal["none", "layer", "rms"]
Residual = Literal["projected", "input"]
Activation = Literal["relu", "gelu"]
Scale = Literal["model", "head"]


@dataclass(frozen=True)
class BlockSpec:
    """Shape of one attention block; the defaults are the original Set Transformer's (Lee et al. 2019).

    `residual="projected"` adds the projected query, `"input"` the block's own input. `ffn_dim=None` is the original's
    single D → D layer, a number the two layers D → ffn_dim → D. `scale="model"` divides scores by √D, `"head"` by √E.
    `dropout` is the share of attention weights that a call drops, as in training. Raises ValueError for a value outside
    its choices.
    """

    num_heads: int
    norm: Norm = "none"
    norm_first: bool = False
    residual: Residual = "projected"
    output_projection: bool = False
    activation: Activation = "relu"
    ffn_dim: int | None = None
    scale: Scale = "model"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    drops: bool = field(init=False, repr=False, compare=False)
    """Whether there is dropout; a number would be a variable of what torch.compile makes."""
    text: str = field(init=False, repr=False, compare=False)
    """The other fields in order, as operators carry them; none of these drops weights."""

    def __post_init__(self) -> None:
        for name, choices in (("norm", Norm), ("residual", Residual), ("activation", Activation), ("scale", Scale)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}: expected one of {get_args(choices)}, got {getattr(self, name)!r}")
        if self.num_heads < 1:
            raise ValueError(f"num_heads: expected at least 1, got {self.num_heads}")
        if self.ffn_dim is not None and self.ffn_dim < 1:
            raise ValueError(f"ffn_dim: expected None or at least 1, got {self.ffn_dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")
        object.__setattr__(self, "drops", self.dropout > 0)
        # stored, not formatted when asked for: torch.compile reads it as a constant
        values = (getattr(self, known.name) for known in fields(self) if known.init and known.name != "dropout")
        object.__setattr__(self, "text", " ".join(str(value) for value in values))

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The fields of `BlockWeights` in use, in their order."""
        unused: set[str] = set()
        if not self.output_projection:
            unused |= {"w_p", "b_p"}
        if self.ffn_dim is None:
            unused |= {"w_o2", "b_o2"}
        if self.norm != "layer":
            unused |= {"b0", "b1"} if self.norm == "rms" else {"g0", "b0", "g1", "b1"}
        return tuple(name for name in BlockWeights._fields if name not in unused)

    def score_scale(self, dim: int) -> float:
        """Factor on the scores of a block D = `dim` wide."""
        return (dim if self.scale == "model" else dim // self.num_heads) ** -0.5


class BlockWeights(NamedTuple):
    """Parameters of one attention block; those its spec does not use are None.

    w_q (D, C_q), w_k and w_v (D, C_k), output projection w_p (D, D), feed-forward w_o (D or ffn_dim, D) and
    w_o2 (D, ffn_dim), norms g0 b0 (first: D wide, C wide under norm_first) and g1 b1 (second; no bias under "rms").
    """

    w_q: Tensor
    b_q: Tensor
    w_k: Tensor
    b_k: Tensor
    w_v: Tensor
    b_v: Tensor
    w_o: Tensor
    b_o: Tensor
    w_p: Tensor | None = None
    b_p: Tensor | None = None
    w_o2: Tensor | None = None
    b_o2: Tensor | None = None
    g0: Tensor | None = None
    b0: Tensor | None = None
    g1: Tensor | None = None
    b1: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> BlockWeights:
        """The weights, each through a function."""
        return BlockWeights(*[None if tensor is None else function(tensor) for tensor in self])  # type: ignore[arg-type]


NO_WEIGHTS = BlockWeights(*[None] * len(BlockWeights._fields))  # type: ignore[arg-type]
KEY_WEIGHTS = ("w_k", "b_k", "w_v", "b_v")
"""The weights that make keys and values; queries use the others."""
