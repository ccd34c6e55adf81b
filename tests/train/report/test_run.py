"""The report of a run directory: its log, its result and its settings."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.train.report.html import checked
from train.objectives.classification import Classification
from train.parts import Rendering
from train.report.run import report

OBJECTIVE, CODEC = Classification(), SimpleNamespace(labels=("yes", "no"))


@pytest.fixture
def run(tmp_path) -> Path:
    path = tmp_path / "toy-run"
    path.mkdir()
    experiment = {
        "model": {"type": "toys.models:Toy", "width": 24},
        "objective": {"type": "toys.objectives:Guess", "rules": [{"pattern": ".*/<b>"}]},
        "data": {"source": "digits"},
        "run": {"dir": "runs/toy-run", "steps": 30},
        "init_from": None,
    }
    (path / "experiment.json").write_text(json.dumps(experiment))
    (path / "environment.json").write_text(json.dumps({"versions": {"jax": "0.10.2"}, "devices": ["cpu cpu"]}))
    (path / "metrics.jsonl").write_text("")
    return path


@pytest.fixture
def finished(run) -> Path:
    rows = [
        {"step": step, "train/loss": 3 / step, "train/learning_rate": 1e-3, "train/examples_per_second": 5e3}
        for step in (10, 20, 30)
    ]
    rows.append({"step": 30, "test/loss": 0.125, "test/accuracy": 0.875})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    per_class = {"precision": [0.8, 1.0], "recall": [1.0, 0.75], "f1": [0.8889, 0.8571], "support": [4.0, 4.0]}
    result = {"loss": 0.125, "guess": 0.125, "accuracy": 0.875, "per_class": per_class, "confusion": [[4, 0], [1, 3]]}
    (run / "result.json").write_text(json.dumps({"test": result}))
    return run


def test_page_of_a_run(finished):
    samples = [("a passage", Rendering([" 75.0%  yes", "label: no"], False))]
    page = checked(report(finished, OBJECTIVE, CODEC, samples))
    assert page.within("h1") == ["toy-run"]
    assert page.within("h2") == ["Result on the test split", "Training", "Classes of the test split", "Predictions", "Settings"]
    assert page.within("nav") == page.within("h2")
    assert "Guess · Toy · digits · step 30 of 30" in page.text and "not finished" not in page.text
    assert page.within("dt") == ["loss", "accuracy"], "guess is the loss by another name"
    assert page.within("dd") == ["0.125", "0.875"]
    drawn = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert [label.partition(" by step")[0] for label in drawn] == ["loss", "accuracy", "learning rate", "examples per second"]
    assert drawn[0] == "loss by step. train: 0.3 at step 10 to 0.1 at step 30; test: 0.125 at step 30"
    assert all(attrs["role"] == "img" for attrs in page.all("svg") if "aria-label" in attrs)
    assert page.all("html")[0]["lang"] == "en" and any(attrs.get("name") == "viewport" for attrs in page.all("meta"))


def test_page_of_a_run_without_metrics(run):
    page = checked(report(run, OBJECTIVE, CODEC, []))
    assert "No metrics: metrics.jsonl is empty." in page.text
    assert "step 0 of 30 · not finished" in page.text
    assert page.within("h2") == ["Training", "Settings"] and not page.all("svg")
    (run / "metrics.jsonl").unlink()
    assert "No metrics" in report(run, OBJECTIVE, CODEC, [])


def test_results_of_several_splits(finished):
    result = {"loss": 4.5, "masked_lm": 4.0, "next_sentence": 0.5, "perplexity": math.exp(4)}
    (finished / "result.json").write_text(json.dumps({"validation": result, "test": result}))
    page = checked(report(finished, OBJECTIVE, CODEC, []))
    assert page.within("h2")[:2] == ["Result on the test split", "Result on the validation split"]
    assert page.within("dt")[:4] == ["loss", "masked lm", "next sentence", "perplexity"]
    assert page.within("dd")[:4] == ["4.5", "4.0", "0.5", "54.5982"]


def test_shardings_are_in_the_page_of_a_run_on_several_devices(finished):
    (finished / "shardings.txt").write_text("parameter  reason\nmodel/bias  embed is replicated\n")
    page = checked(report(finished, OBJECTIVE, CODEC, []))
    assert page.within("summary")[-1] == "shardings.txt" and "embed is replicated" in page.text


def test_same_input_same_page(finished):
    assert report(finished, OBJECTIVE, CODEC, []) == report(finished, OBJECTIVE, CODEC, [])
