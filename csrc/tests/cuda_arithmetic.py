"""Every rounding of the CUDA code is the one that IEEE 754 says: no approximation, nothing flushed to zero.

cuda_arithmetic.py nvcc ARGUMENTS…    compile to PTX and look; exit status 1 for any other instruction
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

INSTRUCTION = re.compile(r"^\s+(?:@!?%p\d+ )?([a-z][a-z0-9._]+\.f(?:32|64))\b", re.MULTILINE)
ROUNDING = re.compile(r"\b(?:add|sub|mul|fma|mad|div|rcp|sqrt|rsqrt|ex2|lg2|sin|cos|tanh)\b")
EXACT = re.compile(r"^(?:(?:add|sub|mul|div|rcp|sqrt)\.rn\.f(?:32|64)|fma\.rn\.f32)$")


def main() -> int:
    """Compile and check."""
    done = subprocess.run([*sys.argv[1:], "-ptx", "-o", "-"], stdout=subprocess.PIPE, text=True, check=True)
    rounding = Counter(i for i in INSTRUCTION.findall(done.stdout) if ROUNDING.match(i))
    for instruction, count in sorted(rounding.items()):
        print(f"{count:6}  {instruction}{'' if EXACT.match(instruction) else '    FAILED: not as IEEE 754 says'}")
    return int(not rounding or not all(map(EXACT.match, rounding)))


if __name__ == "__main__":
    sys.exit(main())
