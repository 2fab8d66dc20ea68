"""README's table and docs/performance.md, written out of the readings between two marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, isnan, log

from benchmarks.readings import Reading, Readings

BEGIN, END = "<!-- written by python -m benchmarks.plot -->", "<!-- end of what is written -->"
OURS = "settx_fast"
SAMPLER = "settx_fast, 2 threads"
SHOWN = ("large", "hidden", "hidden-pyg", "tabular")  # the README shows the first of those measured last
MECHANISMS = ("linear", "standardised", "MLP of 100 units", "100 Fourier features")
NOT_PEERS = ("settx_fast", "limit", "numpy", "torch", "sampling alone", "save", "recompute", "all to all")
TITLES = {
    "isab-forward": "ISAB, forward",
    "isab-training": "ISAB, forward + backward",
    "mab-training": "MAB, forward + backward",
    "sab-training": "SAB, forward + backward",
    "pma-training": "PMA, forward + backward",
    "set-transformer": "A training step of the SetTransformer",
    "saving": "Training on a CPU: save activations or recompute them",
    "growth-forward": "ISAB of one set of N elements, forward",
    "growth-training": "ISAB of one set of N elements, forward + backward",
    "sampler": "The sampler, by mechanism",
    "sampler-priors": "Whole priors of tabular models",
    "sampler-growth": "The sampler on one thread, by size",
    "predictor": "The predictor's training",
    "first-call": "The first training step of a process without caches",
    "host": "The host's time in a call of the kernels",
}


def is_peer(provider: str) -> bool:
    """Whether somebody else's package or code is behind it, NumPy and torch themselves left out."""
    return not provider.startswith(NOT_PEERS)


def best_peer(found: Readings, subject: str, shape: str) -> Reading | None:
    """The fastest of all others for a shape, the original left out where anybody else is faster."""
    others = [r for r in found.of(subject, shape=shape) if is_peer(r.provider) and not isnan(r.ratio)]
    return max(others, key=lambda r: r.ratio, default=None)


def replaced(text: str, written: str) -> str:
    """The text with what stands between the marks replaced; ValueError where it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END} in the page")
    return f"{before}{BEGIN}\n\n{written.strip()}\n\n{END}{after}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


# README ---------------------------------------------------------------------------------------------------------------


def summary(machines: dict[str, Readings]) -> str:
    """The few numbers of the README: a table for CPUs, one for GPUs."""
    parts = []
    for name, found in machines.items():
        rows = [*_isab_rows(found), *_sampler_rows(found)]
        if rows:
            parts.append(f"{name} ({found.source}):\n\n{table(('what', 'settx_fast', 'beside'), rows)}")
    return "\n\n".join(parts)


def _isab_rows(found: Readings) -> Iterator[tuple[str, str, str]]:
    for subject, word in (("isab-forward", "forward"), ("isab-training", "forward + backward")):
        measured = [reading for shape in SHOWN if (reading := found.one(subject, shape, OURS)) is not None]
        if not measured:
            continue
        ours = max(measured, key=lambda reading: reading.date)  # the first of equals
        shape = ours.shape
        original, peer = found.one(subject, shape, "original"), best_peer(found, subject, shape)
        memory = ""
        if original is not None and not isnan(ours.memory):
            memory = f"; {_mib(ours)} beyond inputs and outputs, the original {_mib(original)}"
        ratios = [r.ratio for r in found.of(subject) if r.provider == OURS]
        mean = exp(sum(map(log, ratios)) / len(ratios))
        beside = [f"{ours.ratio:.1f} × the original code (geometric mean over {len(ratios)} shapes: {mean:.1f} ×)"]
        if peer is not None and peer.provider != "original":
            beside.append(f"{ours.ratio / peer.ratio:.1f} × the best of the others ({peer.provider})")
        yield f"ISAB, `{shape}`, {word}, {ours.dtype}", f"{_number(ours.median)} {ours.unit}{memory}", ", ".join(beside)


def _sampler_rows(found: Readings) -> Iterator[tuple[str, str, str]]:
    for shape in MECHANISMS:
        rows = {r.provider: r for r in found.of("sampler", shape=shape)}
        ours = rows.get(OURS if found.is_gpu else SAMPLER)
        if ours is None:
            continue
        beside = []
        if "numpy" in rows:
            beside.append(f"{ours.median / rows['numpy'].median:.0f} × NumPy")
        peer = max((r for r in rows.values() if is_peer(r.provider)), key=lambda r: r.median, default=None)
        if peer is not None:
            beside.append(f"{ours.median / peer.median:.0f} × the fastest package ({peer.provider})")
        if "torch.randn" in rows:
            beside.append(f"{ours.median / rows['torch.randn'].median:.0%} of `torch.randn`, which draws normals alone")
        rate = f"{_number(ours.median / 1000)} G" if found.is_gpu else f"{_number(ours.median)} M"
        yield f"sampler, {shape}", f"{rate} values/s", ", ".join(beside)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _mib(r: Reading) -> str:
    return f"{r.memory:,.0f} MiB"


# docs/performance.md --------------------------------------------------------------------------------------------------


def performance(machines: dict[str, Readings]) -> str:
    """Every reading of every machine, a table for each subject."""
    parts = []
    for name, found in machines.items():
        said = ", ".join(f"{r.shape} {r.median:,.0f} {r.unit} ({r.dtype})" for r in found.of("machine"))
        parts.append(f"## {name}\n\n{found.source}. It {said}.")
        for subject, title in TITLES.items():
            if found.of(subject):
                parts.append(f"### {title}\n\n{_subject(found, subject)}")
    return "\n\n".join(parts)


def _subject(found: Readings, subject: str) -> str:
    providers, shapes = found.providers(subject), found.shapes(subject)
    graphs = {r.shape: r for r in found.of(subject, mode="graph") if r.provider == OURS}
    rows, has_floor, has_memory = [], False, False
    for shape in shapes:
        by = {r.provider: r for r in found.of(subject, shape=shape)}
        ours, first = by.get(OURS), next(iter(by.values()))
        cells = [shape, *(_cell(by.get(p), first, len(providers)) for p in providers)]
        if graphs:
            cells.append(_number(graphs[shape].median) if shape in graphs else "")
        fraction = "" if ours is None or isnan(ours.fraction) else f"{ours.fraction:.0%}"
        memory = "" if ours is None or isnan(ours.memory) else f"{ours.memory:,.0f} ({first.memory:,.0f})"
        has_floor, has_memory = has_floor or bool(fraction), has_memory or bool(memory)
        rows.append([*cells, fraction, memory])
    columns = ["shape", *providers, *(["settx_fast, CUDA graph"] if graphs else [])]
    columns += ["of the floor", f"MiB ({providers[0]})"]
    keep = [True] * (len(columns) - 2) + [has_floor, has_memory]
    unit = found.of(subject)[0].unit
    return f"{_explained(unit, len(providers))}\n\n" + table(
        [c for c, k in zip(columns, keep, strict=True) if k],
        [[c for c, k in zip(row, keep, strict=True) if k] for row in rows],
    )


def _cell(r: Reading | None, first: Reading, providers: int) -> str:
    if r is None:
        return "–"
    number = _number(r.median)
    return number if providers == 1 or r is first else f"{number} ({r.ratio:.2f} ×)"


def _explained(unit: str, providers: int) -> str:
    names = {"ms": "Milliseconds", "s": "Seconds", "µs": "Microseconds"}
    ratio = "" if providers == 1 else " (in brackets: how many times faster than the first column, in the same run)"
    return f"{names.get(unit, unit.replace('M', 'Millions of ').replace('/s', ' a second'))}{ratio}."
