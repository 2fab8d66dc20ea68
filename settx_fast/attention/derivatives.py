"""Derivatives of derivatives, which our operators and PyTorch's attention do not have: through a formula instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether torch.func (grad, vmap, jvp, hessian, …) or forward-mode differentiation watches this call.

    They follow formulas of PyTorch's own; an operator of ours would refuse, or lose a tangent without a word.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_wrapped(tensor: Tensor) -> bool:
    """Whether torch.func made a tensor, even if the transform has ended."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def differentiable_gradients(
    formula: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], d_out: Tensor
) -> list[Tensor | None]:
    """Gradients of the `needed` inputs of a formula, None for the others, that can be differentiated again."""
    # aliases: inputs may depend on each other, and what is wanted are partial derivatives
    aliases = [None if t is None else t.view_as(t) for t in inputs]
    wanted = [t for t, is_needed in zip(aliases, needed, strict=True) if is_needed and t is not None]
    found = torch.autograd.grad(formula(*aliases), wanted, d_out, create_graph=True, allow_unused=True)
    gradients = iter(found)
    return [
        next(gradients) if is_needed and t is not None else None for t, is_needed in zip(inputs, needed, strict=True)
    ]


class Refined(torch.autograd.Function):
    """What a call made whose derivative has no derivative, with a formula for where that is asked for."""

    @staticmethod
    def forward(ctx, fast: Tensor, formula: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
        """`fast`, which `formula` would make of the inputs too."""
        ctx.formula = formula
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return fast.view_as(fast)

    @staticmethod
    def backward(ctx, d_out: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """To the fast call, or where the gradient is differentiated itself past it, through the formula."""
        inputs = ctx.saved_tensors
        if d_out is None or not torch.is_grad_enabled():
            return d_out, None, *(None for _ in inputs)
        return None, None, *differentiable_gradients(ctx.formula, inputs, ctx.needs_input_grad[2:], d_out)
