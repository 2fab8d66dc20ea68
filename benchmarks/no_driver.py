"""Run the CUDA path without a GPU: real dispatch, programs compiled for an H100, real launchers, a driver of no-ops.

Tensors lie on the CPU, where nothing reads or writes them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

ARCH = 90
SOURCE = Path(__file__).with_suffix(".c")
FOLDER = Path(__file__).parents[1] / "build" / "no_driver"


@cache
def library() -> ctypes.CDLL:
    """The driver, in place of libcuda.so.1: to be loaded before Triton's launcher is."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("CC: expected a C compiler, found none")
    built = FOLDER / "libcuda.so.1"
    if not built.exists() or built.stat().st_mtime < SOURCE.stat().st_mtime:
        FOLDER.mkdir(parents=True, exist_ok=True)
        ours = built.with_name(f"{built.name}.{os.getpid()}")
        command = [compiler, "-O2", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(SOURCE), "-o", str(ours)]
        subprocess.run(command, check=True)
        ours.replace(built)
    os.environ["TRITON_LIBCUDA_PATH"] = str(FOLDER)  # what Triton links its launchers with
    return ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)


def driver() -> Any:
    """What Triton asks: its own launcher and loader, with devices and streams that cost nothing."""
    library()
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaLauncher, CudaUtils

    class Driver:
        launcher_cls = CudaLauncher

        def __init__(self) -> None:
            self.utils = CudaUtils()

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", ARCH, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def allocate_default_profile_scratch(self, *args: Any) -> None:
            return None

    return Driver()


@contextmanager
def pretending() -> Iterator[ctypes.CDLL]:
    """Tensors on the CPU are taken for those of an H100; yields the driver."""
    import triton

    from settx_fast.attention import choice
    from settx_fast.attention.triton import gpu, launch

    found = gpu.Gpu(ARCH, gpu.SHARED_MEMORY[ARCH], "")
    patches = {(choice, "_missing"): None, (gpu, "of"): found, (launch, "is_compiled_for"): True}
    before = triton.runtime.driver._active  # asking for it would look for a GPU
    triton.runtime.driver.set_active(driver())
    with ExitStack() as stack:
        stack.callback(triton.runtime.driver.set_active, before)
        for (module, name), value in patches.items():
            # a mock's call would take longer than what is measured
            stack.enter_context(mock.patch.object(module, name, new=partial(_constant, value)))
        yield library()


def _constant(value: Any, *args: Any) -> Any:
    return value
