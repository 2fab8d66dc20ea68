"""Examples for the selector: descriptors of sampled datasets and the true risk of every framework on them, in files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from settx_fast import scm
from settx_fast.predictor.frameworks import Sources, risks
from settx_fast.predictor.selector.across import FLOOR
from settx_fast.predictor.selector.descriptors import Descriptors, describe
from settx_fast.predictor.selector.fits import fits_of
from settx_fast.predictor.selector.truth import execute

AT_ONCE = 128
ALIKE = 32  # datasets of similar size that are computed together
WITHOUT_DEPLOYMENT = 0.1  # share of the datasets whose deployment nobody has seen


class Examples(NamedTuple):
    """descriptors of B datasets; log_risk (B, F): true, in units of the target's variance over the source rows.

    role (B, p) int64: true, an index into `targets.ROLES`, −1 where there is no column.
    """

    descriptors: Descriptors
    log_risk: Tensor
    role: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.log_risk)

    def part(self, index: Tensor | slice) -> Examples:
        """The datasets at index."""
        return Examples(Descriptors(*(t[index] for t in self.descriptors)), self.log_risk[index], self.role[index])


def draw(prior: scm.Prior, count: int, rows: int, seed: int, first_index: int, has_deployment: bool = True) -> Examples:
    """Datasets first_index … of the stream (prior, seed), `rows` rows each; those that are not finite are left out."""
    batch = scm.sample(prior, count, rows, seed=seed, first_index=first_index, num_threads=1)
    return of_batch(batch, has_deployment)


def of_batch(batch: scm.Batch, has_deployment: bool = True) -> Examples:
    """Examples from sampled datasets, without those that overflowed."""
    executed = execute(batch)
    role = scm.properties.role(batch.adjacency, batch.target_index, batch.num_variables)
    role = role.gather(1, executed.columns).where(executed.observed.present, -1)
    sources = executed.sources
    if not has_deployment:
        sources = sources._replace(deploy_rows=torch.zeros_like(sources.deploy_rows))
    parts = []
    for index, trimmed, columns in alike(sources, torch.nonzero(batch.is_finite).flatten()):
        fits = fits_of(trimmed)
        mean, covariance = executed.target_mean[index], executed.target_covariance[index]
        seen = mean[:, columns], covariance[:, columns][:, :, columns]
        true = risks(fits.whole, *seen).clamp(min=FLOOR).log().float()
        parts.append(Examples(describe(fits), true, role[index][:, columns[:-1]]))
    examples = joined(parts)
    return examples.part(examples.log_risk.isfinite().all(1))


def alike(sources: Sources, index: Tensor) -> Iterator[tuple[Tensor, Sources, Tensor]]:
    """Datasets at index in groups of similar size: their numbers, they, and their columns, the target last."""
    size = sources.is_there.sum(1) * (sources.present.shape[1] + 1) + sources.present.sum(1)  # by sources, then columns
    for group in index[size[index].argsort()].split(ALIKE):
        yield group, *_trimmed(sources.part(group))


def _trimmed(sources: Sources) -> tuple[Sources, Tensor]:
    """Without columns and sources that none of the datasets has; which columns (n + 1,) stay, the target last."""
    columns = torch.nonzero(sources.present.any(0)).flatten()
    every = torch.cat([columns, columns.new_tensor([sources.present.shape[1]])])
    number = int(sources.is_there.sum(1).max())  # those that are there come first
    trimmed = Sources(
        sources.mean[:, :number][..., every],
        sources.covariance[:, :number][..., every, :][..., every],
        sources.rows[:, :number],
        sources.present[:, columns],
        sources.deploy_mean[:, columns],
        sources.deploy_covariance[:, columns][:, :, columns],
        sources.deploy_rows,
        sources.centre[:, every],
        sources.scale[:, every],
    )
    return trimmed, every


def joined(parts: Sequence[Examples]) -> Examples:
    """One set of examples, padded to the most columns and sources."""
    columns = max(part.role.shape[1] for part in parts)
    sources = max(part.descriptors.sources.shape[1] for part in parts)
    padded = [_padded(part, columns, sources) for part in parts]
    descriptors = Descriptors(*(torch.cat(t) for t in zip(*(p.descriptors for p in padded), strict=True)))
    return Examples(descriptors, torch.cat([p.log_risk for p in padded]), torch.cat([p.role for p in padded]))


def draw_file(path: Path, prior: scm.Prior, count: int, rows: tuple[int, int], seed: int, first_index: int) -> None:
    """Write `count` examples unless the file is there; numbers of rows are log-uniform, the same for 128 datasets."""
    if path.exists():
        return
    random = torch.Generator().manual_seed((seed * 1_000_003 + first_index) % 2**63)
    parts = []
    for start in range(0, count, AT_ONCE):
        size, share = torch.rand(2, generator=random).tolist()
        number = round(rows[0] * (rows[1] / rows[0]) ** size)
        has_deployment = share >= WITHOUT_DEPLOYMENT
        parts.append(draw(prior, min(AT_ONCE, count - start), number, seed, first_index + start, has_deployment))
    write(joined(parts), path)


def write(examples: Examples, path: Path) -> None:
    """Write a file in one step: it is whole, or not there."""
    tensors = {name: _small(tensor) for name, tensor in examples.descriptors._asdict().items()}
    tensors |= {"log_risk": examples.log_risk, "role": examples.role.to(torch.int8)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
    os.replace(unfinished, path)


def read(path: Path) -> Examples:
    """The examples of a file."""
    tensors = load_file(path)
    descriptors = {name: tensors[name] for name in Descriptors._fields}
    floats = {name: t.float() if t.dtype == torch.float16 else t for name, t in descriptors.items()}
    return Examples(Descriptors(**floats), tensors["log_risk"], tensors["role"].long())


def read_all(files: Sequence[Path]) -> list[Examples]:
    """The examples of all files, joined by the part they belong to, which names them: those are of similar size."""
    by_part: dict[str, list[Examples]] = {}
    for file in files:
        by_part.setdefault(file.name.partition("-")[0], []).append(read(file))
    return [joined(several) for several in by_part.values()]


def batches(kinds: Sequence[Examples], size: int, seed: int) -> Iterator[Examples]:
    """Batches of one pass over all examples, in random order, each of one kind."""
    random = torch.Generator().manual_seed(seed)
    dealt = [(kind, index) for kind in kinds for index in torch.randperm(len(kind), generator=random).split(size)]
    for number in torch.randperm(len(dealt), generator=random).tolist():
        kind, index = dealt[number]
        yield kind.part(index)


def _small(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.dtype == torch.float32 else tensor


def _padded(part: Examples, columns: int, sources: int) -> Examples:
    pad = torch.nn.functional.pad
    given = part.descriptors
    p, k = columns - given.columns.shape[1], sources - given.sources.shape[1]
    descriptors = given._replace(
        columns=pad(given.columns, (0, 0, 0, p)),
        sources=pad(given.sources, (0, 0, 0, k)),
        is_column=pad(given.is_column, (0, p)),
        is_source=pad(given.is_source, (0, k)),
    )
    return Examples(descriptors, part.log_risk, pad(part.role, (0, p), value=-1))
