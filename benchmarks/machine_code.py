"""What a kernel's machine code tells without a GPU: its main loop, what it waits for, and a floor on its time.

A floor assumes that every cycle issues an instruction, or moves a byte: kernels take longer, up to twice. It says what
a change of the code is worth, and that a change made nothing worse.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton

# an H100 SXM: multiprocessors, warp instructions a cycle on each, cycles and bytes a second (as measured)
MULTIPROCESSORS, ISSUED, CLOCK, BANDWIDTH = 132, 4, 1.755e9, 2.98e12
REGISTERS, SHARED, RESERVED, WARPS = 65_536, 233_472, 1024, 64  # of a multiprocessor; RESERVED bytes for each program
MATRIX = ("HGMMA", "HMMA", "IMMA", "UTCHMMA")
LOCAL = ("LDL", "STL")


@dataclass(frozen=True)
class Loop:
    """The main loop, counted for one warp: the innermost loop with the most matrix products, else the longest.

    Of loops with as many products the shortest: the others mask what lies outside a set, and turn once.
    """

    instructions: int
    local: int  # loads and stores of spilled registers
    barriers: int
    products: int
    wgmma: int  # of those
    alone: int  # of those, waited for before the next one starts: all where ptxas serialised them


NO_LOOP = Loop(0, 0, 0, 0, 0, 0)


def disassemble(cubin: bytes) -> str:
    """The machine code, as cuobjdump writes it."""
    return _cuobjdump(cubin, "-sass")


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread, as cuobjdump reads them from a compiled kernel."""
    listing = _cuobjdump(cubin, "-res-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    if found is None:
        raise RuntimeError(f"cuobjdump: expected REG and STACK, got {listing!r}")
    return int(found[1]), int(found[2])


def _cuobjdump(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout


def main_loop(sass: str) -> Loop:
    """The loop that a kernel spends its time in."""
    code = _instructions(sass)
    places = {address: i for i, (address, _) in enumerate(code)}
    spans = []
    for i, (_, text) in enumerate(code):
        target = re.search(r"\bBRA(?:\.\w+)* (?:!?U?P\w+, )?(0x[0-9a-f]+)", text)
        if target and (start := places.get(int(target[1], 16), i)) < i:
            spans.append((start, i))
    inner = [(a, b) for a, b in spans if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)]
    loops = [_count([_operation(text) for _, text in code[a : b + 1]]) for a, b in inner]

    def worth(loop: Loop) -> tuple[int, int]:
        return loop.products, -loop.instructions if loop.products else loop.instructions

    return max(loops, key=worth, default=NO_LOOP)


def _instructions(sass: str) -> list[tuple[int, str]]:
    found = re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", sass, re.MULTILINE)
    return [(int(address, 16), text) for address, text in found]


def _operation(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0]


def _count(operations: list[str]) -> Loop:
    kinds = Counter(operation.split(".")[0] for operation in operations)
    waits = "".join(
        "m" if operation.startswith("HGMMA") else "w"
        for operation in operations
        if operation.startswith(("HGMMA", "WARPGROUP.DEPBAR"))
    )
    alone = sum(len(run) == 1 for run in waits.split("w"))
    products = sum(kinds[name] for name in MATRIX)
    return Loop(len(operations), sum(kinds[name] for name in LOCAL), kinds["BAR"], products, kinds["HGMMA"], alone)


def stack_in_descriptor(sass: str) -> bool:
    """Whether a wgmma descriptor is made of the stack pointer, as ptxas 12.8 can: an illegal access when it runs."""
    return re.search(r"\bIADD3(?:\.X)? R\d+, R1, 0xc0000", sass) is not None


def resident(registers: int, shared: int, warps: int) -> int:
    """Programs that run on a multiprocessor of an H100 at once."""
    by_registers = REGISTERS // (-(-max(registers, 1) // 8) * 8 * 32 * warps)
    return min(by_registers, SHARED // (shared + RESERVED), WARPS // warps)


def issue_floor(loop: Loop, warps: int, tile_rows: int, rows: int) -> float:
    """Milliseconds that an H100 takes to issue the main loop's instructions for all rows, `tile_rows` an iteration."""
    return 1e3 * loop.instructions * warps / tile_rows * rows / (MULTIPROCESSORS * ISSUED * CLOCK)


def byte_floor(row_bytes: int, rows: int) -> float:
    """Milliseconds that an H100 takes to move so many bytes for each row."""
    return 1e3 * row_bytes * rows / BANDWIDTH
