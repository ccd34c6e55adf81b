"""Extending a run by more steps, and evaluating any of its checkpoints."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.experiments import short
from tests.train.processes import assert_same_model, losses
from train import loop
from train.__main__ import main
from train.errors import UserError
from train.experiment import with_run


def constant(folder: Path, steps: int):
    experiment = short(folder)
    return with_run(replace(experiment, optimizer=replace(experiment.optimizer, schedule="constant")), steps=steps)


@pytest.mark.slow
def test_an_extended_run_with_a_constant_schedule_equals_a_longer_run(tmp_path, capsys):
    loop.train(constant(tmp_path / "longer", 60))
    loop.train(constant(tmp_path / "extended", 40))
    loop.train(constant(tmp_path / "extended", 60))
    assert "extended from 40 to 60 steps; the learning rate of the steps so far does not change" in capsys.readouterr().err
    assert_same_model(tmp_path / "longer", tmp_path / "extended")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("longer", "extended")]
    assert results[0] == results[1]
    assert sorted(losses(tmp_path / "extended")) == [20, 40, 60]


@pytest.mark.parametrize("schedule", [pytest.param("linear", marks=pytest.mark.slow), "cosine"])
def test_an_extension_that_changes_the_schedule_is_reported(tmp_path, capsys, schedule):
    experiment = short(tmp_path / "run")
    optimizer = replace(experiment.optimizer, schedule=schedule, warmup_steps=5, learning_rate=1e-3)
    experiment = replace(experiment, optimizer=optimizer)
    loop.train(with_run(experiment, steps=25))
    loop.train(with_run(experiment, steps=45))
    stderr = capsys.readouterr().err
    last, first = (float(optimizer.rate(steps)(step)) for steps, step in ((25, 24), (45, 25)))
    changed = f"the learning rate was {last:.3g} at step 25 and is {first:.3g} at step 26"
    assert f"run: the schedule differs from that of the steps so far: {changed}" in stderr and last < first
    assert "run: extended from 25 to 45 steps\n" in stderr
    assert json.loads((tmp_path / "run" / "experiment.json").read_text())["run"]["steps"] == 45
    assert max(losses(tmp_path / "run")) == 45


def test_a_failed_extension_keeps_the_finished_run(folder):
    result, log = (folder / "result.json").read_text(), (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(log + "damage\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line \d+: damaged"):
        loop.train(with_run(short(folder), steps=60))
    assert (folder / "result.json").read_text() == result
    (folder / "metrics.jsonl").write_text(log)
    assert loop.train(short(folder)) == json.loads(result)


def test_a_run_cannot_be_shortened(folder):
    with pytest.raises(UserError, match=r"run\.steps: saved 40, requested 30"):
        loop.train(with_run(short(folder), steps=30))


def test_any_checkpoint_can_be_evaluated(folder, capsys):
    def loss(*options: str) -> float:
        assert main(["evaluate", str(folder), "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["loss"]

    assert loss("--step", "40") == loss() != loss("--step", "20")
    assert main(["evaluate", str(folder), "--step", "30"]) == 2
    assert capsys.readouterr().err.endswith("checkpoints: no checkpoint of step 30; available: 20, 40\n")
    assert main(["evaluate", str(folder), "--step", "20", "--best"]) == 2
    assert capsys.readouterr().err == "error: --best and --step both choose a checkpoint; give one of them\n"
    shutil.rmtree(folder / "checkpoints" / "20" / "model")
    assert main(["evaluate", str(folder), "--step", "20"]) == 2
    assert "is damaged" in capsys.readouterr().err
