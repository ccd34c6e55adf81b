"""The order of examples: a permutation of each epoch, by (seed, step) alone, that goes on where it was."""

import numpy as np
import pytest

from data.dataset import Columns
from data.loader import evaluation_batches, training_batches

pytestmark = pytest.mark.quick
EXAMPLES = Columns({"x": np.arange(10) * 3})


def examples(iterator, batches: int) -> list[list[int]]:
    return [next(iterator)["example"].tolist() for _ in range(batches)]


def test_every_epoch_is_a_new_permutation():
    seen = np.concatenate(examples(training_batches(EXAMPLES, 5, 0), 6))
    epochs = [tuple(seen[i : i + 10]) for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_the_order_is_a_function_of_the_seed():
    assert examples(training_batches(EXAMPLES, 4, 1), 5) == examples(training_batches(EXAMPLES, 4, 1), 5)
    assert examples(training_batches(EXAMPLES, 4, 1), 5) != examples(training_batches(EXAMPLES, 4, 2), 5)


def test_a_batch_larger_than_the_data_goes_on_into_the_next_epoch():
    (batch,) = examples(training_batches(EXAMPLES, 25, 0), 1)
    assert np.bincount(batch).tolist().count(3) == 5 and np.bincount(batch).tolist().count(2) == 5


def test_a_restored_position_goes_on_with_the_next_batch():
    first = training_batches(EXAMPLES, 3, 0)
    examples(first, 4)
    state = first.get_state()
    second = training_batches(EXAMPLES, 3, 0)
    second.set_state(state)
    assert examples(second, 5) == examples(first, 5)


def test_an_evaluation_sees_each_row_once_and_marks_what_only_fills():
    batches = list(evaluation_batches(EXAMPLES, 4))
    assert [batch["valid"].tolist() for batch in batches] == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert np.concatenate([b["x"][b["valid"] == 1] for b in batches]).tolist() == EXAMPLES.columns["x"].tolist()
