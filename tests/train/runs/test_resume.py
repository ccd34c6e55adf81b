"""Nothing is lost: killed, stopped, damaged or out of disk, a run goes on from its last whole checkpoint, bit for bit."""

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
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue], it is made when it is imported

from tests.train.experiments import short
from tests.train.processes import assert_same_model, finish, losses, wait_for
from train.runs.opened import Interrupted, write
from train.experiment import with_run
from train import loop
from train.assemble import assemble, recipes
from train.__main__ import main
from train.errors import UserError
from train.report.progress import Progress
from train.runs.rundir import write_atomically

# So long that it can be met on its way, and stopped.
LONG = {"steps": 1000, "checkpoint_every": 50, "evaluate_every": 100, "log_every": 10}


@pytest.fixture(scope="module")
def begin(start) -> Callable[[Path], list[subprocess.Popen]]:
    """A run in that folder, of which checkpoints are larger than logs."""
    return lambda folder: start(folder, 1, "--model.hidden=512", **LONG)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, begin) -> Path:
    """The folder of the long run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finish(begin(folder))
    return folder


@pytest.mark.slow
def test_killed_at_any_moment_and_continued_is_the_uninterrupted_run(begin, whole, tmp_path):
    folder = tmp_path / "killed"
    for step in (70, 230, 470):
        wait_for(folder, step, processes := begin(folder))
        processes[0].kill()
        processes[0].communicate()
    assert "resumes at step" in finish(begin(folder))[0]
    assert_same_model(whole, folder)
    assert losses(folder) == losses(whole)


def test_sigterm_saves_says_how_to_continue_and_exits_0(begin, whole, tmp_path):
    folder = tmp_path / "stopped"
    wait_for(folder, 210, processes := begin(folder))
    processes[0].send_signal(signal.SIGTERM)
    (said,) = finish(processes)
    assert "stopped and saved at step" in said and "rerun the command to resume" in said
    assert "Traceback" not in said
    finish(begin(folder))
    assert_same_model(whole, folder)


@pytest.mark.slow
def test_a_signal_before_the_first_step_says_how_to_continue(begin, tmp_path):
    folder = tmp_path / "early"
    (process,) = begin(folder)
    while not folder.exists() and process.poll() is None:  # it is claimed when the data is read, and then the step is compiled
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    (said,) = finish([process])
    assert said.count("rerun the command to resume") == 1 and "Traceback" not in said
    wait_for(folder, 10, processes := begin(folder))
    processes[0].kill()
    processes[0].communicate()


@pytest.mark.slow
def test_ctrl_c_saves_too(begin, whole, tmp_path):
    folder = tmp_path / "interrupted"
    wait_for(folder, 110, processes := begin(folder))
    processes[0].send_signal(signal.SIGINT)
    (said,) = finish(processes, 130)
    assert "rerun the command to resume" in said and "Traceback" not in said
    finish(begin(folder))
    assert_same_model(whole, folder)


def events(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses as TensorBoard has them, which drops what a later start writes anew."""
    found: list[tuple[int, float]] = []
    for file in sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime):
        data = file.read_bytes()
        while len(data) >= 12 + (size := int.from_bytes(data[:8], "little")) + 4:  # size and its sum, the event and its sum
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.HasField("session_log"):
                found = [(step, loss) for step, loss in found if step < event.step]
            found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "train/loss"]
    return found


def end_at(size: int, process: subprocess.Popen) -> str:
    """What a process says that has to live with files of that size."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    (said,) = finish([process], 2)
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_and_one_line(begin, whole, tmp_path):
    folder = tmp_path / "full"
    wait_for(folder, 110, processes := begin(folder))
    said = end_at(100_000, *processes)
    assert said.startswith(f"error: {folder / 'checkpoints'}: a checkpoint could not be written (File too large); the checkpoint")
    finish(begin(folder))
    assert_same_model(whole, folder)
    assert events(folder) == events(whole)
    assert dict(events(whole)) == pytest.approx(losses(whole), rel=1e-6)


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_a_run_with_one_line(start, tmp_path):
    folder = tmp_path / "full"
    small = partial(start, folder, 1, "--model.hidden=16", **LONG)
    wait_for(folder, 110, processes := small())
    assert end_at(30_000, *processes) == f"error: {folder}: a log could not be written: File too large"
    finish(small())
    assert [step for step, _ in events(folder)] == list(losses(folder)) == list(range(10, 1001, 10))


def test_a_file_that_cannot_be_written_is_named_and_is_what_it_was(tmp_path):
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


def test_checkpoints_that_are_gone_are_an_error_and_not_a_fresh_start(unharmed, folder):
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match=r"copy: its checkpoints are missing; restore them, or choose another --run.dir"):
        loop.train(short(folder))
    assert (folder / "metrics.jsonl").read_text() == (unharmed / "metrics.jsonl").read_text()


def test_a_run_that_never_saved_begins_anew_however_often_it_saves_now(unharmed, folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    often = with_run(short(folder), checkpoint_every=5)
    loop.train(often)
    assert_same_model(unharmed, folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="its checkpoints are missing"):  # it would have saved by then
        loop.train(often)


def test_who_loses_a_race_to_begin_a_run_leaves_it_alone(tmp_path):
    folder = tmp_path / "raced"
    run = assemble(short(folder))
    os.close(write(run, False, print))
    before = (folder / "experiment.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"another process began .* meanwhile; rerun the command to resume$"):
        write(run, False, print)
    assert (folder / "experiment.json").stat().st_mtime_ns == before


def test_a_start_that_was_cut_short_is_started_anew_and_a_finished_run_keeps_what_it_was_trained_with(unharmed, folder):
    for path in ("experiment.json", "result.json", "metrics.jsonl"):  # the first is written last, when all else is there
        (folder / path).unlink()
    shutil.rmtree(folder / "checkpoints")
    (folder / "environment.json").write_text("{")
    loop.train(short(folder))
    assert_same_model(unharmed, folder)
    made = (folder / "environment.json").stat().st_mtime_ns
    loop.train(short(folder))
    assert (folder / "environment.json").stat().st_mtime_ns == made


def test_predict_needs_the_run_directory_alone(tmp_path, capsys):
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
def test_the_best_checkpoint_is_kept_beside_the_newest_and_evaluated(tmp_path, monkeypatch, capsys, restart):
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


def test_who_only_reads_leaves_a_checkpoint_that_is_being_written(folder):
    unfinished = folder / "checkpoints" / "50.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert main(["evaluate", str(folder), "--json"]) == 0
    assert unfinished.is_dir()
