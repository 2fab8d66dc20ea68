"""Every rounding of the CUDA code is the one that IEEE 754 says: no approximation that stands, nothing flushed to zero.

cuda_arithmetic.py nvcc ARGUMENTS…    compile to PTX and look; exit status 1 for any other instruction

Two approximations are refined at once, by steps that end in one correct rounding. The reciprocal of the quotient of
tanh: refinements.cpp tries every number with every reciprocal that the device may give. The reciprocal root of a
normal's radius: its steps are those of the device's own square root, which is compared here in machine code, and
refinements.cpp shows that no number is outside the range in which the device takes them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from sass import Kernel, disassembler, kernels_of

INSTRUCTION = re.compile(r"^\s+(?:@!?%p\d+ )?([a-z][a-z0-9._]+\.f(?:32|64))\b", re.MULTILINE)
ROUNDING = re.compile(r"\b(?:add|sub|mul|fma|mad|div|rcp|sqrt|rsqrt|ex2|lg2|sin|cos|tanh)\b")
EXACT = re.compile(r"^(?:(?:add|sub|mul|div|rcp|sqrt)\.rn\.f(?:32|64)|fma\.rn\.f32)$")
REFINED = {"rcp.approx.ftz.f32": "refine_quotient", "rsqrt.approx.ftz.f32": "refine_root"}

ROOTS = Path(__file__).parent / "roots.cu"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
ARITHMETIC = re.compile(r"^(FMUL|FFMA|FADD|MUFU\.RSQ|FMNMX\w*)(?:\.FTZ)? (R\d+), (.*?)\s*$")


def main() -> int:
    """Check the instructions, and the steps of the root."""
    command = sys.argv[1:]
    done = subprocess.run([*command, "-ptx", "-o", "-"], stdout=subprocess.PIPE, text=True, check=True)
    rounding = Counter(i for i in INSTRUCTION.findall(done.stdout) if ROUNDING.match(i))
    wrong = [i for i in rounding if not EXACT.match(i) and i not in REFINED]
    for instruction, count in sorted(rounding.items()):
        told = f"    refined: {REFINED[instruction]}" if instruction in REFINED else ""
        print(f"{count:6}  {instruction}{'    FAILED: not as IEEE 754 says' if instruction in wrong else told}")
    others = [architecture for architecture in ARCHITECTURES if not roots_agree(command[0], architecture)]
    return int(not rounding or bool(wrong) or bool(others))


def roots_agree(nvcc: str, architecture: str) -> bool:
    """Whether the refined root takes the steps of the device's own."""
    if disassembler() is None:
        print("the steps of the root were not compared: no cuobjdump, neither of the toolkit nor of Triton")
        return True
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "roots.cubin"
        options = ["-std=c++17", "-fmad=false", "-ftz=false", "-prec-sqrt=true", f"-arch={architecture}"]
        subprocess.run([nvcc, *options, "-cubin", "-o", str(cubin), str(ROOTS)], check=True)
        steps = {kernel.name: steps_of(kernel) for kernel in kernels_of(cubin)}
    own, refined = (next(s for name, s in steps.items() if kind in name) for kind in ("of_device", "refined"))
    print(f"{architecture}: √x = {refined}{'' if own == refined else f'    FAILED: the device has {own}'}")
    return own == refined


def steps_of(kernel: Kernel) -> str:
    """What is stored, as an expression in what was loaded (x) and its reciprocal root (y)."""
    store = next(i for i, text in enumerate(kernel.instructions) if text.startswith("STG"))
    known: dict[str, str] = {}
    for i in kernel.way(0, store, avoid="CALL"):
        text = kernel.instructions[i].replace(".reuse", "")
        if text.startswith("LDG"):
            known[re.findall(r"R\d+", text)[0]] = "x"
        if not (step := ARITHMETIC.match(text)):
            continue
        name, target, operands = step.groups()
        given = [_operand(operand.strip(), known) for operand in operands.split(",")]
        if name.startswith("FMNMX"):
            known[target] = "x"  # away from 0
        elif name == "MUFU.RSQ":
            known[target] = "y"
        else:
            product = "·".join(sorted(given[:2]))
            known[target] = product if name == "FMUL" else f"({product} + {given[2]})"
    return known[re.findall(r"R\d+", kernel.instructions[store])[-1]]


def _operand(text: str, known: dict[str, str]) -> str:
    sign = "−" if text.startswith("-") else ""
    return sign + known.get(text.lstrip("-"), text.lstrip("-"))


if __name__ == "__main__":
    sys.exit(main())
