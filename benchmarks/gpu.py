"""All that a CUDA GPU can prove, in one command of at most nine minutes: build, test on the device, then time.

Needs an environment with torch, triton, pytest and nvcc, and no network: python -m benchmarks.gpu
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

import torch

LIMIT_SECONDS = 540.0


@dataclass(frozen=True)
class Stage:
    """One command; nothing is timed that has not passed its tests."""

    name: str
    command: tuple[str, ...]
    seconds: float


STAGES = (
    Stage("build", ("pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", "."), 150),
    Stage("test the kernels on the device", ("pytest", "tests/kernels", "-n", "4", "-p", "no:cacheprovider"), 240),
    Stage("test the sampler on the device", ("pytest", "tests/scm/test_cuda.py", "-p", "no:cacheprovider"), 90),
    Stage("time the sampler", ("benchmarks.scm_gpu",), 60),
    Stage("time ISAB", ("benchmarks.isab", "--device", "cuda", "--compiled", "--seconds", "1"), 240),
)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("make gpu: expected a CUDA GPU that torch can use, found none (settx-fast doctor says why)")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    end = time.monotonic() + LIMIT_SECONDS
    for stage in STAGES:
        print(f"── {stage.name}", flush=True)
        start = time.monotonic()
        allowed = min(stage.seconds, end - start)
        try:
            subprocess.run([sys.executable, "-m", *stage.command], check=True, timeout=allowed)
        except subprocess.TimeoutExpired:
            sys.exit(f"make gpu: '{stage.name}' ran past its {allowed:.0f} seconds")
        except subprocess.CalledProcessError as error:
            sys.exit(f"make gpu: '{stage.name}' failed with exit code {error.returncode}")
        print(f"   {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
