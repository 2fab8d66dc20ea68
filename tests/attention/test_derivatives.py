"""Derivatives of derivatives, and the transforms of torch.func: as those of the formulas, whoever computes the call."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from settx_fast import ISAB, SAB, SetTransformer, functional
from settx_fast.attention import blockwise, composed, reference
from settx_fast.attention.sets import Sets
from settx_fast.functional import Impl
from settx_fast.testing import VARIANTS, Inputs, Shape, make_inputs

RAGGED = {"full": {}, "lengths": {"lengths": torch.tensor([30, 0, 7])}, "context": {"context_lengths": 11}}


def _two_gradients(inputs: Inputs, call: Callable[[], Tensor]) -> list[Tensor]:
    """Gradients of a call, and those of their squares: a penalty on gradients."""
    parameters = list(inputs.parameters().values())
    first = torch.autograd.grad(call().sin().sum(), parameters, create_graph=True)
    return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), parameters)]


@pytest.mark.parametrize("impl", ["blockwise", "composed"])
@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("inducing", [3, 20])  # absorbed and projected
def test_second_derivatives_are_those_of_the_reference(inducing: int, variant: str, ragged: str, impl: Impl) -> None:
    inputs = make_inputs(Shape(3, 30, 8, 8, 2, inducing, VARIANTS[variant]), dtype=torch.float64)
    results = []
    for each in (impl, "reference"):

        def call(each: Impl = each) -> Tensor:
            return functional.induced_set_attention(*inputs[:6], **RAGGED[ragged], impl=each)  # type: ignore[arg-type]

        results.append(_two_gradients(inputs, call))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("implementation", [blockwise, composed])
def test_second_derivatives_of_packed_sets_are_those_of_padded_ones(implementation) -> None:  # type: ignore[no-untyped-def]
    """On the rows themselves: PyTorch's jagged tensors have no second derivative."""
    inputs, lengths = make_inputs(Shape(3, 30, 8, 8, 2, 3), dtype=torch.float64), (30, 0, 7)

    def packed() -> Tensor:
        rows = torch.cat([x[:length] for x, length in zip(inputs.x, lengths, strict=True)])
        sets = Sets(rows, offsets=torch.tensor([0, 30, 30, 37]))
        return implementation.induced_set_attention(sets, sets, *inputs[1:6])

    def padded() -> Tensor:
        sets = Sets(inputs.x, torch.tensor(lengths))
        return reference.induced_set_attention(sets, sets, *inputs[1:6])

    torch.testing.assert_close(_two_gradients(inputs, packed), _two_gradients(inputs, padded))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_second_derivatives_of_the_composed_path_exist_on_a_gpu() -> None:
    inputs = make_inputs(Shape(3, 30, 16, 16, 2, 3), device="cuda")
    results = [
        _two_gradients(inputs, lambda impl=impl: functional.induced_set_attention(*inputs[:6], impl=impl))  # type: ignore[misc]
        for impl in ("composed", "reference")
    ]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@pytest.fixture(params=["saved", "recomputed"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A model of the default choice, on both ways of a CPU."""
    if request.param == "recomputed":
        monkeypatch.setattr("settx_fast.attention.choice.SAVED_BYTES", 0)
        monkeypatch.setattr("settx_fast.attention.choice.SAVED_BYTES_OF_MANY_SCORES", 0)
    torch.manual_seed(4)
    return SetTransformer(3, 1, 1, num_inds=4, dim_hidden=8, num_heads=2, ln=True, dtype=torch.float64)


def _with_impl(model: nn.Module, impl: Impl | None) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "impl"):
            module.impl = impl
    return model


def test_a_step_through_a_step_is_that_of_the_reference(model: nn.Module) -> None:
    """As meta-learning does: the loss after one step of gradient descent, by the parameters before it."""
    x, parameters = torch.randn(2, 9, 3, dtype=torch.float64), dict(model.named_parameters())

    def meta_gradients() -> tuple[Tensor, ...]:
        inner = torch.autograd.grad(model(x).square().sum(), list(parameters.values()), create_graph=True)
        stepped = {name: p - 0.1 * g for (name, p), g in zip(parameters.items(), inner, strict=True)}
        outer = torch.func.functional_call(model, stepped, (x,)).square().sum()
        return torch.autograd.grad(outer, list(parameters.values()))

    ours = meta_gradients()
    _with_impl(model, "reference")
    torch.testing.assert_close(ours, meta_gradients())


TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "grad": lambda model, x: torch.func.grad(lambda x: model(x).sin().sum())(x),
    "hessian": lambda model, x: torch.func.hessian(lambda x: model(x).sin().sum())(x),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x.cos(),)),
    "vmap": lambda model, x: torch.func.vmap(model)(torch.stack([x, x + 1])),
    "gradients of every set": lambda model, x: torch.func.vmap(torch.func.grad(lambda s: model(s[None]).sum()))(x),
    "forward mode": lambda model, x: _forward_mode(model, x),
}


def _forward_mode(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        out = model(torch.autograd.forward_ad.make_dual(x, x.cos()))
        return torch.autograd.forward_ad.unpack_dual(out).tangent


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_torch_func_follow_the_default_choice(name: str, model: nn.Module) -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    ours = TRANSFORMS[name](model, x)
    torch.testing.assert_close(ours, TRANSFORMS[name](_with_impl(model, "reference"), x))
    _with_impl(model, "composed")
    torch.testing.assert_close(ours, TRANSFORMS[name](model, x))


def test_a_tangent_is_that_of_finite_differences() -> None:
    layer, x = ISAB(3, 8, 2, 4, ln=True, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    direction = torch.randn_like(x)
    _, tangent = torch.func.jvp(layer, (x,), (direction,))
    step = 1e-6 * direction
    torch.testing.assert_close(tangent, (layer(x + step) - layer(x - step)) / 2e-6, rtol=1e-5, atol=1e-7)


def test_sets_of_an_ensemble_may_be_ragged() -> None:
    layer, x = ISAB(3, 8, 2, 4), torch.randn(4, 2, 5, 3)
    lengths = torch.tensor([[5, 0], [1, 2], [3, 3], [4, 5]])
    together = torch.func.vmap(lambda x, n: layer(x, lengths=n))(x, lengths)
    torch.testing.assert_close(together, torch.stack([layer(*each) for each in zip(x, lengths, strict=True)]))


def test_the_operators_alone_refuse_a_transform_and_name_what_follows_it() -> None:
    layer, x = SAB(3, 8, 2, impl="blockwise"), torch.randn(2, 5, 3)
    with pytest.raises(ValueError, match=r"torch\.func and forward-mode derivatives follow impl='composed' and"):
        torch.func.jvp(layer, (x,), (x,))
