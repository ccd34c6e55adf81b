"""Signals that stop a run: save the state first, and exit with a status for the caller."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from train import cluster
from train.cluster import roll_call

RERUN = "rerun the command to resume"


class Interrupted(BaseException):
    """A signal, with the number `signal`, ended the run. The message says what was saved."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


@contextlib.contextmanager
def interruptions(start: int) -> Iterator[dict[str, int | None]]:
    """While active, record the first SIGTERM or Ctrl-C in the key `by`; the second one acts at once.

    With several processes, the JAX runtime distributes the signal, and all stop after the same step, later than `start`.
    """
    noted: dict[str, int | None] = {"by": None}
    before = {}

    def note(number, _frame):
        noted["by"] = number
        signal.signal(number, before[number])
        if cluster.is_joined():
            os.kill(os.getpid(), signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    cluster.watch_preemption(start)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stoppable(work: Callable[[], int]) -> int:
    """Run `work` and return its exit status. After a signal, print what was saved, and return 0 for SIGTERM or 128 + the number of
    another signal."""
    def stop(number, _frame):
        """End the process at once. Active outside of the training loop, where all progress is saved. A callback could swallow an
        exception."""
        cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a progress bar hides it
        os.write(sys.stderr.fileno(), f"{cursor}stopped; {RERUN}\n".encode())
        roll_call.stop_all(0 if number == signal.SIGTERM else 128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return work()
    except Interrupted as interrupted:
        if cluster.is_first():
            print(interrupted, file=sys.stderr)
        return 0 if interrupted.signal == signal.SIGTERM else 128 + interrupted.signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
