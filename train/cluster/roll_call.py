"""Connection of the processes of a run (roll call), and detection of lost ones (watch).

`jax.distributed` also does both, but it does not report which process is missing, and it aborts the others when one is lost. The
watch ends them with one line.

Protocol: every process connects to the first and sends its number and its properties. The first replies with an error message,
empty on success. Later, each side may send GOODBYE, or the number of a lost process (null if a signal stops the run) and the
exit status for all processes.
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

MAGIC = "fmodels"  # begins each message: other programs may connect to this port
GOODBYE = "goodbye"
MAX_MESSAGE = 1 << 16  # bytes
# Seconds idle, seconds between probes, probes: finds a lost machine before the runtime does (join.HEARTBEAT).
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
MAX_NAMED = 100  # missing processes in an error message
LATE_CONNECTION = 0.5  # seconds to wait for each further connection that must receive an error message
DELIVERY = 0.2  # seconds for the other processes to receive a message before the first process exits
ABORT_DELAY = 1.0  # seconds for the watch to name a lost process before an abort of the runtime is reported
IS_GONE = "is gone; saved checkpoints are intact: rerun the same command on all processes to resume"


class Connection:
    """A non-blocking connection for messages, each a JSON list on one line."""

    def __init__(self, sock: socket.socket):
        self.socket, self.buffer = sock, b""
        sock.setblocking(False)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def send(self, *message: Any) -> None:
        with contextlib.suppress(OSError):  # `receive` finds a closed connection
            self.socket.sendall(f"{json.dumps([MAGIC, *message])}\n".encode())

    def receive(self) -> list[Any] | None:
        """Return the next message, or None if it is not complete yet. Raises EOFError if the connection is closed or the message
        is invalid."""
        try:
            while not self.buffer.endswith(b"\n"):
                byte = self.socket.recv(1)  # leaves the next message in the socket
                if not byte or len(self.buffer) == MAX_MESSAGE:
                    raise EOFError
                self.buffer += byte
            magic, *message = json.loads(self.buffer)
        except BlockingIOError:
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            raise EOFError from None
        if magic != MAGIC:
            raise EOFError
        self.buffer = b""
        return message


Peers = dict[int, Connection]  # by process number: all others on the first process, the first on all others
_watched: Peers = {}
_own_number: list[int] = []  # empty until `start_watching`


def roll_call(coordinator: str, processes: int, process: int, parts: Mapping[str, Any], timeout: int) -> Peers:
    """Wait until all processes have connected with equal `parts`.

    Raises UserError on all connected processes if one is missing or differs."""
    host, _, port = coordinator.rpartition(":")
    if process:
        peers, error = _connect(host, int(port), process, parts, timeout)
    else:
        peers, error = _accept(int(port), processes, parts, timeout)
    if error:
        raise UserError(f"cluster: {error}")
    return peers


def _accept(port: int, processes: int, parts: Mapping[str, Any], timeout: int) -> tuple[Peers, str]:
    """Accept all other processes on the first one, and send them the result. Return (connections, error message)."""
    end, problem = time.monotonic() + timeout, ""
    try:
        both = socket.has_dualstack_ipv6()
        server = socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        return {}, f"process 0 cannot listen on port {port}: {why}; choose another port for --cluster.coordinator"
    accepted, joined = list[Connection](), dict[Connection, int]()
    with server, selectors.DefaultSelector() as selector:
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        while len(joined) < processes - 1 and not problem:
            for key, _ in selector.select(max(end - time.monotonic(), 0)):
                if key.fileobj is server:
                    with contextlib.suppress(OSError):  # already closed by the client
                        accepted.append(Connection(server.accept()[0]))
                        selector.register(accepted[-1], selectors.EVENT_READ)
                    continue
                connection = cast(Connection, key.fileobj)
                try:
                    message = connection.receive()
                except EOFError:
                    message = []
                match message:
                    case None:
                        pass
                    case [int(number), dict(other)] if number:
                        duplicate = f"two processes have number {number}" if number in joined.values() else ""
                        problem = problem or duplicate or difference(number, other, parts)
                        joined[connection] = number
                    case _:  # another program, or a process that died and may be restarted
                        selector.unregister(connection)
                        connection.close()
                        joined.pop(connection, None)
            if time.monotonic() > end and not problem:
                problem = _missing(processes, set(joined.values()))
        server.settimeout(LATE_CONNECTION)
        with contextlib.suppress(OSError):
            while problem and len(accepted) < 2 * processes:  # late processes get the error, instead of a timeout
                accepted.append(Connection(server.accept()[0]))
    for connection in accepted:
        if problem or connection in joined:
            connection.send(problem)
        if problem or connection not in joined:
            connection.close()
    return {number: connection for connection, number in joined.items()}, problem


def _missing(processes: int, joined: set[int]) -> str:
    """Return an error message with the numbers of missing processes, empty if there are none."""
    missing = processes - 1 - len(joined)
    named = ", ".join(map(str, islice((i for i in range(1, processes) if i not in joined), MAX_NAMED)))
    more = f" and {missing - MAX_NAMED} more" if missing > MAX_NAMED else ""
    return f"process(es) {named}{more} of {processes} did not connect in time" if missing else ""


def _connect(host: str, port: int, process: int, parts: Mapping[str, Any], timeout: int) -> tuple[Peers, str]:
    """Connect to the first process and wait for its result. Return (connections, error message).

    The first process may start its timeout shortly before this process's ends, so the wait is twice as long."""
    end = time.monotonic() + timeout
    while True:
        try:
            connection = Connection(socket.create_connection((host.strip("[]"), port), timeout=1))
        except OSError as error:  # not listening yet, or unreachable
            why = error.strerror or str(error)
        else:
            connection.send(process, dict(parts))
            match _reply(connection, time.monotonic() + 2 * timeout):
                case [str(problem)]:
                    if problem:
                        connection.close()
                    return {0: connection}, problem
            connection.close()
            why = "another program listens there"
        if time.monotonic() > end:
            return {}, f"process 0 cannot be reached at {host}:{port}: {why}"
        time.sleep(0.1)


def _reply(connection: Connection, end: float) -> list[Any] | None:
    with contextlib.suppress(EOFError):
        while select.select([connection], [], [], max(end - time.monotonic(), 0))[0]:
            if (message := connection.receive()) is not None:
                return message
    return None


def difference(number: int, other: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Return an error message with the differences of process `number` from the first, empty if there are none."""
    changed = [name for name in sorted(first.keys() | other.keys()) if first.get(name) != other.get(name)]
    shown = "; ".join(f"{name} is {other.get(name, 'absent')}, not {first.get(name, 'absent')}" for name in changed[:5])
    return f"process {number} differs from process 0: {shown}" if changed else ""


def start_watching(process: int, peers: Peers) -> None:
    """Start a thread that ends this process, with status 1 and one line on stderr, as soon as another process ends without
    GOODBYE. The first process watches all others and forwards the number of the lost one."""
    _own_number.append(process)
    _watched.update(peers)
    for connection in peers.values():
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # macOS lacks some, and uses its defaults
                connection.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
    threading.Thread(target=_watch, args=(dict(peers),), name="watch", daemon=True).start()
    atexit.register(disconnect)


def is_watching() -> bool:
    return bool(_watched)


def _watch(peers: Peers) -> None:
    with selectors.DefaultSelector() as selector:
        for number, connection in peers.items():
            selector.register(connection, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                connection = cast(Connection, key.fileobj)
                try:
                    message = connection.receive()
                except EOFError:
                    message = [key.data, 1]
                if key.data not in _watched:  # this process has disconnected
                    return
                if message is None:
                    continue
                if message[0] in (GOODBYE, *_own_number):  # or the peer repeats that this process is exiting
                    selector.unregister(connection)
                else:
                    lost, status = message
                    if lost is not None:
                        _print_error(f"process {lost} of the run {IS_GONE}")
                    _exit(lost, status, status)


def exit_alone(status: int) -> NoReturn:
    """Exit at once. All other processes report this one as gone and exit with status 1."""
    _exit(_own_number[0], status, 1)


def stop_all(status: int) -> NoReturn:
    """Exit this process and all others at once and silently, because of a signal."""
    _exit(None, status, status)


def _exit(lost: int | None, own_status: int, other_status: int) -> NoReturn:
    for connection in list(_watched.values()):
        connection.send(lost, other_status)
    if _watched and 0 not in _watched:  # without the first process, the runtime of the others aborts with a vaguer message
        time.sleep(DELIVERY)
    os._exit(own_status)


def disconnect() -> None:
    """Send GOODBYE and stop watching, before a normal exit."""
    while _watched:
        _, connection = _watched.popitem()
        connection.send(GOODBYE)
        connection.close()


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_signal: int) -> None:
    """Report an abort of the runtime, which aborts if another process is gone or does not respond.

    This is a C handler, because Python's own handlers run on the main thread, too late for an abort on another thread. It would
    deadlock if the aborting thread had stopped all others, but the runtime's threads do not do so."""
    time.sleep(ABORT_DELAY)
    _print_error("the JAX runtime aborted this process: see its message above, or another process of the run does not respond")
    os._exit(1)


def _print_error(message: str) -> None:
    """Write to stderr at once, past Python's buffers and locks."""
    cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # show the cursor, which a progress bar hides
    os.write(sys.stderr.fileno(), f"{cursor}error: {message}\n".encode())
