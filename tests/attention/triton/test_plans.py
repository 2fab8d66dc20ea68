"""Plans: what is noted is what would be launched, calls of other metadata get plans of their own, memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from triton import knobs
from triton.runtime.interpreter import InterpretedFunction

from settx_fast import functional
from settx_fast.attention import shortcuts
from settx_fast.attention.block import BlockSpec
from settx_fast.attention.sets import Sets
from settx_fast.attention.triton import launch, plans, traces
from settx_fast.attention.triton.aggregate.forward import aggregate_forward
from settx_fast.attention.triton.broadcast.forward import broadcast_forward
from settx_fast.attention.triton.launchers import Place, hooked
from settx_fast.nn import ISAB
from settx_fast.testing import VARIANTS, Inputs, Shape, make_inputs

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="notes what the interpreter would launch")
SMALL = Shape(2, 9, 16, 16, 2, 3)


@pytest.fixture
def table() -> Iterator[plans.Table]:
    """Tables of plans and shortcuts of the test's own."""
    with (
        mock.patch.object(plans, "PLANS", plans.Table(8)) as table,
        mock.patch.object(plans, "MET", shortcuts.Calls(8)),
        mock.patch.object(shortcuts, "CALLS", shortcuts.Calls(8)),
    ):
        yield table


def isab(inputs: Inputs, x: Tensor | None = None, **sets: Any) -> Tensor:
    return functional.induced_set_attention(inputs.x if x is None else x, *inputs[1:6], impl="triton", **sets)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plan_has_the_bits_of_the_launch_code_on_tensors(variant: str, device: torch.device) -> None:
    inputs = make_inputs(Shape(2, 9, 16, 16, 2, 3, {**VARIANTS[variant]}), device=device)
    weights = [*traces.present(inputs.weights_a), *traces.present(inputs.weights_b)]
    stage = traces.stage_of(weights, f"{inputs.spec_a.text}; {inputs.spec_b.text}")
    sets = Sets(inputs.x.detach())
    with torch.no_grad():
        kept = aggregate_forward(sets, inputs.inducing, stage)
        assert stage.next_spec is not None
        out = broadcast_forward(sets, *traces.keys_values(kept), stage.next_weights, stage.next_spec)
        assert torch.equal(isab(inputs), out)


def test_a_tensor_in_the_middle_of_memory_is_read_where_it_lies(device: torch.device) -> None:
    """At an address that is no multiple of 16, as plans assume."""
    inputs = make_inputs(SMALL, device=device)
    memory = torch.empty(inputs.x.numel() + 1, device=device)
    x = memory[1:].view_as(inputs.x).copy_(inputs.x.detach())
    assert x.data_ptr() % 16
    assert torch.equal(isab(inputs, x), isab(inputs, inputs.x.detach()))


@dataclass
class Kernel:
    """Stands for a kernel: notes whether it was compiled or run."""

    log: list[str]

    def run(self, *args: object, grid: tuple[int], warmup: bool, **options: object) -> None:
        self.log.append("compile" if warmup else "run")


def test_what_is_noted_is_not_run() -> None:
    log: list[str] = []
    with launch.noted() as launches:
        launch.launch(Kernel(log), 3, 7)
        launch.zero(torch.ones(2))
    assert [step.programs for step in launches] == [3, 1]
    assert not log
    launch.launch(Kernel(log), 3, 7)
    assert log == ["run"]


def test_temporaries_share_bytes_where_no_launch_needs_both() -> None:
    first, second, third = (torch.empty(size, dtype=torch.uint8, device="meta") for size in (512, 256, 300))

    def trace(inputs: list[torch.Tensor]) -> plans.Traced:
        for used in ((first,), (first, second), (second, third), (third,)):
            launch.launch(Kernel([]), 1, used)
        return plans.Traced([torch.empty_like(inputs[0])])

    call = plans.note(trace, [torch.empty(1, device="meta")])
    places = [call.layout.place(t) for t in (first, second, third)]
    assert [place.start for place in places] == [0, 512, 0]
    assert call.layout.sizes[call.scratch] == 768


def test_after_an_error_while_noting_kernels_run_again() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="no room"), launch.noted():
        raise ValueError("no room")
    launch.launch(Kernel(log), 1)
    assert log == ["run"]


def test_all_programs_are_compiled_before_any_runs() -> None:
    log: list[str] = []
    with launch.noted() as launches:
        for _ in range(2):
            launch.launch(Kernel(log), 1)
    launch.compile_side_by_side(launches)
    assert log == ["compile", "compile"]


def test_an_error_of_the_compiler_reaches_the_caller() -> None:
    class Broken:
        def run(self, *args: object, **options: object) -> None:
            raise RuntimeError("does not compile")

    with pytest.raises(RuntimeError, match="does not compile"):
        launch.compile_side_by_side([launch.Launch(Broken(), 1, (), {})])


def test_casts_and_sums_between_launches_are_those_of_pytorch(device: torch.device) -> None:
    x, y = torch.randn(2, 1500, device=device), torch.randn(2, 1500, device=device)
    assert torch.equal(launch.cast(x, torch.float16), x.half())
    assert launch.cast(x, torch.float32) is x
    total = x[0].half()
    expected = total + y[1].half()
    launch.add_(total, y[1].half())
    assert torch.equal(total, expected)
    assert not launch.zero(y).any()


@interpreted
@pytest.mark.usefixtures("table")
def test_a_call_of_known_metadata_notes_nothing_again() -> None:
    inputs = make_inputs(SMALL)
    with mock.patch.object(InterpretedFunction, "run"), mock.patch.object(plans, "note", wraps=plans.note) as note:
        for _ in range(3):
            isab(inputs).sum().backward()
    assert note.call_count == 2


CHANGES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "in place": lambda old, new: old.data.copy_(new),
    "other data": lambda old, new: setattr(old, "data", new.clone()),
    "set": lambda old, new: old.data.set_(new.clone()),
    "storage moved": lambda old, new: (old.untyped_storage().resize_(0), setattr(old, "data", new.clone())),
    "other layout": lambda old, new: setattr(old, "data", new.mT.contiguous().mT),
    "odd address": lambda old, new: setattr(old, "data", torch.empty(new.numel() + 1)[1:].view_as(new).copy_(new)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_met_before_reads_its_tensors_as_they_are_now(change: str, device: torch.device) -> None:
    """The same objects: what is known again is their metadata, and addresses are asked for in every call."""
    layer, fresh = (ISAB(16, 16, 2, 3, ln=True, impl="triton", device=device) for _ in range(2))
    x = torch.randn(1, 5, 16, device=device)
    layer(x).sum().backward()
    weight = layer.mab1.fc_o.weight
    with torch.no_grad():
        CHANGES[change](weight, 3 * torch.randn(16, 16, device=device))
    fresh.load_state_dict(layer.state_dict())
    outcomes = []
    for model in (layer, fresh):
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        outcomes.append([out, *(p.grad for p in model.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*outcomes, strict=True))


def test_weights_of_another_layout_in_the_backward_are_read_as_they_lie(device: torch.device) -> None:
    """`data` may be exchanged between forward and backward, which autograd does not notice."""
    layer = ISAB(16, 16, 2, 3, impl="triton", device=device)
    x, weight, gradients = torch.randn(1, 5, 16, device=device), layer.mab0.fc_v.weight, []
    for other in (False, True):
        layer.zero_grad()
        out = layer(x)
        if other:
            weight.data = weight.detach().mT.contiguous().mT
        out.square().sum().backward()
        gradients.append([p.grad for p in layer.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("with_grad", [False, True])
def test_a_tensor_that_outlived_its_transform_is_computed_like_any_other(with_grad: bool, device: torch.device) -> None:
    inputs, kept = make_inputs(SMALL, device=device), []
    torch.func.grad(lambda t: (kept.append(t), t.sum())[1])(inputs.x.detach())
    for _ in range(2):
        with torch.set_grad_enabled(with_grad):
            assert torch.equal(isab(inputs, kept[0]), isab(inputs, inputs.x.detach()))


@interpreted
@pytest.mark.parametrize("what", ["elements", "sets", "stride", "dtype", "lengths", "precision", "spec"])
def test_other_metadata_has_a_plan_of_its_own(what: str, table: plans.Table) -> None:
    before = torch.get_float32_matmul_precision()
    with mock.patch.object(InterpretedFunction, "run"):
        inputs, more = make_inputs(SMALL), {}
        isab(inputs)
        if what == "precision":
            torch.set_float32_matmul_precision("highest" if before != "highest" else "high")
        elif what == "lengths":
            more["lengths"] = torch.tensor([9, 3])
        elif what == "spec":
            inputs = inputs._replace(spec_a=BlockSpec(2, "layer", activation="gelu"))
        elif what == "dtype":
            inputs = inputs.to(torch.float16)
        x = {
            "elements": torch.randn(2, 8, 16),
            "sets": torch.randn(3, 9, 16),
            "stride": torch.randn(9, 2, 16).transpose(0, 1),
        }.get(what, inputs.x)
        try:
            isab(inputs, x, **more)
        finally:
            torch.set_float32_matmul_precision(before)
    assert len(table) == 2


@interpreted
def test_a_thousand_set_sizes_leave_a_bounded_table() -> None:
    inputs = make_inputs(SMALL)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 5000, (1000,), generator=generator).tolist()
    table, met, calls = plans.Table(16), shortcuts.Calls(16), shortcuts.Calls(16)
    programs: set[tuple[Any, ...]] = set()

    def note(kernel: InterpretedFunction, *args: object, grid: object, warmup: bool, **options: object) -> None:
        """What a program is compiled for: constants, and which numbers are 1 or multiples of 16."""
        numbers = [(n == 1, n % 16 == 0) for n in args if type(n) is int]
        constants = [c for c in args if isinstance(c, bool | str)]
        programs.add((kernel.fn.__name__, *numbers, *constants, *sorted(options.items())))

    with (
        torch.no_grad(),
        mock.patch.object(InterpretedFunction, "run", note),
        mock.patch.object(plans, "PLANS", table),
        mock.patch.object(plans, "MET", met),
        mock.patch.object(shortcuts, "CALLS", calls),
    ):
        for size in sizes:
            isab(inputs, torch.empty(2, size, 16))
    assert len(table) == 16
    assert len(calls) == len(met) == 16
    assert len(programs) < 40


def test_a_full_table_forgets_what_was_not_asked_for_the_longest() -> None:
    table = shortcuts.Table(2)
    table.put("a", 1)
    table.put("b", 2)
    assert table.get("a") == 1
    table.put("c", 3)
    assert [table.get(key) for key in "abc"] == [1, None, 3]


def test_a_listener_on_launches_is_noticed() -> None:
    assert not hooked()
    knobs.runtime.launch_enter_hook.add(print)
    try:
        assert hooked()
    finally:
        knobs.runtime.launch_enter_hook.remove(print)


def test_a_place_is_found_in_a_base_that_begins_inside_its_storage() -> None:
    memory = torch.arange(20, dtype=torch.float32)
    place = Place(0, 8, torch.float32, (2, 2), (3, 1))
    assert place.of([memory[4:]]).tolist() == [[6, 7], [9, 10]]
