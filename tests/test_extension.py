"""A model, objective and data source outside of the project work from the command line, without changes to the project."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.train.processes import finish, free_port, model_of

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "tests" / "extension" / "toy_recipe.py"


@pytest.mark.slow
def test_recipe_file_with_its_own_model_objective_and_data(front_door, tmp_path):
    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """(status, stdout, stderr)"""
        process = front_door(*arguments, cwd=tmp_path)
        out, err = process.communicate(stdin, timeout=300)
        return process.returncode, out, err

    status, _, err = run("run", f"{RECIPE}:toy", "--model.width", "6", "--data.batch-size", "32")
    assert status == 0, err
    rows = [json.loads(line) for line in (tmp_path / "runs" / "toy" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] / 10
    written = json.loads((tmp_path / "runs" / "toy" / "experiment.json").read_text())
    assert written["model"] == {"type": "toy_model:ToyConfig", "width": 6}

    # Reading a run directory imports no code from outside of the project, unless the user names its file.
    status, _, err = run("evaluate", "toy")
    assert status == 2 and err.count("\n") == 1
    assert "toy_model:ToyConfig is not part of this project" in err and "--import" in err

    evaluated = run("evaluate", "toy", "--import", str(RECIPE), "--json")[1]
    assert json.loads(evaluated)["squared_error"] < 0.05
    predicted = run("predict", "toy", "--import", str(RECIPE), "--json", stdin='{"numbers": [0.1, 0.2, 0.3, -0.1]}\n')[1]
    assert abs(json.loads(predicted)[0]["total"] - 0.5) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (1, 8), (2, 1)])
def test_metric_over_a_split_is_the_same_for_any_number_of_devices_and_processes(front_door, tmp_path, processes, devices):
    """With an incomplete last batch: 32 rows in batches of 24."""
    options = ["--data.batch-size=24", "--run.steps=40", "--run.evaluate-every=20", "--run.checkpoint-every=20"]
    port = free_port()
    fields = [{"coordinator": f"127.0.0.1:{port}", "processes": processes, "process": i} for i in range(processes)]
    clusters = [[f"--cluster.{name}={value}" for name, value in one.items()] if processes > 1 else [] for one in fields]
    finish([front_door("run", f"{RECIPE}:scored", *options, *c, cwd=tmp_path, devices=devices) for c in clusters])
    folder = tmp_path / "runs" / "scored"
    result = json.loads((folder / "result.json").read_text())["test"]
    params, _ = model_of(folder)
    numbers = (np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32) * 0.3)[:32]
    totals = np.tanh(numbers @ params["model"]["kernel"]) @ params["head"]["kernel"]
    assert result["median_error"] == pytest.approx(np.median(np.abs(totals - numbers.sum(1))), abs=1e-6)
    assert json.loads((folder / "best.json").read_text())["metric"] == "min:test/median_error"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "test/median_error" in row] == [20, 40]
