"""Cache entries and stores are complete or absent: concurrent builds, killed builds, full disks and damaged files."""

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data import cache
from data.dataset import Spec
from data.errors import DataError
from data.store import Stored, Writer

ROOT = Path(__file__).parents[2]
COLUMNS = {"tokens": Spec((4,), np.uint16), "label": Spec((), np.int32)}


@pytest.fixture(autouse=True)
def temporary_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def rows(count: int):
    for i in range(count):
        yield {"tokens": np.arange(4) + i, "label": i % 3}, f"text {i}".encode()


def write(folder, count: int = 50):
    with Writer(folder / "rows.array_record", COLUMNS) as writer:
        for row, rest in rows(count):
            writer.append(row, rest)


PROGRAM = """
import os, sys, time
from data import cache

def make(folder):
    (folder / "made").write_text(str(os.getpid()))
    time.sleep(float(sys.argv[1]))

print((cache.cached("x", make) / "made").read_text())
"""


def start(seconds: float) -> subprocess.Popen:
    """Start a process that builds the cache entry x in `seconds` and prints the id of the process that built it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(seconds)], env=environment, stdout=subprocess.PIPE, text=True)


def test_concurrent_processes_build_an_entry_once():
    made = {process.communicate(timeout=60)[0] for process in [start(1), start(1)]}
    assert len(made) == 1 and made != {""}


def test_an_entry_is_rebuilt_after_its_process_was_killed():
    process = start(60)
    partial = cache.directory() / f"x-{cache.VERSION}.{platform.node()}-{process.pid}.partial" / "made"
    while not partial.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.stdout.close()
    folder = cache.cached("x", write)
    assert sorted(p.name for p in folder.iterdir()) == ["rows.array_record", "rows.json", "rows.label"]
    assert not partial.exists()


def full(folder):
    (folder / "half").write_text("a")
    raise OSError(28, "No space left on device", str(folder / "rows"))


def test_full_disk_is_reported_and_leaves_no_files():
    with pytest.raises(DataError, match=r"cannot write the cache: .*rows: No space left on device; set \$FMODELS_CACHE"):
        cache.cached("x", full)
    assert [path.suffix for path in cache.directory().iterdir()] == [".lock"]


def test_failed_row_writes_are_reported_and_leave_no_files():
    """A file size limit simulates a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot write the cache: .*: File too large; set \$FMODELS_CACHE to use another"):
            cache.cached("x", lambda folder: write(folder, 50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.suffix for path in cache.directory().iterdir()] == [".lock"]


def test_unwritable_cache_is_reported(monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", "/proc/nothing")
    with pytest.raises(DataError, match="cannot write the cache: /proc/nothing"):
        cache.cached("x", write)


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_round_trip_in_any_order(monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr("data.store.IN_MEMORY", 0)
    stored = Stored(cache.cached("x", write) / "rows.array_record", {"tokens": Spec((2, 4), np.int32)})
    assert len(stored) == 50
    read = stored[np.array([7, 0, 7, 49])]
    assert {name: (x.dtype, x.shape) for name, x in read.items()} == {"tokens": (np.int32, (4, 4))}
    assert read["tokens"][:, 0].tolist() == [7, 0, 7, 49]
    assert stored.payloads([3, 1]) == [b"text 3", b"text 1"]
    assert stored.column("label").tolist() == [i % 3 for i in range(50)]


def test_damaged_store_is_reported_with_the_fix():
    folder = cache.cached("x", lambda folder: write(folder, 5000))
    path = folder / "rows.array_record"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 - 500 : len(data) // 2 + 500] = bytes(1000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.array_record is damaged .*; remove .*x-\d+ to rebuild it"):
        Stored(path)[np.arange(5000)]
    os.truncate(path, 100)
    with pytest.raises(DataError, match="is damaged"):
        Stored(path)[np.arange(10)]
