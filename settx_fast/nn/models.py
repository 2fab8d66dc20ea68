"""Models of a whole set, out of the blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from settx_fast import functional
from settx_fast.nn.blocks import ISAB, PMA, SAB, BlockOptions, given


class SetTransformer(nn.Module):
    """Set (B, N, dim_input) → (B, num_outputs, dim_output): two ISAB, PMA, two SAB and a linear layer.

    `num_inds` inducing points in each ISAB, blocks of width `dim_hidden`, options as `MAB`. Raises ValueError where
    sizes or options do not fit together, and in a call for a wrong shape. Source: Lee et al. 2019, section 3.
    """

    def __init__(
        self,
        dim_input: int,
        num_outputs: int,
        dim_output: int,
        num_inds: int = 32,
        dim_hidden: int = 128,
        num_heads: int = 4,
        ln: bool = False,
        **options: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        self.enc = _Encoder(
            ISAB(dim_input, dim_hidden, num_heads, num_inds, ln, **options),
            ISAB(dim_hidden, dim_hidden, num_heads, num_inds, ln, **options),
        )
        self.dec = _Decoder(
            PMA(dim_hidden, num_heads, num_outputs, ln, **options),
            SAB(dim_hidden, dim_hidden, num_heads, ln, **options),
            SAB(dim_hidden, dim_hidden, num_heads, ln, **options),
            nn.Linear(dim_hidden, dim_output, device=options.get("device"), dtype=options.get("dtype")),
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_input) → (B, num_outputs, dim_output); does not depend on the order of a set."""
        return self.dec(self.enc(x, lengths, mask), lengths, mask)


class _Encoder(nn.Sequential):
    """Layers of which each reads sets."""

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            assert lengths is None
            assert mask is None
            for layer in self:
                x = layer(x)
            return x
        else:
            return self._call_layers(x, given(lengths=lengths, mask=mask))

    def _call_layers(self, x: Tensor, ragged: dict[str, Tensor]) -> Tensor:
        for layer in self:
            x = layer(x, **ragged)
        return x


class _Decoder(_Encoder):
    """Layers of which the first pools sets."""

    def _call_layers(self, x: Tensor, ragged: dict[str, Tensor]) -> Tensor:
        pool, *rest = self
        x = pool(x, **ragged)
        for layer in rest:
            x = layer(x)
        return x


class DeepSet(nn.Module):
    """Set (B, N, dim_input) → (B, num_outputs, dim_output): a network per element, their mean, a network.

    The mean of an empty set is zero. Raises ValueError in a call for a wrong shape. Source: Zaheer et al. 2017,
    arXiv:1703.06114.
    """

    def __init__(
        self,
        dim_input: int,
        num_outputs: int,
        dim_output: int,
        dim_hidden: int = 128,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_outputs, self.dim_output = num_outputs, dim_output
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.enc = _mlp(dim_input, dim_hidden, dim_hidden, factory)
        self.dec = _mlp(dim_hidden, dim_hidden, num_outputs * dim_output, factory)

    def forward(self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim_input) → (B, num_outputs, dim_output); does not depend on the order of a set."""
        if torch.jit.is_scripting():
            assert lengths is None
            assert mask is None
            pooled = self.enc(x).mean(-2)
        else:
            pooled = functional.set_mean(x, self.enc, lengths=lengths, mask=mask)
        return self.dec(pooled).unflatten(-1, (self.num_outputs, self.dim_output))


def _mlp(dim_in: int, dim_hidden: int, dim_out: int, factory: dict[str, Any]) -> nn.Sequential:
    widths = (dim_in, dim_hidden, dim_hidden, dim_hidden, dim_out)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out, **factory), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
