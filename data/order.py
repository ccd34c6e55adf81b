"""In which order examples are seen: by index, so that any process can ask for any part of any batch.

Nothing here is carried from batch to batch. Position p of the endless stream of rows is a pure function of (seed, p): whoever
reads batch n needs the number n, and neither how many processes there are nor how many there were before.
"""

from collections.abc import Sequence

import numpy as np

ROUNDS = 4
PERIOD = 1000  # slots in which the proportions of a mixture hold exactly


def permuted(indices: np.ndarray, size: int, seed: np.ndarray | int) -> np.ndarray:
    """Where a pseudorandom permutation of range(size), chosen by `seed` (one, or one an index), puts each of `indices`.

    A Feistel network over the next power of four, whose results are put through it again until they are less than `size` (Black
    and Rogaway 2002, method 3). No table is made, so the size of the data costs nothing.
    """
    assert size > 0
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = _mixed(np.asarray(seed, np.uint64) ^ np.uint64(0x9E3779B97F4A7C15))
    found = np.array(indices, np.uint64)
    keys = np.broadcast_to(keys, found.shape)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & low
        for turn in range(ROUNDS):
            left, right = right, left ^ (_mixed(right + keys[outside] + np.uint64(turn)) & low)
        found[outside] = (left << half) | right
        outside = found >= size
    return found.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele et al. 2014): every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shuffled(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The row at each position of the endless stream: every epoch is a permutation of its own of range(size)."""
    epoch, within = np.divmod(np.asarray(positions, np.int64), size)
    with np.errstate(over="ignore"):
        seeds = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + epoch.astype(np.uint64)
    return permuted(within, size, seeds)


def slots(weights: Sequence[float]) -> np.ndarray:
    """[PERIOD]: which part stands at each slot of a mixture. Every window of w slots has each part's share of w, give or take
    two.

    Smooth weighted round robin: the part that is furthest behind its share is next.
    """
    share = np.asarray(weights, np.float64) / np.sum(weights)
    credit, chosen = np.zeros(len(share)), np.empty(PERIOD, np.int64)
    for slot in range(PERIOD):
        credit += share
        chosen[slot] = credit.argmax()
        credit[chosen[slot]] -= 1
    return chosen


def mixed(positions: np.ndarray, sizes: Sequence[int], weights: Sequence[float], seed: int) -> np.ndarray:
    """The row at each position of the endless stream of a mixture, in the numbering of its parts one after another. Each part is
    shuffled, and begins anew, on its own."""
    chosen = slots(weights)
    counts = np.bincount(chosen, minlength=len(sizes))
    rank = np.empty(PERIOD, np.int64)  # of a slot among those of its part
    for part in range(len(sizes)):
        rank[chosen == part] = np.arange(counts[part])
    period, slot = np.divmod(np.asarray(positions, np.int64), PERIOD)
    part = chosen[slot]
    within = period * counts[part] + rank[slot]
    first = np.concatenate([[0], np.cumsum(sizes)])
    rows = np.empty(len(part), np.int64)
    for i, size in enumerate(sizes):
        mine = part == i
        rows[mine] = first[i] + shuffled(within[mine], size, seed + i)
    return rows
