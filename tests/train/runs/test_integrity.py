"""Damaged checkpoints are reported and moved away; checkpoints that cannot be read for other reasons stay."""

import gc
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from tests.cases import cases
from flax import serialization

from tests.train.experiments import short
from tests.train.processes import assert_same_model, finish, model_of
from train.experiment import with_run
from train import loop
from train.assemble import assemble
from train.__main__ import main
from train.errors import UserError
from train.runs.best import Best
from train.runs.checkpoints import Checkpoints
from train.runs.integrity import FORMAT, checksum

BEST = Best("test/loss", "min")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def files_of(folder: Path) -> list[Path]:
    """Return the files below a folder, the largest first."""
    return sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: (-file.stat().st_size, file))


DAMAGE = {  # functions that damage a checkpoint folder
    "truncated": lambda step: os.truncate((file := files_of(step / "model")[0]), file.stat().st_size // 2),
    "one bit": lambda step: flip(files_of(step / "model")[0]),
    "array removed": lambda step: files_of(step / "model")[0].unlink(),
    "moments emptied": lambda step: os.truncate(files_of(step / "optimizer")[0], 0),
    "optimizer removed": lambda step: shutil.rmtree(step / "optimizer"),
    "meta removed": lambda step: shutil.rmtree(step / "meta"),
    "meta without checksums": lambda step: (step / "meta" / "metadata").write_text("[]"),
    "invalid format": lambda step: (step / "meta" / "metadata").write_text('{"format": "x"}'),
    "meta truncated": lambda step: os.truncate(step / "meta" / "metadata", 20),
    "half removed": lambda step: [file.unlink() for file in files_of(step)[::2]],
    "all removed": lambda step: [file.unlink() for file in files_of(step)],
}


def test_a_checkpoint_of_a_newer_version_is_rejected_and_kept(folder, tmp_path, capsys):
    meta = folder / "checkpoints" / "40" / "meta" / "metadata"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": FORMAT + 1}))
    with pytest.raises(UserError, match=rf"40 has format {FORMAT + 1}, from a newer version; this version reads {FORMAT}$"):
        loop.train(short(folder))
    assert main(["evaluate", str(folder)]) == 2 and "from a newer version" in capsys.readouterr().err
    begin = ["run", "digits-mlp", f"--init-from={folder}", f"--run.dir={tmp_path / 'from-it'}"]
    assert main(begin) == 2 and "from a newer version" in capsys.readouterr().err
    assert main(["checkpoints", str(folder)]) == 2
    of_20, of_40 = capsys.readouterr().out.splitlines()[1:]
    assert of_20.endswith("valid") and of_40.endswith(f"from a newer version; this version reads {FORMAT}")
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["20", "40"]


def test_checksum_is_equal_for_named_tuples_and_dicts():
    """Without the experiment, named tuples of an optimizer state are restored as dicts."""
    state = optax.MultiSteps(optax.adafactor(1e-3), 2).init({"kernel": jnp.ones((256, 256)), "bias": jnp.ones(3)})
    as_dicts = serialization.to_state_dict(state)
    assert len(jax.tree.leaves(state)) > 5 and int(checksum(state)) == int(checksum(as_dicts))


@pytest.mark.parametrize("text", ["", '{"st', "[]", "{}", '{"step": 40, "metric": "min:test/loss", "value": null}', "folder"])
def test_a_damaged_best_json_is_reported_before_training(folder, capsys, text):
    experiment, best = with_run(short(folder), steps=40), folder / "best.json"
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
    assert found.out.splitlines()[1].endswith("valid") and "best.json" in found.err and found.err.count("\n") == 1


@pytest.fixture
def collected():
    """Collect the coroutines that Orbax leaves after a failed read. They warn when they are collected."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
def test_checkpoints_that_are_not_damaged_are_not_moved(folder):
    experiment = short(folder)
    other = replace(experiment, optimizer=replace(experiment.optimizer, name="momentum"))
    with Checkpoints(folder, print, BEST, keep=3) as checkpoints:
        program = assemble(experiment).program
        os.close(free := os.open(os.devnull, os.O_RDONLY))  # the lowest free descriptor; the limit below prevents opening files
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            with pytest.raises(UserError, match=r"40 cannot be read \(Too many open files\), but may be intact; try again"):
                checkpoints.restore(program)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        with pytest.raises(UserError, match=r"40 was written by another experiment, or by other versions"):
            checkpoints.restore(assemble(other).program)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["20", "40"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("damage", cases(DAMAGE, ["one bit", "truncated", "optimizer removed"]))
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(unharmed, folder, capsys, damage):
    damage(folder / "checkpoints" / "40")
    assert main(["checkpoints", str(folder)]) == 2
    found = capsys.readouterr()
    (of_20, of_40) = found.out.splitlines()[1:]
    assert of_20.endswith(f"replica 1 x data {jax.device_count()} x fsdp 1 x tensor 1    valid") and "damaged: " in of_40
    assert found.err == f"error: {folder}: damaged checkpoints: 40\n"
    loop.train(short(folder))
    stderr = capsys.readouterr().err
    assert f"{folder / 'checkpoints' / '40'} is damaged" in stderr and "resumes at step 20" in stderr
    assert (folder / "damaged" / "40").is_dir()
    assert_same_model(unharmed, folder)


def test_out_of_memory_is_not_damage(folder, monkeypatch):
    def short_of_memory(*_, **__):
        raise RuntimeError("Encountered error while reading array index 0") from MemoryError("std::bad_alloc")

    with Checkpoints(folder, print, BEST, keep=3) as checkpoints:
        program = assemble(short(folder)).program
        monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", short_of_memory)
        with pytest.raises(UserError, match=r"40 does not fit into memory \(std::bad_alloc\)"):
            checkpoints.restore(program)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["20", "40"]


@pytest.mark.parametrize("text", ["[]", '{"item_handlers": 3}'])
def test_a_checkpoint_that_orbax_cannot_list_is_reported(folder, tmp_path, text):
    (folder / "checkpoints" / "40" / "_CHECKPOINT_METADATA").write_text(text)
    is_damaged = pytest.raises(
        UserError, match=r"checkpoints/40 is damaged \(its _CHECKPOINT_METADATA\); move it away to use the others"
    )
    with is_damaged:
        loop.train(short(folder))
    with is_damaged:
        model_of(folder)
    shutil.move(folder / "checkpoints" / "40", tmp_path)
    loop.train(short(folder))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "array removed"])
def test_reader_threads_print_no_tracebacks(front_door, folder, damage):
    """In a separate process, since threads may print at exit."""
    DAMAGE[damage](folder / "checkpoints" / "40")
    (stderr,) = finish([front_door("checkpoints", folder, cwd=folder)], 2)
    assert stderr == f"error: {folder}: damaged checkpoints: 40\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
def test_all_checkpoints_damaged_is_an_error_and_not_a_fresh_start(folder):
    for file in (folder / "checkpoints").rglob("*"):
        if file.is_file():
            os.truncate(file, 0)
    before = (folder / "metrics.jsonl").read_text()
    for _ in range(2):
        with pytest.raises(UserError, match="all checkpoints are damaged"):
            loop.train(short(folder))
    assert (folder / "metrics.jsonl").read_text() == before
