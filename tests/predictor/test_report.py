import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from settx_fast.predictor.config import preset
from settx_fast.predictor.familiarity import Unfamiliar
from settx_fast.predictor.frameworks import MeasuredRisk
from settx_fast.predictor.knowledge import Knowledge
from settx_fast.predictor.prediction import Column, Framework, Interval, Prediction
from settx_fast.predictor.records import Record
from settx_fast.predictor.report import _metric_table, write_report
from settx_fast.predictor.selector.recommendation import Ranked, Recommendation, Risk
from settx_fast.predictor.targets import FRAMEWORKS, ROLES, TARGETS
from settx_fast.predictor.wording import TITLES, number, titles, units

DATASETS = 60
NUMBERS = [target for target in TARGETS if target.kind == "number"]
EFFECTS = [target.name for target in NUMBERS if target.level == "variable"]


def write_run(directory: Path, name: str = "random_linear", evaluated: bool = True) -> Path:
    """A run directory as training, evaluation and prediction leave it, with made-up numbers."""
    directory.mkdir(parents=True)
    config = preset(name)
    (directory / "config.json").write_text(config.to_json())
    losses = "\n".join(f"{step},{9 / step + 1},{10 / step + 1}" for step in range(50, 500, 50))
    (directory / "metrics.csv").write_text(f"step,train/loss,valid/loss\n{losses}\n")
    if evaluated:
        write_evaluation(directory, config.features.max_features)
    return directory


def write_evaluation(directory: Path, features: int) -> None:
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    metrics = {}
    for target in NUMBERS:
        shape = (DATASETS, features) if target.level == "variable" else (DATASETS, *target.shape)
        true = np.exp(generator.normal(size=shape)) if target.name == "risk" else generator.normal(size=shape)
        model = true + 0.2 * generator.normal(size=shape)
        arrays |= {f"{target.name}/true": true, f"{target.name}/model": model, f"{target.name}/mean": 0 * true + 0.5}
        arrays |= {f"{target.name}/lower": model - 0.33, f"{target.name}/upper": model + 0.33}
        arrays[f"{target.name}/classical"] = true + 0.4 * generator.normal(size=shape)
        for part in target.labels or [""]:
            key = f"{target.name}/{part}" if part else target.name
            metrics[key] = {
                "model": {"r2": 0.961, "mae": 0.1, "coverage": 0.9},
                "mean": {"r2": 0.0, "mae": 0.8},
                "classical": {"r2": 0.871, "mae": 0.2},
            }
    true = generator.integers(0, 4, size=(DATASETS, features))
    arrays |= {"role/true": true, "role/model": generator.dirichlet(np.ones(4), size=true.shape)}
    metrics["role"] = {"model": {"auroc": 0.933, "accuracy": 0.8}, "mean": {"auroc": 0.5, "accuracy": 0.25}}
    evaluation = {"prior": "random_linear", "seed": 4711, "num_datasets": DATASETS, "num_rows": 500, "metrics": metrics}
    evaluation["framework"] = {"model": 0.876, "majority": 0.612, "classical": 0.743, "informed": 0.798}
    evaluation["framework_datasets"] = 59
    evaluation["recommendation"] = {
        name: {"best": 0.5 + excess, "excess_risk": excess} for name, excess in (("model", 0.213), ("mean", 0.334))
    }
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    np.savez(directory / "evaluation.npz", **arrays)


def make_prediction(**changes: object) -> Prediction:
    risk = dict(zip(FRAMEWORKS, (120_000.0, 95_500.0, 130_000.0), strict=True))
    compared = tuple(
        Framework(
            name,
            TITLES[name],
            ("bill_length_mm",),
            Interval(value, 0.5 * value, 2 * value),
            MeasuredRisk(1.1 * value, value, 1.2 * value, 51),
        )
        for name, value in risk.items()
    )
    columns = tuple(
        Column(name, role, dict.fromkeys(ROLES, 0.1) | {role: 0.7}, {e: Interval(1.5, 1.0, 2.0) for e in EFFECTS})
        for name, role in (("bill_length_mm", "cause"), ("<b>sex</b>", "unrelated"))
    )
    known = {
        "table": "penguins.csv",
        "source": None,
        "classes": (),
        "headline": ("What was measured <i>contradicts</i> the prediction.",),
        "tied": ("anticausal",),
        "unread": ("beak <colour>",),
        "records": {
            "role": Record("accuracy", 0.458, 0.449, False),
            "total_effect": Record("r2", 0.031, 0.0, False),
            "direct_effect_on_target": Record("r2", 0.512, 0.0, True),
            "edge_density": Record("r2", 0.034, 0.0, False),
        },
        "knowledge": Knowledge(),
        "target": "body_mass_g",
        "rows": {"Biscoe": 167, "Dream": 124, "Torgersen": 51},
        "deploy": "Torgersen",
        "model": {"directory": "run", "name": "random_linear", "seed": 0},
        "properties": {t.name: Interval(0.421, 0.3, 0.5) for t in NUMBERS if t.level == "dataset" and not t.labels},
        "columns": columns,
        "frameworks": compared,
        "recommended": "causal",
        "decisive": False,
        "variance": 643_131.0,
        "unfamiliar": (Unfamiliar("columns", 9.0, 2.0, 7.0),),
        "units": units("body_mass_g"),
        "advice": ("Trust <i>nothing</i> here.",),
        "notes": ("Column 'sex': 10 of 343 values were missing and became the mean.",),
    }
    return Prediction(**(known | changes))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that was trained, evaluated and applied to a table."""
    directory = write_run(tmp_path_factory.mktemp("report") / "run")
    make_prediction().save(directory)
    return write_report(directory)


class Page(HTMLParser):
    """Text, headings, images and outside links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(re.sub(r"<style>.*?</style>", "", text, flags=re.S))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "img":
            self.images.append(found)
        self.links += [str(found[name]) for name in ("src", "href") if name in found]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_everything_the_run_directory_holds(report: Path) -> None:
    page = Page(report.read_text())
    for fact in ("Use causal ERM", "95,500", "105,050", "Torgersen 51 (deployment)", "0.421", "10 of 343 values",
                 "What was measured <i>contradicts</i> the prediction.", "anticausal ERM uses the same columns",
                 "Not read by the model: beak <colour>.", "Roles are not known: 45.8% right", "(R² 0.512)",
                 "0.961", "0.871", "0.933", "87.6%", "61.2%", "74.3%", "4711", "Erdős–Rényi",
                 "told the true graph", "79.8%", "71.3%", "+21.3%", "+33.4%", "643,131", "(body_mass_g)²",
                 "body_mass_g per unit of the column",
                 "Trust <i>nothing</i> here.", f"torch {torch.__version__}"):  # fmt: skip
        assert fact in page.text, fact
    scatters = sum(len(target.labels) or 1 for target in NUMBERS)
    assert len(page.images) == scatters + 4  # loss, risk, two calibrations


def test_what_is_no_better_than_chance_is_no_finding(report: Path, tmp_path: Path) -> None:
    table = Page(report.read_text()).text.split("Columns")[1].split("Properties")[0]
    assert "probability" not in table
    assert "total effect" not in table.split("left out.")[1]
    assert "not known" in Page(report.read_text()).text.split("Edge density")[1][:40]
    run = write_run(tmp_path / "run", evaluated=False)
    make_prediction(records={}).save(run)
    unmeasured = Page(write_report(run).read_text()).text
    for shown in ("probability", "total effect", "70%"):
        assert shown in unmeasured.split("Columns")[1].split("Properties")[0]


def test_a_prediction_of_another_version_is_named_and_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluated=False)
    (run / "prediction-old.json").write_text('{"schema": "settx_fast.prediction/1"}')
    (run / "prediction-torn.json").write_text('{"schema": ')
    text = Page(write_report(run).read_text()).text
    assert "no predictions of this version of settx_fast: prediction-old.json, prediction-torn.json" in text


def test_a_lone_predictor_is_not_marked_best() -> None:
    def marked(*predictors: str) -> list[bool]:
        values = {"k": {name: {"r2": 0.9 - 0.1 * place} for place, name in enumerate(predictors)}}
        return [best for _, best in _metric_table(("r2",), ["k"], values, {"k": "K"}).rows[0][1]]

    assert marked("model") == [False]
    assert marked("model", "mean") == [True, False]


def test_the_report_asks_nothing_of_the_network(report: Path) -> None:
    text = report.read_text()
    assert all(link.startswith(("data:image/", "#")) for link in Page(text).links)
    assert "@import" not in text
    assert "url(" not in text


def test_names_from_a_table_cannot_inject_markup(report: Path) -> None:
    text = report.read_text()
    assert "<b>sex</b>" not in text
    assert "&lt;b&gt;sex&lt;/b&gt;" in text


def test_a_run_that_was_only_trained_has_a_report_that_says_so(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path / "run", evaluated=False)).read_text())
    assert "Not evaluated yet" in page.text
    assert len(page.images) == 1


def test_missing_labels_and_infinite_intervals_are_shown_as_such(tmp_path: Path) -> None:
    prediction = make_prediction(
        frameworks=tuple(
            Framework(name, TITLES[name], (), Interval(2.0, 1.0, float("inf")), None) for name in FRAMEWORKS
        ),
        properties={"noise_to_signal": Interval(3.0, 0.5, float("inf"))},
        deploy=None,
    )
    run = write_run(tmp_path / "run", evaluated=False)
    prediction.save(run)
    text = Page(write_report(run).read_text()).text
    assert "not measured" in text
    assert "none: predicts the mean" in text
    assert "0.5 … –" in text


def test_a_directory_of_runs_has_one_report(tmp_path: Path) -> None:
    write_run(tmp_path / "all" / "chain", "chain", evaluated=False)
    write_run(tmp_path / "all" / "random_linear", evaluated=False)
    path = write_report(tmp_path / "all")
    page = Page(path.read_text())
    assert path == tmp_path / "all" / "report.html"
    assert "Model “chain”" in page.text
    assert "Model “random_linear”" in page.text


def test_a_recommendation_beside_the_runs_is_shown_with_its_reasons(tmp_path: Path) -> None:
    write_run(tmp_path / "one", evaluated=False)
    ranking = (Ranked("within", Risk(0.5, 0.2, 1.5), 0.625), Ranked("erm", Risk(1.5, 0.5, 4.0), None))
    found = Recommendation(
        "within", False, ranking, 2.0, "deployment", ("Because <it> is so.",), ("A note.",), "t.csv", "y", "north"
    )
    found.save(tmp_path)
    (tmp_path / "recommendation-old-y.json").write_text("{}")
    page = write_report(tmp_path).read_text()
    assert "Table t.csv: which framework predicts y in north" in page
    assert "Use slopes within environments" in page
    assert "Because &lt;it&gt; is so." in page
    assert "0.625" in page
    assert "A note." in page
    assert "no recommendation of this version of settx_fast: recommendation-old-y.json" in page


def test_recommendations_are_shown_where_no_run_is(tmp_path: Path) -> None:
    ranking = (Ranked("erm", Risk(1.5, 0.5, 4.0), None),)
    found = Recommendation("erm", True, ranking, 2.0, None, ("Because.",), table="t.csv", target="y")
    found.save(tmp_path)
    page = write_report(tmp_path).read_text()
    assert "<title>The framework to use</title>" in page
    assert "Table t.csv: which framework predicts y" in page
    assert "It was trained on" not in page


def test_a_directory_of_neither_runs_nor_recommendations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no training run in '.*', nor a recommendation"):
        write_report(tmp_path)


def test_effects_under_a_fixed_graph_are_named_by_their_edge() -> None:
    keys = [
        "direct_effect_on_target",
        "direct_effect_on_target/0",
        "direct_effect_of_target/1",
        "total_effect/0",
        "risk/erm",
    ]
    assert titles(keys, ("X", "Y", "Z"), "Y") == {
        "direct_effect_on_target/0": "Effect X → Y",
        "direct_effect_of_target/1": "Effect Y → Z",
        "total_effect/0": "Total effect X → Y",
        "risk/erm": "Risk: ERM on all features",
    }
    assert titles(keys, ("X", "Y", "Z"), 1) == titles(keys, ("X", "Y", "Z"), "Y")
    assert titles(["total_effect/2"], (), "inner") == {"total_effect/2": "Total effect column 2 → target"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.12345, "0.123"), (-1.5, "−1.5"), (123456.7, "123,457"), (1.44e6, "1.4e6"), (2e-7, "2.0e−7"),
     (None, "–"), (float("nan"), "–"), (float("inf"), "–")],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a headless browser with the given flags and address, and returns what it prints."""
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    if binary is None and not os.environ.get("CI"):
        pytest.skip(f"none of {', '.join(names)} is installed")
    assert binary, "a browser is required where CI is set"
    profile = tmp_path_factory.mktemp("profile")
    flags = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
             "disable-component-update", "disable-sync", "disable-dev-shm-usage"]  # fmt: skip

    def browse(*arguments: str) -> str:
        command = [str(binary), *(f"--{flag}" for flag in flags), f"--user-data-dir={profile}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return browse


def test_a_browser_shows_headings_tables_and_every_image(report: Path, browser: Callable[..., str]) -> None:
    probe = """<script>addEventListener("load", () => {
        const seen = [...document.images].filter(image => image.naturalWidth > 0 && image.offsetWidth > 0);
        const text = element => element.innerText.replace(/\\s+/g, " ");
        document.body.innerHTML = "<pre id=seen></pre>".concat(document.body.innerHTML);
        document.getElementById("seen").textContent = JSON.stringify({
            images: seen.length, all: document.images.length, wide: document.documentElement.scrollWidth,
            headings: [...document.querySelectorAll("h1, h2, h3")].map(text),
            cells: [...document.querySelectorAll("td")].map(text)});
    });</script></body>"""
    probed = report.with_name("probed.html")
    probed.write_text(report.read_text().replace("</body>", probe))
    dom = browser("--window-size=1200,900", "--virtual-time-budget=5000", "--dump-dom", probed.as_uri())
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, flags=re.S)
    assert found, "the page's script did not run"
    seen = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["images"] == seen["all"] > len(NUMBERS)
    assert seen["wide"] <= 1200
    for heading in ("Table penguins.csv: predicting body_mass_g", "Model “random_linear”", "Loss curve", "Metrics",
                    "Predicted against true", "Calibration", "Columns"):  # fmt: skip
        assert heading in seen["headings"]
    for cell in ("causal ERM", "95,500 47,750 … 191,000", "bill_length_mm", "0.421 0.3 … 0.5", "87.6%", "0.961"):
        assert cell in seen["cells"]


def test_the_report_fits_a_phone(report: Path, browser: Callable[..., str]) -> None:
    probe = """<script>addEventListener("load", () => {
        const clipped = [...document.querySelectorAll(".wide, td, img")].filter(element =>
            element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0
            || element.getBoundingClientRect().right > innerWidth + 1);
        document.title = JSON.stringify({wide: document.documentElement.scrollWidth, inner: innerWidth,
            clipped: clipped.map(element => element.outerHTML.slice(0, 80))});
    });</script></body>"""
    framed = report.with_name("phone.html")
    probed = report.with_name("probed-phone.html")
    probed.write_text(report.read_text().replace("</body>", probe))
    framed.write_text(
        f"""<iframe src="{probed.name}" width="375" height="800" onload="
        document.body.append(contentDocument.title)"></iframe>"""
    )  # a window cannot be as narrow as a phone
    dom = browser(
        "--window-size=600,900", "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom",
        framed.as_uri(),
    )  # fmt: skip
    found = re.search(r"(\{&quot;wide.*?\}|\{\"wide.*?\})</body>", dom, flags=re.S)
    assert found, dom[-500:]
    seen = json.loads(found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["clipped"] == []
    assert seen["wide"] <= seen["inner"] == 375


def test_a_browser_paints_the_page(report: Path, browser: Callable[..., str], tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture = tmp_path / "report.png"
    browser("--window-size=1100,1600", f"--screenshot={picture}", report.as_uri())
    pixels = imread(picture)[..., :3]
    inked = (pixels.min(axis=-1) < 0.5).mean()
    assert pixels.shape[:2] == (1600, 1100)
    assert 0.01 < inked < 0.5
