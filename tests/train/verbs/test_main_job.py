"""The quickstart, end to end with two steps per run, and the accuracies that the small recipes document."""

import json
from dataclasses import replace

import pytest

from train.__main__ import main
from train.experiment import with_run
from train.recipes import pydocs
from train.studies import quickstart

pytestmark = pytest.mark.slow


@pytest.fixture
def short(monkeypatch):
    """Shorten the quickstart: two steps, one layer, two seeds, and a batch size that eight devices divide."""
    monkeypatch.setattr(quickstart, "SEEDS", 2)
    recipes = {"pydocs": pydocs.pydocs(), "pydocs_topics": pydocs.pydocs_topics()}
    for name, experiment in recipes.items():
        experiment = with_run(experiment, steps=2, evaluate_every=0)
        experiment = replace(experiment, data=replace(experiment.data, batch_size=64, length=16))
        experiment = replace(experiment, model=replace(experiment.model, layers=1))
        monkeypatch.setattr(pydocs, name, lambda experiment=experiment: experiment)


def test_default_command_pretrains_fine_tunes_compares_reports_and_resumes(tmp_path, monkeypatch, short, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    first = capsys.readouterr()
    said = [line.partition(": ")[2] for line in first.err.splitlines() if "are truncated" in line or "are used" in line]
    assert said and len(said) == len(set(said))
    for row in ("pretrained, then fine-tuned", "from scratch", "TF-IDF + logistic regression"):
        assert row in first.out
    assert "macro_f1" in first.out and "labels per class" in first.out and "±" in first.out
    folder = tmp_path / "runs" / "quickstart"
    runs = sorted(path.parent.name for path in folder.glob("*/result.json"))
    assert runs == sorted(["pretrain", *(f"{kind}-{seed}" for kind in ("finetune", "scratch") for seed in range(2))])
    page = (folder / "report.html").read_text()
    assert all(title in page for title in ("Quickstart", "Pretraining", "Fine-tuning", "A few test passages")) and "<svg" in page
    methods = ("pretrained, then fine-tuned", "from scratch", "TF-IDF + logistic regression")
    assert all(f"Classes: {method}</h2>" in page for method in methods) and page.count('aria-label="confusion matrix"') == 3
    vocabulary = (folder / "pretrain" / "tokenizer.json").read_text()
    assert all((folder / run / "tokenizer.json").read_text() == vocabulary for run in runs)

    assert main([]) == 0
    again = capsys.readouterr()
    assert again.out.splitlines()[:4] == first.out.splitlines()[:4]
    assert again.err.count("resumes at step 2 of 2") == 5


@pytest.mark.parametrize(("recipe", "documented"), [("digits-mlp", 0.97), ("digits-cnn", 0.985)])
def test_digits_recipes_reach_the_documented_accuracy(front_door, tmp_path, recipe, documented):
    process = front_door("run", recipe, cwd=tmp_path)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    accuracy = json.loads((tmp_path / "runs" / recipe / "result.json").read_text())["test"]["accuracy"]
    assert accuracy >= documented
    assert f"accuracy {accuracy:.4f}" in out
