"""Machine code of CUDA kernels: instructions, the ways through them, loops."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

FUNCTION = re.compile(r"\n\s*Function : (\S+)(.*?)(?=\n\s*Function : |\Z)", re.DOTALL)
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", re.MULTILINE)
TARGET = re.compile(r"\bBRA(?:\.\w+)*\s+.*?0x([0-9a-f]+)")


@dataclass(frozen=True)
class Loop:
    """Instructions from the first of a loop to the one that jumps back to it, by number."""

    first: int
    last: int

    def holds(self, other: Loop) -> bool:
        """Whether another is within."""
        return self != other and self.first <= other.first and other.last <= self.last


@dataclass(frozen=True)
class Kernel:
    """A kernel by its mangled name."""

    name: str
    instructions: tuple[str, ...]
    addresses: tuple[int, ...]

    @cached_property
    def successors(self) -> list[list[int]]:
        """Of every instruction, those that may come next."""
        number = {address: i for i, address in enumerate(self.addresses)}
        found = []
        for i, text in enumerate(self.instructions):
            branch, always = TARGET.search(text), not text.startswith("@")
            on = [] if always and re.match(r"(BRA|EXIT|RET|BRX)\b", text) else [i + 1]
            found.append(
                [n for n in (*on, *([number[int(branch[1], 16)]] if branch else [])) if n < len(self.addresses)]
            )
        return found

    @cached_property
    def loops(self) -> list[Loop]:
        """All loops, those that begin first first."""
        ends: dict[int, int] = {}
        for i, following in enumerate(self.successors):
            for target in following:
                if target <= i and not (target == i and self.instructions[i].startswith("BRA")):
                    ends[target] = max(i, ends.get(target, 0))
        return [Loop(*ends_of) for ends_of in sorted(ends.items())]

    def count(self, loop: Loop, pattern: str) -> int:
        """Instructions of a loop that a pattern is found in."""
        return sum(bool(re.search(pattern, text)) for text in self.instructions[loop.first : loop.last + 1])

    def way(self, start: int, end: int, avoid: str = "$^") -> list[int]:
        """The instructions on the shortest way from one to another, the other left out, past none with a pattern."""
        before, queue = {start: start}, deque([start])
        while queue and end not in before:
            here = queue.popleft()
            for following in self.successors[here]:
                if following not in before and not re.search(avoid, self.instructions[following]):
                    before[following] = here
                    queue.append(following)
        if end not in before:
            raise ValueError(f"{self.name}: no way from {start} to {end}")
        way = [end]
        while way[-1] != start:
            way.append(before[way[-1]])
        return way[:0:-1]


def disassembler() -> str | None:
    """cuobjdump, of the toolkit or of Triton."""
    spec = find_spec("triton")
    beside = [str(Path(spec.origin).parent / "backends/nvidia/bin")] if spec and spec.origin else []
    return next((found for path in (None, *beside) if (found := shutil.which("cuobjdump", path=path))), None)


def kernels_of(file: Path, arch: int | None = None) -> list[Kernel]:
    """All kernels of a file, of one architecture where it holds several."""
    chosen = [] if arch is None else ["-arch", f"sm_{arch}"]
    command = [disassembler() or "cuobjdump", "-sass", *chosen, str(file)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    kernels = []
    for name, body in FUNCTION.findall("\n" + text):
        lines = INSTRUCTION.findall(body)
        kernels.append(Kernel(name, tuple(text for _, text in lines), tuple(int(address, 16) for address, _ in lines)))
    return kernels
