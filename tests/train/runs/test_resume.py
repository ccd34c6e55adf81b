"""Killed, stopped, damaged or out of disk, a run resumes from its last intact checkpoint, bit for bit."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue], generated at import

from tests.train.experiments import short
from tests.train.processes import assert_same_model, finish, losses, wait_for
from train.runs.opened import write
from train.runs.signals import Interrupted
from train.experiment import with_run
from train import loop, recipes
from train.assemble import assemble
from train.__main__ import main
from train.errors import UserError
from train.runs.progress import Progress
from train.runs.rundir import write_atomically

# Long enough to be interrupted.
LONG = {"steps": 1000, "checkpoint_every": 50, "evaluate_every": 100, "log_every": 10}


@pytest.fixture(scope="module")
def begin(start) -> Callable[[Path], list[subprocess.Popen]]:
    """Start a run in a folder. Its checkpoints are larger than its logs."""
    return lambda folder: start(folder, 1, hidden=512, **LONG)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, begin) -> Path:
    """The folder of an uninterrupted long run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finish(begin(folder))
    return folder


@pytest.mark.slow
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(begin, whole, tmp_path):
    folder = tmp_path / "killed"
    for step in (70, 230, 470):
        wait_for(folder, step, processes := begin(folder))
        processes[0].kill()
        processes[0].communicate()
    assert "resumes at step" in finish(begin(folder))[0]
    assert_same_model(whole, folder)
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_sigterm_saves_explains_how_to_resume_and_exits_0(begin, whole, tmp_path):
    folder = tmp_path / "stopped"
    wait_for(folder, 210, processes := begin(folder))
    processes[0].send_signal(signal.SIGTERM)
    (stderr,) = finish(processes)
    assert "stopped and saved at step" in stderr and "rerun the command to resume" in stderr
    assert "Traceback" not in stderr
    finish(begin(folder))
    assert_same_model(whole, folder)


@pytest.mark.slow
def test_a_signal_before_the_first_step_explains_how_to_resume(begin, tmp_path):
    folder = tmp_path / "early"
    (process,) = begin(folder)
    while not folder.exists() and process.poll() is None:  # the folder is created after the data is read and before the step is compiled
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    (stderr,) = finish([process])
    assert stderr.count("rerun the command to resume") == 1 and "Traceback" not in stderr
    wait_for(folder, 10, processes := begin(folder))
    processes[0].kill()
    processes[0].communicate()


@pytest.mark.slow
def test_ctrl_c_saves(begin, whole, tmp_path):
    folder = tmp_path / "interrupted"
    wait_for(folder, 110, processes := begin(folder))
    processes[0].send_signal(signal.SIGINT)
    (stderr,) = finish(processes, 130)
    assert "rerun the command to resume" in stderr and "Traceback" not in stderr
    finish(begin(folder))
    assert_same_model(whole, folder)


def events(folder: Path) -> list[tuple[int, float]]:
    """Return (step, loss) as TensorBoard shows them: a restart drops the events that it writes again."""
    found: list[tuple[int, float]] = []
    for file in sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime):
        data = file.read_bytes()
        while len(data) >= 12 + (size := int.from_bytes(data[:8], "little")) + 4:  # size, its checksum, the event, its checksum
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.HasField("session_log"):
                found = [(step, loss) for step, loss in found if step < event.step]
            found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "train/loss"]
    return found


def end_at(size: int, process: subprocess.Popen) -> str:
    """Limit the file size of a process, and return the last line of its stderr."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    (stderr,) = finish([process], 2)
    assert "Traceback" not in stderr
    return stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint_and_prints_one_line(begin, whole, tmp_path):
    folder = tmp_path / "full"
    wait_for(folder, 110, processes := begin(folder))
    stderr = end_at(100_000, *processes)
    assert stderr.startswith(f"error: {folder / 'checkpoints'}: a checkpoint could not be written (File too large); the checkpoint")
    finish(begin(folder))
    assert_same_model(whole, folder)
    assert events(folder) == events(whole)
    assert dict(events(whole)) == pytest.approx(losses(whole), rel=1e-6)


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_the_run_with_one_line(start, tmp_path):
    folder = tmp_path / "full"
    small = partial(start, folder, 1, hidden=16, **LONG)
    wait_for(folder, 110, processes := small())
    assert end_at(30_000, *processes) == f"error: {folder}: a log could not be written: File too large"
    finish(small())
    assert [step for step, _ in events(folder)] == list(losses(folder)) == list(range(10, 1001, 10))


def test_a_file_that_cannot_be_written_is_named_and_unchanged(tmp_path):
    file = tmp_path / "result.json"
    write_atomically(file, "short")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/result\.json'"):
            write_atomically(file, "longer than that")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == "short"


def test_missing_checkpoints_are_an_error_and_not_a_fresh_start(unharmed, folder):
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match=r"copy: its checkpoints are missing; restore them, or choose another --run.dir"):
        loop.train(short(folder))
    assert (folder / "metrics.jsonl").read_text() == (unharmed / "metrics.jsonl").read_text()


def test_a_run_that_never_saved_starts_again_even_with_more_frequent_checkpoints(unharmed, folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    frequent = with_run(short(folder), checkpoint_every=5)
    loop.train(frequent)
    assert_same_model(unharmed, folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="its checkpoints are missing"):  # this run would have saved by then
        loop.train(frequent)


def test_a_process_that_loses_the_race_to_begin_a_run_changes_nothing(tmp_path):
    folder = tmp_path / "raced"
    run = assemble(short(folder))
    os.close(write(run, False, {}, print))
    before = (folder / "experiment.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"another process started a run in .* meanwhile; rerun the command to resume$"):
        write(run, False, {}, print)
    assert (folder / "experiment.json").stat().st_mtime_ns == before


def test_an_incomplete_start_is_repeated_and_a_finished_run_keeps_its_environment(unharmed, folder):
    for path in ("experiment.json", "result.json", "metrics.jsonl"):  # experiment.json is written last
        (folder / path).unlink()
    shutil.rmtree(folder / "checkpoints")
    (folder / "environment.json").write_text("{")
    loop.train(short(folder))
    assert_same_model(unharmed, folder)
    written = (folder / "environment.json").stat().st_mtime_ns
    loop.train(short(folder))
    assert (folder / "environment.json").stat().st_mtime_ns == written


@pytest.mark.slow
def test_predict_needs_only_the_run_directory(tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i} is of a thing that is {i % 7} years old" for i in range(100)))
    folder, moved = tmp_path / "run", tmp_path / "moved"
    small = ["--run.steps=1", "--data.length=16", "--data.batch-size=8", "--data.vocab-size=300", "--optimizer.warmup-steps=0"]
    small += ["--model.layers=1"]
    assert main(["run", "bert-tiny", f"--data.source=files:{notes}", f"--run.dir={folder}", *small]) == 0
    notes.unlink()
    folder.rename(moved)
    capsys.readouterr()
    assert main(["predict", str(moved), "--text", "a [MASK] thing", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["masks"][0]) == 5
    assert main(["evaluate", str(moved)]) == 2
    assert "notes.txt: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("restart", [False, True])
def test_the_best_checkpoint_is_kept_besides_the_newest_and_evaluated(tmp_path, monkeypatch, capsys, restart):
    folder = tmp_path / "best"
    experiment = recipes.find("digits-mlp")[1]()
    # A rate this high makes the held-out loss go up and down.
    experiment = replace(experiment, optimizer=replace(experiment.optimizer, learning_rate=0.05, schedule="constant"))
    experiment = with_run(experiment, dir=str(folder), steps=60, checkpoint_every=10, evaluate_every=10, keep=1)
    if restart:
        update = Progress.update

        def stop_at_30(progress, step, values):
            update(progress, step, values)
            if step == 30:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(Progress, "update", stop_at_30)
        with pytest.raises(Interrupted, match="stopped and saved at step 3"):
            loop.train(experiment)
        monkeypatch.undo()
    loop.train(experiment)
    kept = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluated = {row["step"]: row["test/loss"] for row in rows if "test/loss" in row}
    best = min(evaluated, key=evaluated.__getitem__)
    assert kept == sorted({60, best})
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(evaluated[best], rel=1e-6)


def test_a_reader_leaves_an_unfinished_checkpoint_alone(folder):
    unfinished = folder / "checkpoints" / "50.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert main(["evaluate", str(folder), "--json"]) == 0
    assert unfinished.is_dir()
