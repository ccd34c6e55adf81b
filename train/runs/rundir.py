"""The run directory: enough to resume, evaluate, predict, report or repeat a run.

experiment.json   the resolved experiment
environment.json  versions, devices, git revision, fingerprint of the data
shardings.txt     on several devices: what lies where, and what is whole and why
metrics.jsonl     one object a logged step
events.*          the same for TensorBoard
checkpoints/      Orbax
lock              held by the process that trains
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
    """The directory of a run, given as its path or its name in runs/. Raises UserError if there is none."""
    for path in (Path(run), Path("runs") / run):
        if (path / "experiment.json").is_file():
            return path
    if Path(run).is_dir():
        below = ", ".join(sorted(path.parent.name for path in Path(run).glob("*/experiment.json")))
        raise UserError(f"{run} is no run directory: it has no experiment.json{below and f'; the runs in it are {below}'}")
    known = sorted(path.parent.name for path in Path("runs").glob("*/experiment.json"))
    hint = nearest(Path(run).name, known) if known else "; there are no runs here yet: python -m train run RECIPE makes one"
    raise UserError(f"there is no run {run}{hint}")


def read_experiment(path: Path, trusted: tuple[str, ...] = ()) -> Experiment:
    """Raises UserError if the file is not JSON or not an experiment."""
    file = path / "experiment.json"
    value = read_json(file)
    try:
        return from_json(value, trusted=trusted)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def begun_as(experiment: Experiment, trusted: tuple[str, ...]) -> Experiment | None:
    """What the run directory was last started with, and has all that it needs to go on, since `experiment.json` is written last:
    the experiment, but for what may change. None if it was not begun. Raises UserError if it is another's, or holds other
    files."""
    path = Path(experiment.run.dir)
    check_name(path)
    if path.is_symlink() and not path.exists():
        raise UserError(f"run.dir {path} is a link that leads nowhere; remove it, or choose another --run.dir")
    if (path / "experiment.json").exists():
        before = read_experiment(path, trusted)
        is_longer = experiment.run.steps > before.run.steps  # a run can be extended
        changed = differences(with_run(before, steps=experiment.run.steps) if is_longer else before, experiment)
        if changed:
            shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
            raise UserError(
                f"{path} holds another experiment (field: its value, this one's): {shown}. Choose another --run.dir, or remove it"
            )
        return before
    was_started = (path / "lock").is_file()  # and ended before it had written all
    if path.exists() and not was_started and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is no run directory; choose another --run.dir")
    return None


def check_name(path: Path) -> None:
    """Raises UserError for an address, which would become a folder here, and for a path under which Orbax does not find again
    what it has saved."""
    if address := re.match(r"(?i)[a-z][a-z0-9+.-]*:/", os.fspath(path)):
        raise UserError(f"run.dir {address[0]}/{path.relative_to(path.parts[0])}: mount it, and give the path of a folder")
    if unfit := re.search(r"\[[^/\]]+\]|\\|gs:/|[\ud800-\udfff]", os.fspath(path.absolute())):
        raise UserError(
            f"run.dir {path.absolute()}: what is saved where a path holds {unfit[0]} cannot be read; choose another --run.dir"
        )


def claim(path: Path, say: Callable[[str], None]) -> int:
    """Makes the run directory, which nobody else can claim while the file descriptor that is returned is open. Raises UserError
    if it cannot be written, or is claimed."""
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
            say(f"{path} cannot be locked ({error.strerror}): start no second run in it")
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}\n".encode())
        return lock
    except OSError as error:
        raise UserError(f"run.dir {path}: cannot be written: {error.strerror}") from None


def write_experiment(experiment: Experiment) -> None:
    write_atomically(Path(experiment.run.dir) / "experiment.json", json.dumps(to_json(experiment, Experiment), indent=2) + "\n")


def write_environment(path: Path, fingerprint: Mapping[str, str]) -> None:
    write_atomically(path / "environment.json", json.dumps(environment(fingerprint), indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Raises UserError for a file that holds no JSON object."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: a JSON object is needed")
    return found


def write_atomically(path: Path, text: str) -> None:
    """Raises OSError, which names the file, if it cannot be written; then it is what it was."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(error.filename or path)) from None


def read_fingerprint(path: Path) -> dict[str, str]:
    """What the data was, as the run was started. Raises UserError if the file does not say."""
    file = path / "environment.json"
    found = read_json(file).get("data")
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: it does not say what the data was; restore it, or start another run")
    return found


def read_result(path: Path) -> dict[str, dict[str, Any]]:
    """The metrics of a finished run on each split. Raises UserError if the file is not of that form."""
    file = path / "result.json"
    found = read_json(file)
    if not all(isinstance(metrics, dict) for metrics in found.values()):
        raise UserError(
            f"{file} is damaged: it does not say the metrics of each split; without it the same command makes it anew"
        )
    return found


def same_data(path: Path, fingerprint: Mapping[str, str], accept: bool, say: Callable[[str], None]) -> None:
    """Raises UserError, naming what differs, if the run was started on other data; only says so if that is accepted."""
    before = read_fingerprint(path) if (path / "environment.json").exists() else fingerprint
    changed = "; ".join(
        f"{name} was {before.get(name, 'absent')}, is {fingerprint.get(name, 'absent')}"
        for name in sorted(before.keys() | fingerprint.keys())
        if before.get(name) != fingerprint.get(name)
    )
    if changed and accept:
        say(f"{path}: the data changed since the run was started ({changed}), which is accepted")
    elif changed:
        raise UserError(
            f"{path}: the data changed since the run was started ({changed}); restore it, start another run, or continue "
            "this one with --data.accept-changed"
        )
