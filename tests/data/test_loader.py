"""The batch at a step is the same for any number of hosts, threads and worker processes, and after a resume at any step."""

import gc
import multiprocessing
import os
import signal

import numpy as np
import pytest

from data.dataset import Columns
from data.errors import DataError
from data.loader import Batches, Loader, evaluation_batches
from data.mixture import weighted

EXAMPLES = Columns({"x": np.arange(110, dtype=np.int32), "y": np.random.default_rng(0).random((110, 3), np.float32)})
MIXED = weighted(EXAMPLES, np.arange(110) % 2, (0.25, 0.75), "x")
BATCH = 8


@pytest.fixture(autouse=True)
def collect_garbage():
    """Release the resources shared by processes: Python 3.12.1 warns if that happens while new processes start."""
    yield
    gc.collect()


def read(loader: Loader, count: int) -> list[list[int]]:
    return [next(loader)["example"].tolist() for _ in range(count)]


def whole(examples, count: int, seed: int = 0) -> list[list[int]]:
    batches = Batches(examples, BATCH, seed)
    return [batches[n]["example"].tolist() for n in range(count)]


@pytest.mark.parametrize("examples", [EXAMPLES, MIXED], ids=["one source", "mixture"])
@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_together_read_the_batch_of_a_single_host(examples, hosts):
    shares = [Batches(examples, BATCH, 3, own) for own in np.split(np.arange(BATCH), hosts)]
    for n in range(40):
        together = [row for share in shares for row in share[n]["example"].tolist()]
        assert together == Batches(examples, BATCH, 3)[n]["example"].tolist()


def test_resume_on_two_hosts_after_four():
    before = [[Batches(MIXED, BATCH, 0, own)[n]["example"].tolist() for own in np.split(np.arange(BATCH), 4)] for n in range(5)]
    loaders = [Loader(Batches(MIXED, BATCH, 0, own), position=5) for own in np.split(np.arange(BATCH), 2)]
    after = [[next(loader)["example"].tolist() for loader in loaders] for _ in range(5)]
    flat = [[row for share in batch for row in share] for batch in [*before, *after]]
    assert flat == whole(MIXED, 10)


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("start", [0, 7])
def test_batches_do_not_depend_on_threads_or_start_position(threads, start):
    assert read(Loader(Batches(EXAMPLES, BATCH, 1), start, threads), 20) == whole(EXAMPLES, 20 + start, 1)[start:]


def test_batches_do_not_depend_on_worker_processes():
    with Loader(Batches(EXAMPLES, BATCH, 1), 3, workers=2) as loader:
        assert read(loader, 12) == whole(EXAMPLES, 15, 1)[3:]


def test_killed_worker_process_is_reported_without_hanging():
    before = set(multiprocessing.active_children())
    with Loader(Batches(EXAMPLES, BATCH, 1), workers=2) as loader:
        next(loader)
        worker = (set(multiprocessing.active_children()) - before).pop()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"exit code -9; if memory is short, lower --run.read-workers"):
            for _ in range(100):
                next(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_errors_are_the_same_from_threads_and_workers(workers):
    class Damaged:  # local, so that the class itself is pickled: workers cannot import this module
        __len__ = lambda self: 100

        def __getitem__(self, indices):
            raise DataError("rows.array_record is damaged")

    with (
        Loader(Batches(Damaged(), 4, 0), workers=workers) as loader,
        pytest.raises(DataError, match=r"^rows\.array_record is damaged$"),
    ):
        next(loader)


def test_an_epoch_has_every_row_once_with_aligned_columns():
    batches = Batches(EXAMPLES, 11, 0)
    read = [batches[n] for n in range(10)]
    assert sorted(row for batch in read for row in batch["example"]) == list(range(110))
    for batch in read:
        np.testing.assert_array_equal(batch["y"], EXAMPLES.columns["y"][batch["x"]])
        assert batch["valid"].tolist() == [1] * 11


def test_order_depends_on_seed_and_epoch():
    assert whole(EXAMPLES, 5, 0) != whole(EXAMPLES, 5, 1)
    assert whole(EXAMPLES, 14)[:13] != [batch for batch in whole(EXAMPLES, 28)[14:]][:13]


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_has_every_row_once_and_marks_padding_rows(hosts):
    shares = [list(evaluation_batches(EXAMPLES, BATCH, own)) for own in np.split(np.arange(BATCH), hosts)]
    assert {len(batch["x"]) for share in shares for batch in share} == {BATCH // hosts}
    valid = [int(x) for batches in zip(*shares, strict=True) for b in batches for x in b["x"][b["valid"] == 1]]
    assert valid == list(range(110))


def test_batch_larger_than_the_data_repeats_rows():
    (batch,) = [Batches(Columns({"x": np.arange(3)}), 8, 0)[0]]
    assert np.bincount(batch["x"]).min() >= 2
