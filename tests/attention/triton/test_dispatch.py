"""Who takes a call and why not, and the fused operators as PyTorch citizens."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from benchmarks.kernel_launches import CORNERS
from settx_fast import functional
from settx_fast.attention import choice, composed, shortcuts
from settx_fast.attention.choice import MAX_DIM, MAX_DIM_IN, MAX_LATENTS, MIN_HEAD, choose, why_not_triton
from settx_fast.attention.triton import plans
from settx_fast.nn import ISAB, MAB, PMA, SAB
from settx_fast.testing import Inputs, Shape, make_inputs

SMALL = Shape(1, 10, 16, 16, 2, 3)


def reason(shape: Shape, x: Tensor | None = None, dtype: torch.dtype = torch.float32, **more: Any) -> str | None:
    """Why the kernels cannot take a shape, or a tensor x with the weights of that shape."""
    inputs = make_inputs(Shape(1, 1, shape.dim_in, shape.dim, shape.heads, 1, shape.options), dtype=dtype)
    x = torch.empty(shape.batch, shape.elements, shape.dim_in, dtype=dtype) if x is None else x
    blocks = (inputs.weights_a, inputs.spec_a), (inputs.weights_b, inputs.spec_b)
    return why_not_triton(x, shape.inducing, *blocks, **more)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter lets CPU tensors in")
class TestReasons:
    def test_the_envelope_itself_is_inside(self) -> None:
        assert reason(Shape(2, 20, 512, 256, 32, 256)) is None
        assert reason(Shape(2, 20, 1, 16, 2, 1), dtype=torch.float16) is None
        assert reason(SMALL, torch.empty(20, 4, 16).transpose(0, 1)) is None

    def test_the_corners_that_are_compiled_ahead_are_the_ends_of_the_envelope(self) -> None:
        shapes = [corner.shape for corner in CORNERS.values()]
        assert all(reason(corner.shape, dtype=corner.dtype) is None for corner in CORNERS.values())
        assert {1, MAX_DIM_IN} <= {shape.dim_in for shape in shapes}
        assert {MIN_HEAD, MAX_DIM} <= {shape.dim // shape.heads for shape in shapes}
        assert {MIN_HEAD, MAX_DIM} <= {shape.dim for shape in shapes}
        assert {1, MAX_LATENTS} <= {shape.inducing for shape in shapes}

    @pytest.mark.parametrize(
        ("shape", "word"),
        [
            (Shape(2, 20, 513, 16, 2, 3), "513 wide"),
            (Shape(2, 20, 16, 264, 2, 3), "264 wide"),
            (Shape(2, 20, 16, 16, 4, 3), "heads are 4 wide"),
            (Shape(2, 20, 16, 16, 2, 257), "257 elements"),
            (Shape(0, 20, 16, 16, 2, 3), "no sets"),
        ],
    )
    def test_what_lies_outside_is_named(self, shape: Shape, word: str) -> None:
        assert word in str(reason(shape))

    def test_tensors_the_kernels_cannot_read_are_named(self) -> None:
        assert "float64" in str(reason(SMALL, dtype=torch.float64))
        assert "not contiguous" in str(reason(SMALL, torch.empty(2, 16, 20).mT))
        assert "not torch.float16" in str(reason(SMALL, torch.empty(2, 20, 16, dtype=torch.float16)))
        assert "varying size" in str(reason(SMALL, ragged_latents=True))
        assert "on meta" in str(reason(SMALL, torch.empty(2, 20, 16, device="meta")))

    def test_a_forced_call_outside_raises_the_reason(self) -> None:
        inputs = make_inputs(Shape(2, 20, 16, 16, 4, 3))
        with pytest.raises(ValueError, match="heads are 4 wide"):
            functional.induced_set_attention(*inputs[:6], impl="triton")

    def test_attention_of_a_set_over_itself_is_refused_past_256_elements(self) -> None:
        block, x = SAB(16, 16, 2), torch.randn(1, 300, 16)
        with pytest.raises(ValueError, match="300 elements"):
            functional.attention_block(x, x, block.mab.weights, block.mab.spec, impl="triton")


@pytest.mark.parametrize("kind", ["isab", "pma", "mab-few-keys", "mab-few-queries"])
def test_modules_agree_with_the_reference_and_take_foreign_parameters(kind: str, device: torch.device) -> None:
    """Through functional_call, as meta-learning and ensembles do."""
    torch.manual_seed(2)
    x, few = torch.randn(2, 30, 16, device=device), torch.randn(2, 4, 16, device=device)
    modules = {
        "isab": (lambda impl: ISAB(16, 16, 2, 3, ln=True, impl=impl), (x,)),
        "pma": (lambda impl: PMA(16, 2, 1, impl=impl), (x,)),
        "mab-few-keys": (lambda impl: MAB(16, 16, 16, 2, impl=impl), (x, few)),
        "mab-few-queries": (lambda impl: MAB(16, 16, 16, 2, impl=impl), (few, x)),
    }
    make, arguments = modules[kind]
    fused, plain = make("triton").to(device), make("reference").to(device)
    parameters = {name: p.detach() * 1.5 for name, p in plain.named_parameters()}
    got = torch.func.functional_call(fused, parameters, arguments)
    torch.testing.assert_close(got, torch.func.functional_call(plain, parameters, arguments), rtol=1e-4, atol=1e-5)


def isab(inputs: Inputs, x: Tensor | None = None) -> Tensor:
    return functional.induced_set_attention(inputs.x if x is None else x, *inputs[1:6], impl="triton")


def test_operators_pass_opcheck(device: torch.device) -> None:
    from settx_fast.attention.triton import operators
    from settx_fast.attention.triton.traces import present

    inputs = make_inputs(Shape(2, 5, 16, 16, 2, 3), device=device)
    lengths = torch.tensor([5, 2], device=device)
    a, b = present(inputs.weights_a), present(inputs.weights_b)
    specs = f"{inputs.spec_a.text}; {inputs.spec_b.text}"
    keys, values = torch.randn(2, 2, 3, 16, device=device).requires_grad_().unbind()
    context = torch.tensor([3, 2], device=device)
    torch.library.opcheck(operators.isab, (inputs.x, lengths, None, context, inputs.inducing, [*a, *b], specs))
    for scale in (None, torch.rand(1, 3, 16, device=device).requires_grad_()):
        arguments = (inputs.x, lengths, None, inputs.inducing, scale, a, inputs.spec_a.text)
        torch.library.opcheck(operators.aggregate, arguments)
    torch.library.opcheck(operators.broadcast, (inputs.x, lengths, None, keys, values, b, inputs.spec_b.text))


@pytest.mark.parametrize("ragged", ["full", "lengths", "mask"])
def test_one_graph_serves_every_number_of_elements_and_trains(ragged: str, device: torch.device) -> None:
    torch._dynamo.reset()
    inputs = make_inputs(Shape(2, 10, 16, 16, 2, 3), device=device)
    counter = CompileCounterWithBackend("aot_eager")

    def block(x: Tensor, **sets: Tensor) -> Tensor:
        return functional.induced_set_attention(x, *inputs[1:6], impl="triton", **sets)  # type: ignore[arg-type]

    compiled = torch.compile(block, backend=counter, fullgraph=True, dynamic=True)
    for elements in (20, 9, 33):
        x = torch.randn(2, elements, 16, device=device, requires_grad=True)
        sets = {
            "full": {},
            "lengths": {"lengths": torch.tensor([elements, 4], device=device)},
            "mask": {"mask": torch.arange(2 * elements, device=device).view(2, elements) % 3 > 0},
        }[ragged]
        results = [(out, *torch.autograd.grad(out.sum(), x)) for out in (compiled(x, **sets), block(x, **sets))]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert counter.frame_count == 1


def test_a_compiled_step_has_the_gradients_of_an_eager_one(device: torch.device) -> None:
    inputs = make_inputs(SMALL, device=device)
    x = inputs.x.detach().requires_grad_()
    torch.compile(lambda x: isab(inputs, x), backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    grads = {name: p.grad for name, p in inputs.parameters().items() if name != "x"}
    again = inputs.to(torch.float32)
    isab(again).square().sum().backward()
    assert torch.equal(x.grad, again.x.grad)
    for name, grad in grads.items():
        assert torch.equal(grad, again.parameters()[name].grad), name


def test_the_automatic_choice_takes_the_kernels_or_says_once_why_not(caplog: pytest.LogCaptureFixture) -> None:
    from settx_fast.attention import triton

    x = SimpleNamespace(device=torch.device("cuda"))
    choice._log_once.cache_clear()
    with caplog.at_level(logging.INFO, "settx_fast"), mock.patch.object(choice, "why_not_triton") as why:
        why.return_value = None
        assert choose(None, x, 3) is triton
        assert not caplog.records
        why.return_value = "heads are 4 wide"
        assert [choose(None, x, 3) for _ in range(3)] == [composed] * 3
    (record,) = caplog.records
    assert "heads are 4 wide" in record.getMessage()


def test_an_error_inside_the_kernels_reaches_the_caller(device: torch.device) -> None:
    from settx_fast.attention.triton import plans, traces

    inputs = make_inputs(SMALL, device=device)
    with (
        mock.patch.object(plans, "PLANS", plans.Table(1)),
        mock.patch.object(plans, "MET", shortcuts.Calls(1)),
        mock.patch.object(shortcuts, "CALLS", shortcuts.Calls(1)),
        mock.patch.object(traces, "aggregate_forward", side_effect=RuntimeError("out of resources")),
        pytest.raises(RuntimeError, match="out of resources"),
    ):
        isab(inputs)


def test_operators_run_on_the_device_of_their_tensors(device: torch.device) -> None:
    """Triton launches on the current device, which need not be theirs; native code goes by the stream."""
    inputs = make_inputs(SMALL, device=device)
    with (
        mock.patch.object(plans, "hooked", return_value=True),
        mock.patch.object(torch.cuda, "device_of", wraps=torch.cuda.device_of) as guard,
    ):
        isab(inputs).sum().backward()
    shapes = {call.args[0].shape for call in guard.call_args_list}
    assert {inputs.x.shape, torch.Size((1, 10, 16))} <= shapes


def test_two_processes_train_like_one(tmp_path: Path, device: torch.device) -> None:
    """DistributedDataParallel: the mean over ranks of a half batch's gradients is the whole batch's."""
    script = Path(__file__).with_name("distributed_step.py")
    command = [sys.executable, str(script), str(tmp_path), device.type]
    environment = os.environ | {"PYTHONPATH": str(script.parents[3])}
    ranks = [subprocess.Popen([*command, str(rank), "2"], env=environment) for rank in range(2)]
    assert [rank.wait(250) for rank in ranks] == [0, 0]
    subprocess.run([*command, "0", "1"], env=environment, check=True)
    first, second, alone = (torch.load(tmp_path / name) for name in ("0-of-2.pt", "1-of-2.pt", "0-of-1.pt"))
    for name, grad in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("half_rows", [False, True])
def test_under_autocast_a_call_met_before_gives_the_bits_of_the_first(
    half_rows: bool, frozen: bool, device: torch.device
) -> None:
    """The first goes through all checks; later ones cast inside the fused function."""
    layer = ISAB(16, 16, 2, 3, ln=True, impl="triton", device=device)
    layer.mab0.requires_grad_(not frozen)
    x = torch.randn(2, 9, 16, device=device, dtype=torch.bfloat16 if half_rows else torch.float32, requires_grad=True)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def outcome() -> list[Tensor]:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            out = layer(x)
        return [out, *torch.autograd.grad(out.float().square().sum(), wanted)]

    calls = shortcuts.Calls(4)
    with mock.patch.object(shortcuts, "CALLS", calls):
        first = outcome()
        assert len(calls) == 1
        again = outcome()
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [g.dtype for g in again[1:]] == [t.dtype for t in wanted]


def test_under_autocast_a_call_met_before_refuses_a_second_derivative_too(device: torch.device) -> None:
    layer = ISAB(16, 16, 2, 3, impl="triton", device=device)
    x = torch.randn(2, 9, 16, device=device)
    for _ in range(2):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            out = layer(x)
        (grad,) = torch.autograd.grad(out.float().square().sum(), layer.mab0.fc_v.weight, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(grad.square().sum(), layer.mab1.fc_o.weight)


def test_under_autocast_weights_may_change_between_forward_and_backward(device: torch.device) -> None:
    """As with a cast each: what the backward reads are copies."""
    layer = ISAB(16, 16, 2, 3, impl="triton", device=device)
    x = torch.randn(2, 9, 16, device=device)
    for _ in range(2):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            out = layer(x)
        with torch.no_grad():
            layer.mab0.fc_q.weight.mul_(0.5)
        out.float().sum().backward()


def test_a_second_derivative_is_refused_with_a_sentence(device: torch.device) -> None:
    inputs = make_inputs(SMALL, device=device)
    (grad,) = torch.autograd.grad(isab(inputs).sum(), inputs.x, create_graph=True)
    with pytest.raises(RuntimeError, match="impl='composed'"):
        grad.sum().backward()


def test_checkpointing_recomputes_the_same_gradients(device: torch.device) -> None:
    plain, checked = (make_inputs(SMALL, device=device) for _ in range(2))
    isab(plain).square().sum().backward()
    checkpoint(lambda x: isab(checked, x), checked.x, use_reentrant=False).square().sum().backward()
    for name, parameter in plain.parameters().items():
        assert torch.equal(parameter.grad, checked.parameters()[name].grad), name


def test_a_set_without_gradient_still_trains_the_weights(device: torch.device) -> None:
    with_x, without = (make_inputs(SMALL, device=device) for _ in range(2))
    isab(with_x).square().sum().backward()
    isab(without._replace(x=without.x.detach())).square().sum().backward()
    for name, parameter in with_x.parameters().items():
        if name != "x":
            assert torch.equal(parameter.grad, without.parameters()[name].grad), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_the_kernels_in_its_type(dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cpu" and dtype == torch.float16:
        pytest.skip("autocast on a CPU is bfloat16")
    inputs = make_inputs(SMALL, device=device)
    with torch.autocast(device.type, dtype=dtype):
        out = isab(inputs)
    assert out.dtype == dtype
    assert torch.equal(out, isab(inputs.to(dtype)))
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in inputs.parameters().values())


def test_what_the_backward_reads_may_wait_on_another_device(device: torch.device) -> None:
    kept, offloaded = (make_inputs(SMALL, device=device) for _ in range(2))
    isab(kept).square().sum().backward()
    with torch.autograd.graph.save_on_cpu():
        out = isab(offloaded)
    out.square().sum().backward()
    for name, parameter in kept.parameters().items():
        assert torch.equal(parameter.grad, offloaded.parameters()[name].grad), name


def test_who_looks_on_sees_the_operator(device: torch.device) -> None:
    """Calls go past the dispatcher where nobody does."""
    inputs = make_inputs(SMALL, device=device)
    with torch.profiler.profile() as profiler:
        isab(inputs).sum().backward()
    seen = {event.name for event in profiler.events()}
    assert {"settx_fast::triton_isab", "settx_fast::triton_isab_backward"} <= seen
