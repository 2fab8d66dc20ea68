"""Operators of PyTorch written in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.library import infer_schema


def operator(name: str, *, mutates: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Make a function the operator `name`, with a schema from its annotations, that may write to arguments `mutates`.

    What torch.library.custom_op does too; but that imports the compiler, and triton, when the operator is first called.
    """

    def register(function: Callable[..., Any]) -> Any:
        schema = infer_schema(function, mutates_args=mutates)
        torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(name, "default", function)
        namespace, own_name = name.split("::")
        return getattr(getattr(torch.ops, namespace), own_name).default

    return register
