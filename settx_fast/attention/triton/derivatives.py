"""Derivatives of the fused operators: one function of autograd for all, and kernels for PyTorch's dispatcher.

Where nobody looks on (`unobserved`), calls take the plans directly; else they go through the operators, so that
compilers, profilers and modes see these.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from settx_fast.attention.block import KEY_WEIGHTS
from settx_fast.attention.casting import Together, copies_of
from settx_fast.attention.shortcuts import plain, unobserved
from settx_fast.attention.triton import operators, traces
from settx_fast.attention.triton.operators import readable
from settx_fast.attention.triton.plans import Plan, Trace, met, planned

NO_DOUBLE_BACKWARD = (
    "the fused kernels have no second derivative: call with impl='composed' where a gradient is differentiated again"
)


@dataclass(frozen=True, eq=False)
class Operation:
    """An operator and its derivative; its inputs are the rows and what describes sets, then those with gradients.

    The backward returns the gradients of the rows and of what has a batch, and all others in its last output.
    """

    forward: Any
    backward: Any
    forward_trace: Trace
    backward_trace: Trace
    sets: int  # inputs that are the rows or describe sets
    middle: int  # inputs between these and the weights
    keeps_output: bool = False
    saves: bool = True  # a buffer
    needs_x: bool = False  # the backward is told whether the rows need a gradient
    read_grad: Callable[[Tensor], Tensor] = readable
    all_weights: bool = True  # have gradients; else those that queries use

    @property
    def kept(self) -> int:
        """Inputs of the backward between the gradient and `middle`."""
        return self.sets + self.keeps_output + self.saves

    def call(self, tensors: Sequence[Tensor | None], specs: str) -> list[Tensor]:
        """The forward as an operator."""
        first = self.sets + self.middle
        return _listed(self.forward(*tensors[:first], list(tensors[first:]), specs))


ISAB = Operation(
    operators.isab, operators.isab_backward, traces.isab, traces.isab_backward, sets=4, middle=1, needs_x=True
)
AGGREGATE = Operation(
    operators.aggregate, operators.aggregate_backward, traces.aggregate, traces.aggregate_backward, sets=3, middle=2,
    keeps_output=True, read_grad=Tensor.contiguous,
)  # fmt: skip
BROADCAST = Operation(
    operators.broadcast, operators.broadcast_backward, traces.broadcast, traces.broadcast_backward, sets=3, middle=2,
    saves=False, all_weights=False,
)  # fmt: skip


def fused(operation: Operation, specs: str, *tensors: Tensor | None) -> Tensor:
    """The output of an operation: past the dispatcher where it has nothing to do, else by its operator."""
    if unobserved():
        plan, inputs = _plan_of(operation.forward_trace, tensors, operation.sets, specs)
        if plan is not None:
            return launched(operation, specs, plan, inputs)
    return operation.call(tensors, specs)[0]


def launched(
    operation: Operation, specs: str, plan: Plan, tensors: Sequence[Tensor | None], cast: torch.dtype | None = None
) -> Tensor:
    """The output of an operation by the plan of such tensors, in row-major order, where nobody looks on.

    `cast`: what all but the rows and what describes sets is cast to first, as autocast would.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return apply(operation, specs, plan, cast, *tensors)
    return plan(_cast(tensors, operation.sets, cast))[0]


SETS = 4  # arguments of `Fused` before those that describe sets


class Fused(torch.autograd.Function):
    """An operation in autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any, operation: Operation, specs: str, plan: Plan | None, cast: torch.dtype | None, *given: Tensor | None
    ) -> Tensor | tuple[Tensor, ...]:
        """The output; without a plan all that the operator returns."""
        tensors = _cast(given, operation.sets, cast)
        if plan is not None:
            made = plan(tensors)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                made = operation.call(tensors, specs)
        ctx.operation, ctx.specs = operation, specs
        ctx.parameters = None if cast is None else given[operation.sets :]
        kept = made if operation.keeps_output else made[1:]
        ctx.save_for_backward(*tensors[: operation.sets], *kept, *tensors[operation.sets :])
        ctx.set_materialize_grads(False)
        if plan is not None:
            return made[0]
        ctx.mark_non_differentiable(*made[1:])
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
        """Gradients of all inputs."""
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        operation, tensors = ctx.operation, ctx.saved_tensors
        static = (ctx.specs, ctx.needs_input_grad[SETS]) if operation.needs_x else (ctx.specs,)
        plan = None
        if not torch.is_grad_enabled() and unobserved():
            given = operation.read_grad(grad), *tensors
            plan, inputs = _plan_of(operation.backward_trace, given, operation.kept + 1, *static)
        if plan is not None:
            made, cut = plan(inputs), plan.cut
        else:
            first = operation.kept + operation.middle
            if ctx.parameters is not None:  # as this is to be differentiated again
                tensors = *tensors[: operation.kept], *Together.apply(tensors[0].dtype, *ctx.parameters)
            made = operation.backward(grad, *tensors[:first], list(tensors[first:]), *static)
            given = tensors[operation.kept :]
            cut = operators.cut_of(
                operation.backward_trace, operation.kept - 1, grad, tensors[0], given, *static
            )  # fmt: skip
        dx, *own, flat = made
        if ctx.parameters is not None:
            *own, flat = (grad.to(ctx.parameters[0].dtype) for grad in (*own, flat))
        middle = tensors[operation.kept :]
        found: list[Tensor | None] = [None if t is None else g for t, g in zip(middle, own, strict=False)]
        found += cut(flat)
        if not operation.all_weights:
            found = _spread(found, operation.middle, ctx.specs)
        return *[None] * SETS, dx, *[None] * (operation.sets - 1), *found


# Past `Function.apply`, which looks through all arguments for tensors of ended transforms: `plain` ones are none.
apply = super(torch.autograd.Function, Fused).apply


def _plan_of(
    trace: Trace, tensors: Sequence[Tensor | None], first: int, *static: Hashable
) -> tuple[Plan | None, Sequence[Tensor | None]]:
    """The plan of such tensors, None for a subclass, and what it takes: those from `first` on in row-major order."""
    plan = met(trace, tensors, *static)
    if plan is None and plain(tensors):
        tensors = [*tensors[:first], *(t if t is None else t.contiguous() for t in tensors[first:])]
        plan = planned(trace, tensors, *static)
    return plan, tensors


def _cast(tensors: Sequence[Tensor | None], first: int, dtype: torch.dtype | None) -> Sequence[Tensor | None]:
    """The tensors, those from `first` on in another dtype."""
    if dtype is None:
        return tensors
    return *tensors[:first], *copies_of([t for t in tensors[first:] if t is not None], dtype)


def _spread(found: list[Tensor | None], middle: int, spec: str) -> list[Tensor | None]:
    """Gradients in their places among all weights, None for those that only keys and values use."""
    weights = iter(found[middle:])
    names = traces.decode(spec).weight_names
    return [*found[:middle], *(None if name in KEY_WEIGHTS else next(weights) for name in names)]


def _listed(made: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else list(made)


def _as_operator(made: Sequence[Tensor]) -> Any:
    return made[0] if len(made) == 1 else made


class Refused(torch.autograd.Function):
    """A backward operator in autograd's graph."""

    @staticmethod
    def forward(ctx: Any, call: Callable[[], Any], *tensors: Tensor) -> Any:
        """What the operator returns."""
        with torch._C._AutoDispatchBelowAutograd():
            return call()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> None:
        """Raise RuntimeError."""
        raise RuntimeError(NO_DOUBLE_BACKWARD)


def _with_graph(operation: Operation, *args: Any) -> Any:
    """The kernel of a forward operator above autograd."""
    *first, weights, specs = args
    tensors = [*first, *weights]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _as_operator(Fused.apply(operation, specs, None, None, *tensors))
    with torch._C._AutoDispatchBelowAutograd():
        return operation.forward(*args)


def _without_second(operation: Operation, *args: Any) -> Any:
    """The kernel of a backward operator above autograd."""
    tensors = [t for arg in args for t in (arg if isinstance(arg, list) else [arg]) if isinstance(t, Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return Refused.apply(lambda: operation.backward(*args), *tensors)
    with torch._C._AutoDispatchBelowAutograd():
        return operation.backward(*args)


_library = Library("settx_fast", "FRAGMENT")
for each in (ISAB, AGGREGATE, BROADCAST):
    for above, found in ((_with_graph, each.forward), (_without_second, each.backward)):
        _library.impl(found._schema.name.split("::")[1], partial(above, each), "Autograd")
