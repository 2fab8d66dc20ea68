"""Small training steps for compute-sanitizer: every layout of sets, absorbed and projected, one launch or many."""

from __future__ import annotations

import torch

from settx_fast import functional
from settx_fast.testing import TABULAR, Shape, make_inputs

STEPS = {
    "absorbed": (Shape(3, 200, 32, 32, 4, 5), torch.bfloat16),
    "projected": (Shape(2, 130, 32, 32, 4, 20, TABULAR), torch.bfloat16),
    "points": (Shape(2, 100, 3, 16, 2, 3), torch.float32),
    "many small": (Shape(300, 20, 16, 16, 2, 3), torch.bfloat16),
}


def main() -> None:
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
