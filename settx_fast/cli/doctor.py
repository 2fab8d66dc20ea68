"""`settx-fast doctor`: what this machine runs, why, and what to install."""

from __future__ import annotations

import json as json_text
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from settx_fast.cli._console import console

if TYPE_CHECKING:
    import torch

CORE = ("settx_fast", "torch", "numpy", "typer", "rich")
GPU = ("triton",)
APP = ("lightning", "torchmetrics", "tensorboard", "pandas", "pyarrow", "scikit-learn", "scipy", "matplotlib", "jinja2",
       "networkx", "safetensors", "pyyaml")  # fmt: skip
PATHS = {
    "triton": "fused Triton kernels",
    "blockwise": "blockwise PyTorch, recomputes in backward",
    "composed": "library calls, saves activations",
    "reference": "reference PyTorch",
}
BLOCKS: dict[str, dict[str, Any]] = {
    "original": {},
    "pre-norm GELU": {
        "norm": "layer", "norm_first": True, "residual": "input", "output_projection": True, "activation": "gelu",
        "ffn_dim": 256, "scale": "head",
    },
}  # fmt: skip

CALLS = {"forward": (False, 64), "training, small batch": (True, 64), "training, large sets": (True, 1_000_000)}
"""Whether a gradient is wanted, and elements of the set."""


@dataclass(frozen=True)
class Path:
    """Which implementation an operation gets on a device, and the reason where it is not the fused one."""

    operation: str
    device: str
    path: str
    reason: str | None


@dataclass(frozen=True)
class Advice:
    """Something to do; `needed` if a part of the package does not work without it."""

    needed: bool
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found; versions are None where a package is not installed."""

    versions: dict[str, str | None]
    machine: dict[str, str]
    native: dict[str, Any]
    paths: tuple[Path, ...]
    advice: tuple[Advice, ...]

    @property
    def healthy(self) -> bool:
        """Whether every part of the package works here."""
        return not any(advice.needed for advice in self.advice)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="Print three lines: GPU, set attention, sampler.")] = False,
) -> None:
    """Show versions, devices, which path every operation takes and why, and what to install.

    Exits with 1 if a part of the package does not work here.
    """
    diagnosis = diagnose()
    if json:
        typer.echo(json_text.dumps(asdict(diagnosis) | {"healthy": diagnosis.healthy}, indent=2))
    elif brief:
        typer.echo("\n".join(verdict(diagnosis)))
    else:
        show(diagnosis, console())
    raise typer.Exit(0 if diagnosis.healthy else 1)


def diagnose() -> Diagnosis:
    """Look at packages, devices and the native module."""
    versions = {name: _version(name) for name in ("python", *CORE, *GPU, *APP)}
    native = _native()
    return Diagnosis(versions, _machine(), native, tuple(_paths(native)), tuple(_advice(versions, native)))


def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, str]:
    import torch

    facts = {
        "platform": platform.platform(),
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "torch": f"built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}",
    }
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = f"{found.total_memory / 2**30:.0f} GiB"
        facts[f"cuda:{index}"] = f"{found.name}, capability {found.major}.{found.minor}, {memory}"
    return facts if torch.cuda.is_available() else facts | {"gpu": "none that torch can use"}


def _native() -> dict[str, Any]:
    """Where the native module is and what it was built with, or why it cannot be imported."""
    try:
        native = import_module("settx_fast._native")
    except ImportError as error:
        return {"found": False, "problem": str(error)}
    devices = native.find_devices()
    return {"found": True, "file": native.__file__, "cuda": devices.built_with_cuda, "cuda_devices": devices.count}


def _paths(native: dict[str, Any]) -> list[Path]:
    import torch

    cases = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        cases += [("cuda", dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    paths = [_path(block, call, device, dtype) for device, dtype in cases for block in BLOCKS for call in CALLS]
    sampler = ("native C++", None) if native["found"] else ("none", native["problem"])
    return [*paths, Path("scm.sample", "cpu", *sampler)]


def _path(block: str, call: str, device: str, dtype: torch.dtype) -> Path:
    import torch

    from settx_fast import ISAB
    from settx_fast.attention.choice import choose, why_not_triton

    wants_gradient, elements = CALLS[call]
    isab = ISAB(128, 128, 4, 32, device=device, dtype=dtype, **BLOCKS[block])
    x = torch.zeros(1, 1, 128, device=device, dtype=dtype).expand(1, elements, 128)
    blocks = [(mab.weights, mab.spec) for mab in (isab.mab0, isab.mab1)]
    with torch.set_grad_enabled(wants_gradient):
        chosen = choose(None, x, 32, *blocks)
    name = str(getattr(chosen, "__name__", chosen)).rsplit(".", 1)[-1]
    operation = f"ISAB {call}: {block}, {str(dtype).removeprefix('torch.')}"
    return Path(operation, device, PATHS.get(name, name), why_not_triton(x, 32, *blocks))


def _advice(versions: dict[str, str | None], native: dict[str, Any]) -> list[Advice]:
    import torch

    advice = []
    if not native["found"]:
        build = "in the source tree, `pip install .` builds it (it needs a C++17 compiler, nothing else)"
        advice.append(Advice(True, f"The sampler needs the native module, which is not there: {build}."))
    if missing := [name for name in APP if versions[name] is None]:
        install = "`pip install '.[app]'`"
        advice.append(Advice(True, f"The predictor needs {', '.join(missing)}: {install}."))
    has_gpu = os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi") is not None
    if has_gpu and not torch.cuda.is_available():
        what = "is built without CUDA: install the CUDA build" if torch.version.cuda is None else "cannot use it"
        advice.append(Advice(False, f"There is an NVIDIA driver, but this torch {what}."))
    if torch.cuda.is_available() and versions["triton"] is None:
        advice.append(Advice(False, "The fused kernels need triton: `pip install '.[gpu]'`."))
    if torch.cuda.is_available() and native["found"] and not native["cuda"]:
        advice.append(
            Advice(False, "The native module was built without CUDA: build it again where nvcc is on the path.")
        )
    return advice


def verdict(diagnosis: Diagnosis) -> tuple[str, str, str]:
    """What runs on the GPU, if there is one, in three lines."""
    machine, native = diagnosis.machine, diagnosis.native
    device = "cuda" if "cuda:0" in machine else "cpu"
    attention = [path for path in diagnosis.paths if path.device == device and path.operation.startswith("ISAB")]
    computed = "; ".join(dict.fromkeys(path.path for path in attention))
    why = next((f" ({path.reason})" for path in attention if path.reason), "")
    if native["found"]:
        on_gpu = "CUDA" if native["cuda"] else "built without CUDA"
        sampler = f"native C++, {on_gpu}; CUDA devices: {native['cuda_devices']}"
    else:
        sampler = f"none ({native['problem']})"
    return (
        f"GPU: {machine.get('cuda:0', 'none that torch can use')}",
        f"set attention: {computed}{why}",
        f"sampler: {sampler}",
    )


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print a diagnosis for people."""
    for title, facts in (
        ("Versions", diagnosis.versions),
        ("Machine", diagnosis.machine),
        ("Native module", diagnosis.native),
    ):
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, value in facts.items():
            table.add_row(name.replace("_", " ") if title == "Native module" else name, _text(value))
        console.print(table, "")
    table = Table(title="Which path an operation takes", title_justify="left", box=None, padding=(0, 2))
    for header in ("operation", "device", "path", "why not the fused one"):
        table.add_column(header)
    alike: dict[tuple[str, str, str], list[str]] = {}
    for path in diagnosis.paths:
        alike.setdefault((path.device, path.path, path.reason or ""), []).append(path.operation)
    for (device, name, reason), operations in alike.items():
        table.add_row(*map(escape, ("\n".join(operations), device, name, reason)))
    console.print(table, "")
    for advice in diagnosis.advice:
        bullet = f"[{'red' if advice.needed else 'yellow'}]•[/]"
        console.print(f"{bullet} {escape(advice.text)}", highlight=False, soft_wrap=True)
    if not diagnosis.advice:
        console.print("[green]✓[/] Nothing to install, nothing to fix.")


def _text(value: object) -> str:
    if value is None:
        return "[yellow]not installed[/]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value))
