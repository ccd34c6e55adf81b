"""The order of training examples, computed by index.

The row at position p of the endless stream is a pure function of (seed, p). There is no state, so any process can read any part
of any batch, and a run can resume with another number of processes.
"""

from collections.abc import Sequence

import numpy as np

ROUNDS = 4
PERIOD = 1000  # slots after which the pattern of a mixture repeats


def permuted(indices: np.ndarray, size: int, seed: np.ndarray | int) -> np.ndarray:
    """Apply a pseudorandom permutation of range(size) to `indices`.

    `seed` selects the permutation: a scalar, or one seed per index. The permutation is a Feistel network over the next power of
    four, applied repeatedly until the result is below `size` (cycle walking; Black and Rogaway 2002, method 3). It needs no
    table in memory.
    """
    assert size > 0
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = _splitmix64(np.asarray(seed, np.uint64) ^ np.uint64(0x9E3779B97F4A7C15))
    found = np.array(indices, np.uint64)
    keys = np.broadcast_to(keys, found.shape)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & low
        for feistel_round in range(ROUNDS):
            left, right = right, left ^ (_splitmix64(right + keys[outside] + np.uint64(feistel_round)) & low)
        found[outside] = (left << half) | right
        outside = found >= size
    return found.astype(np.int64)


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64 (Steele et al. 2014): every output bit depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shuffled(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the row at each position of the endless stream. Every epoch is a different permutation of range(size)."""
    epoch, within = np.divmod(np.asarray(positions, np.int64), size)
    with np.errstate(over="ignore"):
        seeds = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + epoch.astype(np.uint64)
    return permuted(within, size, seeds)


def slots(weights: Sequence[float]) -> np.ndarray:
    """Return the part of a mixture for each slot, [PERIOD]. In any window, the count of each part is within two of its share.

    Smooth weighted round robin: the next part is the one furthest behind its share.
    """
    share = np.asarray(weights, np.float64) / np.sum(weights)
    credit, chosen = np.zeros(len(share)), np.empty(PERIOD, np.int64)
    for slot in range(PERIOD):
        credit += share
        chosen[slot] = credit.argmax()
        credit[chosen[slot]] -= 1
    return chosen


def mixed(positions: np.ndarray, sizes: Sequence[int], weights: Sequence[float], seed: int) -> np.ndarray:
    """Return the row at each position of the endless stream of a mixture. Rows are numbered consecutively, part by part.

    Each part is shuffled and repeated independently.
    """
    chosen = slots(weights)
    counts = np.bincount(chosen, minlength=len(sizes))
    rank = np.empty(PERIOD, np.int64)  # index of a slot among the slots of its part
    for part in range(len(sizes)):
        rank[chosen == part] = np.arange(counts[part])
    period, slot = np.divmod(np.asarray(positions, np.int64), PERIOD)
    part = chosen[slot]
    within = period * counts[part] + rank[slot]
    first = np.concatenate([[0], np.cumsum(sizes)])
    rows = np.empty(len(part), np.int64)
    for i, size in enumerate(sizes):
        selected = part == i
        rows[selected] = first[i] + shuffled(within[selected], size, seed + i)
    return rows
