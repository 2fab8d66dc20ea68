"""What a multihead attention block computes: the record that every implementation reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

Norm = Literal["none", "layer", "rms"]
Residual = Literal["projected", "input"]
Activation = Literal["relu", "gelu", "swiglu", "geglu", "reglu", "liglu"]
Scale = Literal["model", "head"]
_CHOICES: dict[str, Any] = {
    "norm": Norm,
    "residual": Residual,
    "activation": Activation,
    "scale": Scale,
    "qk_norm": Norm,
}
_CARRIED = 9  # fields that operators carry


@dataclass(frozen=True)
class BlockSpec:
    """Shape of one attention block; the defaults are the original Set Transformer's (Lee et al. 2019).

    `residual="projected"` adds the projected query, `"input"` the block's own input. `ffn_dim=None` is the original's
    single D → D layer, a number the two layers D → ffn_dim → D. `scale="model"` divides scores by √D, `"head"` by √E.
    `dropout` is the share of attention weights that a call drops, as in training. A gated `activation` (Shazeer 2020,
    arXiv:2002.05202) multiplies what the feed-forward's first layer makes by SiLU, GELU, ReLU or nothing ("liglu") of
    what a layer beside it makes. `bias`: linear layers have biases; `norm_bias`: layer norms have. `key_norm` gives
    keys a first norm of their own, `qk_norm` norms every head's queries and keys, `post_norm` what attention and
    feed-forward add. Raises ValueError for a value outside its choices, or an option that has nothing to act on.
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
    bias: bool = True
    norm_bias: bool = True
    key_norm: bool = False
    qk_norm: Norm = "none"
    post_norm: bool = False
    drops: bool = field(init=False, repr=False, compare=False)
    """Whether there is dropout; a number would be a variable of what torch.compile makes."""
    text: str = field(init=False, repr=False, compare=False)
    """The fields before `dropout` in order, as operators carry them; they know no other."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}: expected one of {get_args(choices)}, got {getattr(self, name)!r}")
        if self.num_heads < 1:
            raise ValueError(f"num_heads: expected at least 1, got {self.num_heads}")
        if self.ffn_dim is not None and self.ffn_dim < 1:
            raise ValueError(f"ffn_dim: expected None or at least 1, got {self.ffn_dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")
        if self.key_norm and not (self.norm_first and self.norm != "none"):
            raise ValueError("key_norm: expected norm_first and a norm, without which keys are not normed")
        if self.post_norm and self.norm == "none":
            raise ValueError("post_norm: expected a norm, got norm='none'")
        if not self.norm_bias and "layer" not in (self.norm, self.qk_norm):
            raise ValueError("norm_bias: expected True where no norm is 'layer', which alone has a bias")
        object.__setattr__(self, "drops", self.dropout > 0)
        # stored, not formatted when asked for: torch.compile reads it as a constant
        values = [getattr(self, known.name) for known in fields(self) if known.init]
        object.__setattr__(self, "text", " ".join(str(value) for value in values[:_CARRIED]))
        carried = self.bias and self.norm_bias and not self.key_norm
        lowered = self if carried else replace(self, bias=True, norm_bias=True, key_norm=False)
        object.__setattr__(self, "_lowered", lowered)  # no field: `asdict` would not come to an end
        object.__setattr__(self, "_weight_names", self._names_of_weights())

    @property
    def lowered(self) -> BlockSpec:
        """What operators may be given instead, see `lowering`: itself where they carry all options in use."""
        found: BlockSpec = getattr(self, "_lowered")  # noqa: B009
        return found

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers have a gate."""
        return self.activation.endswith("glu")

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The fields of `BlockWeights` in use, in their order."""
        found: tuple[str, ...] = getattr(self, "_weight_names")  # noqa: B009
        return found

    def _names_of_weights(self) -> tuple[str, ...]:
        layers = [f"_{name}" for name in "qkvo"]
        layers += ["_p"] * self.output_projection + ["_o2"] * (self.ffn_dim is not None) + ["_g"] * self.gated
        used = {f"w{name}" for name in layers} | {f"b{name}" for name in layers if self.bias}
        norms = {"0": self.norm, "1": self.norm, "0_k": self.norm if self.key_norm else "none"}
        used |= {f"g{name}" for name, kind in norms.items() if kind != "none"}
        used |= {f"b{name}" for name, kind in norms.items() if kind == "layer" and self.norm_bias}
        heads = {"q": self.qk_norm, "k": self.qk_norm}
        added = {"p": self.norm, "o": self.norm} if self.post_norm else {}
        used |= {f"g_{name}" for name, kind in (heads | added).items() if kind != "none"}
        used |= {f"s_{name}" for name, kind in (heads | added).items() if kind == "layer" and self.norm_bias}
        return tuple(name for name in BlockWeights._fields if name in used)

    def score_scale(self, dim: int) -> float:
        """Factor on the scores of a block D = `dim` wide."""
        return (dim if self.scale == "model" else dim // self.num_heads) ** -0.5


class BlockWeights(NamedTuple):
    """Parameters of one attention block; those its spec does not use are None.

    w_q (D, C_q), w_k and w_v (D, C_k), output projection w_p (D, D), feed-forward w_o (D or ffn_dim, D) and
    w_o2 (D, ffn_dim), norms g0 b0 (first: D wide, C wide under norm_first) and g1 b1 (second; no bias under "rms").
    Beyond them: g0_k b0_k (C_k), the keys' own first norm; the feed-forward's gate w_g b_g, as wide as w_o; gains g_
    and shifts s_ of norms of queries and keys g_q s_q g_k s_k (E, for all heads) and of what is added, g_p s_p after
    attention, g_o s_o after the feed-forward (D).
    """

    w_q: Tensor
    b_q: Tensor | None
    w_k: Tensor
    b_k: Tensor | None
    w_v: Tensor
    b_v: Tensor | None
    w_o: Tensor
    b_o: Tensor | None
    w_p: Tensor | None = None
    b_p: Tensor | None = None
    w_o2: Tensor | None = None
    b_o2: Tensor | None = None
    g0: Tensor | None = None
    b0: Tensor | None = None
    g1: Tensor | None = None
    b1: Tensor | None = None
    g0_k: Tensor | None = None
    b0_k: Tensor | None = None
    w_g: Tensor | None = None
    b_g: Tensor | None = None
    g_q: Tensor | None = None
    s_q: Tensor | None = None
    g_k: Tensor | None = None
    s_k: Tensor | None = None
    g_p: Tensor | None = None
    s_p: Tensor | None = None
    g_o: Tensor | None = None
    s_o: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are not None, in order."""
        return tuple([name for name, tensor in zip(self._fields, self, strict=True) if tensor is not None])

    def map(self, function: Callable[[Tensor], Tensor]) -> BlockWeights:
        """The weights, each through a function."""
        return BlockWeights(*[None if tensor is None else function(tensor) for tensor in self])  # type: ignore[arg-type]


NO_WEIGHTS = BlockWeights(*[None] * len(BlockWeights._fields))  # type: ignore[arg-type]
KEY_WEIGHTS = ("w_k", "b_k", "w_v", "b_v")
"""The weights that make keys and values; queries use the others."""


def named(weights: Sequence[Tensor], spec: BlockSpec) -> BlockWeights:
    """The weights that a spec has, given in their order."""
    return NO_WEIGHTS._replace(**dict(zip(spec.weight_names, weights, strict=True)))
