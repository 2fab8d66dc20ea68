"""What the machine code of the sampler's kernels holds: instructions a value, and registers that innermost loops lack.

cuda_instructions.py OBJECT    exit status 1 for too much of either, 77 without a disassembler

Counted is what a warp issues, in instructions of a thread, for datasets of 1000 rows and 20 variables with two parents
each: the three loops that draw noise, make values of it and write them out, and the shortest way through all that is
around them. Latency, conflicts and what runs beside them are not. No innermost loop that evaluates models may read or
write a register's place in memory.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

from sass import Kernel, Loop, disassembler, kernels_of

MOST = 56
SKIPPED = 77
COUNTED, LOOPED = 90, (80, 90, 100)  # architectures
EVALUATING = "evaluate_in_phases"  # what draws models keeps arrays in memory on purpose
KERNEL = f"{EVALUATING}ILi256ELi4ELNS0_3WayE0E"
IN_MEMORY = r"\b(LDL|STL)\b"
VARIABLES, ROWS, THREADS, TILES = 20, 1000, 128, 4
STEPS = 2  # of a turn of the loop that makes values: two parents of each are read in it, further ones in loops within
ROWS_OF_THREAD, VALUES_OF_NOISE, VALUES_OF_WRITE = 4, 8, 4


def main() -> int:
    """Disassemble, count, print."""
    if disassembler() is None:
        print("SKIPPED: no cuobjdump, neither of the toolkit nor of Triton")
        return SKIPPED
    kernels = {arch: kernels_of(Path(sys.argv[1]), arch) for arch in LOOPED}
    kernel = next(kernel for kernel in kernels[COUNTED] if KERNEL in kernel.name)
    parts = count(kernel)
    for name, number in parts.items():
        print(f"{number:6.1f}  {name}")
    total = sum(parts.values())
    print(f"{total:6.1f}  instructions a value{'' if total <= MOST else f'    FAILED: more than {MOST}'}")
    evaluating = [(arch, each) for arch, several in kernels.items() for each in several if EVALUATING in each.name]
    lacking = [line for arch, each in evaluating for line in _lacking(arch, each)]
    print(*lacking, f"{len(lacking)} innermost loops lack registers, on sm_{list(LOOPED)}", sep="\n")
    return int(total > MOST or bool(lacking))


def _lacking(arch: int, kernel: Kernel) -> list[str]:
    """Innermost loops that read or write what has no register."""
    return [
        f"FAILED: sm_{arch}, {kernel.name}: {number} in instructions {loop.first} to {loop.last}"
        for loop in kernel.loops
        if not _inner(kernel, loop) and (number := kernel.count(loop, IN_MEMORY))
    ]


def count(kernel: Kernel) -> dict[str, float]:
    """Instructions a value, by what they are for."""
    noise = _innermost(kernel, {r"MUFU\.RSQ": 4, r"MUFU\.RCP": 0})
    write = _last(kernel, {r"STG\.E\.128": 1, r"\bLDS\b": 4})
    near_edges = {r"STS\.128": STEPS, r"LDG": 2 * STEPS, r"LDS\.128": None}
    after_noise = [loop for loop in kernel.loops if noise.last < loop.first and _inner(kernel, loop)]
    values = next(loop for loop in after_noise if _has(kernel, loop, near_edges))
    tile = next(
        loop for loop in reversed(kernel.loops) if loop.holds(noise) and loop.holds(values) and loop.holds(write)
    )
    way = lambda start, end: len(kernel.way(start, end))  # noqa: E731
    reads = [i for i in _outside(kernel, values) if "LDS.128" in kernel.instructions[i]]
    steps = sum(way(here, there) for here, there in pairwise([values.first, *reads, values.last])) + 1
    around = (
        way(tile.first, noise.first)
        + way(noise.last + 1, values.first)
        + way(values.last + 1, write.first)
        + way(write.last + 1, tile.last)
    )
    laying_out = [loop for loop in kernel.loops if loop.last < tile.first and not _inner(kernel, loop)]
    before = way(0, tile.first) + sum(_length(loop) for loop in laying_out)
    return {
        "draw the noise": _length(noise) / VALUES_OF_NOISE,
        "make values of it, from two parents": steps / (STEPS * ROWS_OF_THREAD),
        "write them out": _length(write) / VALUES_OF_WRITE,
        "around these, for every tile": around * THREADS * TILES / (ROWS * VARIABLES),
        "lay out the model, once for all": before * THREADS / (ROWS * VARIABLES),
    }


def _length(loop: Loop) -> int:
    return loop.last - loop.first + 1


def _inner(kernel: Kernel, loop: Loop) -> list[Loop]:
    return [other for other in kernel.loops if loop.holds(other)]


def _outside(kernel: Kernel, loop: Loop) -> list[int]:
    """Instructions of a loop that are in none within."""
    inner = _inner(kernel, loop)
    return [i for i in range(loop.first, loop.last + 1) if not any(other.first <= i <= other.last for other in inner)]


def _has(kernel: Kernel, loop: Loop, numbers: dict[str, int | None]) -> bool:
    found = {pattern: kernel.count(loop, pattern) for pattern in numbers}
    return all(found[p] > 0 if number is None else found[p] == number for p, number in numbers.items())


def _innermost(kernel: Kernel, numbers: dict[str, int | None]) -> Loop:
    return next(loop for loop in kernel.loops if _has(kernel, loop, numbers) and not _inner(kernel, loop))


def _last(kernel: Kernel, numbers: dict[str, int | None]) -> Loop:
    return [loop for loop in kernel.loops if _has(kernel, loop, numbers) and not _inner(kernel, loop)][-1]


if __name__ == "__main__":
    sys.exit(main())
