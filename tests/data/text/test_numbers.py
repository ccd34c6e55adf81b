"""Numbers of any source, and what is wrong with others."""

from decimal import Decimal

import numpy as np
import pytest

from data.text.numbers import number_of


@pytest.mark.parametrize("value", [2.5, "2.5", " 2.5\n", Decimal("2.5"), np.float32(2.5)])
def test_numbers(value):
    assert number_of(value, "score") == 2.5


WRONG = {
    "abc": "its score is 'abc', not a number",
    "": "its score is '', not a number",
    "nan": "its score is nan, not a finite number",
    "-inf": "its score is -inf, not a finite number",
}


@pytest.mark.parametrize(("value", "message"), WRONG.items())
def test_other_texts_are_refused(value, message):
    assert number_of(value, "score") == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("inf"), "its score is inf, not a finite number"),
        (True, "its score is True, not a number"),
        ([1.0], "its score is list, not a number"),
    ],
)
def test_other_values_are_refused(value, message):
    assert number_of(value, "score") == message
