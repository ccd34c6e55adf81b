"""The main job from one command, end to end at a few steps a run; and what the small recipes promise."""

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
    """The recipes of the main job at two steps with one layer and two seeds, on rows that divide over eight devices."""
    monkeypatch.setattr(quickstart, "SEEDS", 2)
    of = {"pydocs": pydocs.pydocs(), "pydocs_topics": pydocs.pydocs_topics()}
    for name, experiment in of.items():
        experiment = with_run(experiment, steps=2, evaluate_every=0)
        experiment = replace(experiment, data=replace(experiment.data, batch_size=64, length=16))
        experiment = replace(experiment, model=replace(experiment.model, layers=1))
        monkeypatch.setattr(pydocs, name, lambda experiment=experiment: experiment)


def test_no_verb_pretrains_fine_tunes_compares_and_reports_and_goes_on_where_it_was(tmp_path, monkeypatch, short, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    said = capsys.readouterr()
    for row in ("pretrained, then fine-tuned", "from scratch", "TF-IDF + logistic regression"):
        assert row in said.out
    assert "macro_f1" in said.out and "labels a class" in said.out and "±" in said.out
    folder = tmp_path / "runs" / "quickstart"
    runs = sorted(path.parent.name for path in folder.glob("*/result.json"))
    assert runs == sorted(["pretrain", *(f"{kind}-{seed}" for kind in ("finetune", "scratch") for seed in range(2))])
    page = (folder / "report.html").read_text()
    assert (
        all(title in page for title in ("The main job", "Pretraining", "Fine-tuning", "A few test passages")) and "<svg" in page
    )
    vocabulary = (folder / "pretrain" / "tokenizer.json").read_text()
    assert all((folder / run / "tokenizer.json").read_text() == vocabulary for run in runs)

    assert main([]) == 0
    again = capsys.readouterr()
    assert again.out.splitlines()[:4] == said.out.splitlines()[:4]
    assert again.err.count("resumes at step 2 of 2") == 5


@pytest.mark.parametrize(("recipe", "promised"), [("digits-mlp", 0.97), ("digits-cnn", 0.985)])
def test_digits_reach_what_they_promise(front_door, tmp_path, recipe, promised):
    process = front_door("run", recipe, cwd=tmp_path)
    said, complaints = process.communicate(timeout=600)
    assert process.returncode == 0, complaints
    accuracy = json.loads((tmp_path / "runs" / recipe / "result.json").read_text())["test"]["accuracy"]
    assert accuracy >= promised
    assert f"accuracy {accuracy:.4f}" in said
