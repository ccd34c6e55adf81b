"""The roll call, and the watch that follows it, without JAX: who is missing, differs or is gone is told to all."""

import contextlib
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from train.cluster.roll_call import IS_GONE, roll_call
from train.errors import UserError

pytestmark = pytest.mark.quick


@pytest.fixture
def coordinator() -> str:
    """A place that nobody listens at."""
    with socket.create_server(("", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_two_processes_of_one_number_and_all_the_others_are_told(coordinator):

    def call(process: int) -> str:
        with pytest.raises(UserError) as raised:
            roll_call(coordinator, 3, process, {"code": "the same"}, timeout=20)
        return str(raised.value)

    with ThreadPoolExecutor() as threads:
        assert set(threads.map(call, (0, 1, 1))) == {"cluster: two processes say that they are 1"}


def knock(coordinator: str, *said: bytes) -> socket.socket:
    """A connection to who calls the roll, over which that was said. To be closed."""
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", int(coordinator.rpartition(":")[2])))
        except ConnectionRefusedError:
            time.sleep(0.01)
            continue
        for part in said:
            connection.sendall(part)
        return connection


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_they_meet_at_any_kind_of_address(coordinator, host):
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    place = f"{host}:{coordinator.rpartition(':')[2]}"
    with ThreadPoolExecutor() as threads:
        met = list(threads.map(lambda process: roll_call(place, 2, process, {}, timeout=20), (0, 1)))
    assert [list(lines) for lines in met] == [[1], [0]]
    for lines in met:
        for line in lines.values():
            line.close()


def test_who_dies_while_it_waits_may_come_again_and_is_missed_if_it_does_not(coordinator):
    with ThreadPoolExecutor() as threads:
        first = threads.submit(roll_call, coordinator, 3, 0, {}, 20)
        with knock(coordinator, b'["fmodels", 1, {}]\n'):
            time.sleep(0.2)
        others = [threads.submit(roll_call, coordinator, 3, process, {}, 20) for process in (1, 2)]
        lines = [line for each in (first, *others) for line in each.result().values()]
        for line in lines:
            line.close()
        assert len(lines) == 4
        first = threads.submit(roll_call, coordinator, 3, 0, {}, 1)
        with knock(coordinator, b'["fmodels", 1, {}]\n'):
            time.sleep(0.2)
        with pytest.raises(UserError, match=r"process\(es\) 1, 2 of 3 did not come in time"):
            first.result()


STRANGE = {
    "silence": [],
    "half a line": [b'["fmodels", 1'],
    "a browser": [b"GET / HTTP/1.1\r\n\r\n"],
    "a process of something else": [b"[1, {}]\n"],
    "no number": [b'["fmodels", "1", {}]\n'],
    "too deep": [b"[" * 200_000 + b"\n"],
    "too long": [b"[" * 200_000],
    "no Unicode": [b'["fmodels", "\xff"]\n'],
}


def test_strangers_at_the_door_change_nothing(coordinator):
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as open_ones:
        began = time.monotonic()
        first = threads.submit(roll_call, coordinator, 2, 0, {}, 20)
        for said in STRANGE.values():
            open_ones.enter_context(contextlib.closing(knock(coordinator)))
            with contextlib.suppress(OSError):  # it was shown out in the middle of a word
                open_ones.enter_context(contextlib.closing(knock(coordinator, *said)))
        other = threads.submit(roll_call, coordinator, 2, 1, {}, 20)
        for line in (*first.result().values(), *other.result().values()):
            line.close()
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("said", [b"", b"\n", b"HTTP/1.1 400 Bad Request\r\n", b'["fmodels", 1]\n'])
def test_what_is_no_process_at_the_coordinator_is_not_believed(said):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        server.settimeout(1)
        call = threads.submit(roll_call, f"127.0.0.1:{server.getsockname()[1]}", 2, 1, {}, 1)
        with contextlib.suppress(TimeoutError):
            while not call.done():
                with server.accept()[0] as connection:
                    connection.sendall(said)
                    time.sleep(0.1)
        with pytest.raises(
            UserError, match=r"process 0 cannot be reached at .*: what listens there does not answer as a process"
        ):
            call.result()


WATCHER = """
import ctypes, sys, time
from train.cluster.roll_call import keep_watch, roll_call, stop_all
number, end = int(sys.argv[2]), sys.argv[3]
keep_watch(number, roll_call(sys.argv[1], int(sys.argv[4]), number, {}, 20))
print("watches", flush=True)
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
def test_who_is_killed_is_named_by_all_others(coordinator, victim):
    them = [watcher(coordinator, number, "waits", 3) for number in range(3)]
    for process in them:
        assert process.stdout is not None and process.stdout.readline() == "watches\n"
    them[victim].kill()
    said = [process.communicate(timeout=20)[1] for process in them]
    del them[victim], said[victim]
    assert [process.returncode for process in them] == [1, 1]
    assert said == [f"error: process {victim} of the run {IS_GONE}\n"] * 2


@pytest.mark.parametrize("first", [0, 2])
def test_a_signal_that_stops_one_stops_all_with_its_status_and_without_a_word(coordinator, first):
    them = [watcher(coordinator, number, "stops" if number == first else "waits", 3) for number in range(3)]
    assert [process.communicate(timeout=20)[1] for process in them] == [""] * 3
    assert [process.returncode for process in them] == [0] * 3


def test_one_that_differs_ends_all_of_many_soon(coordinator):
    count = 30

    def call(process: int) -> str:
        with pytest.raises(UserError) as raised:
            roll_call(coordinator, count, process, {"code": str(process == 7)}, timeout=60)
        return str(raised.value)

    began = time.monotonic()
    with ThreadPoolExecutor(count) as threads:
        assert set(threads.map(call, range(count))) == {"cluster: process 7 differs from process 0: code is True, not False"}
    assert time.monotonic() - began < 30


ENDS = {  # of process 1: what happens; its status, and what it says
    "ends": (0, ""),
    "aborts, and process 0 is gone": (1, f"error: process 0 of the run {IS_GONE}\n"),
    "aborts, and process 0 is there": (1, "error: the runtime has aborted this process, for what it says above"),
}


@pytest.mark.parametrize("its_end", ENDS)
def test_who_ends_as_usual_says_farewell_and_an_abort_is_told_of(coordinator, its_end):
    status, words = ENDS[its_end]
    other = watcher(coordinator, 1, its_end, 2)
    with contextlib.closing(roll_call(coordinator, 2, 0, {}, 20)[1]) as line:
        if its_end == "ends":
            line.connection.settimeout(20)
            assert line.hear() == ["farewell"]
        if its_end.endswith("there"):
            other.wait(timeout=20)
    said = other.communicate(timeout=20)[1]
    assert other.returncode == status and said.startswith(words) and said.count("\n") == bool(words), said
