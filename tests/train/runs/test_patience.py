"""Early stopping by `run.patience`, and the warning of overfitting."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.processes import assert_same_model, assert_same_run, finish
from train import loop
from train.experiment import Experiment, Run, with_run
from train.recipes.digits import digits_mlp
from train.runs.best import Best, overfitting

STEPS = 100


def overfitted(folder: Path, **changes) -> Experiment:
    """A run on four images per class: the loss of the test split rises from its first evaluation on."""
    recipe = digits_mlp()
    data = replace(recipe.data, labels_per_class=4, batch_size=40)
    optimizer = replace(recipe.optimizer, learning_rate=0.02, schedule="constant", warmup_steps=1)
    experiment = replace(recipe, data=data, optimizer=optimizer)
    return with_run(experiment, dir=str(folder), steps=STEPS, checkpoint_every=10, evaluate_every=10, **changes)


def values(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["test/loss"] for row in rows if "test/loss" in row}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("patience") / "run"
    loop.train(overfitted(folder, patience=2))
    return folder


def test_a_run_ends_after_evaluations_without_improvement(stopped):
    found = values(stopped)
    best = min(found, key=found.__getitem__)
    assert max(found) == best + 20 < STEPS
    kept = sorted(int(path.name) for path in (stopped / "checkpoints").iterdir() if path.name.isdigit())
    assert {best, best + 20} <= set(kept) and max(kept) == best + 20
    assert json.loads((stopped / "result.json").read_text())["test"]["loss"] == found[best + 20]


def test_a_stopped_run_stays_stopped_and_extends_with_more_patience(stopped, capsys):
    last, before = max(values(stopped)), json.loads((stopped / "result.json").read_text())
    assert loop.train(overfitted(stopped, patience=2)) == before
    assert f"run: ends at step {last}: no better test/loss in 2 evaluations (run.patience)" in capsys.readouterr().err
    assert max(values(stopped)) == last
    loop.train(overfitted(stopped, patience=3))
    assert max(values(stopped)) == last + 10


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    loop.train(overfitted(tmp_path / "whole", patience=3))
    last = max(values(tmp_path / "whole"))
    loop.train(with_run(overfitted(tmp_path / "resumed", patience=3), steps=last - 10))
    loop.train(overfitted(tmp_path / "resumed", patience=3))
    assert values(tmp_path / "resumed") == values(tmp_path / "whole")
    assert_same_model(tmp_path / "resumed", tmp_path / "whole")


@pytest.mark.slow
def test_all_processes_end_at_the_same_step(tmp_path, start):
    options = ["--data.labels-per-class=4", "--data.batch-size=40", "--optimizer.schedule=constant"]
    options += ["--optimizer.learning-rate=0.02", "--run.patience=2"]
    settings = {"steps": STEPS, "evaluate_every": 10}
    for name, processes in (("one", 1), ("two", 2)):
        finish(start(tmp_path / name, processes, *options, f"--mesh.data={processes}", **settings))
    assert max(values(tmp_path / "one")) < STEPS
    assert_same_run(tmp_path / "one", tmp_path / "two", tolerance=1e-4)


def test_overfitting_is_reported_at_the_end(tmp_path, capsys):
    loop.train(overfitted(tmp_path / "run"))
    found, stderr = values(tmp_path / "run"), capsys.readouterr().err
    best = min(found, key=found.__getitem__)
    (line,) = (line for line in stderr.splitlines() if "overfitting" in line)
    assert line.startswith(f"run: overfitting: test/loss was best at step {best} ({found[best]:.4f}) and is {found[STEPS]:.4f} at")
    assert line.endswith(
        f"--run.best test/loss keeps step {best}; --run.patience N stops after N evaluations without improvement"
    )


def log(*rows: tuple[float, float | None]) -> list[dict]:
    return [{"step": 10 * i, "train/loss": loss, "validation/accuracy": value} for i, (loss, value) in enumerate(rows, 1)]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(2.0, 0.5), (1.0, 0.7)],
        [(2.0, 0.7), (1.0, 0.695)],
        [(2.0, 0.7), (2.5, 0.5)],
        [(2.0, 0.7), (1.0, None)],
    ],
    ids=["not evaluated", "better", "within noise", "training loss rises too", "not finite"],
)
def test_no_warning(rows):
    assert overfitting(log(*rows), Best("validation/accuracy", "max"), None, None) == ""


def test_warning_about_a_metric_to_maximize_and_a_step_without_a_checkpoint():
    message = overfitting(log((2, 0.6), (1, 0.7), (0.5, 0.65)), Best("validation/accuracy", "max"), 10, 2)
    assert message == (
        "overfitting: validation/accuracy was best at step 20 (0.7000) and is 0.6500 at step 30, while train/loss fell from "
        "1.0000 to 0.5000; --run.best validation/accuracy with a checkpoint at every evaluation (--run.checkpoint-every) keeps "
        "step 20"
    )


@pytest.mark.parametrize(("mode", "values", "since"), [("min", [3, 2, 2, 4], 2), ("max", [1, float("nan")], 1), ("min", [], 0)])
def test_evaluations_since_the_best(mode, values, since):
    assert Best("validation/loss", mode).since_best(values) == since


@pytest.mark.parametrize("changes", [{"patience": 0}, {"patience": 2, "evaluate_every": 0}])
def test_patience_needs_evaluations(changes):
    with pytest.raises(ValueError, match=r"patience must be at least 1, and needs evaluations; it is \d with evaluate_every \d+"):
        Run(**changes)
