"""The report of a run directory, from its first screen to its settings. The runs are real and short."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from tests.train.report.html import Page, checked
from train.__main__ import main

DIGITS = ["run", "digits-mlp", "--data.labels-per-class", "4", "--data.batch-size", "40", "--optimizer.schedule", "constant"]
DIGITS += ["--optimizer.learning-rate", "0.02", "--run.steps", "60", "--run.evaluate-every", "20", "--run.checkpoint-every", "20"]
LINES = [f"note {i} speaks of the matter number {i * i} and of the heart of the other matters" for i in range(300)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of runs/digits-mlp, which overfits, and of runs/text, which learns by masked LM."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "notes.txt").write_text("\n".join(LINES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(DIGITS) == 0
        sizes = ["--data.length", "16", "--data.vocab-size", "300", "--data.batch-size", "16"]
        sizes += ["--model.layers", "1", "--model.width", "64", "--model.heads", "2", "--model.hidden", "128"]
        steps = ["--run.steps", "40", "--run.evaluate-every", "20"]
        assert main(["run", "pydocs", "--data.source", "files:notes.txt", *sizes, *steps, "--run.dir", "runs/text"]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A copy that a test may change."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "digits-mlp"


def page_of(path: Path) -> Page:
    assert main(["report", str(path)]) == 0
    return checked((path / "report.html").read_text())


def test_sections_of_a_run(run):
    page = page_of(run)
    assert page.within("h1") == ["digits-mlp"]
    titles = ["Run", "Result on the test split", "Training", "Classes of the test split", "Calibration of the test split"]
    assert page.within("h2") == [*titles, "Mistakes on the test split", "Predictions on the test split", "Settings"]
    assert page.within("nav") == page.within("h2")
    assert "Classification · MlpConfig · digits · step 60 of 60" in page.text and "not finished" not in page.text
    assert page.all("html")[0]["lang"] == "en" and any(attrs.get("name") == "viewport" for attrs in page.all("meta"))
    assert all(attrs["role"] == "img" for attrs in page.all("svg") if "aria-label" in attrs)


def test_the_first_screen_says_what_was_run_on_what(run):
    page = page_of(run)
    names = page.within("dt")[:5]
    assert names == ["command", "parameters", "data", "devices", "wall time"]
    command, parameters, data, devices, seconds = page.within("dd")[:5]
    assert command == "fmodels " + " ".join(DIGITS)
    sizes = [64 * 256 + 256, 256 * 128 + 128, 128 * 10 + 10]
    assert parameters == f"{sum(sizes):,}, of which {sizes[-1]:,} in heads"
    assert data == "train 40 rows, test 359 rows" and devices == "8 x cpu" and re.fullmatch(r"(\d+ min )?\d+ s", seconds)
    differing = json.loads((run / "environment.json").read_text())["overrides"]
    assert differing["data.labels_per_class"] == ["None", "4"] and differing["optimizer.schedule"] == ["cosine", "constant"]
    assert len(differing) == 7, "every option that was given"
    shown = page.within("table")
    start = shown.index("differs from the recipe")
    assert shown[start : start + 3 + 3 * 7] == ["differs from the recipe", "recipe", "this run"] + [
        cell for name, values in differing.items() for cell in (name, *values)
    ]


def test_metrics_have_one_spelling(run):
    page = page_of(run)
    result = json.loads((run / "result.json").read_text())["test"]
    shown = [name for name in page.within("dt") if name in result]
    assert shown == ["loss", "accuracy", "matthews", "macro_precision", "macro_recall", "macro_f1", "calibration_error"], (
        "classification is the loss by another name"
    )
    drawn = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    metrics = [label.partition(" by step")[0] for label in drawn if " by step" in label]
    assert metrics == ["loss", "accuracy", "learning_rate", "examples_per_second"]
    logged = {name.rpartition("/")[2] for name in json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])}
    assert set(metrics) <= logged and set(result["per_class"]) <= set(page.within("thead"))


def test_curves_have_a_chance_line(run):
    drawn = [attrs["aria-label"] for attrs in page_of(run).all("svg") if "aria-label" in attrs]
    support = json.loads((run / "result.json").read_text())["test"]["per_class"]["support"]
    assert drawn[0].endswith(f"; chance: {math.log(10):.4f}")
    assert drawn[1].endswith(f"; chance: {max(support) / sum(support):.4f}")
    assert not any("chance" in label for label in drawn[2:])


def test_mistakes_are_the_most_confident_ones(run):
    page = page_of(run)
    html = (run / "report.html").read_text()
    section = html[html.index("Mistakes on the test split</h2>") : html.index("Predictions on the test split</h2>")]
    confidences = [float(found) for found in re.findall(r"✗ wrong</span><span>([\d.]+)%", section)]
    assert len(confidences) == 12 and confidences == sorted(confidences, reverse=True) and confidences[0] > 90
    assert "The most confident mistakes in 359 of 359 rows." in page.text and "✓" not in section
    assert section.count("data:image/png") == section.count("label: ") == 12


def test_overfitting_is_reported(run):
    (warning,) = [text for path, text in page_of(run).texts if path[-1] == "p" and "overfitting" in text]
    assert warning.startswith("overfitting: test/loss was best at step 20") and "--run.best test/loss keeps step 20" in warning


def test_fills_of_a_masked_language_model(run):
    page = page_of(run.parent / "text")
    assert "Predictions on the validation split" in page.within("h2")
    texts = page.within("blockquote")
    fills = [text for text in page.within("span") if "[MASK" in text]
    assert len(texts) == 12 and all("[MASK 1]" in text for text in texts)
    assert sum(text.count("[MASK ") for text in texts) == len(fills), "a line for every mask"
    for line in fills:
        mark, truth, first = re.fullmatch(r"([✓✗]) \[MASK \d+\] (\S+): (\S+) [\d.]+%(?:, \S+ [\d.]+%){4}", line).groups()
        assert (mark == "✓") == (truth == first)
    truths = {line.split()[3].strip(":").removeprefix("##") for line in fills}
    assert all(any(truth in line for line in LINES) for truth in truths), "the hidden tokens are those of the text"


def test_page_of_a_run_without_metrics(run):
    (run / "metrics.jsonl").write_text("")
    (run / "result.json").unlink()
    page = page_of(run)
    assert "No metrics: metrics.jsonl is empty." in page.text
    assert "step 0 of 60 · not finished" in page.text
    assert page.within("h2") == ["Run", "Training", "Settings"] and not page.all("svg")
    (run / "metrics.jsonl").unlink()
    assert "No metrics" in page_of(run).text


def test_results_of_several_splits(run):
    result = {"loss": 4.5, "masked_lm": 4.0, "next_sentence": 0.5, "perplexity": math.exp(4)}
    (run / "result.json").write_text(json.dumps({"validation": result, "test": result}))
    page = page_of(run)
    assert page.within("h2")[1:3] == ["Result on the test split", "Result on the validation split"]
    assert page.within("dt")[5:9] == ["loss", "masked_lm", "next_sentence", "perplexity"]
    assert page.within("dd")[5:9] == ["4.5", "4.0", "0.5", "54.5982"]


def test_shardings_are_in_the_page_of_a_run_on_several_devices(run):
    (run / "shardings.txt").write_text("parameter  reason\nmodel/bias  embed is replicated\n")
    page = page_of(run)
    assert page.within("summary")[-1] == "shardings.txt" and "embed is replicated" in page.text


def test_same_input_same_page(run):
    page_of(run)
    first = (run / "report.html").read_text()
    page_of(run)
    assert (run / "report.html").read_text() == first
