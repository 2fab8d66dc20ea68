"""Datasets from structural causal models: `sample`, the `Batch` it returns, and `resample` of the same models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from settx_fast.scm._cuda import (
    check_memory_cuda,
    draw_tables_cuda,
    evaluate_tables_cuda,
    why_no_cuda,
)
from settx_fast.scm._fields import check, is_int
from settx_fast.scm._tables import (
    LAYOUT,
    Columns,
    Wanted,
    check_memory,
    check_out,
    check_seed,
    draw_tables,
    evaluate_tables,
    rows_of_one_environment,
    sizes_of,
    split_rows,
    threads,
)
from settx_fast.scm.prior import Prior

if TYPE_CHECKING:
    import networkx
    import pandas

    from settx_fast.scm.interventions import Intervention

STREAM_VERSION = 1
"""Changes whenever the same (seed, index, prior) would give other bits than before."""


MAX_INDEX = 1 << 48
MOST_ATTEMPTS = 1024
ON_REQUEST = ("is_missing", "attempt", "noise")


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """B datasets, each drawn from an SCM of its own, and those SCMs.

    B datasets · R rows · V variables · K environments; V and K are the prior's maxima, entries beyond a dataset's own
    `num_variables` or `num_environments` are 0 (False). Rows are grouped by environment, source environments first.
    In environment k of dataset b, with p over the parents of v and n standardised noise (mean 0, variance 1):

        x_v = bias[b,k,v] + f_v(weights[b,k,p,v] · x_p) + noise_scale[b,k,v] · n_v          f_v = 0 where hard[b,k,v]

    unless `NOISE_EFFECTS` or a post-nonlinear mechanism say otherwise, and then, where not hard, gain[b,v] · (x_v −
    centre[b,v]), which is what children see. What stands in `values` is column_gain[b,v] · (x_v − column_centre[b,v]).
    Both steps change nothing unless `Prior.standardisation` asks for them.

    values                (B, R, V)     float32  the rows
    environment           (B, R)        int64    environment of each row
    index                 (B,)          int64    number of the dataset in the stream of this seed
    num_variables         (B,)          int64
    num_environments      (B,)          int64    source and target environments together
    is_target_environment (B, K)        bool
    target_index          (B,)          int64    the variable to predict
    adjacency             (B, V, V)     bool     [i, j]: edge i → j
    order                 (B, V)        int64    variables in a topological order
    weights               (B, K, V, V)  float32  [k, i, j]: effective weight of i → j in environment k
    bias                  (B, K, V)     float32
    noise_scale           (B, K, V)     float32  standard deviation of the noise
    hard                  (B, K, V)     bool     do-intervention: the parents of v have no say
    intervention          (B, K, V)     int8     code of the last intervention, named in `INTERVENTIONS`
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
    seed: int
    is_missing: Tensor | None = None
    attempt: Tensor | None = None
    noise: Tensor | None = None
    stream_version: int = STREAM_VERSION

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device

    def to(self, device: str | torch.device) -> Batch:
        """The same batch with its tensors on another device."""
        tensors: dict[str, Any] = {k: t.to(device) for k, t in vars(self).items() if isinstance(t, Tensor)}
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
    def variable_mask(self) -> Tensor:
        """(B, V) bool: True where the dataset has that variable."""
        return torch.arange(self.values.shape[2], device=self.device) < self.num_variables[:, None]

    @property
    def visible_mask(self) -> Tensor:
        """(B, V) bool: True where the dataset has that variable and it is seen."""
        return self.variable_mask & ~self.is_hidden

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
        """One dataset as a table: a column per visible variable, `environment`, and `is_target_environment`."""
        import pandas

        visible, environment = self.visible_mask[dataset].nonzero().flatten(), self.environment[dataset]
        names = [self.names[v] for v in visible.tolist()]
        table = pandas.DataFrame(self.values[dataset, :, visible].cpu().numpy(), columns=names)
        table["environment"] = environment.cpu().numpy()
        table["is_target_environment"] = self.is_target_environment[dataset, environment].cpu().numpy()
        return table

    def graph(self, dataset: int) -> networkx.DiGraph:
        """One dataset's causal graph by variable name; an edge's `weight` is that of the first environment.

        Hidden variables are nodes too, and have `hidden=True`.
        """
        import networkx

        names = self.names[: int(self.num_variables[dataset])]
        result: networkx.DiGraph = networkx.DiGraph()
        for name, hidden in zip(names, self.is_hidden[dataset].tolist(), strict=False):
            result.add_node(name, hidden=hidden)
        for i, j in self.adjacency[dataset].nonzero().tolist():
            result.add_edge(names[i], names[j], weight=float(self.weights[dataset, 0, i, j]))
        return result

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        datasets, rows, variables = self.values.shape
        return (
            f"Batch({datasets} datasets × {rows} rows × {variables} variables, {self.bias.shape[1]} environments, "
            f"seed={self.seed}, datasets {self.first_index}…{int(self.index[-1])} of stream {self.stream_version})"
        )

    def do(self, *interventions: Mapping[int | str, float] | Intervention) -> Batch:
        """The counterfactual rows: the same SCMs under interventions, with the same noise, errors and losses.

        A mapping {variable: value} sets variables, by number or name, to values: do(x = value), in the units of the
        SCM (those of `values`, unless columns are standardised by the sample). An `Intervention` is of the kind "hard",
        "shift", "scale" or "noise", with a constant value and named variables ("target", "parents", "children" too).
        Each acts in every environment, after those before it; what is set stays set unless it is set anew. Rows that a
        selection accepted are the same units: they are not selected anew.
        """
        from settx_fast.scm.counterfactual import intervened

        return resample(intervened(self, interventions), self.values.shape[1], seed=self.seed, attempt=self.attempt)


def sample(
    prior: Prior,
    num_datasets: int,
    num_rows: int,
    *,
    seed: int,
    first_index: int = 0,
    device: str | torch.device = "cpu",
    num_threads: int | None = None,
    return_noise: bool = False,
    out: Tensor | None = None,
) -> Batch:
    """Draw datasets first_index … first_index + num_datasets − 1 of the stream named by (prior, seed).

    A dataset is a pure function of (prior, seed, its index, num_rows): the same bits for any number of threads, any
    split into batches and any processor. Rows are split over the environments as evenly as possible, or by
    `prior.target_share`. num_threads: None for as many as torch uses. return_noise: keep the exogenous noise as
    `Batch.noise`. out: a contiguous float32 tensor (num_datasets, num_rows, prior.max_variables) that `values` are
    written to and then are; what it held is lost.

    device: where the batch is drawn and stays. On a CUDA device all work goes to torch's current stream, and nothing
    waits for it.

    Raises ValueError naming field, expected and got, before anything is allocated.
    """
    check_request(prior, num_datasets, num_rows, first_index)
    check_seed(seed)
    where, workers, wanted = check_device(device), threads(num_threads), _wanted(prior, return_noise)
    check_batch_memory(where, prior, num_datasets, num_rows, wanted)
    if out is not None:
        check_out(out, (num_datasets, num_rows, prior.max_variables), where)
    if where.type == "cuda":
        tables = draw_tables_cuda(where, prior, num_datasets, seed, first_index, workers)
    else:
        tables = draw_tables(prior, num_datasets, seed, first_index, workers)
    offset = split_rows(tables["is_target_environment"], tables["num_environments"], num_rows, prior.target_share)
    rows = _evaluate(prior, tables, offset, num_rows, seed, workers, wanted, out)
    tensors: dict[str, Any] = tables | rows
    return Batch(**tensors, prior=prior, seed=seed)


def resample(
    batch: Batch,
    num_rows: int,
    *,
    seed: int,
    environments: int | Tensor | None = None,
    observed: bool = True,
    attempt: Tensor | None = None,
    num_threads: int | None = None,
) -> Batch:
    """Fresh rows from the SCMs of `batch`; with `seed=batch.seed` and as many rows, the exogenous noise is the same.

    environments: None splits the rows over environments as `batch` does; a number, or one per dataset (B,) int64,
    draws every row from that environment (checked first, which waits for a CUDA device). observed: as `batch.values`,
    in the same units; without, as the SCM has them. attempt: (B, num_rows), those of `Batch.attempt` to take instead of
    selecting rows anew. Otherwise, on a CUDA device, as `sample`: a graph can capture it.
    """
    _check_rows(num_rows, 1 if environments is not None else batch.bias.shape[1])
    check_seed(seed)
    if environments is None:
        share = batch.prior.target_share
        offset = split_rows(batch.is_target_environment, batch.num_environments, num_rows, share)
    else:
        offset = rows_of_one_environment(_as_environments(batch, environments), batch.bias.shape[1], num_rows)
    tables = {name: getattr(batch, name).contiguous() for name in LAYOUT}
    wanted = _wanted(batch.prior, batch.noise is not None) if observed else Wanted(noise=batch.noise is not None)
    columns: Columns = "given" if wanted.columns == "standardised" else "raw"
    wanted = wanted._replace(columns=columns, attempt=attempt)
    rows = _evaluate(batch.prior, tables, offset, num_rows, seed, threads(num_threads), wanted)
    changed: dict[str, Any] = dict.fromkeys(ON_REQUEST) | rows
    return replace(batch, **changed, seed=seed)


def _wanted(prior: Prior, noise: bool) -> Wanted:
    columns: Columns = "standardised" if prior.standardisation == "sample" else "raw"
    return Wanted(columns, prior.is_observed, prior.loses_values, prior.rejects_rows, noise=noise)


def _evaluate(
    prior: Prior,
    tables: dict[str, Tensor],
    row_offset: Tensor,
    num_rows: int,
    seed: int,
    workers: int,
    wanted: Wanted,
    out: Tensor | None = None,
) -> dict[str, Tensor]:
    """`values`, `environment` and what is wanted, where the tables are."""
    if tables["bias"].is_cuda:
        return evaluate_tables_cuda(tables, row_offset, num_rows, seed, prior, wanted, out)
    return evaluate_tables(tables, row_offset, num_rows, seed, workers, wanted=wanted, out=out)


def check_device(device: str | torch.device) -> torch.device:
    """The device, with its number if it has one; ValueError unless the sampler runs there."""
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    check(found.type in ("cpu", "cuda"), "device", "'cpu', 'cuda' or 'cuda:' and a number", str(device))
    if found.type == "cpu":
        return found
    reason = why_no_cuda()
    check(not reason, "device", f"'cpu' ({reason})", str(device))
    count, index = torch.cuda.device_count(), torch.cuda.current_device() if found.index is None else found.index
    check(index < count, "device", f"'cuda:{count - 1}' at most", str(device))
    return torch.device("cuda", index)


def check_batch_memory(
    device: torch.device, prior: Prior, num_datasets: int, num_rows: int, wanted: Wanted | None = None
) -> None:
    """Raise ValueError if a batch does not fit the memory that `device` has."""
    sizes, wanted = sizes_of(prior, num_datasets), wanted or _wanted(prior, noise=False)
    if device.type == "cuda":
        check_memory_cuda(device, sizes, num_rows, wanted)
    else:
        check_memory(sizes, num_rows, wanted)


def check_request(prior: Prior, num_datasets: int, num_rows: int, first_index: object) -> None:
    """Raise ValueError unless that many datasets of `prior` can be drawn from `first_index` on."""
    check(isinstance(prior, Prior), "prior", "an scm.Prior", prior)
    check(is_int(num_datasets) and num_datasets >= 1, "num_datasets", "an int ≥ 1", num_datasets)
    _check_rows(num_rows, prior.max_environments)
    check(is_int(first_index) and first_index >= 0, "first_index", "an int ≥ 0", first_index)  # type: ignore[operator]
    last = first_index + num_datasets  # type: ignore[operator]
    check(last <= MAX_INDEX, "first_index + num_datasets", f"at most 2⁴⁸ = {MAX_INDEX}", last)


def _check_rows(num_rows: int, environments: int) -> None:
    expected = f"an int in 1…2³² that leaves a row for each of up to {environments} environments"
    check(is_int(num_rows) and environments <= num_rows <= 1 << 32, "num_rows", expected, num_rows)


def _as_environments(batch: Batch, environments: int | Tensor) -> Tensor:
    given = torch.as_tensor(environments, device=batch.device)
    check(given.dtype == torch.int64 and given.ndim <= 1, "environments", "an int or int64 (B,)", environments)
    check(
        given.ndim == 0 or len(given) == len(batch),
        "environments",
        f"one for each of {len(batch)}",
        len(given.view(-1)),
    )
    known = (given >= 0) & (given < batch.num_environments)
    check(
        bool(known.all()), "environments", f"below num_environments = {batch.num_environments.tolist()}", environments
    )
    return given.expand(len(batch))
