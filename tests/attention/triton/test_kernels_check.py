"""The check of compiled kernels sees all of them and can fail; it compiles, so it runs without the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import dataclasses, functools, importlib, json, pathlib, pkgutil, sys, tempfile
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
import settx_fast.attention.triton
from benchmarks.kernel_launches import COVERING, PROBLEMS, Problem, train_step
from benchmarks.kernels_check import Launch, compile_ahead, fault, plan, record, unique
from settx_fast.attention.block import BlockSpec, BlockWeights
from settx_fast.attention.triton.aggregate import tiles
from settx_fast.attention.triton.broadcast.tiles import Block, forward_tiles
from settx_fast.attention.triton.broadcast.forward import broadcast_forward
from settx_fast.testing import Shape
from settx_fast.attention.sets import Sets

spec = BlockSpec(4, norm="layer")
meta = {"device": "meta", "dtype": torch.bfloat16}
x, k = torch.empty(2, 256, 64, **meta), torch.empty(2, 16, 64, **meta)
weights = BlockWeights(*(torch.empty(64, 64, **meta) for _ in range(8)), g0=k[0, 0], b0=k[0, 0], g1=k[0, 0], b1=k[0, 0])
fitting = forward_tiles(Block.of(spec, 64, 64, 16, torch.bfloat16))
package = settx_fast.attention.triton
names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
modules = [importlib.import_module(name) for name in names]
found = {
    "defined": [n for m in modules for n, f in vars(m).items() if isinstance(f, JITFunction) and n.endswith("_kernel")],
    "launched": [
        one.name
        for problem in COVERING
        for arch in (80, 90)  # persistent kernels are for sm_90, the others everywhere
        for one in record(problem, arch, functools.partial(train_step, PROBLEMS[problem]))
    ],
}
with tempfile.TemporaryDirectory() as folder:
    tiles.CONFIGS = pathlib.Path(folder)
    key = "B64 N16384 C128 D128 H4 M32 half"
    tile = {"block_r": 16, "block_n": 32, "warps": 4, "stages": 1}
    (tiles.CONFIGS / "sm_90-made-up.json").write_text(json.dumps({key: {"forward": tile}}))
    found["tables"] = sorted({(name, arch) for name, arch, table in plan() if table == "sm_90-made-up"})
    step = functools.partial(train_step, PROBLEMS["hidden"])
    for table in ("", "sm_90-made-up"):
        (scan,) = [one for one in record("hidden", 90, step, table) if one.name == "scan_kernel"]
        found["scan" + table[:5]] = [scan.queries, scan.options.num_warps]


def programs(batch, elements):
    step = functools.partial(train_step, Problem(Shape(batch, elements, 128, 128, 4, 32)))
    return {str((one.name, *dataclasses.astuple(one)[4:])) for one in record("", 90, step)}


found["new"] = {
    name: sorted(programs(*other) - programs(64, 4096))
    for name, other in {"elements": (64, 4001), "sets": (61, 4096), "both": (57, 3333)}.items()
}
for name, tiles in {"shipped": fitting, "oversized": dataclasses.replace(fitting, rows=256)}.items():
    launches = unique(record(name, 90, lambda: broadcast_forward(Sets(x), k, k, weights, spec, tiles)))
    found[name] = [dataclasses.asdict(compile_ahead(launch)) for launch in launches]
single = {"device": "meta", "dtype": torch.float32}
torch.set_float32_matmul_precision("high")
x, k = torch.empty(2, 256, 32, **single), torch.empty(2, 16, 32, **single)
norms = dict.fromkeys(("g0", "b0", "g1", "b1"), k[0, 0])
weights = BlockWeights(*(torch.empty(32, 32, **single) for _ in range(8)), **norms)
(tf32,) = record("tf32", 90, lambda: broadcast_forward(Sets(x), k, k, weights, spec))
source = ASTSource(tf32.kernel, tf32.signature, tf32.constants, tf32.attributes)
code = triton.compile(source, GPUTarget("cuda", 90, 32), tf32.options.__dict__).asm["ptx"]
found["tf32"] = ["tf32.tf32" in code, "-8192" in code]
shipped = launches[0]
found["limits"] = [
    fault(shipped, 0, 0, {"wgmma": 1, "mma": 0}), fault(shipped, 129, 0, {"wgmma": 1, "mma": 0}),
    fault(shipped, 0, 232_449, {"wgmma": 1, "mma": 0}), fault(shipped, 0, 0, {"wgmma": 0, "mma": 1}),
    fault(dataclasses.replace(shipped, name="absorbed_kernel"), 0, 0, {"wgmma": 0, "mma": 1}),
]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def found() -> dict[str, list]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_problems_of_every_test_run_launch_every_kernel(found: dict[str, list]) -> None:
    """A kernel is what its name ends with; what the name leaves out is called by kernels."""
    assert set(found["defined"]) == set(found["launched"])


def test_a_tuned_table_that_is_shipped_is_compiled_too(found: dict[str, list]) -> None:
    assert ["hidden", 90] in found["tables"]
    assert found["scan"] == [64, 4]
    assert found["scansm_90"] == [16, 4]


@pytest.mark.parametrize("other", ["elements", "sets", "both"])
def test_another_number_of_elements_or_sets_of_a_bucket_compiles_nothing_new(other: str, found: dict) -> None:
    """Types, constants and what Triton specialises numbers for are all that a program is compiled for."""
    assert found["new"][other] == []


def test_a_shipped_configuration_passes(found: dict[str, list]) -> None:
    (usage,) = found["shipped"]
    assert usage["kernel"] == "broadcast_forward_kernel"
    assert not usage["fault"]
    assert usage["registers"] > 0
    assert usage["wgmma"] > 0


def test_an_oversized_configuration_is_caught_spilling(found: dict[str, list]) -> None:
    (usage,) = found["oversized"]
    assert usage["stack"] > 128
    assert usage["fault"] == f"spills {usage['stack']} bytes"


def test_every_limit_is_held(found: dict[str, list]) -> None:
    fine, spilling, large, slow, backward = found["limits"]
    assert fine == ""
    assert spilling == "spills 129 bytes"
    assert large == "232449 bytes of shared memory, 232448 exist"
    assert slow == "no wgmma"
    assert backward == ""


def test_operands_of_tf32_are_rounded_to_it_before_tensor_cores_cut_bits_off(found: dict[str, list]) -> None:
    """Tensor cores multiply, and what they read went through the mask of 11 significant bits."""
    assert found["tf32"] == [True, True]
