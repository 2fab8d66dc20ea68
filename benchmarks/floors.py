"""Floors on the time of the named shapes' large kernels on an H100, and what they were when last recorded."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import triton

from benchmarks.machine_code import Loop, byte_floor, issue_floor
from settx_fast.testing import Shape

RECORDED = Path(__file__).parent / "results" / "floors.csv"
SLACK = 1.02  # a floor that rises by more than this fails the check
# features of a row that a kernel reads and writes, as multiples of C and D
TRAFFIC = {
    "scan_kernel": (1, 0), "scan_heads_kernel": (1, 0),
    "broadcast_forward_kernel": (1, 1), "resident_forward_kernel": (1, 1),
    "attend_forward_kernel": (1, 1), "dense_forward_kernel": (1, 2),
    "layers_pass_kernel": (1, 4), "attention_pass_kernel": (2, 1),
}  # fmt: skip


class Floors(NamedTuple):
    """Bytes of a row by formula, and milliseconds for all rows: to issue the instructions, to move the bytes."""

    row_bytes: int
    issue_ms: float
    byte_ms: float


NO_FLOORS = Floors(0, 0.0, 0.0)


def floors(kernel: str, constants: dict[str, Any], loop: Loop, warps: int, shape: Shape, itemsize: int) -> Floors:
    """Floors of a launch for a shape; none for a kernel that TRAFFIC does not know."""
    if kernel not in TRAFFIC or not loop.instructions:
        return NO_FLOORS
    elements, features = TRAFFIC[kernel]
    row_bytes = itemsize * (elements * shape.dim_in + features * shape.dim)
    rows, passes = shape.batch * shape.elements, 1
    if "BLOCK_R" in constants:  # every element meets all folded queries, a block at a time
        passes = triton.cdiv(shape.heads * shape.inducing, constants["BLOCK_R"] * constants.get("HEADS", 1))
    tile_rows = constants["BLOCK_N"] if "BLOCK_N" in constants else constants["tiles"].rows
    return Floors(row_bytes, issue_floor(loop, warps, tile_rows, rows * passes), byte_floor(row_bytes, rows))


def rise(problem: str, kernel: str, issue_ms: float) -> str:
    """What to say of a floor that rose since it was recorded with this Triton, empty where it did not."""
    before = recorded().get((problem, kernel, triton.__version__))
    if before is None or issue_ms <= SLACK * before:
        return ""
    return f"{issue_ms:.3f} ms to issue its instructions on an H100, {before:.3f} ms when last recorded"


@cache
def recorded() -> dict[tuple[str, str, str], float]:
    """Milliseconds to issue instructions, by problem, kernel and version of Triton."""
    if not RECORDED.exists():
        return {}
    with RECORDED.open(newline="") as file:
        return {(r["problem"], r["kernel"], r["triton"]): float(r["issue_ms"]) for r in csv.DictReader(file)}


def save(found: Iterable[tuple[str, str, float]]) -> None:
    """Record floors (problem, kernel, milliseconds) for this Triton; those of other versions and problems stay."""
    rows = recorded() | {(problem, kernel, triton.__version__): ms for problem, kernel, ms in found}
    with RECORDED.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("problem", "kernel", "triton", "issue_ms"))
        writer.writerows((*key, f"{ms:.4f}") for key, ms in sorted(rows.items()))
    recorded.cache_clear()
