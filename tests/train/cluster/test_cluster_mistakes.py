"""Processes that are no run: who is missing or differs is named, by all that came."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.train.processes import finish, free_port, wait_for
from train.cluster import by_first
from train.cluster.join import Cluster, code
from train.cluster.roll_call import differs
from train.errors import UserError
from train.runs.integrity import FORMAT


def test_two_runs_in_one_directory(start, tmp_path):
    folder = tmp_path / "run"
    first = start(folder, 1, steps=100_000)
    wait_for(folder, 3, first)
    second = start(folder, 1, steps=100_000)
    (said,) = finish(second, 2)
    assert f"{folder} is being trained by process {first[0].pid} on " in said and said.count("\n") == 1
    first[0].send_signal(signal.SIGTERM)
    finish(first)


def test_processes_that_see_other_run_directories(front_door, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    recipe = ["run", "digits-mlp", "--run.steps=2", "--run.dir=here", "--optimizer.warmup-steps=0"]
    finish([front_door(*recipe, cwd=tmp_path)])
    of = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    them = [front_door(*recipe, *of, f"--cluster.process={i}", cwd=tmp_path / ("elsewhere" * i)) for i in range(2)]
    for said in finish(them, 2):
        assert said == "error: cluster: process 1 differs from process 0: the run directory is new, not begun\n"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_processes_that_see_other_folders_under_one_name(start, front_door, tmp_path):
    """Each of its own, and a copy."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()

    def together(*arguments: str) -> list[str]:
        of = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
        names = enumerate(("here", "there"))
        return finish([front_door(*arguments, *of, f"--cluster.process={i}", cwd=tmp_path / name) for i, name in names], 2)

    run = ["run", "digits-mlp", "--run.dir=run", "--run.steps=4", "--run.checkpoint-every=2", "--optimizer.warmup-steps=0"]
    shared = "all need one folder, on a file system that they share\n"
    assert together(*run) == [f"error: cluster: run of process 1 is not that of process 0; {shared}"] * 2
    shutil.rmtree(tmp_path / "here" / "run")
    for name in ("here", "there"):
        finish([front_door(*run, f"--run.seed={len(name)}", cwd=tmp_path / name)])
    shutil.copy(tmp_path / "here/run/experiment.json", tmp_path / "there/run/experiment.json")
    for said in together("evaluate", "run"):
        assert said.startswith("error: cluster: processes read different checkpoints in ") and said.endswith(shared)
    meta = tmp_path / "there/run/checkpoints/4/meta/metadata"
    before = meta.read_text()
    meta.write_text(json.dumps({**json.loads(before), "format": FORMAT + 1}))
    for said in together("evaluate", "run"):
        assert said.endswith(f"4 has format {FORMAT + 1}, from a newer version; this version reads {FORMAT}\n")
    meta.write_text(before)
    for said in together(*run, "--run.seed=4"):
        assert said.endswith(f"error: cluster: run of process 1 is not that of process 0; {shared}")


def test_processes_with_different_commands(front_door, tmp_path):
    of = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    commands = [["run", "digits-mlp", "--dry-run"], ["bench", "digits-mlp"]]
    them = [front_door(*command, *of, f"--cluster.process={i}", cwd=tmp_path) for i, command in enumerate(commands)]
    for said in finish(them, 2):
        what = "the command is bench digits-mlp, not run digits-mlp --dry-run"
        assert said == f"error: cluster: process 1 differs from process 0: {what}\n"


def test_processes_that_differ_say_in_what(start, front_door, tmp_path):
    folder, port = tmp_path / "run", free_port()
    common = ["run", "digits-mlp", f"--run.dir={folder}", f"--cluster.coordinator=127.0.0.1:{port}", "--cluster.processes=2"]
    seeds = [front_door(*common, f"--cluster.process={i}", f"--run.seed={i}", cwd=tmp_path) for i in range(2)]
    for said in finish(seeds, 2):
        assert said.strip().endswith("error: cluster: process 1 differs from process 0: run.seed is 1, not 0")
    assert not folder.exists()

    ours = front_door(*common, "--cluster.process=0", cwd=tmp_path)
    package = tmp_path / "libraries" / "numpy-0.0.1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    path = f"PYTHONPATH={package.parent}:{Path(__file__).parents[3]}"
    theirs = front_door(*common, "--cluster.process=1", cwd=tmp_path, under=["env", path])
    for said in finish([ours, theirs], 2):
        assert said == f"error: cluster: process 1 differs from process 0: numpy is 0.0.1, not {np.__version__}\n"

    ours = front_door(*common, "--cluster.process=0", cwd=tmp_path)
    for package in ("fmodels", "train", "data"):
        shutil.copytree(Path(__file__).parents[3] / package, tmp_path / "copy" / package)
    with (tmp_path / "copy" / "train" / "bench" / "flops.py").open("a") as file:
        file.write("# another\n")
    theirs = front_door(*common, "--cluster.process=1", cwd=tmp_path / "copy")
    for said in finish([ours, theirs], 2):
        assert re.fullmatch(r"error: cluster: process 1 differs from process 0: code is \w{16}, not \w{16}\n", said)

    common[1:3] = ["bert-tiny", "--run.dir=run", "--data.source=files:notes.txt", "--data.vocab-size=300", "--data.length=16"]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("\n".join(f"note {i} is {name}, and {i % 7} years old" for i in range(100)))
    them = [front_door(*common, f"--cluster.process={i}", cwd=tmp_path / name) for i, name in enumerate(("here", "there"))]
    for said in finish(them, 2):
        assert "error: cluster: process 1 differs from process 0: data " in said
    assert differs(3, {"jax": "0.1"}, {"jax": "0.2"}) == "process 3 differs from process 0: jax is 0.1, not 0.2"


def test_who_does_not_come_is_named(front_door, tmp_path):
    common = ["run", "digits-mlp", f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=4"]
    came = [front_door(*common, f"--cluster.process={i}", "--cluster.timeout=10", cwd=tmp_path) for i in (0, 2)]
    for said in finish(came, 2):
        assert said == "error: cluster: process(es) 1, 3 of 4 did not come in time\n"
    alone = front_door(*common, "--cluster.process=1", "--cluster.timeout=1", cwd=tmp_path)
    (said,) = finish([alone], 2)
    assert said.startswith("error: cluster: process 0 cannot be reached at 127.0.0.1:")
    common[-1] = "--cluster.processes=999999999"
    (said,) = finish([front_door(*common, "--cluster.process=0", "--cluster.timeout=1", cwd=tmp_path)], 2)
    assert said.startswith("error: cluster: process(es) 1, 2, 3, ") and "99, 100 and 999999898 more of 999999999 did" in said


def test_what_only_the_first_meets_is_told_to_all(start, tmp_path):
    """The log of a run, and which checkpoint is the best: it alone reads and writes them."""
    folder = tmp_path / "run"
    finish(start(folder, 2, steps=20))
    shutil.rmtree(folder / "checkpoints" / "20")
    (folder / "metrics.jsonl").write_text("garbage\n")
    for said in finish(start(folder, 2, steps=20), 2):
        assert said.endswith(f"error: {folder / 'metrics.jsonl'}, line 1: damaged; remove the line\n") and "gone" not in said
    (folder / "metrics.jsonl").write_text("")
    (folder / "best.json").unlink()
    (folder / "best.json.partial").mkdir()  # where it is to be written
    for said in finish(start(folder, 2, steps=20), 2):
        assert said.endswith(f"error: {folder / 'best.json.partial'}: Is a directory\n") and "gone" not in said


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"process": 1}, "coordinator, processes and process are given together, not process alone"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'here'"),
        ({"coordinator": "1234", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not '1234'"),
        ({"coordinator": "x..y:1", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'x..y:1'"),
        ({"coordinator": "a:99999", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'a:99999'"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process must be at least 0 and less than processes 2, not 2"),
        (
            {"coordinator": "::1:99", "processes": 2, "process": 0},
            "coordinator must be HOST:PORT, with an IPv6 address in brackets, not '::1:99'",
        ),
        ({"timeout": 0}, "timeout must be at least 1 and at most 604800, a week, not 0"),
        ({"timeout": 10**11}, "timeout must be at least 1 and at most 604800, a week, not 100000000000"),
    ],
)
def test_what_is_no_cluster_is_named(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Cluster(**fields)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("error", "right"),
    [
        (OSError(28, "No space left on device", "a/best.json"), "a/best.json: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("image file is truncated"), "OSError('image file is truncated')"),
        (UserError("a mistake"), "a mistake"),
    ],
)
def test_what_the_first_cannot_do_is_said_in_its_words(error, right):
    def fail():
        raise error

    with pytest.raises(UserError, match=f"^{re.escape(right)}$"):
        by_first(fail)


@pytest.mark.quick
def test_the_files_beside_the_project_are_code_too(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("A = 1")
    before = code([mine])
    mine.write_text("A = 2")
    assert len({before, code([mine]), code([])}) == 3
