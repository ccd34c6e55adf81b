"""The order of examples: one permutation per epoch, independent of the readers; mixtures keep their proportions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data import order

sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**32 - 1)


@given(sizes, seeds)
def test_every_epoch_is_a_different_permutation(size, seed):
    first, second = order.shuffled(np.arange(2 * size), size, seed).reshape(2, size)
    assert sorted(first) == sorted(second) == list(range(size))
    if size > 20:
        assert (first != second).any()


@given(sizes, seeds, st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_rows_do_not_depend_on_how_positions_are_grouped(size, seed, positions):
    together = order.shuffled(np.array(positions), size, seed)
    assert together.tolist() == [int(order.shuffled(np.array([p]), size, seed)[0]) for p in positions]


def test_permutations_look_random():
    shuffled = order.shuffled(np.arange(100_000), 100_000, 0)
    places = np.arange(100_000)
    assert abs(np.corrcoef(shuffled, places)[0, 1]) < 0.02
    assert abs(np.corrcoef(shuffled[1:], shuffled[:-1])[0, 1]) < 0.02
    assert abs(np.mean(shuffled[:10_000]) / 50_000 - 1) < 0.02
    assert np.mean(shuffled == order.shuffled(places, 100_000, 1)) < 1e-4


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.integers(0, 10**6), st.integers(1, 400), seeds)
def test_mixture_proportions_hold_in_every_window(weights, start, width, seed):
    sizes = [50 + 17 * i for i in range(len(weights))]
    rows = order.mixed(np.arange(start, start + width), sizes, weights, seed)
    part = np.searchsorted(np.cumsum(sizes), rows, side="right")
    found = np.bincount(part, minlength=len(weights))
    assert np.abs(found - width * np.array(weights) / sum(weights)).max() <= len(weights)


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4), seeds)
def test_each_part_of_a_mixture_is_permuted_independently(weights, seed):
    sizes = [30 + 7 * i for i in range(len(weights))]
    rows = order.mixed(np.arange(10_000), sizes, weights, seed)
    first = np.concatenate([[0], np.cumsum(sizes)])
    for i, size in enumerate(sizes):
        selected = rows[(rows >= first[i]) & (rows < first[i + 1])]
        for epoch in range(len(selected) // size):
            assert sorted(selected[epoch * size : (epoch + 1) * size]) == list(range(first[i], first[i + 1]))
