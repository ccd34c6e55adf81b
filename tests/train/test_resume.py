"""Nothing is lost: killed, stopped, damaged or out of disk, a run goes on from its last whole checkpoint, bit for bit."""

import gc
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

import chex
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue], it is made when it is imported

from tests.train.processes import finish, losses, model_of, wait_for
from train import loop, recipes
from train.__main__ import main
from train.checkpoint import FORMAT, Checkpoints, checksum
from train.errors import UserError
from train.experiment import Experiment
from train.progress import Progress
from train.rundir import write_atomically
from train.verbs.run import named

# So long that it can be met on its way, and stopped.
LONG = {"steps": 1000, "checkpoint_every": 50, "evaluate_every": 100, "log_every": 10}


@pytest.fixture(scope="module")
def begin(start) -> Callable[[Path], list[subprocess.Popen]]:
    """A run in that folder, of which checkpoints are larger than logs."""
    return lambda folder: start(folder, 1, "--model.hidden=512", **LONG)


def assert_same_model(a: Path, b: Path) -> None:
    chex.assert_trees_all_equal(model_of(a), model_of(b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, begin) -> Path:
    """The folder of the long run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finish(begin(folder))
    return folder


def test_killed_at_any_moment_and_continued_is_the_uninterrupted_run(begin, whole, tmp_path):
    folder = tmp_path / "killed"
    for step in (70, 230, 470):
        wait_for(folder, step, processes := begin(folder))
        processes[0].kill()
        processes[0].communicate()
    assert "continues at step" in finish(begin(folder))[0]
    assert_same_model(whole, folder)
    assert losses(folder) == losses(whole)


def test_sigterm_saves_says_how_to_continue_and_exits_0(begin, whole, tmp_path):
    folder = tmp_path / "stopped"
    wait_for(folder, 210, processes := begin(folder))
    processes[0].send_signal(signal.SIGTERM)
    (said,) = finish(processes)
    assert "stopped and saved at step" in said and "the same command continues" in said
    assert "Traceback" not in said
    finish(begin(folder))
    assert_same_model(whole, folder)


def test_a_signal_before_the_first_step_says_how_to_continue(begin, tmp_path):
    folder = tmp_path / "early"
    (process,) = begin(folder)
    while not folder.exists() and process.poll() is None:  # it is claimed when the data is read, and then the step is compiled
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    (said,) = finish([process])
    assert said.count("the same command continues") == 1 and "Traceback" not in said
    wait_for(folder, 10, processes := begin(folder))
    processes[0].kill()
    processes[0].communicate()


def test_ctrl_c_saves_too(begin, whole, tmp_path):
    folder = tmp_path / "interrupted"
    wait_for(folder, 110, processes := begin(folder))
    processes[0].send_signal(signal.SIGINT)
    (said,) = finish(processes, 130)
    assert "the same command continues" in said and "Traceback" not in said
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


def test_a_full_disk_leaves_the_last_checkpoint_and_one_line(begin, whole, tmp_path):
    folder = tmp_path / "full"
    wait_for(folder, 110, processes := begin(folder))
    said = end_at(100_000, *processes)
    assert said.startswith(f"error: {folder / 'checkpoints'}: a checkpoint could not be written (File too large); the checkpoint")
    finish(begin(folder))
    assert_same_model(whole, folder)
    assert events(folder) == events(whole)
    assert dict(events(whole)) == pytest.approx(losses(whole), rel=1e-6)


def test_a_log_that_cannot_be_written_ends_a_run_with_one_line(start, tmp_path):
    folder = tmp_path / "full"
    small = partial(start, folder, 1, "--model.hidden=16", **LONG)
    wait_for(folder, 110, processes := small())
    assert end_at(30_000, *processes) == f"error: {folder}: a log could not be written: File too large"
    finish(small())
    assert [step for step, _ in events(folder)] == list(losses(folder)) == list(range(10, 1001, 10))


def short(folder: Path) -> Experiment:
    return loop.with_run(recipes.find("digits-mlp")[1](), dir=str(folder), steps=40, checkpoint_every=20, evaluate_every=40)


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory) -> Path:
    """The folder of a short run, with checkpoints of steps 20 and 40."""
    folder = tmp_path_factory.mktemp("runs") / "unharmed"
    loop.train(short(folder))
    return folder


@pytest.fixture
def folder(unharmed, tmp_path) -> Path:
    """A copy of it for a test to harm."""
    return shutil.copytree(unharmed, tmp_path / "copy")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def files_of(folder: Path) -> list[Path]:
    """The largest first."""
    return sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: (-file.stat().st_size, file))


DAMAGE = {  # of the folder of a checkpoint
    "truncated": lambda step: os.truncate((file := files_of(step / "model")[0]), file.stat().st_size // 2),
    "one bit": lambda step: flip(files_of(step / "model")[0]),
    "array removed": lambda step: files_of(step / "model")[0].unlink(),
    "moments emptied": lambda step: os.truncate(files_of(step / "optimizer")[0], 0),
    "optimizer removed": lambda step: shutil.rmtree(step / "optimizer"),
    "sums removed": lambda step: shutil.rmtree(step / "meta"),
    "no sums": lambda step: (step / "meta" / "metadata").write_text("[]"),
    "sums of a form of their own": lambda step: (step / "meta" / "metadata").write_text('{"format": "x"}'),
    "sums cut off": lambda step: os.truncate(step / "meta" / "metadata", 20),
    "half removed": lambda step: [file.unlink() for file in files_of(step)[::2]],
    "all removed": lambda step: [file.unlink() for file in files_of(step)],
}


def test_a_checkpoint_of_a_newer_version_is_refused_and_kept(folder, tmp_path, capsys):
    meta = folder / "checkpoints" / "40" / "meta" / "metadata"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": FORMAT + 1}))
    with pytest.raises(UserError, match=rf"40 is of format {FORMAT + 1}, made by a newer version; this one reads {FORMAT}$"):
        loop.train(short(folder))
    assert main(["evaluate", str(folder)]) == 2 and "made by a newer version" in capsys.readouterr().err
    begin = ["run", "digits-mlp", f"--init-from={folder}", f"--run.dir={tmp_path / 'from-it'}"]
    assert main(begin) == 2 and "made by a newer version" in capsys.readouterr().err
    assert main(["checkpoints", str(folder)]) == 2
    of_20, of_40 = capsys.readouterr().out.splitlines()[1:]
    assert of_20.endswith("whole") and of_40.endswith(f"made by a newer version; this one reads {FORMAT}")
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["20", "40"]


def test_whatever_an_optimizer_keeps_is_verified():
    """Without the experiment too, where named tuples come back as dicts."""
    state = optax.MultiSteps(optax.adafactor(1e-3), 2).init({"kernel": jnp.ones((256, 256)), "bias": jnp.ones(3)})
    as_dicts = serialization.to_state_dict(state)
    assert len(jax.tree.leaves(state)) > 5 and int(checksum(state)) == int(checksum(as_dicts))


@pytest.mark.parametrize("text", ["", '{"st', "[]", "{}", '{"step": 40, "loss": null}', "folder"])
def test_a_damaged_note_of_the_best_is_named_before_anything_is_trained(folder, capsys, text):
    experiment, best = loop.with_run(short(folder), steps=40), folder / "best.json"
    shutil.rmtree(folder / "checkpoints" / "40")
    best.unlink()
    best.mkdir() if text == "folder" else best.write_text(text)
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"best\.json (is damaged|cannot be read)"):
        loop.train(experiment)
    assert (folder / "metrics.jsonl").read_text() == before
    assert main(["evaluate", str(folder), "--json"]) == 0
    capsys.readouterr()
    assert main(["checkpoints", str(folder)]) == 2
    found = capsys.readouterr()
    assert found.out.splitlines()[1].endswith("whole") and "best.json" in found.err and found.err.count("\n") == 1


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


@pytest.fixture
def collected():
    """When a read fails Orbax leaves coroutines behind; they complain when they are collected, which is to happen here."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
def test_what_is_not_to_blame_is_not_put_aside(folder):
    experiment = short(folder)
    other = replace(experiment, optimizer=replace(experiment.optimizer, name="momentum"))
    with Checkpoints(folder, 3, print) as checkpoints:
        program = loop.assemble(experiment).program
        os.close(free := os.open(os.devnull, os.O_RDONLY))  # the lowest, so from there on none can be opened
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            with pytest.raises(UserError, match=r"40 cannot be read \(Too many open files\), and may be whole: try again"):
                checkpoints.restore(program)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        with pytest.raises(UserError, match=r"40 is of another experiment, or of other versions"):
            checkpoints.restore(loop.assemble(other).program)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["20", "40"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(unharmed, folder, capsys, damage):
    DAMAGE[damage](folder / "checkpoints" / "40")
    assert main(["checkpoints", str(folder)]) == 2
    found = capsys.readouterr()
    (of_20, of_40) = found.out.splitlines()[1:]
    assert of_20.endswith(f"replica 1 x data {jax.device_count()} x fsdp 1 x tensor 1    whole") and "damaged: " in of_40
    assert found.err == f"error: {folder}: not readable: 40\n"
    loop.train(short(folder))
    said = capsys.readouterr().err
    assert f"{folder / 'checkpoints' / '40'} is damaged" in said and "continues at step 20" in said
    assert (folder / "damaged" / "40").is_dir()
    assert_same_model(unharmed, folder)


def test_too_little_memory_is_no_damage(folder, monkeypatch):
    def short_of_memory(*_, **__):
        raise RuntimeError("Encountered error while reading array index 0") from MemoryError("std::bad_alloc")

    with Checkpoints(folder, 3, print) as checkpoints:
        program = loop.assemble(short(folder)).program
        monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", short_of_memory)
        with pytest.raises(UserError, match=r"40 does not fit into memory \(std::bad_alloc\)"):
            checkpoints.restore(program)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["20", "40"]


@pytest.mark.parametrize("text", ["[]", '{"item_handlers": 3}'])
def test_a_checkpoint_that_orbax_cannot_list_is_named(folder, tmp_path, text):
    (folder / "checkpoints" / "40" / "_CHECKPOINT_METADATA").write_text(text)
    named = pytest.raises(
        UserError, match=r"checkpoints/40 is damaged \(its _CHECKPOINT_METADATA\); move it away to use the others"
    )
    with named:
        loop.train(short(folder))
    with named:
        model_of(folder)
    shutil.move(folder / "checkpoints" / "40", tmp_path)
    loop.train(short(folder))


@pytest.mark.parametrize("damage", ["truncated", "array removed"])
def test_what_the_threads_of_a_reader_say_of_damage_is_not_heard(front_door, folder, damage):
    """In a process of its own, to its end."""
    DAMAGE[damage](folder / "checkpoints" / "40")
    (said,) = finish([front_door("checkpoints", folder, cwd=folder)], 2)
    assert said == f"error: {folder}: not readable: 40\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
def test_all_checkpoints_damaged_is_an_error_and_not_a_fresh_start_however_often(folder):
    for file in (folder / "checkpoints").rglob("*"):
        if file.is_file():
            os.truncate(file, 0)
    before = (folder / "metrics.jsonl").read_text()
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint is whole"):
            loop.train(short(folder))
    assert (folder / "metrics.jsonl").read_text() == before


def test_checkpoints_that_are_gone_are_an_error_and_not_a_fresh_start(unharmed, folder):
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match=r"copy: its checkpoints are gone; restore them, or choose another --run.dir"):
        loop.train(short(folder))
    assert (folder / "metrics.jsonl").read_text() == (unharmed / "metrics.jsonl").read_text()


def test_a_run_that_never_saved_begins_anew_however_often_it_saves_now(unharmed, folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    often = loop.with_run(short(folder), checkpoint_every=5)
    loop.train(often)
    assert_same_model(unharmed, folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="its checkpoints are gone"):  # it would have saved by then
        loop.train(often)


def test_who_loses_a_race_to_begin_a_run_leaves_it_alone(tmp_path):
    folder = tmp_path / "raced"
    run = loop.assemble(short(folder))
    os.close(loop.write(run, False, print))
    before = (folder / "experiment.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"was begun by another process meanwhile; the same command continues$"):
        loop.write(run, False, print)
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


def test_init_from_takes_layers_scanned_or_not(tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i} is of a thing that is {i % 7} years old" for i in range(100)))
    small = ["--run.steps=1", "--data.length=16", "--data.batch-size=8", "--data.vocab-size=300"]
    command = ["run", "bert-tiny", f"--data.source=files:{notes}", *small, "--optimizer.learning-rate=1e-30"]
    plain, scanned = tmp_path / "plain", tmp_path / "scanned"
    assert main([*command, f"--run.dir={plain}"]) == 0
    assert main([*command, "--model.scan", f"--init-from={plain}", f"--run.dir={scanned}"]) == 0
    assert "0 new, 0 left over" in capsys.readouterr().err
    assert "layers" in model_of(scanned)[0]["model"]["encoder"]
    experiment, _ = named([*command[1:], f"--init-from={scanned}", f"--run.dir={tmp_path / 'again'}"], "run")
    again = loop.initial(loop.assemble(experiment), print)
    assert "0 new, 0 left over" in capsys.readouterr().out
    chex.assert_trees_all_close(again.params, model_of(plain)[0], rtol=0, atol=1e-12)


def test_init_from_moves_no_array_by_way_of_its_whole(tmp_path, capfd):
    """Each is read as it is to lie: from parts along one axis to other axes the partitioner finds no way, and says so."""
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i} is of a thing that is {i % 7} years old" for i in range(100)))
    small = ["--run.steps=1", "--data.length=16", "--data.batch-size=8", "--data.vocab-size=300", "--model.layers=1"]
    command = ["run", "bert-tiny", f"--data.source=files:{notes}", *small, "--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2"]
    assert main([*command, f"--run.dir={tmp_path / 'one'}"]) == 0
    assert main([*command, f"--init-from={tmp_path / 'one'}", f"--run.dir={tmp_path / 'two'}"]) == 0
    said = capfd.readouterr().err
    assert "0 new, 0 left over" in said and "Involuntary" not in said


@pytest.mark.parametrize("restart", [False, True])
def test_the_best_checkpoint_is_kept_beside_the_newest_and_evaluated(tmp_path, monkeypatch, capsys, restart):
    folder = tmp_path / "best"
    experiment = recipes.find("digits-mlp")[1]()
    # A rate this high makes the held-out loss go up and down.
    experiment = replace(experiment, optimizer=replace(experiment.optimizer, learning_rate=0.05, schedule="constant"))
    experiment = loop.with_run(experiment, dir=str(folder), steps=60, checkpoint_every=10, evaluate_every=10, keep=1)
    if restart:
        update = Progress.update

        def stop_at_30(progress, step, values):
            update(progress, step, values)
            if step == 30:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(Progress, "update", stop_at_30)
        with pytest.raises(loop.Interrupted, match="stopped and saved at step 3"):
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
