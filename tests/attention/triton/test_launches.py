"""Counted, not hoped: launches, and what a training step keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from triton.runtime.interpreter import InterpretedFunction

from settx_fast import functional
from settx_fast.attention.triton import gpu, plans, traces
from settx_fast.testing import SHAPES, VARIANTS, Inputs, Shape, make_inputs

CALLS = ["mm", "bmm", "add", "add_", "mul", "mul_", "sum", "copy_", "fill_", "zero_", "cat", "clone", "where"]
COMPUTE = {f"aten::{name}" for name in [*CALLS, "split_with_sizes_copy"]}

H100 = gpu.Gpu(90, gpu.SHARED_MEMORY[90], "")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counts what the interpreter would launch")


@contextmanager
def counted() -> Iterator[list[str]]:
    """Names of the kernels that are launched meanwhile (none runs) and, at the end, of library calls that compute."""
    launches: list[str] = []

    def note(kernel: InterpretedFunction, *args: object, grid: object, **kwargs: object) -> None:
        launches.append(kernel.fn.__name__)

    with mock.patch.object(InterpretedFunction, "run", note), profile(activities=[ProfilerActivity.CPU]) as profiler:
        yield launches
    for event in profiler.events():
        parents = []
        parent = event.cpu_parent
        while parent is not None:
            parents.append(parent.name)
            parent = parent.cpu_parent
        if event.name in COMPUTE and not COMPUTE & set(parents):
            launches.append(event.name)


def isab(inputs: Inputs) -> torch.Tensor:
    return functional.induced_set_attention(*inputs[:6], impl="triton")


@pytest.mark.parametrize("batch", [1, 16])
def test_isab_takes_at_most_6_launches_forward_and_24_with_backward(batch: int) -> None:
    """16 sets have so many latents that sums over them are split too, and fill one chunk of rows."""
    inputs = make_inputs(Shape(batch, 4096, 128, 128, 4, 32), dtype=torch.bfloat16)
    with counted() as forward:
        out = isab(inputs)
    with counted() as backward:
        out.backward(torch.empty_like(out))
    assert len(forward) <= 6, forward
    assert len(forward) + len(backward) <= 24, [*forward, *backward]


@pytest.mark.parametrize(("batch", "elements", "most"), [(1, 4096, 16), (16, 4096, 18), (64, 16_384, 30)])
def test_an_h100_goes_back_in_launches_that_grow_with_chunks_alone(batch: int, elements: int, most: int) -> None:
    """Forward and backward of the original block on rows of 128: two launches a chunk of rows, 14 beside them."""
    forward, backward = noted_step(Shape(batch, elements, 128, 128, 4, 32), H100)
    assert len(backward.launches) <= 24
    assert len(forward.launches) + len(backward.launches) <= most


def test_an_h100_takes_the_tabular_block_back_in_steps_whose_launches_grow_with_chunks_alone() -> None:
    once, more = ([*map(names_of, noted_step(replace(SHAPES["tabular"], batch=b), H100))] for b in (100, 300))
    assert sum(once, Counter()).total() <= 140
    assert once[0] == more[0]
    grown = {name for name, count in more[1].items() if count > once[1][name]}
    assert grown == {
        "attend_again_kernel", "hidden_back_kernel", "norm_back_kernel", "keys_back_kernel", "merge_keys_kernel",
        "queries_back_kernel", "project_kernel", "scores_back_kernel", "project_back_kernel",
    }  # fmt: skip


def names_of(call: plans.Noted) -> Counter[str]:
    """How often a call launches each kernel."""
    return Counter("zero" if step.kernel is None else step.kernel.fn.__name__ for step in call.launches)


def test_many_small_sets_take_one_launch_forward() -> None:
    inputs = make_inputs(Shape(4096, 128, 64, 64, 4, 16), dtype=torch.bfloat16)
    with counted() as forward:
        isab(inputs)
    assert forward == ["small_kernel"]


@pytest.mark.parametrize("batch", [2, 70_000])
def test_every_grid_has_one_axis(batch: int) -> None:
    """That axis holds 2³¹ − 1 programs; the others 65,535, fewer than sets there may be."""
    inputs = make_inputs(Shape(batch, 3, 8, 8, 1, 1))
    grids: list[tuple[int, ...]] = []

    def note(kernel: InterpretedFunction, *args: object, grid: tuple[int, ...], **kwargs: object) -> None:
        grids.append(tuple(grid))

    with mock.patch.object(InterpretedFunction, "run", note):
        isab(inputs).sum().backward()
    assert {len(grid) for grid in grids} == {1}
    assert batch <= max(grid[0] for grid in grids) < 2**31


@pytest.mark.parametrize("variant", ["original", "tabular"])
def test_nothing_of_set_size_is_kept_but_the_elements(variant: str) -> None:
    """4,099 elements: a prime, so that no other axis has a multiple of it."""
    inputs = make_inputs(Shape(2, 4099, 32, 32, 4, 20, VARIANTS[variant]))
    kept: list[torch.Tensor] = []
    with counted(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        isab(inputs)
    large = [t for t in kept if t.numel() >= 4099]
    assert [t.shape for t in large if t.data_ptr() != inputs.x.data_ptr() and t.numel() % 4099 == 0] == []
    assert any(t.data_ptr() == inputs.x.data_ptr() for t in large)


@pytest.mark.parametrize("variant", ["original", "tabular"])
def test_temporaries_of_a_step_do_not_grow_with_the_number_of_elements(variant: str) -> None:
    """Bytes that plans allocate beside x's gradient and the output, at 2 and 4 million elements."""
    small, large = (_temporaries(variant, n) for n in (2**21, 2**22))
    assert large <= 1.01 * small


@pytest.mark.parametrize("name", ["hidden", "tabular"])
@pytest.mark.parametrize("batch", [16, 64])
def test_temporaries_are_a_twentieth_of_what_the_reference_keeps(batch: int, name: str) -> None:
    """On an H100, in half precision, sets of 16,384 elements: forward, and backward beside what the forward keeps."""
    shape = replace(SHAPES[name], batch=batch)
    forward, backward = noted_step(shape, H100)
    kept = forward.layout.sizes[forward.buffer]
    assert max(scratch(forward), kept + scratch(backward)) <= 0.05 * kept_by_reference(shape)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", SHAPES)
def test_temporaries_of_every_named_shape_stay_below_192_mib(name: str, arch: int) -> None:
    found = gpu.Gpu(arch, gpu.SHARED_MEMORY[arch], "")
    assert max(scratch(step) for step in noted_step(SHAPES[name], found)) <= 192 * 2**20


def noted_step(shape: Shape, found: gpu.Gpu) -> tuple[plans.Noted, plans.Noted]:
    """Forward and backward of the ISAB of a shape in bfloat16, noted for a GPU."""
    meta = {"device": "meta", "dtype": torch.bfloat16}
    inputs = make_inputs(replace(shape, batch=1, elements=1), dtype=torch.bfloat16).to(torch.device("meta"))
    weights = [*traces.present(inputs.weights_a), *traces.present(inputs.weights_b)]
    lengths = torch.empty(shape.batch, dtype=torch.int64, device="meta") if shape.ragged else None
    sets = [torch.empty(shape.batch, shape.elements, shape.dim_in, **meta), lengths, None, None]
    grad, specs = (
        torch.empty(shape.batch, shape.elements, shape.dim, **meta),
        f"{inputs.spec_a.text}; {inputs.spec_b.text}",
    )
    step = [grad, *sets, torch.empty(1, dtype=torch.uint8, device="meta"), inputs.inducing, *weights]
    with gpu.standing_in(found):
        forward = plans.note(traces.isab, [*sets, inputs.inducing, *weights], specs)
        return forward, plans.note(traces.isab_backward, step, specs, True)


def scratch(call: plans.Noted) -> int:
    """Bytes of a call's temporaries."""
    return 0 if call.scratch is None else call.layout.sizes[call.scratch]


def kept_by_reference(shape: Shape) -> int:
    """Bytes that the formulas keep for their backward, beside inputs and output."""
    inputs = make_inputs(replace(shape, batch=1, elements=1), dtype=torch.bfloat16).to(torch.device("meta"))
    x = torch.empty(shape.batch, shape.elements, shape.dim_in, dtype=torch.bfloat16, device="meta", requires_grad=True)
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage()._cdata] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = functional.induced_set_attention(*inputs._replace(x=x)[:6], impl="reference")
    given = {t.untyped_storage()._cdata for t in (x, out, *inputs.parameters().values())}
    return sum(storage.nbytes() for number, storage in kept.items() if number not in given)


def _temporaries(variant: str, elements: int) -> int:
    inputs = make_inputs(Shape(1, 1, 32, 32, 4, 20, VARIANTS[variant])).to(torch.device("meta"))
    rows = torch.empty(1, elements, 32, device="meta")
    weights = [*traces.present(inputs.weights_a), *traces.present(inputs.weights_b)]
    sets, specs = [rows, None, None, None], f"{inputs.spec_a.text}; {inputs.spec_b.text}"
    forward = plans.planned(traces.isab, [*sets, inputs.inducing, *weights], specs)
    saved = torch.empty(1, dtype=torch.uint8, device="meta")
    step = [torch.empty_like(rows), *sets, saved, inputs.inducing, *weights]
    backward = plans.planned(traces.isab_backward, step, specs, True)
    return forward.num_bytes + backward.num_bytes
