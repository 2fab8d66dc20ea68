"""One self-contained page: how a model was trained, how good it is, and what it says of real tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from settx_fast.predictor import figures
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.figures import Image
from settx_fast.predictor.targets import FRAMEWORKS, ROLES
from settx_fast.predictor.wording import METRICS, PROPERTIES, number, title

REPORT = "report.html"
PREDICTORS = ("model", "mean", "classical")
_HIGHER_IS_BETTER = {"r2", "auroc", "accuracy"}
_LOWER_IS_BETTER = {"mae", "calibration"}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class MetricTable:
    """Predictors by metric, and for every property one (value, whether it is the best) under each of them."""

    columns: dict[str, list[str]]
    rows: list[tuple[str, list[tuple[float | None, bool]]]]


@dataclass(frozen=True)
class Run:
    """Everything a run directory holds, ready for the page; what is not there yet is None or empty."""

    name: str
    config: TrainConfig
    feature_names: tuple[str, ...]
    loss: Image | None
    evaluation: dict[str, Any] | None
    metrics: list[MetricTable]
    scatters: list[tuple[str, str, Image]]
    calibration: list[tuple[str, Image]]
    predictions: list[dict[str, Any]]


def write_report(directory: str | Path) -> Path:
    """Write report.html of a run directory, or of a directory of run directories, and return its path.

    Raises FileNotFoundError where there is no run.
    """
    directory = Path(directory)
    runs = (
        [directory]
        if (directory / "config.json").exists()
        else sorted(p.parent for p in directory.glob("*/config.json"))
    )
    if not runs:
        raise FileNotFoundError(f"There is no training run in '{directory}': `settx-fast train` writes one.")
    page = _template().render(runs=[read_run(run) for run in runs], wording=PROPERTIES, colours=figures.COLOURS)
    path = directory / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def read_run(directory: Path) -> Run:
    """Read a run directory and draw its figures."""
    config = TrainConfig.load(directory)
    names = _feature_names(config)
    evaluation = _json(directory / "evaluation.json")
    arrays = dict(np.load(directory / "evaluation.npz")) if evaluation else {}
    return Run(
        name=config.name,
        config=config,
        feature_names=names,
        loss=_loss(directory / "metrics.csv"),
        evaluation=evaluation,
        metrics=_metric_tables(evaluation, names) if evaluation else [],
        scatters=list(_scatters(arrays, evaluation, names)) if evaluation else [],
        calibration=list(_calibration(arrays)) if evaluation else [],
        predictions=[_prediction(path) for path in sorted(directory.glob("prediction-*.json"))],
    )


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "words": title}
    environment.undefined = jinja2.StrictUndefined
    return environment.get_template("report.html.j2")


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _feature_names(config: TrainConfig) -> tuple[str, ...]:
    """Names of the features in the model's order where the prior has named variables and a fixed target."""
    names, target = config.prior.names, config.prior.target
    return tuple(name for index, name in enumerate(names) if target not in (name, index))


def _loss(path: Path) -> Image | None:
    if not path.exists():
        return None
    logged = pd.read_csv(path)
    curves = {}
    for label, column in (("training", "train/loss"), ("held out", "valid/loss")):
        if column in logged:
            known = logged[["step", column]].dropna()
            curves[label] = (known["step"].tolist(), known[column].tolist())
    return figures.loss_curve(curves) if curves else None


def _metric_tables(evaluation: dict[str, Any], names: tuple[str, ...]) -> list[MetricTable]:
    """One table for all properties that are measured alike."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for key, by_predictor in evaluation["metrics"].items():
        alike.setdefault(tuple(by_predictor["model"]), []).append(key)
    return [_metric_table(metrics, keys, evaluation["metrics"], names) for metrics, keys in alike.items()]


def _metric_table(
    metrics: tuple[str, ...], keys: list[str], values: dict[str, dict[str, dict[str, float]]], names: tuple[str, ...]
) -> MetricTable:
    def columns_of(metric: str) -> list[str]:
        return [name for name in PREDICTORS if any(metric in values[key].get(name, {}) for key in keys)]

    columns = {metric: columns_of(metric) for metric in metrics}
    rows = []
    for key in keys:
        cells = []
        for metric, predictors in columns.items():
            found = {name: values[key].get(name, {}).get(metric) for name in predictors}
            best = _best(metric, found)
            cells += [(value, name == best) for name, value in found.items()]
        rows.append((title(key, names), cells))
    return MetricTable({METRICS.get(metric, metric): predictors for metric, predictors in columns.items()}, rows)


def _best(metric: str, values: dict[str, float | None]) -> str | None:
    known = {name: value for name, value in values.items() if value is not None and np.isfinite(value)}
    if len(known) < 2 or metric not in _HIGHER_IS_BETTER | _LOWER_IS_BETTER:
        return None
    return (max if metric in _HIGHER_IS_BETTER else min)(known, key=lambda name: known[name])


def _parts(arrays: Arrays) -> Iterator[tuple[str, Arrays]]:
    """Every number property, or part of one, as flat arrays by kind: true, model, lower, upper, mean, classical."""
    for key in [name.removesuffix("/true") for name in arrays if name.endswith("/true")]:
        kinds = {kind: arrays[f"{key}/{kind}"] for kind in ("true", "model", "lower", "upper", "mean", "classical")
                 if f"{key}/{kind}" in arrays}  # fmt: skip
        if "lower" not in kinds:
            continue
        if key == "risk":
            for index, framework in enumerate(FRAMEWORKS):
                yield f"risk/{framework}", {kind: values[:, index] for kind, values in kinds.items()}
        else:
            yield key, {kind: np.broadcast_to(values, kinds["true"].shape).ravel() for kind, values in kinds.items()}


def _scatters(arrays: Arrays, evaluation: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, str, Image]]:
    """Title, R² of every predictor and the picture of every number property."""
    for key, kinds in _parts(arrays):
        metrics = evaluation["metrics"].get(key, {})
        shown = [f"{name} {number(metrics[name]['r2'])}" for name in PREDICTORS if "r2" in metrics.get(name, {})]
        predicted = {name: kinds[name] for name in PREDICTORS if name in kinds}
        yield (
            title(key, names),
            "R²: " + ", ".join(shown) if shown else "",
            figures.scatter(title(key), kinds["true"], predicted),
        )


def _calibration(arrays: Arrays) -> Iterator[tuple[str, Image]]:
    kinds = ("true", "model", "lower", "upper")
    numbers = {
        key: (p["true"], p["model"], p["lower"], p["upper"]) for key, p in _parts(arrays) if set(kinds) <= set(p)
    }
    if numbers:
        yield "Intervals of the numbers, one line per property", figures.coverage(numbers)
    if "role/true" in arrays:
        true = arrays["role/true"].ravel()
        probability = arrays["role/model"].reshape(len(true), -1)[true >= 0]
        yield "Probabilities of the roles", figures.reliability(true[true >= 0], probability, ROLES)


def _prediction(path: Path) -> dict[str, Any]:
    """A saved prediction with its figure."""
    prediction = json.loads(path.read_text())
    compared = prediction["frameworks"]
    best = [each["name"] for each in compared].index(prediction["recommended"])
    measured = [each["measured"] and _bounds(each["measured"]) for each in compared]
    predicted = [_bounds(each["risk"]) for each in compared]
    picture = figures.risks([each["title"] for each in compared], predicted, measured, best)
    return prediction | {"figure": picture, "best": compared[best]}


def _bounds(interval: dict[str, float | None]) -> tuple[float, float, float]:
    low, middle, high = (interval[name] for name in ("low", "value", "high"))
    if middle is None:
        return np.nan, np.nan, np.nan
    return middle, middle if low is None else low, middle if high is None else high
