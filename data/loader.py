"""Batches: in an order that depends on the seed alone, read ahead by threads or processes; and the passes of an evaluation."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from data import order
from data.dataset import Batch, Examples
from data.errors import DataError
from data.mixture import Weighted


@dataclass(frozen=True)
class Batches:
    """Every batch of a run, by its number: batch n is the rows at positions n B to (n + 1) B of the endless shuffled stream. Of
    several processes each reads its `own` rows of it (their places in a batch; all of them without). So the global batch at a
    step is the same for any number of processes and of workers, and the position to save is a number, the same on all of them."""

    examples: Examples
    batch_size: int
    seed: int
    own: np.ndarray | None = None

    def __getitem__(self, number: int) -> Batch:
        positions = number * self.batch_size + (np.arange(self.batch_size) if self.own is None else self.own)
        if isinstance(self.examples, Weighted):
            rows = order.mixed(positions, self.examples.sizes, self.examples.weights, self.seed)
        else:
            rows = order.shuffled(positions, len(self.examples), self.seed)
        return numbered(self.examples, rows)


class Loader(AbstractContextManager):
    """An iterator over batches from `position` on, read ahead by `workers` processes, or by `threads` of this one where there are
    none. Use as a context manager: leaving it ends them."""

    def __init__(self, batches: Batches, position: int = 0, threads: int = 2, workers: int = 0):
        self.batches, self.position = batches, position
        self.threads, self.workers = threads, workers
        self._ahead = None

    def __next__(self) -> Batch:
        """Raises DataError for data that cannot be read, and where a process that reads ahead was killed."""
        if self._ahead is None:
            self._ahead = self._start()
        try:
            batch = next(self._ahead)
        except DataError as error:  # to which grain has added where in grain it was raised
            raise DataError(str(error).partition("\n")[0]) from None
        except RuntimeError as error:  # which is how grain tells of its worker processes
            if not self.workers:
                raise
            reason = str(error).partition(". ")[0]
            raise DataError(f"reading batches ahead: {reason}; if memory is short, use fewer --run.read-workers") from None
        self.position += 1
        return batch

    def __iter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def _start(self) -> Any:
        import grain

        numbers = grain.MapDataset.range(self.position, 2**62)
        read = numbers.map(self.batches.__getitem__)
        ahead = read.to_iter_dataset(grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * max(self.threads, 1)))
        if self.workers:
            from absl import flags

            flags.FLAGS.mark_as_parsed()  # which grain's worker processes ask for
            ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers, per_worker_buffer_size=2))
        return iter(ahead)


def evaluation_batches(examples: Examples, batch_size: int, own: np.ndarray | None = None) -> Iterator[Batch]:
    """All rows once, in order, or a process's `own` of each batch; the last batch is filled with copies of its first row that are
    not `valid`."""
    for start in range(0, len(examples), batch_size):
        rows = start + (np.arange(batch_size) if own is None else own)
        batch = numbered(examples, np.where(rows < len(examples), rows, start))
        batch["valid"] = (rows < len(examples)).astype(np.float32)
        yield batch


def numbered(examples: Examples, rows: np.ndarray) -> Batch:
    """The rows with their numbers as `example`, and with `valid` 1: real rows."""
    return {**examples[rows], "example": rows.astype(np.uint32), "valid": np.ones(len(rows), np.float32)}


def fill(batch: Batch, batch_size: int) -> Batch:
    """The batch with copies of its first row after its own, up to `batch_size`, and `valid` 0 for them."""
    missing = batch_size - len(batch["valid"])
    filled = {name: np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for name, x in batch.items()}
    filled["valid"][batch_size - missing :] = 0
    return filled
