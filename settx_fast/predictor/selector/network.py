"""The network that predicts the risk of every framework: attention between frameworks, columns, sources and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from settx_fast.nn import SAB
from settx_fast.predictor.features import Observed
from settx_fast.predictor.frameworks import FRAMEWORKS
from settx_fast.predictor.selector.descriptors import TRAITS, Descriptors, flat
from settx_fast.predictor.selector.rows import RowsEncoder, RowsInput, rows_input
from settx_fast.predictor.targets import ROLES

WIDTHS = {"frameworks": 43, "columns": 56, "sources": 28, "dataset": len(TRAITS)}
FLAT = len(FRAMEWORKS) * WIDTHS["frameworks"] + 2 * (WIDTHS["columns"] + WIDTHS["sources"]) + WIDTHS["dataset"]
LEVELS = (0.05, 0.5, 0.95)
MOST_DOUBT = 3.0  # |log| of a deviation
IN_SAMPLE, DATASET_ERM = 0, TRAITS.index("ERM's error in sample, share of the target's variance")


@dataclass(frozen=True)
class NetworkConfig:
    """hidden: width of a token; layers of attention; descriptors, rows: what is read, at least one of them.

    summary: width of the layers beside attention that read all descriptors of a dataset at once, 0: none, and twice
    that of those that read a column's; dropout: in these.
    """

    hidden: int = 96
    layers: int = 4
    num_heads: int = 4
    summary: int = 256
    dropout: float = 0.1
    descriptors: bool = True
    rows: bool = False
    row_hidden: int = 32
    num_inds: int = 16

    def __post_init__(self) -> None:
        if not (self.descriptors or self.rows):
            raise ValueError("descriptors, rows: expected at least one of them, got neither")


class Seen(NamedTuple):
    """What the network reads of B datasets: descriptors, and rows if it reads these."""

    descriptors: Descriptors
    rows: RowsInput | None = None


class Guess(NamedTuple):
    """Natural logarithms of risks in units of the target's variance over the source rows.

    log_risk (B, F): expected; quantiles (B, F, 3): 5 %, 50 %, 95 %, ascending; roles (B, p, 4): logits of `ROLES`;
    doubt (B, F): log standard deviation of the log risk less ERM's.
    """

    log_risk: Tensor
    quantiles: Tensor
    roles: Tensor
    doubt: Tensor


class SelectorNetwork(nn.Module):
    """Tokens of the dataset, its frameworks, columns and sources, which attend to each other (`SAB`).

    A framework's answer is a residual on its error in sample, a column's the role it seems to have. To frameworks'
    answers those of a multilayer perceptron on all descriptors (`descriptors.flat`) are added, to a column's that of
    one on its own and the dataset's. The order of frameworks means something, that of columns and sources does not.
    Reading rows, columns get what `RowsEncoder` makes of them; without descriptors tokens hold nothing else.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        width = config.hidden
        block: dict[str, Any] = {
            "norm": "layer",
            "norm_first": True,
            "residual": "input",
            "output_projection": True,
            "activation": "gelu",
            "scale": "head",
        }
        for name, size in {**WIDTHS, "flat": FLAT}.items():
            self.register_buffer(f"mean_{name}", torch.zeros(size))
            self.register_buffer(f"deviation_{name}", torch.ones(size))
        self.embed = nn.ModuleDict({name: nn.Linear(size, width) for name, size in WIDTHS.items()})
        self.name = nn.Parameter(torch.randn(len(FRAMEWORKS), width) * 0.2)
        self.kind = nn.Parameter(torch.randn(len(WIDTHS), width) * 0.2)
        self.row_encoder = RowsEncoder(config.row_hidden, config.num_inds, width) if config.rows else None
        self.blocks = nn.ModuleList(
            SAB(width, width, config.num_heads, ffn_dim=2 * width, **block) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        answers = 2 + len(LEVELS)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, answers))
        self.role = nn.Linear(width, len(ROLES))
        self.summary = self.column = None
        if config.summary and config.descriptors:
            self.summary = _perceptron(FLAT, config.summary, len(FRAMEWORKS) * answers, config.dropout)
            of_column = WIDTHS["columns"] + WIDTHS["dataset"]
            self.column = _perceptron(of_column, config.summary // 2, len(ROLES), config.dropout)

    @torch.no_grad()
    def standardise(self, descriptors: Descriptors) -> None:
        """Take the mean and standard deviation of these datasets' descriptors as the units of the input."""
        units = {name: getattr(descriptors, name).flatten(0, -2) for name in ("frameworks", "dataset")}
        units["columns"] = descriptors.columns[descriptors.is_column]
        units["sources"] = descriptors.sources[descriptors.is_source]
        units["flat"] = flat(descriptors)
        for name, values in units.items():
            self.get_buffer(f"mean_{name}").copy_(values.double().mean(0))
            self.get_buffer(f"deviation_{name}").copy_(values.double().std(0).clamp(min=1e-3))

    def read(self, observed: Observed, descriptors: Descriptors) -> Seen:
        """What this network reads of a dataset."""
        return Seen(descriptors, rows_input(observed) if self.config.rows else None)

    def forward(self, seen: Seen) -> Guess:
        """The guess for every dataset."""
        given = seen.descriptors
        parts = {name: self._embedded(name, getattr(given, name), k) for k, name in enumerate(WIDTHS)}
        parts["frameworks"] = parts["frameworks"] + self.name
        if self.row_encoder is not None:
            assert seen.rows is not None
            parts["columns"] = parts["columns"] + self.row_encoder(seen.rows)
        tokens = torch.cat([parts["frameworks"], parts["dataset"][:, None], parts["columns"], parts["sources"]], 1)
        always = torch.ones(len(tokens), len(FRAMEWORKS) + 1, dtype=torch.bool, device=tokens.device)
        mask = torch.cat([always, given.is_column, given.is_source], 1)
        for block in self.blocks:
            tokens = block(tokens, mask=mask)
        tokens = self.norm(tokens)
        answers = self.head(tokens[:, : len(FRAMEWORKS)])
        if self.summary is not None:
            answers = answers + self.summary(self._standard("flat", flat(given))).view(answers.shape)
        base = given.frameworks[..., IN_SAMPLE] if self.config.descriptors else torch.zeros_like(answers[..., 0])
        risk = base + answers[..., 0]
        quantiles = (risk.detach()[..., None] + answers[..., 2:]).sort(-1).values
        first = len(FRAMEWORKS) + 1
        roles = self.role(tokens[:, first : first + given.columns.shape[1]])
        if self.column is not None:
            roles = roles + self.column(self._of_columns(given))
        return Guess(risk, quantiles, roles, answers[..., 1].clamp(-MOST_DOUBT, MOST_DOUBT))

    def _embedded(self, name: str, values: Tensor, kind: int) -> Tensor:
        if not self.config.descriptors:
            return self.kind[kind].expand(*values.shape[:-1], -1)
        return self.embed[name](self._standard(name, values)) + self.kind[kind]

    def _of_columns(self, given: Descriptors) -> Tensor:
        """(B, p, ·): descriptors of every column and its dataset."""
        columns, dataset = self._standard("columns", given.columns), self._standard("dataset", given.dataset)
        return torch.cat([columns, dataset[:, None].expand(-1, columns.shape[1], -1)], -1)

    def _standard(self, name: str, values: Tensor) -> Tensor:
        standard = (values.float() - self.get_buffer(f"mean_{name}")) / self.get_buffer(f"deviation_{name}")
        return standard.clamp(-6.0, 6.0)


def _perceptron(inputs: int, width: int, answers: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, answers),
    )
