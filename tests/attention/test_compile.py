"""The CPU path under torch.compile, torch.export and PyTorch's own checks of operators."""

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.export import Dim, export

from settx_fast import ISAB, PMA, SetTransformer
from settx_fast.attention.blockwise.broadcast import query_weights, scalars
from settx_fast.functional import Impl
from settx_fast.testing import VARIANTS, Shape, make_inputs

RAGGED = {
    "full": lambda n: {},
    "lengths": lambda n: {"lengths": torch.tensor([n, 0])},
    "mask": lambda n: {"mask": torch.arange(2 * n).view(2, n) % 3 > 0},
}


@pytest.mark.parametrize("ragged", RAGGED)
def test_one_compilation_without_breaks_serves_every_set_size(ragged: str) -> None:
    torch._dynamo.reset()
    model = nn.Sequential(ISAB(3, 8, 2, 4, ln=True, impl="blockwise"), PMA(8, 2, 3, impl="blockwise"))
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def pooled(x: Tensor, **sets: Tensor) -> Tensor:
        return model[1](model[0](x, **sets), **sets)

    compiled = torch.compile(pooled, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for size in (30, 47, 111):
        x, sets = torch.randn(2, size, 3, requires_grad=True), RAGGED[ragged](size)
        results = []
        for run in (compiled, pooled):
            out = run(x, **sets)
            results.append([out, *torch.autograd.grad(out.square().sum(), [x, *model.parameters()])])
        torch.testing.assert_close(*results)
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1


@pytest.mark.parametrize("impl", ["blockwise", "composed"])
def test_lengths_beyond_a_set_or_below_zero_are_clamped_where_nobody_can_look(impl: Impl) -> None:
    torch._dynamo.reset()
    layer, x = ISAB(3, 8, 2, 4, ln=True, impl=impl), torch.randn(3, 9, 3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    wrong, clamped = torch.tensor([12, -4, 5]), torch.tensor([9, 0, 5])
    torch.testing.assert_close(compiled(x, lengths=wrong), layer(x, lengths=clamped))
    torch.testing.assert_close(compiled(x, context_lengths=wrong), layer(x, context_lengths=clamped))


def test_default_choice_compiles_without_breaks() -> None:
    torch._dynamo.reset()
    layer = ISAB(3, 8, 2, 4, ln=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 9, 3)
    torch.testing.assert_close(compiled(x), layer(x))


def test_exported_program_takes_other_set_sizes() -> None:
    model = SetTransformer(3, 2, 5, num_inds=4, dim_hidden=16, num_heads=2, ln=True)
    shapes = {"x": {1: Dim("N", min=8, max=10_000)}, "lengths": None}
    arguments = (torch.randn(2, 30, 3),), {"lengths": torch.tensor([30, 4])}
    program = export(model, *arguments, dynamic_shapes=shapes, strict=False).module()
    x, lengths = torch.randn(2, 300, 3), torch.tensor([0, 299])
    torch.testing.assert_close(program(x, lengths=lengths), model(x, lengths=lengths))


@pytest.mark.parametrize("variant", ["plain", "tabular"])
def test_operators_pass_the_checks_of_torch_library(variant: str) -> None:
    inputs = make_inputs(Shape(2, 9, 8, 8, 2, 3, VARIANTS[variant]))
    spec, w = inputs.spec_b, inputs.weights_b
    queries = torch.randn(1, 1, 6, 8, requires_grad=True)
    keys, values = (torch.randn(2, 2, 3, 4, requires_grad=True) for _ in range(2))
    lengths = torch.tensor([9, 2])
    aggregate: tuple[Tensor | str | float | None, ...] = (
        *(inputs.x, lengths, None, queries, None, w.g0, w.b0),
        *(spec.norm, spec.norm_eps),
    )
    torch.library.opcheck(torch.ops.settx_fast.aggregate.default, aggregate)
    broadcast = (inputs.x, None, lengths, None, keys, values, None, query_weights(w, spec), *scalars(spec))
    torch.library.opcheck(torch.ops.settx_fast.broadcast.default, broadcast)
