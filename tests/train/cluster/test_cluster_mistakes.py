"""Processes that cannot form a run: all of them name the process that is missing or differs."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.train.processes import finish, free_port, wait_for
from train.cluster import on_first
from train.cluster.join import Cluster, code_hash
from train.cluster.roll_call import difference
from train.errors import UserError
from train.runs.integrity import FORMAT

pytestmark = pytest.mark.slow


def test_two_runs_in_one_directory(start, tmp_path):
    folder = tmp_path / "run"
    first = start(folder, 1, steps=100_000)
    wait_for(folder, 3, first)
    second = start(folder, 1, steps=100_000)
    (error,) = finish(second, 2)
    assert f"{folder} is being trained by process {first[0].pid} on " in error and error.count("\n") == 1
    first[0].send_signal(signal.SIGTERM)
    finish(first)


def test_processes_with_different_run_directories(front_door, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    recipe = ["run", "digits-mlp", "--run.steps=2", "--run.dir=here", "--optimizer.warmup-steps=0"]
    finish([front_door(*recipe, cwd=tmp_path)])
    cluster = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    processes = [front_door(*recipe, *cluster, f"--cluster.process={i}", cwd=tmp_path / ("elsewhere" * i)) for i in range(2)]
    for error in finish(processes, 2):
        assert error == "error: cluster: process 1 differs from process 0: the run directory is new, not begun\n"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_processes_that_share_no_folder(start, front_door, tmp_path):
    """Each process has its own folder of the same name, empty or a copy."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()

    def together(*arguments: str) -> list[str]:
        cluster = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
        names = enumerate(("here", "there"))
        return finish([front_door(*arguments, *cluster, f"--cluster.process={i}", cwd=tmp_path / name) for i, name in names], 2)

    run = ["run", "digits-mlp", "--run.dir=run", "--run.steps=4", "--run.checkpoint-every=2", "--optimizer.warmup-steps=0"]
    shared = "all processes need the same folder on a shared file system\n"
    assert together(*run) == [f"error: cluster: run on process 1 is not the folder of process 0; {shared}"] * 2
    shutil.rmtree(tmp_path / "here" / "run")
    for name in ("here", "there"):
        finish([front_door(*run, f"--run.seed={len(name)}", cwd=tmp_path / name)])
    shutil.copy(tmp_path / "here/run/experiment.json", tmp_path / "there/run/experiment.json")
    for error in together("evaluate", "run"):
        assert error.startswith("error: cluster: processes read different checkpoints in ") and error.endswith(shared)
    meta = tmp_path / "there/run/checkpoints/4/meta/metadata"
    before = meta.read_text()
    meta.write_text(json.dumps({**json.loads(before), "format": FORMAT + 1}))
    for error in together("evaluate", "run"):
        assert error.endswith(f"4 has format {FORMAT + 1}, from a newer version; this version reads {FORMAT}\n")
    meta.write_text(before)
    for error in together(*run, "--run.seed=4"):
        assert error.endswith(f"error: cluster: run on process 1 is not the folder of process 0; {shared}")


def test_processes_with_different_commands(front_door, tmp_path):
    cluster = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    commands = [["run", "digits-mlp", "--dry-run"], ["bench", "digits-mlp"]]
    processes = [front_door(*command, *cluster, f"--cluster.process={i}", cwd=tmp_path) for i, command in enumerate(commands)]
    for error in finish(processes, 2):
        change = "the command is bench digits-mlp, not run digits-mlp --dry-run"
        assert error == f"error: cluster: process 1 differs from process 0: {change}\n"


def test_processes_with_different_seeds_versions_code_or_data(start, front_door, tmp_path):
    folder, port = tmp_path / "run", free_port()
    common = ["run", "digits-mlp", f"--run.dir={folder}", f"--cluster.coordinator=127.0.0.1:{port}", "--cluster.processes=2"]
    seeds = [front_door(*common, f"--cluster.process={i}", f"--run.seed={i}", cwd=tmp_path) for i in range(2)]
    for error in finish(seeds, 2):
        assert error.strip().endswith("error: cluster: process 1 differs from process 0: run.seed is 1, not 0")
    assert not folder.exists()

    first = front_door(*common, "--cluster.process=0", cwd=tmp_path)
    package = tmp_path / "libraries" / "numpy-0.0.1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    path = f"PYTHONPATH={package.parent}:{Path(__file__).parents[3]}"
    second = front_door(*common, "--cluster.process=1", cwd=tmp_path, under=["env", path])
    for error in finish([first, second], 2):
        assert error == f"error: cluster: process 1 differs from process 0: numpy is 0.0.1, not {np.__version__}\n"

    first = front_door(*common, "--cluster.process=0", cwd=tmp_path)
    for package in ("fmodels", "train", "data"):
        shutil.copytree(Path(__file__).parents[3] / package, tmp_path / "copy" / package)
    with (tmp_path / "copy" / "train" / "bench" / "flops.py").open("a") as file:
        file.write("# another\n")
    second = front_door(*common, "--cluster.process=1", cwd=tmp_path / "copy")
    for error in finish([first, second], 2):
        assert re.fullmatch(r"error: cluster: process 1 differs from process 0: code is \w{16}, not \w{16}\n", error)

    common[1:3] = ["bert-tiny", "--run.dir=run", "--data.source=files:notes.txt", "--data.vocab-size=300", "--data.length=16"]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("\n".join(f"note {i} is {name}, and {i % 7} years old" for i in range(100)))
    processes = [front_door(*common, f"--cluster.process={i}", cwd=tmp_path / name) for i, name in enumerate(("here", "there"))]
    for error in finish(processes, 2):
        assert "error: cluster: process 1 differs from process 0: data " in error
    assert difference(3, {"jax": "0.1"}, {"jax": "0.2"}) == "process 3 differs from process 0: jax is 0.1, not 0.2"


def test_missing_processes_are_named(front_door, tmp_path):
    common = ["run", "digits-mlp", f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=4"]
    connected = [front_door(*common, f"--cluster.process={i}", "--cluster.timeout=10", cwd=tmp_path) for i in (0, 2)]
    for error in finish(connected, 2):
        assert error == "error: cluster: process(es) 1, 3 of 4 did not connect in time\n"
    alone = front_door(*common, "--cluster.process=1", "--cluster.timeout=1", cwd=tmp_path)
    (error,) = finish([alone], 2)
    assert error.startswith("error: cluster: process 0 cannot be reached at 127.0.0.1:")
    common[-1] = "--cluster.processes=999999999"
    (error,) = finish([front_door(*common, "--cluster.process=0", "--cluster.timeout=1", cwd=tmp_path)], 2)
    assert error.startswith("error: cluster: process(es) 1, 2, 3, ") and "99, 100 and 999999898 more of 999999999 did" in error


def test_errors_of_the_first_process_end_all(start, tmp_path):
    """Only the first process reads and writes the metrics log and best.json."""
    folder = tmp_path / "run"
    finish(start(folder, 2, steps=20))
    shutil.rmtree(folder / "checkpoints" / "20")
    (folder / "metrics.jsonl").write_text("garbage\n")
    for error in finish(start(folder, 2, steps=20), 2):
        assert error.endswith(f"error: {folder / 'metrics.jsonl'}, line 1: damaged; remove the line\n") and "gone" not in error
    (folder / "metrics.jsonl").write_text("")
    (folder / "best.json").unlink()
    (folder / "best.json.partial").mkdir()  # blocks writing it
    for error in finish(start(folder, 2, steps=20), 2):
        assert error.endswith(f"error: {folder / 'best.json.partial'}: Is a directory\n") and "gone" not in error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"process": 1}, "coordinator, processes and process must be given together, not process alone"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'here'"),
        ({"coordinator": "1234", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not '1234'"),
        ({"coordinator": "x..y:1", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'x..y:1'"),
        ({"coordinator": "a:99999", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'a:99999'"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process must be at least 0 and less than processes 2, not 2"),
        (
            {"coordinator": "::1:99", "processes": 2, "process": 0},
            "coordinator must be HOST:PORT, with an IPv6 address in brackets, not '::1:99'",
        ),
        ({"timeout": 0}, "timeout must be from 1 to 604800 seconds (one week), not 0"),
        ({"timeout": 10**11}, "timeout must be from 1 to 604800 seconds (one week), not 100000000000"),
    ],
)
def test_invalid_cluster_fields(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Cluster(**fields)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "a/best.json"), "a/best.json: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("image file is truncated"), "OSError('image file is truncated')"),
        (UserError("a mistake"), "a mistake"),
    ],
)
def test_errors_of_the_first_process_keep_their_message(error, message):
    def fail():
        raise error

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        on_first(fail)


def test_the_code_hash_includes_user_files(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("A = 1")
    before = code_hash([file])
    file.write_text("A = 2")
    assert len({before, code_hash([file]), code_hash([])}) == 3
