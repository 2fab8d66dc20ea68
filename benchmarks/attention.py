"""Subjects of set attention: ISAB and its relatives, by size of the set, saving or recomputing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.blocks import COMPILING, PROVIDERS, Problem, Way
from benchmarks.suite import Contestant, Field, LeftOut, Setting, Subject
from benchmarks.work import of_block, of_isab
from settx_fast import functional
from settx_fast.functional import Impl
from settx_fast.testing import (
    CPU_SHAPES,
    SHAPES,
    TABULAR,
    VARIANTS,
    Inputs,
    Shape,
    assert_close_to_oracle,
    make_inputs,
)

# float32 gradients of two correct implementations differ where a ReLU's input is within rounding of zero
GRADIENT_TOLERANCE = 1e-2
CHECKED = 4096  # elements of a set that is checked
SIZES = (100, 316, 1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000)
QUADRATIC = 10_000  # elements beyond which full attention is not waited for
SAVING = {
    "20 × 1,000": Shape(20, 1000, 128, 128, 4, 32),
    "4 × 16,384": Shape(4, 16_384, 128, 128, 4, 32),
    "16 × 2,000, 128 points": Shape(16, 2000, 128, 128, 4, 128),
    "20 × 1,000, tabular": Shape(20, 1000, 128, 128, 8, 128, TABULAR),
    "2 × 16,384, tabular": Shape(2, 16_384, 128, 128, 8, 128, TABULAR),
    "20 × 5,000, tabular": Shape(20, 5000, 128, 128, 8, 128, TABULAR),
    "32 × 1,000, narrow": Shape(32, 1000, 16, 64, 4, 16),
}


def shapes_of(on_cuda: bool) -> dict[str, Shape]:
    """The named shapes, and those that a package's block or a kind of layer asks for."""
    known = SHAPES if on_cuda else CPU_SHAPES
    return known | {
        "hidden-pyg": replace(known["hidden"], options=VARIANTS["pyg"]),
        "pooling": replace(known["dataset"], inducing=1),
    }


def _isab_shapes(setting: Setting) -> list[str]:
    return [name for name in shapes_of(setting.on_cuda) if name != "pooling"]


def _prepare(kind: str, training: bool, setting: Setting, name: str) -> Field:
    shape = shapes_of(setting.on_cuda)[name]
    inputs = make_inputs(shape, dtype=setting.dtype, device=setting.device)
    names = list(PROVIDERS)
    found = Field(absent={each: "left to another run" for each in names if _waits(each, kind, name, setting)})
    return _fill(found, [each for each in names if each not in found.absent], Problem(kind, inputs, training))


def _waits(provider: str, kind: str, shape: str, setting: Setting) -> bool:
    """Whether a run leaves out what takes long: compilers, and the slowest peer but once."""
    if setting.eager and provider in COMPILING:
        return True
    return setting.quick and provider in (*COMPILING, "BayesFlow") and (kind, shape) != ("isab", "dataset")


def _fill(found: Field, names: list[str], problem: Problem) -> Field:
    i, training = problem.inputs, problem.training
    for name in names:
        try:
            way = PROVIDERS[name](problem)
            check(name, problem, way)
        except LeftOut as why:
            found.absent[name] = str(why)
        except AssertionError as error:
            found.wrong[name] = str(error)
        except RuntimeError as error:
            if name == "settx_fast":
                raise
            found.absent[name] = f"fails: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        else:
            run = way.train if training else way.infer
            found.contestants.append(Contestant(name, run, memory=training, graph=name == "settx_fast"))
    if problem.kind == "isab":
        found.moved, found.flop = of_isab(i, training=training)
    else:
        found.moved, found.flop = of_block(problem)
    found.results_mib = _results(problem) / 2**20
    return found


def _results(p: Problem) -> int:
    """Bytes of the output and of the gradients of output and set, which all hold at the end of a step."""
    out = p.inputs.inducing.numel() * len(p.inputs.x) if p.kind == "pma" else p.inputs.x.shape[:-1].numel()
    width = 1 if p.kind == "pma" else p.inputs.inducing.shape[-1]
    return p.inputs.x.element_size() * (2 * out * width + p.inputs.x.numel())


# Checks ---------------------------------------------------------------------------------------------------------------


def check(name: str, problem: Problem, way: Way) -> None:
    """Raise AssertionError unless a provider's results are right; a block of its own need only be finite.

    What is compiled for this shape is asked for this shape, and its first set is looked at; others for part of one set.
    """
    if not way.same_block:
        out = way.infer()
        assert torch.isfinite(out).all(), f"{name}: values that are not finite"
        return
    small = _first_set(problem.inputs, CHECKED)
    if name in COMPILING:
        small = _first_set(problem.inputs, problem.inputs.x.shape[1])
        results = way.train() if problem.training else (way.infer(),)
        results = tuple(r[:1] if r is not None else None for r in results[:2])
    else:
        way = PROVIDERS[name](problem.resized(small))
        results = way.train() if problem.training else (way.infer(),)
    oracle, reference = (_original(problem.resized(small.to(kind))) for kind in (torch.float64, small.x.dtype))
    assert_close_to_oracle(_out(results), _out(reference), _out(oracle), name)
    if not problem.training:
        return
    least = 1e-3 * max(float(g.norm()) for g in oracle[1:] if g is not None)  # that of b_k is zero, without a scale
    compared = len(results) if way.same_parameters else 2
    for of, ours, theirs, right in zip(
        small.parameters(), results[1:compared], reference[1:compared], oracle[1:compared], strict=False
    ):
        if right is None or ours is None or theirs is None:
            continue
        scale = right.norm().clamp(min=least)
        error, allowed = (float((t.double() - right).norm() / scale) for t in (ours, theirs))
        assert error <= 2 * allowed + GRADIENT_TOLERANCE, f"{name}: gradient of {of} is off by {error:.1e}"


def _out(results: tuple[Tensor | None, ...]) -> Tensor:
    assert results[0] is not None
    return results[0]


def _original(p: Problem) -> tuple[Tensor | None, ...]:
    way = PROVIDERS["original"](p)
    return way.train() if p.training else (way.infer(),)


def _first_set(inputs: Inputs, size: int) -> Inputs:
    """The same problem for the first elements of the first set."""
    lengths = None if inputs.lengths is None else inputs.lengths[:1].clamp(max=size)
    return inputs._replace(x=inputs.x[:1, :size].detach().requires_grad_(), lengths=lengths)


# By size of the set ---------------------------------------------------------------------------------------------------


def _sizes(setting: Setting | None = None) -> tuple[str, ...]:
    return tuple(f"N={size}" for size in SIZES)


def _grown(training: bool, setting: Setting, name: str) -> Field:
    """An ISAB on one set of N elements, and attention of all to all beside it, which ISAB is there to avoid."""
    size = int(name.removeprefix("N="))
    inputs = make_inputs(replace(SHAPES["large"], elements=size), dtype=setting.dtype, device=setting.device)
    problem = Problem("isab", inputs, training)
    found = _fill(Field(), ["original", "SDPA", "settx_fast"], problem)
    longest = QUADRATIC // 10 if setting.quick else QUADRATIC
    if size > longest:
        found.absent["all to all (SDPA)"] = f"square in N, timed up to {longest:,}"
    else:
        way = PROVIDERS["SDPA"](replace(problem, kind="sab"))
        found.contestants.insert(2, Contestant("all to all (SDPA)", way.train if training else way.infer))
    return found


# Saving or recomputing ------------------------------------------------------------------------------------------------


def _saving(setting: Setting, name: str) -> Field:
    """A CPU's training step where it saves activations, where it recomputes them, and as it is chosen."""
    if setting.on_cuda:
        raise LeftOut("kernels on a GPU always recompute")
    inputs = make_inputs(SAVING[name], dtype=setting.dtype)
    ways: dict[str, Impl | None] = {"save": "composed", "recompute": "blockwise", "settx_fast": None}
    leaves = list(inputs.parameters().values())

    def step(impl: Impl | None) -> None:
        out = functional.induced_set_attention(*inputs[:6], impl=impl)
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    moved, flop = of_isab(inputs, training=True)
    results = _results(Problem("isab", inputs, True)) / 2**20
    contestants = [Contestant(way, partial(step, impl), memory=True) for way, impl in ways.items()]
    return Field(contestants, moved=moved, flop=flop, results_mib=results)


def subjects() -> Iterator[Subject]:
    """All of them, the most telling first."""
    quick = ("dataset", "tabular", "hidden-pyg")
    for training, word in ((False, "forward"), (True, "training")):
        passes = "forward + backward" if training else "forward"
        yield Subject(f"isab-{word}", f"ISAB, {passes}", "ms", _isab_shapes, partial(_prepare, "isab", training), quick)
    for kind, shapes in {"mab": ("dataset",), "sab": ("many-small",), "pma": ("pooling",)}.items():
        yield Subject(
            f"{kind}-training",
            f"{kind.upper()}, forward + backward",
            "ms",
            lambda setting, shapes=shapes: shapes,  # type: ignore[misc]
            partial(_prepare, kind, True),
            shapes,
        )
    for training, word in ((False, "forward"), (True, "training")):
        title = f"ISAB of one set of N elements, {'forward + backward' if training else 'forward'}"
        yield Subject(f"growth-{word}", title, "ms", _sizes, partial(_grown, training), _sizes()[:5:2])
    yield Subject(
        "saving", "Training on a CPU: saving or recomputing", "ms", lambda s: SAVING, _saving, tuple(SAVING)[::3]
    )
