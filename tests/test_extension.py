"""A new model, objective and data source are new files, and touch nothing inside: the design's promise, from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "tests" / "extension" / "toy_recipe.py"


def front_door(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "train", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=300)


def test_a_toy_model_objective_and_source_from_outside_train_by_a_recipe_given_by_its_path(tmp_path):
    done = front_door("run", f"{RECIPE}:toy", "--model.width", "6", "--data.batch-size", "32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "runs" / "toy" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] / 10
    written = json.loads((tmp_path / "runs" / "toy" / "experiment.json").read_text())
    assert written["model"] == {"type": "toy_model:ToyConfig", "width": 6}

    # The run directory imports nothing from outside, unless the user names it.
    refused = front_door("evaluate", "toy", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "toy_model:ToyConfig is not of this project" in refused.stderr and "--import" in refused.stderr

    evaluated = front_door("evaluate", "toy", "--import", str(RECIPE), "--json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["squared_error"] < 0.05
    predicted = front_door(
        "predict", "toy", "--import", str(RECIPE), "--json", cwd=tmp_path, stdin='{"numbers": [0.1, 0.2, 0.3, -0.1]}\n'
    )
    assert abs(json.loads(predicted.stdout)[0]["total"] - 0.5) < 0.3, predicted.stderr
