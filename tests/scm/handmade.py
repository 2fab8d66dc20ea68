"""Batches with hand-made tables, and rows that have exactly the moments of an SCM: what the properties are held to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from settx_fast.scm import MECHANISMS, Prior
from settx_fast.scm.batch import Batch


def make_batch(
    seed: int,
    num_datasets: int = 6,
    num_variables: tuple[int, int] = (2, 7),
    num_sources: tuple[int, int] = (1, 3),
    edge_probability: float = 0.5,
    hard_probability: float = 0.0,
) -> Batch:
    """Random linear SCMs that differ in every parameter between environments; padded, with unequal row counts."""
    rng = np.random.default_rng(seed)
    width, environments, rows = num_variables[1], num_sources[1] + 1, 60
    tables = _empty(num_datasets, environments, width, rows)
    for b in range(num_datasets):
        n, k = rng.integers(*num_variables, endpoint=True), rng.integers(*num_sources, endpoint=True) + 1
        order = rng.permutation(n)
        edge = np.zeros((n, n), bool)
        edge[np.ix_(order, order)] = np.triu(rng.random((n, n)) < edge_probability, 1)
        hard = rng.random((k, n)) < hard_probability
        weights = edge * rng.uniform(0.3, 1.5, (k, n, n)) * rng.choice([-1, 1], (k, n, n))
        tables["adjacency"][b, :n, :n] = edge
        tables["order"][b, :n] = order
        tables["order"][b, n:] = np.arange(n, width)
        tables["weights"][b, :k, :n, :n] = weights * ~hard[:, None, :]
        tables["bias"][b, :k, :n] = rng.normal(0, 1, (k, n))
        tables["noise_scale"][b, :k, :n] = rng.uniform(0.3, 1.5, (k, n)) * ~hard
        tables["hard"][b, :k, :n] = hard
        tables["num_variables"][b], tables["num_environments"][b] = n, k
        tables["target_index"][b] = rng.integers(n)
        tables["is_target_environment"][b, k - 1] = True
        tables["environment"][b] = np.sort(np.r_[np.arange(k), rng.integers(0, k, rows - k)])
    return _as_batch(tables)


def chain_batch(gamma, epsilon, eta_source, eta_target, alpha=0.7) -> Batch:
    """X → Y → Z with target Y, a dataset per entry of the arrays (B,); X has deviation 1 in the source, 0.4 after."""
    tables = _empty(len(gamma), 2, 3, 10)
    tables["adjacency"][:, 0, 1] = tables["adjacency"][:, 1, 2] = True
    tables["weights"][:, :, 0, 1] = alpha
    tables["weights"][:, :, 1, 2] = gamma[:, None]
    tables["noise_scale"][:, 0] = np.stack([np.ones_like(epsilon), epsilon, eta_source], 1)
    tables["noise_scale"][:, 1] = np.stack([np.full_like(epsilon, 0.4), epsilon, eta_target], 1)
    tables["order"][:] = [0, 1, 2]
    tables["num_variables"][:], tables["num_environments"][:], tables["target_index"][:] = 3, 2, 1
    tables["is_target_environment"][:, 1] = True
    tables["environment"][:, 5:] = 1
    return _as_batch(tables)


def hand_batch(edges, noise_scale, bias, target: int, hard=()) -> Batch:
    """A linear SCM: edges {(i, j): weight}, noise_scale and bias (K, V), hard [(k, v), …]; the target's k is last."""
    noise_scale, bias = np.array(noise_scale, np.float32), np.array(bias, np.float32)
    environments, width = noise_scale.shape
    tables = _empty(1, environments, width, 12 * environments)
    for (i, j), weight in edges.items():
        tables["adjacency"][0, i, j] = True
        tables["weights"][0, :, i, j] = weight
    tables["noise_scale"][0], tables["bias"][0], tables["order"][0] = noise_scale, bias, np.arange(width)
    for k, v in hard:
        tables["hard"][0, k, v] = True
        tables["weights"][0, k, :, v] = tables["noise_scale"][0, k, v] = 0
    tables["num_variables"][:], tables["num_environments"][:], tables["target_index"][:] = width, environments, target
    tables["is_target_environment"][0, -1] = True
    tables["environment"][0] = np.repeat(np.arange(environments), 12)
    return _as_batch(tables)


def exact_rows(batch: Batch, b: int, k: int, silence_target: bool = False) -> np.ndarray:
    """2n equally likely rows of environment k, of n variables: every noise in turn at ±√n, the others at zero.

    Such noise has mean 0 and covariance I, so the rows of a linear SCM have exactly its population moments.
    """
    n = int(batch.num_variables[b])
    noise = np.sqrt(n) * np.concatenate([np.eye(n), -np.eye(n)])
    return evaluate(batch, b, k, noise, silence_target)


def evaluate(batch: Batch, b: int, k: int, noise: np.ndarray, silence_target: bool = False) -> np.ndarray:
    """Rows of environment k for given standardised noise (R, n), one variable after the other."""
    weights, bias, scale = (t[b, k].double().numpy() for t in (batch.weights, batch.bias, batch.noise_scale))
    rows = np.zeros_like(noise)
    for v in batch.order[b, : noise.shape[1]].tolist():
        silent = silence_target and v == int(batch.target_index[b])
        rows[:, v] = bias[v] + (0.0 if silent else scale[v]) * noise[:, v]
        for p in np.flatnonzero(weights[: noise.shape[1], v]):
            rows[:, v] += weights[p, v] * rows[:, p]
    return rows


def pooled_rows(batch: Batch, b: int, target: bool, silence_target: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows (R, n) and their probabilities (R,) with exactly the pooled moments of the sources (or the target)."""
    counts = np.bincount(batch.environment[b].numpy(), minlength=batch.bias.shape[1])
    which = [k for k in range(int(batch.num_environments[b])) if bool(batch.is_target_environment[b, k]) == target]
    rows = [exact_rows(batch, b, k, silence_target) for k in which]
    share = np.concatenate([np.full(len(r), counts[k] / len(r)) for k, r in zip(which, rows, strict=True)])
    return np.concatenate(rows), share / share.sum()


def relabelled(batch: Batch, permutation: torch.Tensor) -> Batch:
    """The same SCMs with variable v of dataset b renamed permutation[b, v]; permutation (B, V) leaves padding alone."""
    old = permutation.argsort(1)  # (B, V): the old name of every new one

    def columns(table: torch.Tensor) -> torch.Tensor:
        index = old.view(len(old), *[1] * (table.dim() - 2), -1).expand(table.shape)
        return table.gather(-1, index)

    return replace(
        batch,
        values=columns(batch.values),
        adjacency=columns(columns(batch.adjacency).mT).mT,
        weights=columns(columns(batch.weights).mT).mT,
        bias=columns(batch.bias),
        noise_scale=columns(batch.noise_scale),
        hard=columns(batch.hard),
        centre=columns(batch.centre),
        gain=columns(batch.gain),
        column_centre=columns(batch.column_centre),
        column_gain=columns(batch.column_gain),
        is_hidden=columns(batch.is_hidden),
        error_scale=columns(batch.error_scale),
        order=permutation.gather(1, batch.order),
        target_index=permutation.gather(1, batch.target_index[:, None]).squeeze(1),
    )


def _empty(datasets: int, environments: int, width: int, rows: int) -> dict[str, np.ndarray]:
    per_environment = (datasets, environments, width)
    return {
        "values": np.zeros((datasets, rows, width), np.float32),
        "environment": np.zeros((datasets, rows), np.int64),
        "index": np.arange(datasets),
        "num_variables": np.zeros(datasets, np.int64),
        "num_environments": np.zeros(datasets, np.int64),
        "is_target_environment": np.zeros((datasets, environments), bool),
        "target_share": np.zeros(datasets, np.float32),
        "row_weight": np.zeros((datasets, environments), np.int64),
        "target_index": np.zeros(datasets, np.int64),
        "adjacency": np.zeros((datasets, width, width), bool),
        "order": np.zeros((datasets, width), np.int64),
        "weights": np.zeros((*per_environment, width), np.float32),
        "bias": np.zeros(per_environment, np.float32),
        "noise_scale": np.zeros(per_environment, np.float32),
        "hard": np.zeros(per_environment, bool),
        "intervention": np.zeros(per_environment, np.int8),
        "noise_kind": np.zeros((datasets, width), np.int64),
        "noise_parameters": np.zeros((datasets, width, 5), np.float32),
        "noise_effect": np.zeros((datasets, width), np.int64),
        "mechanism": np.full((datasets, width), MECHANISMS.index("linear")),
        "mechanism_offset": np.zeros(per_environment, np.int64),
        "mechanism_parameters": np.zeros(1, np.float32),
        "centre": np.zeros((datasets, width), np.float32),
        "gain": np.ones((datasets, width), np.float32),
        "column_centre": np.zeros((datasets, width), np.float32),
        "column_gain": np.ones((datasets, width), np.float32),
        "is_hidden": np.zeros((datasets, width), bool),
        "accept_variable": np.zeros((datasets, environments, 2), np.int64),
        "accept_slope": np.zeros((datasets, environments, 2), np.float32),
        "accept_intercept": np.zeros((datasets, environments, 2), np.float32),
        "error_scale": np.zeros((datasets, width), np.float32),
        "num_levels": np.zeros((datasets, width), np.int64),
        "thresholds": np.zeros((datasets, width, 0), np.float32),
        "codes": np.zeros((datasets, width, 0), np.float32),
        "loss_cause": np.zeros((datasets, width), np.int64),
        "loss_rate": np.zeros((datasets, width), np.float32),
        "loss_slope": np.zeros((datasets, width), np.float32),
        "loss_intercept": np.zeros((datasets, width), np.float32),
    }


def _as_batch(tables: dict[str, np.ndarray]) -> Batch:
    return Batch(**{name: torch.from_numpy(table) for name, table in tables.items()}, prior=Prior(), seed=0)
