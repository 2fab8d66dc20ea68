"""The figures of README and docs/performance.md, each in a light and a dark version, out of the readings."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from math import exp, isnan, log
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.pages import OURS, SAMPLER, best_peer, is_peer
from benchmarks.readings import Reading, Readings

PASSES = {"isab-forward": "forward", "isab-training": "forward + backward"}


@dataclass(frozen=True)
class Theme:
    """Colours: surface, text, quiet text, grid, ours, and what stands beside it."""

    name: str
    surface: str
    ink: str
    quiet: str
    grid: str
    ours: str
    others: tuple[str, ...]


LIGHT = Theme("light", "#ffffff", "#1f2328", "#59636e", "#d9dee3", "#d1480b", ("#7a8490", "#2f6fb5", "#7b4fb3"))
DARK = Theme("dark", "#0d1117", "#e6edf3", "#9198a1", "#2b313a", "#ff8a4c", ("#9aa4af", "#6cb0f5", "#b892ea"))


def write(machines: dict[str, Readings], folder: Path) -> list[Path]:
    """Draw every figure that there are readings for; the files."""
    mpl.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for theme in (LIGHT, DARK):
        for name, draw in FIGURES.items():
            with _style(theme):
                figure = draw(machines, theme)
                if figure is not None:
                    path = folder / f"{name}-{theme.name}.svg"
                    figure.savefig(path, metadata={"Date": None, "Description": fingerprint(machines)})
                    plt.close(figure)
                    written.append(path)
    return written


def fingerprint(machines: dict[str, Readings]) -> str:
    """What a figure says in its metadata of the readings that it shows."""
    rows = [row for found in machines.values() for row in found.rows()]
    return f"readings {sha256(repr(rows).encode()).hexdigest()[:16]}"


def _style(theme: Theme) -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "svg.hashsalt": "settx_fast", "font.size": 10, "figure.facecolor": theme.surface,
            "axes.facecolor": theme.surface, "savefig.facecolor": theme.surface, "text.color": theme.ink,
            "axes.labelcolor": theme.quiet, "axes.edgecolor": theme.grid, "xtick.color": theme.quiet,
            "ytick.color": theme.quiet, "axes.grid": True, "grid.color": theme.grid, "grid.linewidth": 0.6,
            "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
            "axes.titlelocation": "left", "axes.titlesize": 11, "xtick.minor.size": 0, "ytick.minor.size": 0,
        }
    )  # fmt: skip


def _panels(heights: Sequence[float], columns: int, width: float, title: str, note: str) -> tuple[Figure, list[Axes]]:
    """Rows of panels under a title and what must be known to read them, wrapped to the figure's width."""
    lines = textwrap.wrap(note, int(13.5 * width * columns))
    height = sum(heights) + 0.75 + 0.2 * len(lines)
    figure, panels = plt.subplots(
        len(heights), columns, figsize=(width * columns, height), layout="constrained", squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    figure.suptitle(title + "\n" * len(lines), x=0.01, ha="left", fontsize=14, fontweight="bold", linespacing=1.2)
    quiet = mpl.rcParams["ytick.color"]
    figure.text(0.011, 1 - 0.42 / height, "\n".join(lines), ha="left", va="top", fontsize=10, color=quiet)
    return figure, list(panels.flat)


def _logarithmic(axis: Axis) -> None:
    """Powers of ten as plain numbers, nothing between them."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    axis.set_minor_formatter(NullFormatter())


# Roofline -------------------------------------------------------------------------------------------------------------


def roofline(machines: dict[str, Readings], theme: Theme) -> Figure | None:
    """Operations a second against operations a byte, under the two roofs of the machine."""
    shown = {name: r for name, r in machines.items() if r.of("isab-forward") and r.of("machine")}
    if not shown:
        return None
    note = "A dot is a named problem. The line is what memory and arithmetic of the machine allow; higher is faster."
    figure, panels = _panels([4.4], len(shown), 6.4, "ISAB beside the machine's limit, forward", note)
    for panel, (name, found) in zip(panels, shown.items(), strict=True):
        copies, multiplies = (found.of("machine", shape=s)[0].median for s in ("copies", "multiplies"))
        _roof(panel, theme, copies, multiplies, [r for r in found.of("isab-forward") if not isnan(r.flop)])
        panel.set_title(name)
    return figure


def _roof(panel: Axes, theme: Theme, copies: float, multiplies: float, rows: list[Reading]) -> None:
    intensity = np.array([r.flop / r.bytes for r in rows])
    low, high = min(intensity) / 2.5, max(max(intensity), multiplies / copies) * 2.5
    x = np.geomspace(low, high, 200)
    panel.plot(x, np.minimum(copies * x, multiplies), color=theme.quiet, linewidth=1.5)
    panel.text(high, multiplies * 1.12, f"arithmetic: {_flops(multiplies)}", ha="right", color=theme.quiet, fontsize=9)
    for provider, colour, label in (("original", theme.others[0], "original code"), (OURS, theme.ours, "settx_fast")):
        of = [r for r in rows if r.provider == provider]
        points = [(r.flop / r.bytes, r.flop / (1e6 * r.median)) for r in of]  # ms → Gflop/s
        panel.plot(*zip(*points, strict=True), "o", color=colour, markersize=7, label=label)
    panel.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations for each byte that must be moved")
    panel.set_ylabel("billions of operations a second")
    _logarithmic(panel.xaxis)
    _logarithmic(panel.yaxis)
    panel.legend(frameon=False, loc="lower right", labelcolor=theme.ink)
    _name_dots(panel, theme, {r.shape: point for r, point in zip(of, points, strict=True)})


def _name_dots(panel: Axes, theme: Theme, dots: dict[str, tuple[float, float]]) -> None:
    """The fastest first; a name that would lie on another goes below it."""
    figure = panel.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    placed: list[tuple[float, float]] = []
    for name, dot in sorted(dots.items(), key=lambda each: -each[1][1]):
        x, y = panel.transData.transform(dot) * 72 / figure.dpi  # in points, as the size of letters
        low = min([y, *(above - 10 for left, above in placed if abs(left - x) < 65 and above - 10 < y)])
        placed.append((x, low))
        panel.annotate(name, dot, (7, low - y - 3), textcoords="offset points", fontsize=8, color=theme.ink)


def _flops(billions: float) -> str:
    return f"{billions / 1000:,.0f} TFLOP/s" if billions > 5000 else f"{billions:,.0f} GFLOP/s"


# Speed-up -------------------------------------------------------------------------------------------------------------


def speedup(machines: dict[str, Readings], theme: Theme) -> Figure | None:
    """How many times faster than the original: ours, and the best of all others."""
    shown = {name: r for name, r in machines.items() if r.of("isab-forward")}
    if not shown:
        return None
    heights = [1.1 + 0.5 * max(len(r.shapes(subject)) for subject in PASSES) for r in shown.values()]
    note = "Times faster than the original code, in the same run, by shape; the best of all others is named on its bar."
    figure, panels = _panels(heights, 2, 5.4, "How much faster ISAB is", note)
    pairs = [(name, found, subject) for name, found in shown.items() for subject in PASSES]
    for panel, (name, found, subject) in zip(panels, pairs, strict=True):
        _bars(panel, theme, found, subject)
        panel.set_title(f"{name}\n{PASSES[subject]}", fontsize=10)
    return figure


def _bars(panel: Axes, theme: Theme, found: Readings, subject: str) -> None:
    shapes = [s for s in found.shapes(subject) if found.one(subject, s, OURS)]
    longest = 1.0
    for row, shape in enumerate(shapes):
        ours, peer = found.one(subject, shape, OURS), best_peer(found, subject, shape)
        assert ours is not None
        longest = max(longest, ours.ratio)
        panel.barh(row - 0.2, ours.ratio, 0.36, color=theme.ours)
        panel.text(ours.ratio, row - 0.2, f" {ours.ratio:.1f} ×", va="center", color=theme.ink, fontweight="bold")
        if peer is not None:
            longest = max(longest, peer.ratio)
            panel.barh(row + 0.2, peer.ratio, 0.36, color=theme.others[0])
            said = f" {peer.ratio:.1f} ×  {peer.provider}"
            panel.text(peer.ratio, row + 0.2, said, va="center", color=theme.quiet, fontsize=8.5)
    key = [Patch(color=theme.ours, label="settx_fast"), Patch(color=theme.others[0], label="best of the others")]
    panel.legend(handles=key, frameon=False, loc="best", labelcolor=theme.ink, fontsize=9)
    panel.axvline(1, color=theme.quiet, linewidth=1)
    panel.set_yticks(range(len(shapes)), shapes, color=theme.ink)
    panel.set(ylim=(len(shapes) - 0.4, -0.6), xlim=(0, longest * 1.55), xlabel="× the original")
    panel.grid(visible=False, axis="y")


# Growth ---------------------------------------------------------------------------------------------------------------


def growth(machines: dict[str, Readings], theme: Theme) -> Figure | None:
    """Time against the size of a set, with the sizes from which on ours is the fastest."""
    pair = ("growth-forward", "growth-training")
    shown = [(m, s) for m in machines.values() if all(map(m.of, pair)) for s in pair]
    if not shown:
        return None
    note = "One set of N elements, 128 features. Attention of all to all grows with N², ISAB with N. Lower is faster."
    figure, panels = _panels([4.4] * (len(shown) // 2), 2, 5.4, "Time against the size of a set", note)
    for panel, (found, subject) in zip(panels, shown, strict=True):
        _curves(panel, theme, found, subject)
        panel.set_title(f"{found.machine}\n{'forward' if subject.endswith('d') else 'forward + backward'}", fontsize=10)
    return figure


def _curves(panel: Axes, theme: Theme, found: Readings, subject: str) -> None:
    colours = dict(zip(("original", "SDPA", "all to all (SDPA)"), theme.others, strict=True)) | {OURS: theme.ours}
    names = {"original": "original ISAB", "SDPA": "ISAB of SDPA", "all to all (SDPA)": "all to all", OURS: "settx_fast"}
    curves = {}
    for provider, colour in colours.items():
        rows = [r for r in found.of(subject) if r.provider == provider]
        if not rows:
            continue
        x, y = [int(r.shape[2:]) for r in rows], [r.median for r in rows]
        curves[provider] = x, y
        wide = provider == OURS
        panel.plot(x, y, "o-", color=colour, linewidth=2.4 if wide else 1.5, markersize=4, label=names[provider])
    panel.set(xscale="log", yscale="log", xlabel="elements of the set, N", ylabel="milliseconds")
    _logarithmic(panel.xaxis)
    _logarithmic(panel.yaxis)
    panel.legend(frameon=False, loc="upper left", labelcolor=theme.ink)
    said = [f"{names[p]}: {_crossing(curves[OURS], curve)}" for p, curve in curves.items() if p != OURS]
    panel.text(
        0.98, 0.03, "settx_fast is faster than\n" + "\n".join(said), ha="right", va="bottom", fontsize=8.5,
        transform=panel.transAxes, color=theme.ink,
    )  # fmt: skip


def _crossing(ours: tuple[Sequence[int], Sequence[float]], other: tuple[Sequence[int], Sequence[float]]) -> str:
    """From which size on ours is faster, interpolated on logarithmic axes."""
    mine = dict(zip(*ours, strict=True))
    steps = [(x, log(y / mine[x])) for x, y in zip(*other, strict=True) if x in mine]
    slower = [i for i, (_, lead) in enumerate(steps) if lead <= 0]
    if not slower:
        return "at every size"
    if slower[-1] == len(steps) - 1:
        return "not at the largest size"
    (x0, a), (x1, b) = steps[slower[-1]], steps[slower[-1] + 1]
    return f"from N ≈ {exp(log(x0) + (log(x1) - log(x0)) * -a / (b - a)):,.0f} on"


# Sampler --------------------------------------------------------------------------------------------------------------


def sampler(machines: dict[str, Readings], theme: Theme) -> Figure | None:
    """Values a second by mechanism: ours, NumPy or torch, and the best package."""
    shown = {name: found for name, found in machines.items() if found.of("sampler")}
    if not shown:
        return None
    heights = [1 + 0.62 * max(len(found.shapes("sampler")) for found in shown.values())]
    note = "Values of structural causal models drawn a second, every dataset with a model of its own. Longer is faster."
    figure, panels = _panels(heights, len(shown), 6.6, "How fast the sampler draws", note)
    for panel, (name, found) in zip(panels, shown.items(), strict=True):
        _rates(panel, theme, found)
        panel.set_title(name)
    return figure


def _rates(panel: Axes, theme: Theme, found: Readings) -> None:
    shapes = found.shapes("sampler")
    for row, shape in enumerate(shapes):
        rows = {r.provider: r.median for r in found.of("sampler", shape=shape)}
        packages = {p: v for p, v in rows.items() if is_peer(p)}
        ours = max(v for p, v in rows.items() if p in (OURS, SAMPLER))
        bars = [("settx_fast", ours, theme.ours, "bold")]
        if "numpy" in rows:
            bars.append(("NumPy", rows["numpy"], theme.others[1], "normal"))
        if packages:
            best = max(packages, key=packages.__getitem__)
            bars.append((best, packages[best], theme.others[0], "normal"))
        if "torch.randn" in rows:
            bars.append(("torch.randn (normals alone)", rows["torch.randn"], theme.others[0], "normal"))
        for i, (label, value, colour, weight) in enumerate(bars):
            y = row + 0.27 * (i - (len(bars) - 1) / 2)
            panel.barh(y, value, 0.25, color=colour)
            said = f" {label} {value / 1000:,.3g} G" if found.is_gpu else f" {label} {value:,.3g} M"
            panel.text(value, y, said, va="center", fontsize=8.5, color=theme.ink, fontweight=weight)
    panel.set_yticks(range(len(shapes)), shapes, color=theme.ink)
    low = min(r.median for r in found.of("sampler") if r.provider != "settx_fast on the CPU")
    high = max(r.median for r in found.of("sampler"))
    panel.set(
        ylim=(len(shapes) - 0.4, -0.6), xscale="log", xlim=(low / 2, high * 300), xlabel="millions of values a second"
    )
    _logarithmic(panel.xaxis)
    panel.grid(visible=False, axis="y")


Draw = Callable[[dict[str, Readings], Theme], Any]
FIGURES: dict[str, Draw] = {"roofline": roofline, "speedup": speedup, "growth": growth, "sampler": sampler}
