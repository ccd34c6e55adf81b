"""Training batches, shuffled by seed and prefetched by threads or processes, and evaluation batches."""

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
    """The training batches of a run, indexed by number.

    Batch n holds positions n B to (n + 1) B - 1 of the endless shuffled stream. With several processes, each reads its `own` rows
    (indices into the batch; None: all). The global batch of a step does not depend on the number of processes and workers, and
    the batch number is the only position to save.
    """

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
        return with_indices(self.examples, rows)


class Loader(AbstractContextManager):
    """Iterator over batches from `position` on, prefetched by `workers` processes, or by `threads` threads if `workers` is 0.

    Use as a context manager; the exit stops the processes or threads.
    """

    def __init__(self, batches: Batches, position: int = 0, threads: int = 2, workers: int = 0):
        self.batches, self.position = batches, position
        self.threads, self.workers = threads, workers
        self._iterator = None

    def __next__(self) -> Batch:
        """Return the next batch. Raises DataError if data cannot be read or a worker process was killed."""
        if self._iterator is None:
            self._iterator = self._start()
        try:
            batch = next(self._iterator)
        except DataError as error:  # grain appends its own location to the message
            raise DataError(str(error).partition("\n")[0]) from None
        except RuntimeError as error:  # raised by grain if a worker process fails
            if not self.workers:
                raise
            reason = str(error).partition(". ")[0]
            raise DataError(f"prefetching batches failed: {reason}; if memory is short, lower --run.read-workers") from None
        self.position += 1
        return batch

    def __iter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        if self._iterator is not None:
            self._iterator.close()

    def _start(self) -> Any:
        import grain

        numbers = grain.MapDataset.range(self.position, 2**62)
        stream = numbers.map(self.batches.__getitem__)
        ahead = stream.to_iter_dataset(grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * max(self.threads, 1)))
        if self.workers:
            from absl import flags

            flags.FLAGS.mark_as_parsed()  # grain's worker processes require it
            ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers, per_worker_buffer_size=2))
        return iter(ahead)


def evaluation_batches(examples: Examples, batch_size: int, own: np.ndarray | None = None) -> Iterator[Batch]:
    """Yield every row once, in order; with several processes, only the `own` rows of each batch (indices into the batch).

    The last batch is padded with copies of its first row; their `valid` is 0.
    """
    for start in range(0, len(examples), batch_size):
        rows = start + (np.arange(batch_size) if own is None else own)
        batch = with_indices(examples, np.where(rows < len(examples), rows, start))
        batch["valid"] = (rows < len(examples)).astype(np.float32)
        yield batch


def with_indices(examples: Examples, rows: np.ndarray) -> Batch:
    """Return the rows, their indices as `example`, and `valid` = 1."""
    return {**examples[rows], "example": rows.astype(np.uint32), "valid": np.ones(len(rows), np.float32)}


def fill(batch: Batch, batch_size: int) -> Batch:
    """Return the batch padded to `batch_size` with copies of its first row; their `valid` is 0."""
    missing = batch_size - len(batch["valid"])
    filled = {name: np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for name, x in batch.items()}
    filled["valid"][batch_size - missing :] = 0
    return filled
