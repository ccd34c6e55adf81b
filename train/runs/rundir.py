"""The run directory. It is enough to resume, evaluate, predict, report or repeat a run.

experiment.json    the resolved experiment
environment.json   command, versions, devices, git revision, fingerprint of the data
metrics.jsonl      one JSON object per logged step
events.*           the same metrics for TensorBoard
result.json        the metrics of each held-out split after the last step
checkpoints/       Orbax checkpoints; damaged/ holds unreadable ones
best.json          the step of the best checkpoint, and its metric
shardings.txt      on several devices: the sharding of every parameter, and the reason if it is replicated
bad_records.jsonl  rows of the source that were skipped
report.html        the report, if it was written
lock               locked while a process trains the run

The data adds the files of its codec, named by `Codec.files`.
"""

import contextlib
import fcntl
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from train.environment import environment
from train.errors import UserError, nearest
from train.experiment import Experiment, differences, from_json, to_json, with_run


def find(run: str) -> Path:
    """Return the directory of a run, given by its path or its name in runs/. Raises UserError if it does not exist."""
    for path in (Path(run), Path("runs") / run):
        if (path / "experiment.json").is_file():
            return path
    if Path(run).is_dir():
        below = ", ".join(sorted(path.parent.name for path in Path(run).glob("*/experiment.json")))
        raise UserError(f"{run} is not a run directory: it has no experiment.json{below and f'; it contains the runs {below}'}")
    known = sorted(path.parent.name for path in Path("runs").glob("*/experiment.json"))
    hint = nearest(Path(run).name, known) if known else "; runs/ is empty: create a run with fmodels run RECIPE"
    raise UserError(f"there is no run {run}{hint}")


def find_initial(run: str) -> Path:
    """Return the directory of the run that `init_from` names. Raises UserError if it does not exist."""
    try:
        return find(run)
    except UserError as error:
        raise UserError(f"init_from {run}: only runs can be read, not published weights yet; {error}") from None


def read_experiment(path: Path, trusted: tuple[str, ...] = ()) -> Experiment:
    """Read experiment.json. Raises UserError if it is not a valid experiment."""
    file = path / "experiment.json"
    value = read_json(file)
    try:
        return from_json(value, trusted=trusted)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def read_model(path: Path, trusted: tuple[str, ...] = ()) -> Any:
    """Read the model of experiment.json. Raises UserError if it is not valid."""
    file = path / "experiment.json"
    try:
        return from_json(read_json(file).get("model"), Any, "model", trusted)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def saved_experiment(experiment: Experiment, trusted: tuple[str, ...]) -> Experiment | None:
    """Return the experiment that the run directory was last started with, or None if the run has not begun.

    experiment.json is written last, so a run that has it can resume. Raises UserError if the directory holds other files, or an
    experiment that differs in fields that must not change.
    """
    path = Path(experiment.run.dir)
    check_name(path)
    if path.is_symlink() and not path.exists():
        raise UserError(f"run.dir {path} is a broken symbolic link; remove it, or choose another --run.dir")
    if (path / "experiment.json").exists():
        before = read_experiment(path, trusted)
        is_longer = experiment.run.steps > before.run.steps  # a run can be extended
        changed = differences(with_run(before, steps=experiment.run.steps) if is_longer else before, experiment)
        if changed:
            shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
            raise UserError(
                f"{path} holds another experiment: {shown}. Choose another --run.dir, or remove the directory"
            )
        return before
    was_started = (path / "lock").is_file()  # but ended before it wrote experiment.json
    if path.exists() and not was_started and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not a run directory; choose another --run.dir")
    return None


def check_name(path: Path) -> None:
    """Raises UserError for a URL, which would become a local folder, and for a path that Orbax cannot read back."""
    if address := re.match(r"(?i)[a-z][a-z0-9+.-]*:/", os.fspath(path)):
        raise UserError(f"run.dir {address[0]}/{path.relative_to(path.parts[0])} is a URL; mount it, and give the path of a folder")
    if unfit := re.search(r"\[[^/\]]+\]|\\|gs:/|[\ud800-\udfff]", os.fspath(path.absolute())):
        raise UserError(
            f"run.dir {path.absolute()}: checkpoints cannot be read from a path that contains {unfit[0]}; choose another --run.dir"
        )


def claim(path: Path, say: Callable[[str], None]) -> int:
    """Create and lock the run directory. The lock is held while the returned file descriptor is open.

    Raises UserError if the directory cannot be written, or another process holds the lock.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 1000).decode().strip()
            os.close(lock)
            raise UserError(f"{path} is being trained by {owner}; wait for it, or choose another --run.dir") from None
        except OSError as error:  # a file system without locks
            say(f"{path} cannot be locked ({error.strerror}): do not start a second run in it")
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}\n".encode())
        return lock
    except OSError as error:
        raise UserError(f"run.dir {path} cannot be written: {error.strerror}") from None


def write_experiment(experiment: Experiment) -> None:
    write_atomically(Path(experiment.run.dir) / "experiment.json", json.dumps(to_json(experiment, Experiment), indent=2) + "\n")


def write_environment(path: Path, fingerprint: Mapping[str, str], origin: Mapping[str, Any]) -> None:
    write_atomically(path / "environment.json", json.dumps(environment(fingerprint, origin), indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UserError if the file does not contain one."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: expected a JSON object")
    return found


def write_atomically(path: Path, text: str) -> None:
    """Replace the text of a file. Raises OSError that names the file if it cannot be written, and leaves it unchanged."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(error.filename or path)) from None


def read_fingerprint(path: Path) -> dict[str, str]:
    """Return the fingerprint of the data that the run was started with. Raises UserError if environment.json has none."""
    file = path / "environment.json"
    found = read_json(file).get("data")
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: no fingerprint of the data; restore it, or start another run")
    return found


def read_result(path: Path) -> dict[str, dict[str, Any]]:
    """Return the metrics of a finished run by split. Raises UserError if result.json is damaged."""
    file = path / "result.json"
    found = read_json(file)
    if not all(isinstance(metrics, dict) for metrics in found.values()):
        raise UserError(f"{file} is damaged: expected the metrics of each split; remove it and rerun the command to write it again")
    return found


def same_data(path: Path, fingerprint: Mapping[str, str], accept: bool, say: Callable[[str], None]) -> None:
    """Raises UserError if the data changed since the run was started. If `accept`, log the changes instead."""
    before = read_fingerprint(path) if (path / "environment.json").exists() else fingerprint
    changed = "; ".join(
        f"{name} was {before.get(name, 'absent')}, is {fingerprint.get(name, 'absent')}"
        for name in sorted(before.keys() | fingerprint.keys())
        if before.get(name) != fingerprint.get(name)
    )
    if changed and accept:
        say(f"{path}: the data changed since the run was started ({changed}); continuing, as --data.accept-changed allows")
    elif changed:
        raise UserError(
            f"{path}: the data changed since the run was started ({changed}); restore it, start another run, or continue "
            "this one with --data.accept-changed"
        )
