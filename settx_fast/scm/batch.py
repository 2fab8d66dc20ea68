"""`Batch`: datasets, the models they were drawn from, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from settx_fast.scm._fields import check, is_int
from settx_fast.scm._layout import LAYOUT, LazyTables
from settx_fast.scm.counterfactual import intervened
from settx_fast.scm.evaluation import check_rows, evaluate_again
from settx_fast.scm.prior import Prior

if TYPE_CHECKING:
    import networkx
    import pandas

    from settx_fast.scm.interventions import Intervention

STREAM_VERSION = 3
"""Changes whenever the same (seed, index, prior) would give other bits than before."""

MOST_ATTEMPTS = 1024
"""A row is drawn again at most this many times; what is drawn last stands."""


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """B datasets, each drawn from an SCM of its own, and those SCMs.

    B datasets · R rows · V variables · K environments; V and K are the prior's maxima, entries beyond a dataset's own
    `num_variables` or `num_environments` are 0 (False). Rows are grouped by environment, source environments first.
    In environment k of dataset b, with p over the parents of v and n standardised noise (mean 0, variance 1):

        x_v = bias[b,k,v] + f_v(weights[b,k,p,v] · x_p) + noise_scale[b,k,v] · n_v          f_v = 0 where hard[b,k,v]

    unless `NOISE_EFFECTS`, a post-nonlinear mechanism or categories say otherwise, and then, where not hard,
    gain[b,v] · (x_v − centre[b,v]), which is what children see. What stands in `values` is column_gain[b,v] ·
    (x_v − column_centre[b,v]). Both steps change nothing unless `Prior.standardisation` asks for them.

    values                (B, R, V)     float32  the rows
    environment           (B, R)        int64    environment of each row
    index                 (B,)          int64    number of the dataset in the stream of this seed
    num_variables         (B,)          int64
    num_environments      (B,)          int64    source and target environments together
    is_target_environment (B, K)        bool
    target_share          (B,)          float32  of the rows in target environments; 0: the prior names none
    row_weight            (B, K)        int64    rows of environments are in proportion to it; 0: they are equal
    target_index          (B,)          int64    the variable to predict
    adjacency             (B, V, V)     bool     [i, j]: edge i → j
    order                 (B, V)        int64    variables in a topological order
    weights               (B, K, V, V)  float32  [k, i, j]: effective weight of i → j in environment k
    bias                  (B, K, V)     float32
    noise_scale           (B, K, V)     float32  standard deviation of the noise
    hard                  (B, K, V)     bool     do-intervention: the parents of v have no say
    intervention          (B, K, V)     int8     code of the last intervention, named in `INTERVENTIONS`; "moved" by
                                                 `Prior.shifts`
    noise_kind            (B, V)        int64    named in `NOISES`
    noise_parameters      (B, V, 5)     float32  its shape; layouts in `NOISES`
    noise_effect          (B, V)        int64    named in `NOISE_EFFECTS`: what the noise does, here additive
    mechanism             (B, V)        int64    named in `MECHANISMS`
    mechanism_offset      (B, K, V)     int64    where the parameters of f_v start in `mechanism_parameters`
    mechanism_parameters  (P,)          float32  all parameters of all f_v; layouts in `MECHANISMS`
    centre, gain                (B, V)  float32  internal standardisation, by the pilot rows
    column_centre, column_gain  (B, V)  float32  standardisation by the sample

    What is seen, in the order in which it acts on the rows of the SCM (see `settx_fast.scm.observation`), P being the
    logistic function 1 / (1 + exp(−slope · x − intercept)):

    is_hidden             (B, V)        bool     not seen; `values` holds it all the same, unchanged
    accept_variable, accept_slope, accept_intercept  (B, K, 2)  int64, float32, float32  rows of an environment are
                                                 accepted with probability P(x) of that variable: [0] by selection, [1]
                                                 by label shift; both if both; slope 0: all of them
    attempt               (B, R)        int16    how often a row was rejected, or None where none can be
    error_scale           (B, V)        float32  standard deviation of the error of measurement
    num_levels            (B, V)        int64    0: a number; L the most that the prior allows
    thresholds, codes     (B, V, L)     float32  seen is codes[how many thresholds lie below]; num_levels − 1 are used
    loss_rate             (B, V)        float32  share that is missing, 0: none
    loss_cause, loss_slope, loss_intercept  (B, V)  int64, float32, float32  missing with probability P(what is seen of
                                                 the cause)
    is_missing            (B, R, V)     bool     `values` holds NaN there; or None where nothing can be missing

    noise                 (B, R, V)     float32  the exogenous noise n, if it was asked for, else None
    """

    values: Tensor
    environment: Tensor
    index: Tensor
    num_variables: Tensor
    num_environments: Tensor
    is_target_environment: Tensor
    target_share: Tensor
    row_weight: Tensor
    target_index: Tensor
    adjacency: Tensor
    order: Tensor
    weights: Tensor
    bias: Tensor
    noise_scale: Tensor
    hard: Tensor
    intervention: Tensor
    noise_kind: Tensor
    noise_parameters: Tensor
    noise_effect: Tensor
    mechanism: Tensor
    mechanism_offset: Tensor
    mechanism_parameters: Tensor
    centre: Tensor
    gain: Tensor
    column_centre: Tensor
    column_gain: Tensor
    is_hidden: Tensor
    accept_variable: Tensor
    accept_slope: Tensor
    accept_intercept: Tensor
    error_scale: Tensor
    num_levels: Tensor
    thresholds: Tensor
    codes: Tensor
    loss_cause: Tensor
    loss_rate: Tensor
    loss_slope: Tensor
    loss_intercept: Tensor
    prior: Prior
    seed: int | Tensor
    is_missing: Tensor | None = None
    attempt: Tensor | None = None
    noise: Tensor | None = None
    stream_version: int = STREAM_VERSION

    @classmethod
    def of_tables(cls, tables: Mapping[str, Tensor], **others: Any) -> Batch:
        """A batch whose tables are looked up when they are first asked for; `others`: all other fields."""
        batch = object.__new__(cls)
        vars(batch).update(others, _tables=tables)
        return batch

    if not TYPE_CHECKING:  # or every name would pass for a field

        def __getattr__(self, name: str) -> Tensor:
            tables = vars(self).get("_tables", {})
            if name not in tables:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return vars(self).setdefault(name, tables[name])

    def __getstate__(self) -> dict[str, Any]:
        # Tables share memory under several dtypes, which torch does not save: copies do not.
        others = {name: value for name, value in vars(self).items() if name != "_tables"}
        return others | {name: table.clone() for name, table in self.tables.items()}

    @property
    def memory(self) -> list[Tensor]:
        """Tensors that share their memory with all others of the batch."""
        tables = vars(self).get("_tables")
        own = [tensor for tensor in vars(self).values() if isinstance(tensor, Tensor)]
        return [*own, tables.memory] if isinstance(tables, LazyTables) else own

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device

    def to(self, device: str | torch.device) -> Batch:
        """The same batch with its tensors on another device."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        tensors: dict[str, Any] = {name: value.to(device) for name, value in found if isinstance(value, Tensor)}
        return replace(self, **tensors)

    @property
    def first_index(self) -> int:
        """Number of the first dataset in the stream of this seed."""
        return int(self.index[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The V variable names: the prior's, or x0, x1, …"""
        return self.prior.names or tuple(f"x{v}" for v in range(self.values.shape[2]))

    @property
    def tables(self) -> dict[str, Tensor]:
        """The models: every tensor that rows are evaluated from, by name."""
        return {name: getattr(self, name) for name in LAYOUT}

    @property
    def variable_mask(self) -> Tensor:
        """(B, V) bool: True where the dataset has that variable."""
        return torch.arange(self.values.shape[2], device=self.device) < self.num_variables[:, None]

    @property
    def visible_mask(self) -> Tensor:
        """(B, V) bool: True where the dataset has that variable and it is seen."""
        return self.variable_mask & ~self.is_hidden

    @property
    def is_target_row(self) -> Tensor:
        """(B, R) bool: rows of target environments."""
        return self.is_target_environment.gather(1, self.environment)

    @property
    def target(self) -> Tensor:
        """(B, R): the variable to predict."""
        column = self.target_index[:, None, None].expand(-1, self.values.shape[1], 1)
        return self.values.gather(2, column).squeeze(2)

    @property
    def feature_index(self) -> Tensor:
        """(B, V − 1) int64: the variables but the target, in their order."""
        number = torch.arange(self.values.shape[2] - 1, device=self.device)
        return number + (number >= self.target_index[:, None])

    @property
    def feature_mask(self) -> Tensor:
        """(B, V − 1) bool: True where the dataset has that feature and it is seen."""
        return self.visible_mask.gather(1, self.feature_index)

    @property
    def features(self) -> Tensor:
        """(B, R, V − 1): what is seen of all variables but the target; 0 where `feature_mask` is False."""
        columns = self.feature_index[:, None].expand(-1, self.values.shape[1], -1)
        return self.values.gather(2, columns).masked_fill(~self.feature_mask[:, None], 0.0)

    def xy(self, dataset: int) -> tuple[Tensor, Tensor]:
        """X (R, F), the visible features of one dataset, and y (R,), its target; `is_target_row` splits the rows.

        Raises ValueError for a dataset that is not there.
        """
        self._check_number(dataset)
        seen = self.feature_index[dataset][self.feature_mask[dataset]]
        return self.values[dataset][:, seen], self.values[dataset, :, self.target_index[dataset]]

    @property
    def is_accepted(self) -> Tensor:
        """(B, R) bool: False where no attempt at a row was accepted, and the last one stands."""
        if self.attempt is None:
            return torch.ones_like(self.environment, dtype=torch.bool)
        return self.attempt < MOST_ATTEMPTS

    @property
    def environment_mask(self) -> Tensor:
        """(B, K) bool: True where the dataset has that environment."""
        return torch.arange(self.bias.shape[1], device=self.device) < self.num_environments[:, None]

    @property
    def row_counts(self) -> Tensor:
        """(B, K) int64: rows of each environment."""
        counts = torch.zeros(self.bias.shape[:2], dtype=torch.int64, device=self.device)
        return counts.scatter_add_(1, self.environment, torch.ones_like(self.environment))

    @property
    def is_finite(self) -> Tensor:
        """(B,) bool: False where a nonlinear SCM exploded beyond float32; missing values do not count."""
        finite = self.values.isfinite() if self.is_missing is None else self.values.isfinite() | self.is_missing
        return finite.flatten(1).all(1)

    def to_pandas(self, dataset: int) -> pandas.DataFrame:
        """One dataset as a table: a column per visible variable, `environment`, and `is_target_environment`.

        Raises ValueError for a dataset that is not there.
        """
        import pandas

        self._check_number(dataset)
        visible, environment = self.visible_mask[dataset].nonzero().flatten(), self.environment[dataset]
        names = [self.names[v] for v in visible.tolist()]
        table = pandas.DataFrame(self.values[dataset, :, visible].cpu().numpy(), columns=names)
        table["environment"] = environment.cpu().numpy()
        table["is_target_environment"] = self.is_target_row[dataset].cpu().numpy()
        return table

    def graph(self, dataset: int) -> networkx.DiGraph:
        """One dataset's causal graph by variable name; an edge's `weight` is that of the first environment.

        Hidden variables are nodes too, and have `hidden=True`.

        Raises ValueError for a dataset that is not there.
        """
        import networkx

        self._check_number(dataset)
        names = self.names[: int(self.num_variables[dataset])]
        result: networkx.DiGraph = networkx.DiGraph()
        for name, hidden in zip(names, self.is_hidden[dataset].tolist(), strict=False):
            result.add_node(name, hidden=hidden)
        for i, j in self.adjacency[dataset].nonzero().tolist():
            result.add_edge(names[i], names[j], weight=float(self.weights[dataset, 0, i, j]))
        return result

    def _check_number(self, dataset: object) -> None:
        known = is_int(dataset) and -len(self) <= dataset < len(self)
        check(known, "dataset", f"an int in 0…{len(self) - 1}", dataset)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        datasets, rows, variables = self.values.shape
        return (
            f"Batch({datasets} datasets × {rows} rows × {variables} variables, {self.bias.shape[1]} environments, "
            f"seed={int(self.seed)}, datasets {self.first_index}…{int(self.index[-1])} of stream {self.stream_version})"
        )

    def do(self, *interventions: Mapping[int | str, float] | Intervention) -> Batch:
        """The counterfactual rows: the same SCMs under interventions, with the same noise, errors and losses.

        A mapping {variable: value} sets variables, by number or name, to values: do(x = value), in the units of the
        SCM (those of `values`, unless columns are standardised by the sample). An `Intervention` is of the kind "hard",
        "shift", "scale" or "noise", with a constant value and named variables ("target", "parents", "children" too).
        Each acts in every environment, after those before it; what is set stays set unless it is set anew. Rows that a
        selection accepted are the same units: they are not selected anew.

        Raises ValueError for a variable that is not there and an intervention of another kind.
        """
        num_rows, noise = self.values.shape[1], self.noise is not None
        check_rows(num_rows, self.bias.shape[1])
        tables: dict[str, Any] = self.tables | intervened(self.tables, self.names, interventions)
        rows = evaluate_again(tables, self.prior, num_rows, seed=self.seed, noise=noise, attempt=self.attempt)
        return replace(self, **tables, **rows)
