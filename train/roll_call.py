"""Who is there: the roll call at which the processes of a run meet, and the watch that they keep over each other until they end.

jax.distributed waits and watches too, but it ends a process without a word of who is missing, and by an abort where the first is
gone.
"""

import atexit
import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from train.errors import UserError

AGAIN = "what was saved is whole, and the same command in all of them continues"
FAREWELL = "\n"  # what a process says to the others when it ends as it should
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds and times: a machine may be lost too
HEARING = 0.2  # seconds in which the others hear who is gone, before the first is gone too

Lines = dict[int, socket.socket]  # from the first process to each of the others, and from each of them to the first


def roll_call(coordinator: str, processes: int, process: int, mine: Mapping[str, Any], timeout: int) -> Lines:
    """Waits until all processes are there: each tells the first what is its own, which tells all what it found. Raises UserError
    in all that it reaches where one is missing or differs."""
    host, _, port = coordinator.rpartition(":")
    if process:
        lines, verdict = _report(host, int(port), process, mine, timeout)
    else:
        lines, verdict = _collect(int(port), processes, mine, timeout)
    if verdict:
        for _, line in lines:
            line.close()
        raise UserError(f"cluster: {verdict}")
    return dict(lines)


def _collect(port: int, processes: int, mine: Mapping[str, Any], timeout: int) -> tuple[list[tuple[int, socket.socket]], str]:
    """Who came, and what is wrong, as the first process sees it, after it has told the others."""
    came: list[tuple[int, socket.socket]] = []
    end, verdict = time.monotonic() + timeout, ""
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        return came, f"process 0 cannot listen at port {port}: {error.strerror}; another --cluster.coordinator may be free"
    with server:
        while len(came) < processes - 1 and not verdict:
            try:
                server.settimeout(max(end - time.monotonic(), 0.001))
                line, _ = server.accept()
            except TimeoutError:
                line = None
            came = [(number, line) for number, line in came if _is_there(line)]  # one may have died, and been started anew
            there = {number for number, _ in came}
            if line is None:
                missing = ", ".join(str(i) for i in range(1, processes) if i not in there)
                verdict = f"process(es) {missing} of {processes} did not come in time"
                break
            try:
                line.settimeout(1)
                number, theirs = json.loads(_word(line))
                verdict = f"two processes say that they are {number}" if number in there else differs(number, theirs, mine)
            except (OSError, ValueError, TypeError, AttributeError):  # a stranger, or one that is slow and will knock again
                line.close()
                continue
            came.append((number, line))
    _tell((line for _, line in came), f"{verdict}\n")
    return came, verdict


def _report(
    host: str, port: int, process: int, mine: Mapping[str, Any], timeout: int
) -> tuple[list[tuple[int, socket.socket]], str]:
    """The same, as the first process tells it, which may have begun to wait when this one's time was nearly up."""
    end, why = time.monotonic() + timeout, ""
    while True:
        with contextlib.ExitStack() as opened:
            try:
                line = opened.enter_context(socket.create_connection((host, port), timeout=1))
                line.sendall(f"{json.dumps([process, mine])}\n".encode())
                line.settimeout(2 * timeout)
                if word := _word(line):
                    opened.pop_all()
                    return [(0, line)], word.strip()
            except (OSError, ValueError) as error:  # it is not there yet, or something else is
                why = getattr(error, "strerror", None) or str(error)
        if time.monotonic() > end:
            return [], f"process 0 cannot be reached at {host}:{port} ({why or 'it hung up'})"
        time.sleep(0.1)


def differs(number: int, theirs: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """In words, what a process has other than the first; empty if nothing."""
    changed = [name for name in sorted(first.keys() | theirs.keys()) if first.get(name) != theirs.get(name)]
    shown = "; ".join(f"{name} is {theirs.get(name, 'absent')}, not {first.get(name, 'absent')}" for name in changed[:5])
    return f"process {number} differs from process 0: {shown}" if changed else ""


def keep_watch(lines: Lines) -> None:
    """From here on this process ends, with status 1 and one line, as soon as another has ended in any way but by saying farewell,
    as all do at their usual end. The first hears of each, and tells the others of which."""
    for line in lines.values():
        line.settimeout(None)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # macOS has other names, and keeps its own pace
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    # Where a process is gone the runtime may abort, with less to say. The handler of a signal is called with its number, which is
    # 6 for SIGABRT: seconds of sleep, before the default takes over, in which the watch ends this process in its own way.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc.sleep)
    threading.Thread(target=_watch, args=(lines,), name="watch", daemon=True).start()
    atexit.register(_leave, lines)


def _watch(lines: Lines) -> None:
    with selectors.DefaultSelector() as selector:
        for number, line in lines.items():
            selector.register(line, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                line = cast(socket.socket, key.fileobj)
                try:
                    word = _word(line)
                except OSError:
                    word = ""
                if key.data not in lines:  # this process has said farewell itself
                    return
                selector.unregister(line)
                if word != FAREWELL:
                    _end(word.strip() or key.data, [cast(socket.socket, other.fileobj) for other in selector.get_map().values()])


def _leave(lines: Lines) -> None:
    while lines:
        _, line = lines.popitem()
        _tell([line], FAREWELL)
        line.close()


def _end(gone: str | int, others: Sequence[socket.socket]) -> NoReturn:
    """Ends this process, wherever it is: what it waits for will not come."""
    _tell(others, f"{gone}\n")
    os.write(sys.stderr.fileno(), f"error: process {gone} of the run is gone; {AGAIN}\n".encode())
    if others:  # the runtime of those who are with the first ends with it, and says less
        time.sleep(HEARING)
    os._exit(1)


def _is_there(line: socket.socket) -> bool:
    """Whether a process that waits for a word still does. Its line is closed if not."""
    line.setblocking(False)
    with contextlib.suppress(ConnectionError):
        try:
            line.recv(1)  # it says nothing, so that this is its end
        except BlockingIOError:
            return True
    line.close()
    return False


def _tell(lines: Iterable[socket.socket], word: str) -> None:
    for line in lines:
        with contextlib.suppress(OSError):  # it is gone
            line.sendall(word.encode())


def _word(line: socket.socket) -> str:
    """What was said, up to the end of the line and no further: what is said next is not for who asks now. Empty if it hung up."""
    said = b""
    while not said.endswith(b"\n"):
        byte = line.recv(1)
        if not byte:
            return ""
        said += byte
    return said.decode()
