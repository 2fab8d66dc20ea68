"""Registers and spills of every CUDA kernel on every architecture, from what the compiler says while it compiles.

cuda_resources.py record LOG nvcc ARGUMENTS…    compile and keep the compiler's words
cuda_resources.py check LOG                     print them as a table; exit status 1 for a spill
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

NAMES = (
    "draw_datasets|draw_all_parameters|prepare_datasets|evaluate_in_phases|evaluate_in_tiles|evaluate_in_place|"
    "write_noises|add_columns|find_units|apply_units"
)
WAYS = ("linear", "shallow", "deep")
MOST_SPILLED = 64
"""Bytes that the kernel of deep networks may store, 64 sums a thread: numbers that its inner loops do not change."""
FEW_SPILLED = 8
"""Bytes that other kernels that evaluate may store: two numbers at most, which they read once or twice a variable."""
KERNEL = re.compile(
    rf"Compiling entry function '\w*?(?P<kernel>{NAMES})"
    r"(?:ILi(?P<rows>\d+)ELi(?P<of>\d+)\w*?WayE(?P<way>\d)|ILb(?P<products>\d)E)?\w*'"
    r" for 'sm_(?P<arch>\d+)'\n.*\n\s+(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n.*Used (?P<registers>\d+) registers"
)
SPILL = re.compile(r"[1-9]\d* bytes spill")


def record(log: Path, command: list[str]) -> int:
    """Run the compiler; its report goes to `log`, anything else through."""
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode or "ptxas info" not in done.stderr:
        sys.stderr.write(done.stderr)
    else:
        log.write_text(done.stderr)
    return done.returncode


def check(log: Path) -> int:
    """Print the table; 1 if something spills that may not, or is not understood."""
    text = log.read_text()
    found = sorted((int(m["arch"]), _name(m), m) for m in KERNEL.finditer(text))
    print(f"{'sm':>4}  {'kernel':34} registers  stack  spilled")
    for arch, kernel, m in found:
        print(f"{arch:4}  {kernel:34} {m['registers']:>9}  {m['stack']:>5}  {int(m['stores']) + int(m['loads'])}")
    if len(found) != text.count("Compiling entry function") or not found:
        print("FAILED: a kernel is not understood; is its name in NAMES?")
        return 1
    spills = len(SPILL.findall(text)) - sum(len(SPILL.findall(m[0])) for _, _, m in found if _may_spill(m))
    if spills:
        print(f"FAILED: {spills} spills, in kernels or in functions that they call")
    return int(spills > 0)


def _may_spill(m: re.Match[str]) -> bool:
    if not m["kernel"].startswith("evaluate"):
        return False
    return int(m["stores"]) <= (MOST_SPILLED if m["way"] == str(WAYS.index("deep")) else FEW_SPILLED)


def _name(m: re.Match[str]) -> str:
    if m["rows"] is None:
        return f"{m['kernel']} products" if m["products"] == "1" else m["kernel"]
    return f"{m['kernel']} {WAYS[int(m['way'])]} {m['rows']} × {m['of']}"


if __name__ == "__main__":
    mode, log, *command = sys.argv[1:]
    sys.exit(record(Path(log), command) if mode == "record" else check(Path(log)))
