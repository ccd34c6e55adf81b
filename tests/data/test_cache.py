"""What is kept is whole or not there: built by two at once, killed half way, out of disk, or damaged later."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from data import cache
from data.dataset import Spec
from data.errors import DataError
from data.store import Stored, Writer

COLUMNS = {"tokens": Spec((4,), np.uint16), "label": Spec((), np.int32)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def rows(count: int):
    for i in range(count):
        yield {"tokens": np.arange(4) + i, "label": i % 3}, f"text {i}".encode()


def write(folder, count: int = 50):
    with Writer(folder / "rows.array_record", COLUMNS) as writer:
        for row, rest in rows(count):
            writer.append(row, rest)


def slow(folder):
    (folder / "made").write_text(str(os.getpid()))
    time.sleep(0.5)
    write(folder)


def keep(queue):
    queue.put((cache.kept("both", slow) / "made").read_text())


def test_two_processes_make_it_once():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=keep, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    made = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(made) == 1


def forever(folder):
    (folder / "half").write_text("a")
    time.sleep(60)


def test_what_a_killed_process_left_is_made_anew():
    process = multiprocessing.get_context("spawn").Process(target=cache.kept, args=("x", forever))
    process.start()
    partial = cache.directory() / f"x-{cache.VERSION}.partial" / "half"
    while not partial.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    folder = cache.kept("x", write)
    assert sorted(p.name for p in folder.iterdir()) == ["rows.array_record", "rows.json", "rows.label"]
    assert not partial.exists()


def full(folder):
    (folder / "half").write_text("a")
    raise OSError(28, "No space left on device", str(folder / "rows"))


@pytest.mark.quick
def test_a_full_disk_leaves_nothing_and_says_so():
    with pytest.raises(DataError, match=r"the cache cannot be written: .*rows: No space left on device; \$FMODELS_CACHE"):
        cache.kept("x", full)
    assert [path.suffix for path in cache.directory().iterdir()] == [".lock"]


@pytest.mark.quick
def test_a_cache_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", "/proc/nothing")
    with pytest.raises(DataError, match="the cache cannot be written: /proc/nothing"):
        cache.kept("x", write)


@pytest.mark.quick
@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_are_read_as_they_were_written_in_any_order(monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr("data.store.IN_MEMORY", 0)
    stored = Stored(cache.kept("x", write) / "rows.array_record", {"tokens": Spec((2, 4), np.int32)})
    assert len(stored) == 50
    read = stored[np.array([7, 0, 7, 49])]
    assert {name: (x.dtype, x.shape) for name, x in read.items()} == {"tokens": (np.int32, (4, 4))}
    assert read["tokens"][:, 0].tolist() == [7, 0, 7, 49]
    assert stored.rest([3, 1]) == [b"text 3", b"text 1"]
    assert stored.column("label").tolist() == [i % 3 for i in range(50)]


@pytest.mark.quick
def test_a_damaged_store_is_named_and_how_to_mend_it():
    folder = cache.kept("x", lambda folder: write(folder, 5000))
    path = folder / "rows.array_record"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 - 500 : len(data) // 2 + 500] = bytes(1000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.array_record is damaged .*; remove .*x-\d+, and it is made anew"):
        Stored(path)[np.arange(5000)]
    os.truncate(path, 100)
    with pytest.raises(DataError, match="is damaged"):
        Stored(path)[np.arange(10)]
