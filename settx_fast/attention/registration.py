"""Operators of PyTorch written in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, List, get_type_hints  # noqa: UP035

import torch
from torch import Tensor
from torch.library import infer_schema

_LISTS, _TENSORS = (list[Tensor], Sequence[Tensor]), List[Tensor]  # noqa: UP006, the one name that all versions know


def operator(
    name: str,
    *,
    mutates: tuple[str, ...] = (),
    around: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function the operator `name`, with a schema from its annotations, that may write to arguments `mutates`.

    What torch.library.custom_op does too; but that imports the compiler, and triton, when the operator is first called.
    Runs with the device of its first argument as the current one, as PyTorch's own operators do, and `around` it what
    is given.
    """

    def register(function: Callable[..., Any]) -> Any:
        hints = get_type_hints(function).items()
        function.__annotations__ = {each: _TENSORS if hint in _LISTS else hint for each, hint in hints}
        schema = infer_schema(function, mutates_args=mutates)
        torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
        inner = function if around is None else around(function)
        torch.library.impl(name, "default", _on_its_device(inner))
        namespace, own_name = name.split("::")
        found = getattr(getattr(torch.ops, namespace), own_name).default
        found.__wrapped__ = function  # for tests that look inside
        return found

    return register


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device, wherever its arguments are."""

    @wraps(function)
    def guarded(first: Tensor, *rest: Any, **named: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *rest, **named)

    return guarded
