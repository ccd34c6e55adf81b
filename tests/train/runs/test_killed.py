"""Runs of several processes survive kills, preemption, signals and damaged checkpoints."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import chex
import pytest

from tests.train.processes import SHAPES, finish, losses, model_of, wait_for
from train.cluster.roll_call import IS_GONE

pytestmark = pytest.mark.slow


def test_others_report_a_killed_process_and_the_run_resumes_exactly(start, uninterrupted, tmp_path):
    whole, killed = uninterrupted("2 data")[0], tmp_path / "killed"
    for victim, step in ((1, 15), (0, 25)):
        processes = start(killed, 2)
        wait_for(killed, step, processes)
        processes[victim].kill()
        began = time.monotonic()
        _, stderr = processes[1 - victim].communicate(timeout=120)
        assert processes[1 - victim].returncode == 1
        assert f"error: process {victim} of the run {IS_GONE}\n" in stderr, stderr  # among messages of the runtime
        assert time.monotonic() - began < 100
        processes[victim].communicate()
    finish(start(killed, 2))
    assert losses(killed) == losses(whole)
    chex.assert_trees_all_equal(model_of(killed), model_of(whole))


def test_killed_at_random_times_the_run_equals_an_uninterrupted_one(start, uninterrupted, tmp_path):
    """FMODELS_KILLS=50 pytest tests/train/runs/test_killed.py -k random -n 0 kills the run fifty times."""
    shape, rng = "4 replica fsdp tensor", random.Random(0)
    kills, count, finished, folder = int(os.environ.get("FMODELS_KILLS", "1")), 0, False, tmp_path / "run"
    _, devices, mesh = SHAPES[shape]
    whole = uninterrupted(shape)[0]
    while count < kills or not finished:
        processes = start(folder, 4, *mesh, "--cluster.timeout=20", devices=devices, checkpoint_every=5)
        if count < kills:
            time.sleep(rng.uniform(0, 20))  # from the first import to the last checkpoint
            victim = processes[rng.randrange(4)]
            count += victim.poll() is None
            victim.kill()
        stderr = [process.communicate(timeout=120)[1] for process in processes]
        assert not any("damaged" in text for text in stderr), stderr
        finished = all(process.returncode == 0 for process in processes)
        if finished:  # start again until it was killed often enough
            assert losses(folder) == losses(whole)
            chex.assert_trees_all_equal(model_of(folder), model_of(whole))
            shutil.rmtree(folder)
        else:
            assert any(process.returncode == -signal.SIGKILL for process in processes), stderr


def test_killed_while_a_checkpoint_is_being_written(start, uninterrupted, tmp_path):
    whole, folder = uninterrupted("2 data")[0], tmp_path / "run"
    for victim in (0, 1):
        processes, met = start(folder, 2, checkpoint_every=2), False
        before = {path.name for path in (folder / "checkpoints").glob("*")}
        while not met and all(process.poll() is None for process in processes):
            now = {path.name for path in (folder / "checkpoints").glob("*")} - before
            met = any("tmp" in name for name in now) and len(now) > 1  # besides a complete one
        processes[victim].kill()
        stderr = finish([processes[1 - victim]], 1)
        assert met and f"process {victim} of the run {IS_GONE}" in stderr[0], stderr
        processes[victim].communicate()
    finish(start(folder, 2, checkpoint_every=2))
    assert losses(folder) == losses(whole)
    chex.assert_trees_all_equal(model_of(folder), model_of(whole))


@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_several_processes_agree_on_damage(start, uninterrupted, tmp_path, damage):
    whole, folder = uninterrupted("2 data")[0], tmp_path / "run"
    subprocess.run(["cp", "-r", whole, folder], check=True)
    settings = json.loads((folder / "experiment.json").read_text())
    settings["run"]["dir"] = str(folder)
    (folder / "experiment.json").write_text(json.dumps(settings))
    last = folder / "checkpoints" / "40"
    arrays = [file for file in (last / "model").rglob("*") if file.is_file() and file.parent.name == "d"]
    assert arrays
    for file in arrays if damage == "truncated" else []:
        os.truncate(file, file.stat().st_size // 2)
    if damage == "removed":
        shutil.rmtree(last / "optimizer")
    stderr = finish(start(folder, 2))
    assert f"checkpoint {last} is damaged (" in stderr[0] and "resumes at step 30" in stderr[0]
    assert (folder / "damaged" / "40").is_dir()
    assert losses(folder) == losses(whole)
    chex.assert_trees_all_equal(model_of(folder), model_of(whole))


def test_ctrl_c_in_the_first_process_stops_all(start, tmp_path):
    folder = tmp_path / "run"
    processes = start(folder, 2, steps=100_000)
    wait_for(folder, 3, processes)
    processes[0].send_signal(signal.SIGINT)
    stderr = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 0], stderr
    assert "stopped and saved at step" in stderr[0]


def test_preemption_while_resuming_stops_all_at_the_same_step(start, tmp_path):
    """The signal arrives while the first step compiles, before any step is reported."""
    folder = tmp_path / "run"
    processes = start(folder, 2, steps=100_000)
    wait_for(folder, 12, processes)
    processes[0].send_signal(signal.SIGTERM)
    finish(processes)
    processes = start(folder, 2, steps=100_000)
    assert processes[0].stderr is not None
    for line in processes[0].stderr:
        if line == f"run: resumes at step {max(losses(folder))} of 100000\n":
            processes[1].send_signal(signal.SIGTERM)
            break
    (stderr, _) = finish(processes)
    assert "stopped and saved at step" in stderr
