"""The roll call and the watch, without JAX: all processes learn which one is missing, differs or is gone."""

import contextlib
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from train.cluster.roll_call import IS_GONE, roll_call
from train.errors import UserError


@pytest.fixture
def coordinator() -> str:
    """Return an address that nothing listens on."""
    with socket.create_server(("", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_duplicate_number_is_reported_to_all(coordinator):
    def call(process: int) -> str:
        with pytest.raises(UserError) as raised:
            roll_call(coordinator, 3, process, {"code": "the same"}, timeout=20)
        return str(raised.value)

    with ThreadPoolExecutor() as threads:
        assert set(threads.map(call, (0, 1, 1))) == {"cluster: two processes have number 1"}


def connect(coordinator: str, *data: bytes) -> socket.socket:
    """Connect to the first process and send `data`. The caller closes the connection."""
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", int(coordinator.rpartition(":")[2])))
        except ConnectionRefusedError:
            time.sleep(0.01)
            continue
        for part in data:
            connection.sendall(part)
        return connection


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_processes_connect_at_any_kind_of_address(coordinator, host):
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    address = f"{host}:{coordinator.rpartition(':')[2]}"
    with ThreadPoolExecutor() as threads:
        results = list(threads.map(lambda process: roll_call(address, 2, process, {}, timeout=20), (0, 1)))
    assert [list(peers) for peers in results] == [[1], [0]]
    for peers in results:
        for connection in peers.values():
            connection.close()


def test_a_process_that_dies_while_waiting_may_be_restarted(coordinator):
    with ThreadPoolExecutor() as threads:
        first = threads.submit(roll_call, coordinator, 3, 0, {}, 20)
        with connect(coordinator, b'["fmodels", 1, {}]\n'):
            time.sleep(0.2)
        others = [threads.submit(roll_call, coordinator, 3, process, {}, 20) for process in (1, 2)]
        connections = [connection for call in (first, *others) for connection in call.result().values()]
        for connection in connections:
            connection.close()
        assert len(connections) == 4
        first = threads.submit(roll_call, coordinator, 3, 0, {}, 1)
        with connect(coordinator, b'["fmodels", 1, {}]\n'):
            time.sleep(0.2)
        with pytest.raises(UserError, match=r"process\(es\) 1, 2 of 3 did not connect in time"):
            first.result()


INVALID = {
    "nothing": [],
    "incomplete message": [b'["fmodels", 1'],
    "HTTP request": [b"GET / HTTP/1.1\r\n\r\n"],
    "no magic": [b"[1, {}]\n"],
    "number as string": [b'["fmodels", "1", {}]\n'],
    "too deep": [b"[" * 200_000 + b"\n"],
    "too long": [b"[" * 200_000],
    "not Unicode": [b'["fmodels", "\xff"]\n'],
}


def test_connections_of_other_programs_are_ignored(coordinator):
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as connections:
        began = time.monotonic()
        first = threads.submit(roll_call, coordinator, 2, 0, {}, 20)
        for data in INVALID.values():
            connections.enter_context(contextlib.closing(connect(coordinator)))
            with contextlib.suppress(OSError):  # closed by the first process while sending
                connections.enter_context(contextlib.closing(connect(coordinator, *data)))
        other = threads.submit(roll_call, coordinator, 2, 1, {}, 20)
        for connection in (*first.result().values(), *other.result().values()):
            connection.close()
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("reply", [b"", b"\n", b"HTTP/1.1 400 Bad Request\r\n", b'["fmodels", 1]\n'])
def test_another_program_at_the_coordinator_address_is_an_error(reply):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        server.settimeout(1)
        call = threads.submit(roll_call, f"127.0.0.1:{server.getsockname()[1]}", 2, 1, {}, 1)
        with contextlib.suppress(TimeoutError):
            while not call.done():
                with server.accept()[0] as connection:
                    connection.sendall(reply)
                    time.sleep(0.1)
        with pytest.raises(UserError, match=r"process 0 cannot be reached at .*: another program listens there"):
            call.result()


WATCHER = """
import ctypes, sys, time
from train.cluster.roll_call import roll_call, start_watching, stop_all
number, end = int(sys.argv[2]), sys.argv[3]
start_watching(number, roll_call(sys.argv[1], int(sys.argv[4]), number, {}, 20))
print("watching", flush=True)
if end.startswith("aborts"):
    ctypes.CDLL(None).abort()
elif end == "stops":
    stop_all(0)
elif end == "waits":
    time.sleep(60)
"""


def watcher(coordinator: str, number: int, end: str, processes: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WATCHER, coordinator, str(number), end, str(processes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("victim", [0, 2])
def test_all_others_name_a_killed_process(coordinator, victim):
    processes = [watcher(coordinator, number, "waits", 3) for number in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "watching\n"
    processes[victim].kill()
    errors = [process.communicate(timeout=20)[1] for process in processes]
    del processes[victim], errors[victim]
    assert [process.returncode for process in processes] == [1, 1]
    assert errors == [f"error: process {victim} of the run {IS_GONE}\n"] * 2


@pytest.mark.parametrize("first", [0, 2])
def test_stop_all_ends_all_silently_with_its_status(coordinator, first):
    processes = [watcher(coordinator, number, "stops" if number == first else "waits", 3) for number in range(3)]
    assert [process.communicate(timeout=20)[1] for process in processes] == [""] * 3
    assert [process.returncode for process in processes] == [0] * 3


def test_a_difference_ends_many_processes_soon(coordinator):
    count = 30

    def call(process: int) -> str:
        with pytest.raises(UserError) as raised:
            roll_call(coordinator, count, process, {"code": str(process == 7)}, timeout=60)
        return str(raised.value)

    began = time.monotonic()
    with ThreadPoolExecutor(count) as threads:
        assert set(threads.map(call, range(count))) == {"cluster: process 7 differs from process 0: code is True, not False"}
    assert time.monotonic() - began < 30


ENDS = {  # how process 1 ends: its status and error
    "exits": (0, ""),
    "aborts after process 0": (1, f"error: process 0 of the run {IS_GONE}\n"),
    "aborts before process 0": (1, "error: the JAX runtime aborted this process: see its message above"),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_exit_sends_goodbye_and_an_abort_is_reported(coordinator, end):
    status, message = ENDS[end]
    other = watcher(coordinator, 1, end, 2)
    with contextlib.closing(roll_call(coordinator, 2, 0, {}, 20)[1]) as connection:
        if end == "exits":
            connection.socket.settimeout(20)
            assert connection.receive() == ["goodbye"]
        if end.endswith("before process 0"):
            other.wait(timeout=20)
    errors = other.communicate(timeout=20)[1]
    assert other.returncode == status and errors.startswith(message) and errors.count("\n") == bool(message), errors
