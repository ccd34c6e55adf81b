"""Several processes as one run: how they find each other, what they must agree on, and how one that is alone is told.

Every process runs the same command. Each reads its share of a batch and writes its share of a checkpoint; the first writes the
rest and speaks for all.
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

from train.cluster.roll_call import differs
from train.errors import UserError

T = TypeVar("T")
ONE_FOLDER = "all need one folder, on a file system that they share"
SHARED = 5  # seconds in which what one of them has written is seen by the others


def is_first() -> bool:
    """Whether this process speaks for all: it is alone, or the first of several."""
    return process() == 0


def process() -> int:
    """Which this is, from 0."""
    if not is_joined():
        return 0
    import jax

    return jax.process_index()


def is_joined() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")  # without which it is not
    return jax is not None and jax.distributed.is_initialized()


def note_preemption(start: int) -> None:
    """From here on the runtime notes SIGTERM, and `stopping` tells of it in all processes. They stop at the step after the last
    that any of them has told, so the one that they start from is told at once."""
    if is_joined():
        import jax
        from jax._src import distributed

        jax.config.update("jax_enable_preemption_service", True)
        if distributed.global_state.preemption_sync_manager is None:
            distributed.global_state.initialize_preemption_sync_manager()
        stopping(start, False)


def stopping(step: int, asked: bool) -> bool:
    """Whether to stop after this step, because this process was asked to, or one of several: then the same step on all of them.
    To be called at every step."""
    if not is_joined():
        return asked
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def by_first(work: Callable[[], T]) -> T | None:
    """What the first process makes, and None in the others. All raise UserError where it does."""
    made, wrong = None, ""
    if is_first():
        try:
            made = work()
        except UserError as error:
            wrong = str(error)
        except OSError as error:
            wrong = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or repr(error)
    if wrong := gathered(wrong)[0]:
        raise UserError(wrong)
    return made


def gathered(value: Any) -> list[Any]:
    """A JSON value of every process, in their order. Every process must call it."""
    if not is_joined():
        return [value]
    import numpy as np
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - data.size)))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def revisit(path: Path) -> None:
    """Opens the folders on the way to `path`, from the top: a client of a network file system then asks what is in them, where
    another host may have just made it, and forgets that it was not there."""
    for folder in (*reversed(path.absolute().parents), path):
        with contextlib.suppress(OSError):
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def check_shared(folder: Path) -> None:
    """Raises UserError on all processes where one has not the first's folder under that name, or cannot write into it: what it
    saves would be waited for."""
    if not is_joined():
        return
    mark, token, wrong = folder / f".process-{process()}", os.urandom(8).hex(), ""

    def soon(look: Callable[[], bool]) -> bool:
        """Whether it is seen in a while: what one host writes another may see a little later."""
        end = time.monotonic() + SHARED
        while not look():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
            revisit(folder)
        return True

    try:
        if soon(folder.exists):  # otherwise it is another folder
            mark.write_text(token, "utf-8")
    except OSError as error:
        wrong = f"process {process()} cannot write into {folder}: {error.strerror}"
    said = gathered([token, wrong])

    def compare() -> None:
        for number, (expected, refusal) in enumerate(said):
            theirs = folder / f".process-{number}"
            if refusal:
                raise UserError(f"cluster: {refusal}")
            if not soon(lambda theirs=theirs, expected=expected: theirs.exists() and theirs.read_text("utf-8") == expected):
                raise UserError(f"cluster: {folder} of process {number} is not that of process 0; {ONE_FOLDER}")

    try:
        by_first(compare)
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()


def check_alike(parts: Mapping[str, Any]) -> None:
    """Raises UserError on all processes where one has other `parts` than the first."""
    first, *others = gathered(dict(parts))
    for number, other in enumerate(others, 1):
        if verdict := differs(number, other, first):
            raise UserError(f"cluster: {verdict}")


def is_lost(error: BaseException) -> bool:
    """Whether an error, or what began it, is that of a process whose peer is gone."""
    if error.__cause__ is not None and is_lost(error.__cause__):
        return True
    found = re.search(r"Gloo|UNAVAILABLE|heartbeat|coordination service|Connection (closed|reset)", str(error))
    return is_joined() and found is not None
