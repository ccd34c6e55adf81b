"""Helpers for tests that start processes."""

import json
import socket
import subprocess
import time
from pathlib import Path

import chex
import numpy as np
import pytest

from train.runs.begin import read_model
from train.sharding import Mesh

STEPS = 40
SHORT = {"steps": STEPS, "checkpoint_every": 10, "evaluate_every": 20, "log_every": 1}


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def finish(processes: list[subprocess.Popen], status: int = 0) -> list[str]:
    """Wait for all processes to exit with `status`, and return the stderr of each."""
    errors = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), errors
    return errors


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert len(dict(found)) == len(found), "a step was logged twice"
    return dict(found)


def wait_for(folder: Path, step: int, processes: list[subprocess.Popen]) -> None:
    log, end = folder / "metrics.jsonl", time.monotonic() + 180
    while all(process.poll() is None for process in processes) and time.monotonic() < end:
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.01)
    for process in processes:
        process.kill()
    pytest.fail(f"step {step} was not logged: {[process.communicate()[1] for process in processes]}")


def model_of(folder: Path) -> tuple[dict, dict]:
    return read_model(folder, Mesh().build())


def assert_same_model(a: Path, b: Path) -> None:
    chex.assert_trees_all_equal(model_of(a), model_of(b))


def assert_same_run(a: Path, b: Path, tolerance: float = 1e-5) -> None:
    assert losses(a).keys() == losses(b).keys()
    np.testing.assert_allclose(list(losses(a).values()), list(losses(b).values()), rtol=0, atol=tolerance)
    chex.assert_trees_all_close(model_of(a), model_of(b), rtol=0, atol=tolerance)


SHAPES = {  # processes, devices per process, mesh
    "1": (1, 1, ["--mesh.data=1"]),
    "2 data": (2, 1, ["--mesh.data=2"]),
    "2 tensor": (2, 1, ["--mesh.data=1", "--mesh.tensor=2"]),  # both processes read all rows
    "4 replica fsdp tensor": (4, 2, ["--mesh.replica=2", "--mesh.data=1", "--mesh.fsdp=2", "--mesh.tensor=2"]),
}
