"""Who is there: the roll call at which the processes of a run meet, and the watch that they keep over each other until they end.

jax.distributed waits and watches too, but it ends a process without a word of who is missing, and by an abort where one is gone.

Each process has a line to the first, over which it says its number and what it is. The first answers with a verdict, which is
empty where all is well. Then each may say FAREWELL, or who is gone (nobody, where a signal stops them all) and with which status
all are to end.
"""

import atexit
import contextlib
import ctypes
import json
import os
import select
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, NoReturn, cast

from train.errors import UserError

HELLO = "fmodels"  # which begins each line, since others may knock at this door
FAREWELL = "farewell"
LONGEST = 1 << 16  # bytes of a line
# Seconds, seconds and times: a machine may be lost too, and is missed so before the runtime misses it (join.HEARTBEAT).
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
NAMED = 100  # of those who did not come
KNOCKING = 0.5  # seconds without another who comes, after which no more are told of a verdict
HEARING = 0.2  # seconds in which the others hear who is gone, before the first is gone too
SPEAKING = 1.0  # seconds in which the watch may say who is gone, before it is said that the runtime has ended
IS_GONE = "is gone; what was saved is whole, and the same command in all of them continues"


class Line:
    """A connection over which lines of JSON are said. Nothing is waited for."""

    def __init__(self, connection: socket.socket):
        self.connection, self.said = connection, b""
        connection.setblocking(False)

    def fileno(self) -> int:
        return self.connection.fileno()

    def close(self) -> None:
        self.connection.close()

    def tell(self, *words: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone, which is seen when it is heard
            self.connection.sendall(f"{json.dumps([HELLO, *words])}\n".encode())

    def hear(self) -> list[Any] | None:
        """The words of one line, once it is there as a whole. Raises EOFError from one that hung up, or is a stranger."""
        try:
            while not self.said.endswith(b"\n"):
                byte = self.connection.recv(1)  # and not what may follow the line
                if not byte or len(self.said) == LONGEST:
                    raise EOFError
                self.said += byte
            hello, *words = json.loads(self.said)
        except BlockingIOError:
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            raise EOFError from None
        if hello != HELLO:
            raise EOFError
        self.said = b""
        return words


Lines = dict[int, Line]  # from the first process to each of the others, and from each of them to the first
_watched: Lines = {}
_me: list[int] = []  # the number of this process, while it keeps watch


def roll_call(coordinator: str, processes: int, process: int, mine: Mapping[str, Any], timeout: int) -> Lines:
    """Waits until all processes are there, and are alike in what is `mine`. Raises UserError in all that it reaches where one is
    missing or differs."""
    host, _, port = coordinator.rpartition(":")
    if process:
        lines, verdict = _report(host, int(port), process, mine, timeout)
    else:
        lines, verdict = _collect(int(port), processes, mine, timeout)
    if verdict:
        raise UserError(f"cluster: {verdict}")
    return lines


def _collect(port: int, processes: int, mine: Mapping[str, Any], timeout: int) -> tuple[Lines, str]:
    """The lines to all others, or what is wrong, as the first process sees it and has told the others."""
    end, verdict = time.monotonic() + timeout, ""
    try:
        both = socket.has_dualstack_ipv6()
        server = socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        return {}, f"process 0 cannot listen at port {port}: {why}; another --cluster.coordinator may be free"
    knocked, came = list[Line](), dict[Line, int]()
    with server, selectors.DefaultSelector() as selector:
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        while len(came) < processes - 1 and not verdict:
            for key, _ in selector.select(max(end - time.monotonic(), 0)):
                if key.fileobj is server:
                    with contextlib.suppress(OSError):  # it has hung up again
                        knocked.append(Line(server.accept()[0]))
                        selector.register(knocked[-1], selectors.EVENT_READ)
                    continue
                line = cast(Line, key.fileobj)
                try:
                    words = line.hear()
                except EOFError:
                    words = []
                match words:
                    case None:
                        pass
                    case [int(number), dict(theirs)] if number:
                        twice = f"two processes say that they are {number}" if number in came.values() else ""
                        verdict = verdict or twice or differs(number, theirs, mine)
                        came[line] = number
                    case _:  # a stranger, or one that died, and may be started anew
                        selector.unregister(line)
                        line.close()
                        came.pop(line, None)
            if time.monotonic() > end and not verdict:
                verdict = _missing(processes, set(came.values()))
        server.settimeout(KNOCKING)
        with contextlib.suppress(OSError):
            while verdict and len(knocked) < 2 * processes:  # those who are still to come need not wait for nothing
                knocked.append(Line(server.accept()[0]))
    for line in knocked:
        if verdict or line in came:
            line.tell(verdict)
        if verdict or line not in came:
            line.close()
    return {number: line for line, number in came.items()}, verdict


def _missing(processes: int, came: set[int]) -> str:
    """In words, who did not come; empty if all did."""
    absent = processes - 1 - len(came)
    named = ", ".join(map(str, islice((i for i in range(1, processes) if i not in came), NAMED)))
    more = f" and {absent - NAMED} more" if absent > NAMED else ""
    return f"process(es) {named}{more} of {processes} did not come in time" if absent else ""


def _report(host: str, port: int, process: int, mine: Mapping[str, Any], timeout: int) -> tuple[Lines, str]:
    """The same, as the first process tells it, which may have begun to wait when this one's time was nearly up."""
    end = time.monotonic() + timeout
    while True:
        try:
            line = Line(socket.create_connection((host.strip("[]"), port), timeout=1))
        except OSError as error:  # it is not there yet, or never will be
            why = error.strerror or str(error)
        else:
            line.tell(process, dict(mine))
            match _answer(line, time.monotonic() + 2 * timeout):
                case [str(verdict)]:
                    if verdict:
                        line.close()
                    return {0: line}, verdict
            line.close()
            why = "what listens there does not answer as a process of a run would"
        if time.monotonic() > end:
            return {}, f"process 0 cannot be reached at {host}:{port}: {why}"
        time.sleep(0.1)


def _answer(line: Line, end: float) -> list[Any] | None:
    with contextlib.suppress(EOFError):
        while select.select([line], [], [], max(end - time.monotonic(), 0))[0]:
            if (words := line.hear()) is not None:
                return words
    return None


def differs(number: int, theirs: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """In words, what a process has other than the first; empty if nothing."""
    changed = [name for name in sorted(first.keys() | theirs.keys()) if first.get(name) != theirs.get(name)]
    shown = "; ".join(f"{name} is {theirs.get(name, 'absent')}, not {first.get(name, 'absent')}" for name in changed[:5])
    return f"process {number} differs from process 0: {shown}" if changed else ""


def keep_watch(process: int, lines: Lines) -> None:
    """From here on this process ends, with status 1 and one line, as soon as another has ended in any way but by saying farewell.
    The first hears of each, and tells the others of which."""
    _me.append(process)
    _watched.update(lines)
    for line in lines.values():
        line.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # macOS has other names, and keeps its own pace
                line.connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)
    threading.Thread(target=_watch, args=(dict(lines),), name="watch", daemon=True).start()
    atexit.register(say_farewell)


def keeps_watch() -> bool:
    return bool(_watched)


def _watch(lines: Lines) -> None:
    with selectors.DefaultSelector() as selector:
        for number, line in lines.items():
            selector.register(line, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                line = cast(Line, key.fileobj)
                try:
                    words = line.hear()
                except EOFError:
                    words = [key.data, 1]
                if key.data not in _watched:  # this process has said farewell itself
                    return
                if words is None:
                    continue
                if words[0] in (FAREWELL, *_me):  # or it has heard that this one is going, and says so in turn
                    selector.unregister(line)
                else:
                    gone, status = words
                    if gone is not None:
                        _say(f"process {gone} of the run {IS_GONE}")
                    _depart(gone, status, status)


def depart(status: int) -> NoReturn:
    """Ends this process at once, alone, and so all of them, which say that it is gone."""
    _depart(_me[0], status, 1)


def stop_all(status: int) -> NoReturn:
    """Ends this process and all others at once, because of a signal, and without a word."""
    _depart(None, status, status)


def _depart(gone: int | None, mine: int, theirs: int) -> NoReturn:
    for line in list(_watched.values()):
        line.tell(gone, theirs)
    if _watched and 0 not in _watched:  # the runtime of the others ends with that of the first, and says less
        time.sleep(HEARING)
    os._exit(mine)


def say_farewell() -> None:
    """At the usual end. Who is gone later is not missed."""
    while _watched:
        _, line = _watched.popitem()
        line.tell(FAREWELL)
        line.close()


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_signal: int) -> None:
    """The runtime aborts where another process is gone, or does not answer. A handler of Python's own would never be called: the
    thread that aborts is none of Python's. Where that thread stops all others, as none of the runtime's does, this would wait for
    them in vain."""
    time.sleep(SPEAKING)
    _say("the runtime has aborted this process, for what it says above, or since another process of the run does not answer")
    os._exit(1)


def _say(what: str) -> None:
    """At once, whatever else is being said."""
    cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # which a progress bar hides
    os.write(sys.stderr.fileno(), f"{cursor}error: {what}\n".encode())
