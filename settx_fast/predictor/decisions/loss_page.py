"""The page and the figure of a loss study."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from settx_fast.predictor.decisions.loss_study import COLLAPSED, HIDDEN, Study, confidence
from settx_fast.predictor.decisions.page import markdown_table
from settx_fast.predictor.figures import INK, STYLE

FIGURE = "images/losses.svg"
_COLOURS = ("#2f7ed8", "#e8871e", "#d1495b", "#4d9078")


def write_study(study: Study, out: Path, command: str) -> None:
    """Write the page to `out`, and its figure beside it in `images/`."""
    figure = out.parent / FIGURE
    figure.parent.mkdir(parents=True, exist_ok=True)
    _draw(study, figure)
    out.write_text(study_page(study, command), encoding="utf-8")


def study_page(study: Study, command: str) -> str:
    """Markdown."""
    budget = study.budget
    parts = [
        "# Losses and penalties of a learned choice",
        f"Written by `{command}`; every number comes from that command.",
        f"A network of two hidden layers of {HIDDEN} reads the selector's descriptors and predicts the logarithm of "
        f"every framework's risk over ERM's. Each training has the same budget, {budget.steps:,} steps of "
        f"{budget.batch_size} of {study.training:,} datasets; penalties are {budget.l1:g} times the sum of |w| (l1), "
        f"{budget.l2:g} times that of w² (l2), or half of both (elastic). Regret is the objective: the geometric mean, "
        f"over {study.held_out:,} held-out datasets, of the risk of the framework of least predicted risk over the "
        f"least, less 1. Always-ERM has {_percent(study.always_erm)}, the best fixed framework "
        f"{_percent(study.best_fixed)}. ± is half of a 90 % interval over seeds.",
        markdown_table(_HEADER, _rows(study)),
        f"![Regret by loss and penalty]({FIGURE})",
        _closest(study),
        _constant(study),
    ]
    return "\n\n".join(parts) + "\n"


_HEADER = [
    "loss",
    "penalty",
    "regret",
    "R² of log risks",
    "spread of predictions over the truth's",
    "most frequent choice",
]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _kinds(study: Study) -> list[tuple[str, str]]:
    return list(dict.fromkeys((run.loss, run.penalty) for run in study.runs))


def _rows(study: Study) -> list[list[str]]:
    rows = []
    for kind in _kinds(study):
        runs = [run for run in study.runs if (run.loss, run.penalty) == kind]
        mean, half = confidence([run.regret for run in runs])
        regret = f"{100 * mean:.1f} ± {100 * half:.1f} %" if np.isfinite(half) else _percent(mean)
        r2, spread, top = (np.mean([getattr(run, name) for run in runs]) for name in ("r2", "spread", "top"))
        rows.append([*kind, regret, f"{r2:.2f}", f"{spread:.2f}", f"{100 * top:.0f} %"])
    return rows


def _closest(study: Study) -> str:
    found = {kind: confidence(study.regrets(*kind)) for kind in _kinds(study)}
    best = min(found, key=lambda kind: found[kind][0])
    mean, half = found[best]
    alike = [kind for kind in found if kind != best and found[kind][0] - found[kind][1] <= mean + half]
    rest = f"; intervals of {len(alike)} of the {len(found) - 1} others overlap its own" if len(found) > 1 else ""
    return f"Closest to the objective: **{best[0]}, penalty {best[1]}**, {_percent(mean)}{rest}."


def _constant(study: Study) -> str:
    constant = [kind for kind in _kinds(study) if all(r.is_constant for r in study.runs if (r.loss, r.penalty) == kind)]
    names = "; ".join(f"{loss}, penalty {penalty}" for loss, penalty in constant) or "none"
    return f"Collapsed to a constant, that is predictions of less than {COLLAPSED:g} of the truth's spread: {names}."


def _draw(study: Study, path: Path) -> None:
    losses = list(dict.fromkeys(run.loss for run in study.runs))
    penalties = list(dict.fromkeys(run.penalty for run in study.runs))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots()
        for number, (penalty, colour) in enumerate(zip(penalties, _COLOURS, strict=False)):
            found = [confidence(study.regrets(loss, penalty)) for loss in losses]
            place = np.arange(len(losses)) + 0.15 * (number - (len(penalties) - 1) / 2)
            reach = [100 * half if np.isfinite(half) else 0.0 for _, half in found]
            axes.errorbar(
                place, [100 * mean for mean, _ in found], reach, fmt="o", ms=4, capsize=2, color=colour, label=penalty
            )
        axes.axhline(100 * study.always_erm, color=INK, linestyle="--", label="always ERM")
        axes.axhline(100 * study.best_fixed, color=INK, linestyle=":", label="best fixed framework")
        axes.set_xticks(range(len(losses)), losses)
        axes.set_ylabel("regret on held-out datasets, %")
        figure.legend(loc="outside upper center", ncols=3)
        figure.savefig(path, metadata={"Date": None}, transparent=True)
