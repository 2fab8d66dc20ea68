"""One self-contained page: how a model was trained, how good it is, and what it says of real tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from platform import machine, python_version, system
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from settx_fast._files import read_json
from settx_fast.predictor import figures
from settx_fast.predictor.baselines import has_fixed_graph
from settx_fast.predictor.config import TrainConfig
from settx_fast.predictor.figures import Image
from settx_fast.predictor.frameworks import TITLES as TITLES_OF_ALL
from settx_fast.predictor.prediction import SCHEMA
from settx_fast.predictor.saving import PREDICTIONS, RECOMMENDATIONS
from settx_fast.predictor.selector import recommendation
from settx_fast.predictor.targets import BY_NAME, ROLES
from settx_fast.predictor.wording import METRICS, PREDICTED_BY, PROPERTIES, TITLES, number, title, titles

REPORT = "report.html"
PREDICTORS = ("model", "mean", "classical")
KINDS = ("true", "lower", "upper", *PREDICTORS)
_HIGHER_IS_BETTER = {"r2", "auroc", "accuracy"}
_LOWER_IS_BETTER = {"mae", "calibration"}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class MetricTable:
    """Predictors by metric, and for every property one (value, whether it is the best) under each of them."""

    columns: dict[str, list[str]]
    rows: list[tuple[str, list[tuple[float | None, bool]]]]

    @property
    def labels(self) -> list[str]:
        """Metric and predictor of every cell of a row."""
        return [f"{metric}, {name}" for metric, names in self.columns.items() for name in names]


@dataclass(frozen=True)
class Run:
    """Everything a run directory holds, ready for the page; what is not there yet is None or empty."""

    name: str
    config: TrainConfig
    loss: Image | None
    predictions: list[dict[str, Any]]
    unreadable: list[str]
    graph_is_known: bool
    evaluation: dict[str, Any] | None = None
    metrics: list[MetricTable] = field(default_factory=list)
    scatters: list[tuple[str, str, Image]] = field(default_factory=list)
    calibration: list[tuple[str, Image]] = field(default_factory=list)


def write_report(directory: str | Path) -> Path:
    """Write report.html of a run directory, a directory of run directories, or of recommendations; return its path.

    Raises FileNotFoundError where there is neither a run nor a recommendation.
    """
    directory = Path(directory)
    runs = (
        [directory]
        if (directory / "config.json").exists()
        else sorted(p.parent for p in directory.glob("*/config.json"))
    )
    recommendations = list(_recommendations(directory))
    if not runs and not recommendations:
        raise FileNotFoundError(
            f"There is no training run in '{directory}', nor a recommendation: `settx-fast train` writes the one, "
            "`settx-fast recommend --save` the other."
        )
    page = _template().render(
        runs=[read_run(run) for run in runs],
        recommendations=recommendations,
        wording=PROPERTIES,
        named_by=PREDICTED_BY,
        colours=figures.COLOURS,
        made_with=_made_with(),
    )
    path = directory / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def read_run(directory: Path) -> Run:
    """Read a run directory and draw its figures."""
    config = TrainConfig.load(directory)
    found = {path.name: _read(path, SCHEMA) for path in sorted(directory.glob(PREDICTIONS))}
    run = Run(
        name=config.name,
        config=config,
        loss=_loss(directory / "metrics.csv"),
        predictions=[_with_figure(prediction) for prediction in found.values() if prediction is not None],
        unreadable=[name for name, prediction in found.items() if prediction is None],
        graph_is_known=has_fixed_graph(config.prior),
    )
    if not (directory / "evaluation.json").exists():
        return run
    evaluation = read_json(directory / "evaluation.json", f"`settx-fast evaluate {directory}` writes it anew")
    arrays = dict(np.load(directory / "evaluation.npz"))
    shown = titles(evaluation["metrics"], config.prior.names, config.prior.target)
    return replace(
        run,
        evaluation=evaluation,
        metrics=_metric_tables(evaluation, shown),
        scatters=list(_scatters(arrays, evaluation, shown)),
        calibration=list(_calibration(arrays, shown)),
    )


def _made_with() -> str:
    """Versions and machine of the report."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("settx_fast", "torch", "numpy"))
    return f"Written by {versions} with Python {python_version()} on {system()} {machine()}, {cpu_count()} cores."


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "words": title, "code": _code, "known_effects": _known_effects}
    environment.filters |= {"framework_title": TITLES.__getitem__, "ranked_title": TITLES_OF_ALL.__getitem__}
    environment.undefined = jinja2.StrictUndefined
    return environment.get_template("report.html.j2")


def _code(sentence: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))


def _known_effects(prediction: dict[str, Any]) -> list[str]:
    """The effects that the model is better at than the mean on held-out datasets, or that were not measured."""
    records = prediction["records"]
    return [name for name in prediction["columns"][0]["effects"] if name not in records or records[name]["is_known"]]


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


def _metric_tables(evaluation: dict[str, Any], shown: dict[str, str]) -> list[MetricTable]:
    """One table for all properties that are measured alike."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for key in shown:
        alike.setdefault(tuple(evaluation["metrics"][key]["model"]), []).append(key)
    return [_metric_table(metrics, keys, evaluation["metrics"], shown) for metrics, keys in alike.items()]


def _metric_table(
    metrics: tuple[str, ...], keys: list[str], values: dict[str, dict[str, dict[str, float]]], shown: dict[str, str]
) -> MetricTable:
    def predictors_of(metric: str) -> list[str]:
        return [name for name in PREDICTORS if any(values[key].get(name, {}).get(metric) is not None for key in keys)]

    columns = {metric: predictors_of(metric) for metric in metrics}
    rows = []
    for key in keys:
        cells = []
        for metric, predictors in columns.items():
            found = [values[key].get(name, {}).get(metric) for name in predictors]
            best = _best(metric, found)
            cells += [(value, best is not None and value == best) for value in found]
        rows.append((shown[key], cells))
    return MetricTable({METRICS.get(metric, metric): predictors for metric, predictors in columns.items()}, rows)


def _best(metric: str, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    if len(known) < 2 or metric not in _HIGHER_IS_BETTER | _LOWER_IS_BETTER:
        return None
    return max(known) if metric in _HIGHER_IS_BETTER else min(known)


def _parts(arrays: Arrays, shown: dict[str, str]) -> Iterator[tuple[str, Arrays]]:
    """Every measured number as flat arrays by kind: true, model, lower, upper, mean, classical."""
    for key in shown:
        name, _, part = key.partition("/")
        if f"{name}/lower" not in arrays:
            continue
        kinds = {kind: arrays[f"{name}/{kind}"] for kind in KINDS if f"{name}/{kind}" in arrays}
        if part:
            column = int(part) if part.isdecimal() else BY_NAME[name].labels.index(part)
            kinds = {kind: values[:, column] for kind, values in kinds.items()}
        yield key, {kind: values.ravel() for kind, values in kinds.items()}


def _scatters(arrays: Arrays, evaluation: dict[str, Any], shown: dict[str, str]) -> Iterator[tuple[str, str, Image]]:
    """Title, R² of every predictor and the picture of every measured number."""
    for key, kinds in _parts(arrays, shown):
        metrics = evaluation["metrics"][key]
        scores = [f"{name} {number(metrics[name]['r2'])}" for name in PREDICTORS if "r2" in metrics.get(name, {})]
        predicted = {name: kinds[name] for name in PREDICTORS if name in kinds}
        learned_as_log = BY_NAME[key.partition("/")[0]].compare == "model"
        image = figures.scatter(shown[key], kinds["true"], predicted, log=learned_as_log)
        yield shown[key], f"R²: {', '.join(scores)}", image


def _calibration(arrays: Arrays, shown: dict[str, str]) -> Iterator[tuple[str, Image]]:
    kinds = ("true", "model", "lower", "upper")
    numbers = {key: tuple(part[kind] for kind in kinds) for key, part in _parts(arrays, shown)}
    if numbers:
        yield "Intervals of the numbers, one line per property", figures.coverage(numbers)
    if "role/true" in arrays:
        true = arrays["role/true"].ravel()
        probability = arrays["role/model"].reshape(len(true), -1)[true >= 0]
        yield "Probabilities of the roles", figures.reliability(true[true >= 0], probability, ROLES)


def _recommendations(directory: Path) -> Iterator[dict[str, Any]]:
    """The recommendations that lie in a directory, each with its figure."""
    for path in sorted(directory.glob(RECOMMENDATIONS)):
        if (found := _read(path, recommendation.SCHEMA)) is None:
            yield {"unreadable": path.name}
            continue
        ranking = found["ranking"]
        names = [TITLES_OF_ALL[each["framework"]] for each in ranking]
        risks = [_bounds(each["risk"]) for each in ranking]
        measured = [None if each["measured"] is None else (each["measured"],) * 3 for each in ranking]
        best = [each["framework"] for each in ranking].index(found["recommended"])
        yield found | {
            "figure": figures.risks(names, risks, measured, best, found["variance"]),
            "title": names[best],
        }


def _read(path: Path, schema: str) -> dict[str, Any] | None:
    """A saved prediction or recommendation, None if it is none of this version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("schema") == schema else None


def _with_figure(prediction: dict[str, Any]) -> dict[str, Any]:
    compared = prediction["frameworks"]
    best = [each["name"] for each in compared].index(prediction["recommended"])
    measured = [each["measured"] and _bounds(each["measured"]) for each in compared]
    predicted = [_bounds(each["risk"]) for each in compared]
    titles = [each["title"] for each in compared]
    picture = figures.risks(titles, predicted, measured, best, prediction["variance"])
    risk_name = "Brier score" if prediction["classes"] else "mean squared error"
    return prediction | {"figure": picture, "best": compared[best], "risk_name": risk_name}


def _bounds(interval: dict[str, float | None]) -> tuple[float, float, float]:
    low, middle, high = (interval[name] for name in ("low", "value", "high"))
    if middle is None:
        return np.nan, np.nan, np.nan
    return middle, middle if low is None else low, middle if high is None else high
