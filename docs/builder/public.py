"""What is public, and whether the reference tells of all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import griffe

MODULES = (
    "settx_fast",
    "settx_fast.nn",
    "settx_fast.functional",
    "settx_fast.compat",
    "settx_fast.scm",
    "settx_fast.scm.presets",
    "settx_fast.scm.properties",
    "settx_fast.predictor",
    "settx_fast.predictor.frameworks",
    "settx_fast.testing",
)
"""Their `__all__` is the public surface."""

DIRECTIVE = re.compile(r"^::: (\S+)", re.MULTILINE)


def public_names() -> Iterator[str]:
    """Every public name by its path; those that are modules of `MODULES` are left out."""
    for module in MODULES:
        yield from (path for name in import_module(module).__all__ if (path := f"{module}.{name}") not in MODULES)


@cache
def public_objects() -> dict[str, griffe.Object]:
    """What every public name stands for, as the sources say it."""
    package = griffe.load("settx_fast", resolve_aliases=True, search_paths=["."])
    assert isinstance(package, griffe.Module)
    return {path: _final(package[path.removeprefix("settx_fast.")]) for path in public_names()}


def problems(reference: Path) -> list[str]:
    """What the pages of the reference lack: public names that no page tells of or that have no docstring."""
    objects = public_objects()
    told = {path for page in sorted(reference.glob("*.md")) for path in DIRECTIVE.findall(page.read_text("utf-8"))}
    homes = {objects[path].path for path in told & objects.keys()}
    strange = [f"{path}: the reference tells of it, but it is not public" for path in sorted(told - objects.keys())]
    untold = [f"{path}: no page of the reference tells of it" for path, o in objects.items() if o.path not in homes]
    bare = [f"{path}: it has no docstring" for path, o in objects.items() if not o.docstring]
    return strange + untold + bare


def _final(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found
