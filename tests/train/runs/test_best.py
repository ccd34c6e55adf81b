"""The metric that chooses the best checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from train import loop
from train.__main__ import main
from train.errors import UserError
from train.experiment import Experiment, with_run
from train.recipes.digits import digits_mlp
from train.runs.best import Best


def oscillating(folder: Path, **changes) -> Experiment:
    """A run with a high learning rate, so that its metrics go up and down."""
    experiment = digits_mlp()
    experiment = replace(experiment, optimizer=replace(experiment.optimizer, learning_rate=0.05, schedule="constant"))
    return with_run(experiment, dir=str(folder), steps=40, checkpoint_every=10, evaluate_every=10, keep=1, **changes)


@pytest.mark.parametrize(
    ("best", "mode", "choose"),
    [
        ("test/macro_f1", "max", max),
        pytest.param("min:test/accuracy", "min", min, marks=pytest.mark.slow),
        pytest.param("test/classification", "min", min, marks=pytest.mark.slow),
    ],
)
def test_run_best_chooses_the_best_checkpoint(tmp_path, capsys, best, mode, choose):
    folder, metric = tmp_path / "run", best.rpartition(":")[2]
    loop.train(oscillating(folder, best=best))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = {row["step"]: row[metric] for row in rows if metric in row}
    wanted = choose(values, key=lambda step: (values[step], -step if choose is max else step))
    noted = json.loads((folder / "best.json").read_text())
    assert noted == {"step": wanted, "metric": f"{mode}:{metric}", "value": values[wanted]}
    kept = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    assert kept == sorted({40, wanted})
    capsys.readouterr()
    assert main(["checkpoints", str(folder)]) == 0
    assert f"valid, best by {mode}:{metric}" in capsys.readouterr().out
    assert main(["evaluate", str(folder), "--best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[metric.partition("/")[2]] == pytest.approx(values[wanted], rel=1e-6)


def test_changing_run_best_resets_the_best_checkpoint(tmp_path, capsys):
    folder = tmp_path / "run"
    loop.train(oscillating(folder))
    assert json.loads((folder / "best.json").read_text())["metric"] == "min:test/loss"
    loop.train(with_run(oscillating(folder, best="test/accuracy"), steps=50))
    noted = json.loads((folder / "best.json").read_text())
    assert noted["metric"] == "max:test/accuracy" and noted["step"] == 50
    said = "the best checkpoint was chosen by min:test/loss; from now on by max:test/accuracy"
    assert f"{folder / 'best.json'}: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("best", "message"),
    [
        ("test/macro_f2", r"run.best test/macro_f2: there is no metric macro_f2; did you mean macro_f1\?"),
        ("train/loss", r"run.best train/loss: training evaluates test only, as test/loss"),
        ("test/confusion", r"run.best test/confusion: there is no metric confusion"),
    ],
)
def test_an_unknown_metric_is_an_error(tmp_path, best, message):
    with pytest.raises(UserError, match=message):
        loop.train(oscillating(tmp_path / "run", best=best))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("best", ["accuracy", "lowest:test/loss", "test/", ""])
def test_a_malformed_metric_is_an_error(best):
    with pytest.raises(ValueError, match=r"best must be SPLIT/METRIC, min:SPLIT/METRIC or max:SPLIT/METRIC"):
        oscillating(Path("run"), best=best)


def test_nan_is_never_the_best():
    assert not Best("test/loss", "min").improves(float("nan"), None)
    assert not Best("test/loss", "max").improves(float("nan"), 0.5)
