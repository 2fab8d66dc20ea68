"""Kernels run on the GPU where there is one, else in Triton's interpreter, which `tests/conftest.py` has chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

INTERPRETED = not torch.cuda.is_available()


def _teach_bfloat16() -> None:
    """Mend the interpreter's bfloat16: it rounds towards zero and multiplies bit patterns as if they were integers."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def widened(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def cast_impl(self: Any, src: TensorHandle, dst_type: Any) -> TensorHandle:
        if (src.dtype.scalar, dst_type.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, src, dst_type)
        bits = torch.from_numpy(np.array(src.data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return TensorHandle(bits, tl.bfloat16)

    def create_dot(self: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return dot(self, widened(a), widened(b), *rest)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast_impl, create_dot


def _teach_once() -> None:
    """Turn Triton's language into NumPy once a launch: the interpreter looks through all of it in every call within."""
    import triton.language as tl
    from triton.runtime import interpreter

    teach, whole = interpreter._patch_lang, SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    taught: list[Any] = []

    def teach_once(fn: Any) -> Any:
        scope = interpreter._LangPatchScope() if taught else teach(whole)
        if not taught:
            taught.append(scope)
            restore = scope.restore
            scope.restore = lambda: (taught.clear(), restore())
        return scope

    interpreter._patch_lang = teach_once


if INTERPRETED:
    _teach_bfloat16()
    _teach_once()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels under test run."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def _nothing_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that changes rules or kernels meets no plan of another's."""
    from settx_fast.attention import shortcuts
    from settx_fast.attention.triton import plans

    monkeypatch.setattr(plans, "PLANS", plans.Table(plans.MAX_PLANS))
    monkeypatch.setattr(plans, "MET", shortcuts.Calls(plans.MAX_PLANS))
    monkeypatch.setattr(shortcuts, "CALLS", shortcuts.Calls(shortcuts.MAX_CALLS))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The interpreter's products are tiny: more threads only get in each other's way."""
    torch.set_num_threads(1)
