"""Batches: a seeded permutation of every epoch, by index, whose position is a small state; and the passes of an evaluation."""

from collections.abc import Iterator

import numpy as np

from data.dataset import Examples

Batch = dict[str, np.ndarray]


class _Numbered:
    """Every row with its number, and with `valid` 1: a real row."""

    def __init__(self, examples: Examples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index):
        return {**self.examples[int(index)], "example": np.uint32(index), "valid": np.float32(1)}


def training_batches(examples: Examples, batch_size: int, seed: int):
    """An endless grain iterator of batches, shuffled anew every epoch: the batch at step n depends on (seed, n) alone.

    Its `get_state` and `set_state` are what a checkpoint saves and restores.
    """
    import grain

    rows = grain.MapDataset.source(_Numbered(examples)).seed(seed).shuffle().repeat()
    batches = rows.batch(batch_size, drop_remainder=True)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def evaluation_batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    """All rows once, in order; the last batch is filled with copies of its first row that are not `valid`."""
    numbered = _Numbered(examples)
    for start in range(0, len(numbered), batch_size):
        rows = [numbered[i] for i in range(start, min(start + batch_size, len(numbered)))]
        yield fill(stack(rows), batch_size)


def stack(rows: list) -> Batch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def fill(batch: Batch, batch_size: int) -> Batch:
    """The batch with copies of its first row after its own, up to `batch_size`, and `valid` 0 for them."""
    missing = batch_size - len(batch["valid"])
    filled = {name: np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for name, x in batch.items()}
    filled["valid"][batch_size - missing :] = 0
    return filled
