"""The report's figures as data URIs, readable on a light and on a dark page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import norm

from settx_fast.predictor.losses import Z90
from settx_fast.predictor.wording import number

COLOURS = {"model": "#2f7ed8", "classical": "#e8871e", "mean": "#8a8f98", "measured": "#d1495b", "true": "#8a8f98"}
INK = "#7b818c"
"""Of text and lines: contrast above 3.9 on white and on #14171c."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": INK, "grid.alpha": 0.18, "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8,
    "svg.fonttype": "path", "svg.hashsalt": "settx_fast",
}  # fmt: skip
"""Matplotlib's settings for pictures without a background."""

_DOTS = 2000


@dataclass(frozen=True)
class Image:
    """A picture for an <img> tag: data URI, alternative text, width and height in CSS pixels."""

    source: str
    alt: str
    width: int
    height: int


def loss_curve(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Image:
    """Losses over training steps; `curves` holds (steps, losses) by name."""
    with _drawing(4.8, 2.7, left=0.7, right=0.2) as (figure, axes):
        for (name, (steps, losses)), colour in zip(curves.items(), (COLOURS["mean"], COLOURS["model"]), strict=False):
            axes.plot(steps, losses, color=colour, label=name, linewidth=1.8, marker="o", markersize=2.5)
        axes.set(xlabel="step", ylabel="loss, sum over properties")
        axes.legend()
    return _image(figure, "Loss over training steps", vector=True)


def scatter(name: str, true: np.ndarray, predicted: Mapping[str, np.ndarray], log: bool = False) -> Image:
    """Predicted against true, on logarithmic axes if asked for and possible; outliers are drawn on the frame's edge."""
    known = np.isfinite(true)
    low, high = np.quantile(true[known], [0.01, 0.99]) if known.any() else (0.0, 1.0)
    log = log and low > 0
    margin = 0.05 * (high - low) or 0.5
    low, high = (low / 1.5, high * 1.5) if log else (low - margin, high + margin)
    with _drawing(2.7, 2.6) as (figure, axes):
        axes.plot([low, high], [low, high], color=INK, linewidth=0.9, zorder=1)
        for predictor in ("classical", "mean", "model"):
            if predictor in predicted:
                x, y = _thinned(true[known], predicted[predictor][known])
                size, alpha = (4, 0.35) if predictor == "classical" else (6, 0.55)
                x, y = np.clip(x, low, high), np.clip(y, low, high)
                axes.scatter(x, y, s=size, alpha=alpha, color=COLOURS[predictor], linewidths=0, label=predictor)
        axes.set(xlabel="true", ylabel="predicted", xlim=(low, high), ylim=(low, high))
        if log:
            axes.set(xscale="log", yscale="log")
    return _image(figure, f"{name}: predicted against true")


def coverage(values: Mapping[str, tuple[np.ndarray, ...]]) -> Image:
    """Share of true values within central intervals of every size; (true, centre, lower, upper) by property.

    The 90 % interval fixes the scale on either side of the centre; other sizes follow as for a normal distribution.
    """
    nominal = np.linspace(0.02, 0.98, 49)
    with _drawing(3.4, 3.1) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9)
        for true, centre, lower, upper in values.values():
            side = np.where(true >= centre, upper - centre, centre - lower)
            distance = Z90 * np.abs(true - centre) / np.maximum(side, 1e-12)
            distance = distance[np.isfinite(distance)]
            share = [(distance <= norm.ppf((1 + level) / 2)).mean() for level in nominal]
            axes.plot(nominal, share, color=COLOURS["model"], alpha=0.45, linewidth=1.2)
        axes.set(xlabel="size of the interval", ylabel="share of true values within", xlim=(0, 1), ylim=(0, 1))
    return _image(figure, "Calibration of the intervals, one line per property", vector=True)


def reliability(true: np.ndarray, probability: np.ndarray, labels: Sequence[str], bins: int = 10) -> Image:
    """How often a role is true where it was given that probability; true (n,) codes, probability (n, classes)."""
    edges = np.linspace(0, 1, bins + 1)
    with _drawing(3.4, 3.1) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9)
        for index, label in enumerate(labels):
            bucket = np.clip(np.digitize(probability[:, index], edges) - 1, 0, bins - 1)
            filled = [b for b in range(bins) if (bucket == b).sum() >= 10]
            given = [probability[bucket == b, index].mean() for b in filled]
            seen = [(true[bucket == b] == index).mean() for b in filled]
            axes.plot(given, seen, marker="o", markersize=3, linewidth=1.2, label=label)
        axes.set(xlabel="probability given", ylabel="share it was true", xlim=(0, 1), ylim=(0, 1))
        axes.legend()
    return _image(figure, "Reliability of the probabilities of roles", vector=True)


def risks(
    titles: Sequence[str],
    predicted: Sequence[tuple[float, float, float]],
    measured: Sequence[tuple[float, float, float] | None],
    best: int,
    variance: float,
) -> Image:
    """Predicted and measured risk of every framework, (value, low, high) each, on a logarithmic axis.

    variance: of the target, the risk of a framework that knows nothing; a dotted line.
    """
    left = max(1.45, 0.085 * max(map(len, titles)))
    height = 0.7 + min(0.5 * len(titles), 1.2 + 0.3 * len(titles))
    with _drawing(3.35 + left, height, left=left, right=0.3) as (figure, axes):
        for kind, values, offset in (("model", predicted, -0.13), ("measured", measured, 0.13)):
            rows = [(row, value) for row, value in enumerate(values) if value is not None]
            if not rows:
                continue
            y = np.array([row + offset for row, _ in rows])
            centre, low, high = np.array([value for _, value in rows]).T
            axes.hlines(y, np.maximum(low, centre * 1e-2), high, color=COLOURS[kind], linewidth=2.2, alpha=0.6)
            axes.plot(centre, y, "o", color=COLOURS[kind], markersize=6)
        axes.axvline(variance, color=INK, linewidth=1.2, linestyle=":")
        axes.set(xscale="log", ylim=(len(titles) - 0.5, -0.5), xlabel="risk, squared units of the target")
        axes.set_yticks(range(len(titles)), titles)
        axes.get_yticklabels()[best].set_fontweight("bold")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.xaxis.set_minor_formatter(NullFormatter())
    return _image(figure, "Predicted and measured risk of every framework", vector=True)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, len(x) // _DOTS)
    x, y = x[::step], y[::step]
    return x[np.isfinite(y)], y[np.isfinite(y)]


@contextmanager
def _drawing(width: float, height: float, left: float = 0.6, right: float = 0.1) -> Iterator[tuple[Figure, Axes]]:
    """A figure of that size in inches with one pair of axes, `left` and `right` inches from its edges."""
    bottom, top = 0.48, 0.1  # fixed margins: an automatic layout would take most of the time
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        figure.patch.set_alpha(0)
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        axes = figure.add_axes(box)
        axes.patch.set_alpha(0)
        yield figure, axes


def _image(figure: Figure, alt: str, vector: bool = False) -> Image:
    buffer, kind = io.BytesIO(), "svg" if vector else "png"
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if vector else {})
    media = "image/svg+xml" if vector else "image/png"
    width, height = (round(100 * size) for size in figure.get_size_inches())
    return Image(f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}", alt, width, height)
