"""Small training steps for compute-sanitizer: every layout of sets, absorbed and projected, one launch or many.

With a provider and a shape: its forward and training step instead, so that what they compile is in the caches.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.blocks import PROVIDERS, Problem
from settx_fast import functional
from settx_fast.testing import SHAPES, TABULAR, Shape, make_inputs

STEPS = {
    "absorbed": (Shape(3, 200, 32, 32, 4, 5), torch.bfloat16),
    "projected": (Shape(2, 130, 32, 32, 4, 20, TABULAR), torch.bfloat16),
    "points": (Shape(2, 100, 3, 16, 2, 3), torch.float32),
    "many small": (Shape(300, 20, 16, 16, 2, 3), torch.bfloat16),
}


def warm_up(provider: str, shape: str) -> None:
    """Compile for a shape."""
    inputs = make_inputs(SHAPES[shape], dtype=torch.bfloat16, device="cuda")
    PROVIDERS[provider](Problem("isab", inputs, False)).infer()
    PROVIDERS[provider](Problem("isab", inputs, True)).train()
    torch.cuda.synchronize()


def main() -> None:
    if sys.argv[1:]:
        warm_up(*sys.argv[1:])
        return
    for name, (shape, dtype) in STEPS.items():
        inputs = make_inputs(shape, dtype=dtype, device="cuda")
        sizes = torch.arange(shape.batch, device="cuda") * shape.elements // shape.batch  # the first set is empty
        functional.induced_set_attention(*inputs[:6], lengths=sizes, impl="triton").sum().backward()
        offsets = torch.nn.functional.pad(sizes, (1, 0)).cumsum(0)
        rows = inputs.x.detach().flatten(0, 1)[: int(offsets[-1])].clone().requires_grad_()
        jagged = torch.nested.nested_tensor_from_jagged(rows, offsets)
        functional.induced_set_attention(jagged, *inputs[1:6], impl="triton").values().sum().backward()
        torch.cuda.synchronize()
        print(f"{name}: stepped", flush=True)


if __name__ == "__main__":
    main()
