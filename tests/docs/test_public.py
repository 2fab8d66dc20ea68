"""Every public name is told of, with the shapes of its tensors and the errors it raises."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import griffe
import pytest
from builder import public

REFERENCE = Path("docs/reference")
ARRAY = re.compile(r"\b(Tensor|ndarray|ArrayLike)\b")
SHAPE = re.compile(r"\([^()]*(?:\b[A-Z]\b|\b[FKMNPRV]\b|\.\.\.|\bdim)[^()]*\)")
ERROR = re.compile(r"\b\w*(?:Error|Exception)\b")
CHECKS = re.compile(r"(check(?!_is_fitted)|_check|as_range|as_size|as_distribution|as_variables|_store)\w*")
"""Functions that raise ValueError about what they are given."""


def callables() -> Iterator[tuple[str, griffe.Function, str]]:
    """Public functions, methods and constructors by path, each with what is said of it and its class."""
    for path, found in public.public_objects().items():
        if isinstance(found, griffe.Function):
            yield path, found, _said(found)
        if isinstance(found, griffe.Class):
            for name, member in found.members.items():
                is_constructor = name in ("__init__", "__post_init__")
                if isinstance(member, griffe.Function) and (is_constructor or not name.startswith("_")):
                    yield f"{path}.{name}", member, _said(member) + _said(found)


def _said(found: griffe.Object) -> str:
    return found.docstring.value if found.docstring else ""


def raised(function: griffe.Function) -> set[str]:
    """Names of the errors that a function itself raises."""
    tree = ast.parse(dedent(function.source))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "check_is_fitted":
            found.add("NotFittedError")
        elif isinstance(node, ast.Call) and CHECKS.fullmatch(ast.unparse(node.func).removeprefix("self.")):
            found.add("ValueError")
    return found


def test_the_reference_tells_of_every_public_name_and_of_no_other() -> None:
    assert public.problems(REFERENCE) == []


def test_a_public_name_that_no_page_tells_of_is_found(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE, tmp_path, dirs_exist_ok=True)
    page = tmp_path / "scm.md"
    page.write_text(page.read_text().replace("::: settx_fast.scm.resample\n", "::: settx_fast.scm.sampler\n"))
    assert public.problems(tmp_path) == [
        "settx_fast.scm.sampler: the reference tells of it, but it is not public",
        "settx_fast.scm.resample: no page of the reference tells of it",
    ]


def test_a_public_name_without_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = public.public_objects()
    monkeypatch.setattr(objects["settx_fast.scm.sample"], "docstring", None)
    assert public.problems(REFERENCE) == ["settx_fast.scm.sample: it has no docstring"]


def test_every_public_method_has_a_docstring() -> None:
    bare = [path for path, function, _ in callables() if not function.docstring and "__" not in path]
    assert bare == []


def test_every_public_callable_says_the_shapes_of_its_tensors() -> None:
    silent = []
    for path, function, said in callables():
        annotations = [str(parameter.annotation) for parameter in function.parameters] + [str(function.returns)]
        if any(ARRAY.search(annotation) for annotation in annotations) and not SHAPE.search(said):
            silent.append(path)
    assert silent == []


def test_every_public_callable_names_the_errors_it_raises() -> None:
    silent = {path: missing for path, f, said in callables() if (missing := raised(f) - set(ERROR.findall(said)))}
    assert silent == {}


@pytest.mark.parametrize("name", ["ISAB", "MAB", "SAB", "PMA", "SetTransformer", "DeepSet"])
def test_every_module_names_the_errors_of_a_call(name: str) -> None:
    assert "ValueError" in _said(public.public_objects()[f"settx_fast.{name}"])


def test_the_page_of_the_public_surface_lists_its_modules() -> None:
    listed = re.findall(r"^\| `(settx_fast[\w.]*)` \|", Path("docs/public.md").read_text(), re.MULTILINE)
    assert listed == list(public.MODULES)
