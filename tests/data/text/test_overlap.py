"""Held-out texts that are nearly in train."""

import os

import pytest

from data.text import overlap
from data.text.language_modelling import Text

LONG = "a long text of sixteen words that says of the matter what there is to say"


def test_texts_that_contain_each_other_are_found():
    train = ["something else entirely", LONG.upper().replace(" ", ", "), "that says of the matter", "short"]
    held_out = ["says of the matter what there is", LONG, "the matter", "Short!", "words of the matter that says"]
    assert overlap.overlaps(train, held_out) == {0: 1, 1: 1, 3: 3}, "words in order; fewer than five only as a whole"


def test_four_fifths_of_the_five_word_sequences_are_enough():
    words = [f"w{i}" for i in range(34)]  # 30 sequences
    changed = lambda at: " ".join([*words[:at], "other", *words[at + 1 :]])
    assert overlap.overlaps([" ".join(words)], [changed(0), changed(5), changed(15)]) == {0: 0, 1: 0, 2: 0}
    assert overlap.overlaps([" ".join(words)], [changed(5).replace("w25", "another")]) == {}, "20 of 30 are in common"


def test_a_line_has_the_count_an_example_and_what_was_compared(monkeypatch):
    monkeypatch.setattr(overlap, "TRAIN", 50)
    train = [f"{i} of the training texts which all differ" for i in range(100)]
    held: dict = {"validation": ["nothing in common with them at all"], "test": [train[2], train[3], train[98]]}
    validation, test = overlap.lines({"train": train, **held})
    assert validation.startswith("0 of 1 texts of validation overlap with train: ")
    assert test.startswith("warning: 2 of 3 texts of test overlap with train: 80% of the 5-word sequences of one text are in the")
    assert "(compared with 50 of 100 texts of train, up to 1,000 characters of each)" in test
    assert f"for example {train[2]!r} and, in train, " in test


@pytest.mark.skipif(not os.environ.get("FMODELS_DATA"), reason="FMODELS_DATA is not set")
@pytest.mark.slow
def test_documents_of_language_modelling_are_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path))
    config = Text(source=f"files:{os.environ['FMODELS_DATA']}/multi30k/data/task1/raw/*.en.gz", length=16)
    validation, test = config.overlaps(config.build())
    assert "of 1,014 texts of validation" in validation and "of 1,000 texts of test" in test
