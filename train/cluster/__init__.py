"""Multi-process runs: process indices, collectives on the host, and checks that all processes agree.

Every process runs the same command. Each reads its share of a batch and writes its share of a checkpoint. The first process
writes all other files and prints for all.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from train.cluster.roll_call import difference
from train.errors import UserError

T = TypeVar("T")
ONE_FOLDER = "all processes need the same folder on a shared file system"
VISIBLE_WITHIN = 5  # seconds until a file that one host wrote is visible to the others


def is_first() -> bool:
    """Return whether this is the first process, or the only one."""
    return process() == 0


def say(text: str) -> None:
    """Print to stderr, on the first process only."""
    if is_first():
        print(text, file=sys.stderr)


def process() -> int:
    """Return the index of this process, from 0."""
    if not is_joined():
        return 0
    import jax

    return jax.process_index()


def is_joined() -> bool:
    """Return whether this process is part of a multi-process run."""
    jax = sys.modules.get("jax")  # joining imports jax
    return jax is not None and jax.distributed.is_initialized()


def watch_preemption(start: int) -> None:
    """Start JAX's preemption service: after a SIGTERM to any process, `should_stop` returns True on all of them.

    All processes stop one step after the latest step that any of them has reported, so the `start` step is reported here."""
    if is_joined():
        import jax
        from jax._src import distributed

        jax.config.update("jax_enable_preemption_service", True)
        if distributed.global_state.preemption_sync_manager is None:
            distributed.global_state.initialize_preemption_sync_manager()
        should_stop(start, False)


def should_stop(step: int, asked: bool) -> bool:
    """Return whether to stop after this step because a process was asked to. All processes stop after the same step. Must be
    called at every step."""
    if not is_joined():
        return asked
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def on_first(work: Callable[[], T]) -> T | None:
    """Run `work` on the first process only. Return its result there, and None on the others. Raises UserError on all processes
    if `work` raises UserError or OSError."""
    result, message = None, ""
    if is_first():
        try:
            result = work()
        except UserError as error:
            message = str(error)
        except OSError as error:
            message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or repr(error)
    if message := gather(message)[0]:
        raise UserError(message)
    return result


def gather(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in process order. Every process must call it."""
    if not is_joined():
        return [value]
    import numpy as np
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - data.size)))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def refresh_folder(path: Path) -> None:
    """Open every folder from the root down to `path`, so that a network file system refreshes its cached listings and sees a path
    that another host has just created."""
    for folder in (*reversed(path.absolute().parents), path):
        with contextlib.suppress(OSError):
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def check_shared_folder(folder: Path) -> None:
    """Check that `folder` is one writable folder, shared by all processes. Raises UserError on all of them if it is not: saving
    would wait for files that never appear."""
    if not is_joined():
        return
    marker, nonce, message = folder / f".process-{process()}", os.urandom(8).hex(), ""

    def becomes_true(condition: Callable[[], bool]) -> bool:
        """Poll `condition`: other hosts see a new file with a delay."""
        end = time.monotonic() + VISIBLE_WITHIN
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
            refresh_folder(folder)
        return True

    try:
        if becomes_true(folder.exists):  # if not, the folder is not shared, which `compare` reports
            marker.write_text(nonce, "utf-8")
    except OSError as error:
        message = f"process {process()} cannot write to {folder}: {error.strerror}"
    reports = gather([nonce, message])

    def compare() -> None:
        for number, (expected, refusal) in enumerate(reports):
            file = folder / f".process-{number}"
            if refusal:
                raise UserError(f"cluster: {refusal}")
            if not becomes_true(lambda file=file, expected=expected: file.exists() and file.read_text("utf-8") == expected):
                raise UserError(f"cluster: {folder} on process {number} is not the folder of process 0; {ONE_FOLDER}")

    try:
        on_first(compare)
    finally:
        with contextlib.suppress(OSError):
            marker.unlink()


def check_equal(parts: Mapping[str, Any]) -> None:
    """Check that `parts` is equal on all processes. Raises UserError on all of them, with the differences, if it is not."""
    first, *others = gather(dict(parts))
    for number, other in enumerate(others, 1):
        if message := difference(number, other, first):
            raise UserError(f"cluster: {message}")


def is_lost(error: BaseException) -> bool:
    """Return whether an error, or its cause, means that another process of the run is gone."""
    if error.__cause__ is not None and is_lost(error.__cause__):
        return True
    found = re.search(r"Gloo|UNAVAILABLE|heartbeat|coordination service|Connection (closed|reset)", str(error))
    return is_joined() and found is not None
