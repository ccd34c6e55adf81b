"""Pairs of texts that belong together: rows of both sides, scores, and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.text.related import ARRAYS, RelatedTexts

ROWS = [{"text": f"the {word} house {i}", "second": f"das {word} Haus {i}"} for i, word in enumerate(["red", "green", "old"] * 8)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def config(folder: Path, train: list[dict], test: list[dict]) -> RelatedTexts:
    for split, rows in (("train", train), ("test", test)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RelatedTexts(source=f"files:{folder}", length=16, vocab_size=300, batch_size=4)


def test_each_side_is_a_row_by_itself(tmp_path):
    dataset = config(tmp_path, ROWS, [{**row, "second": f"{row['second']} !"} for row in ROWS[:3]]).build()
    rows, vocabulary = dataset.splits["test"][np.arange(3)], dataset.codec.vocabulary
    for i, wanted in enumerate(ROWS[:3]):
        for prefix, text in (("", wanted["text"]), ("second_", f"{wanted['second']} !")):
            ids = [vocabulary.special["cls"], *vocabulary.encode([text])[0][0], vocabulary.special["sep"]]
            assert rows[f"{prefix}tokens"][i][rows[f"{prefix}mask"][i]].tolist() == ids[:16]
    swapped, _ = dataset.codec.encode([{"text": row["second"], "second": row["text"]} for row in ROWS[:3]])
    straight, _ = dataset.codec.encode(ROWS[:3])
    for name in ARRAYS:
        np.testing.assert_array_equal(swapped[f"second_{name}"], straight[name])


def test_a_row_to_predict_may_be_a_single_text(tmp_path):
    codec = config(tmp_path, ROWS, ROWS[:2]).build().codec
    arrays, notes = codec.encode([{"text": "the house"}, ROWS[0]])
    assert arrays["second_mask"].any(1).tolist() == [False, True] and notes == []
    with pytest.raises(DataError, match="row 0: it has no text"):
        codec.encode([{"second": "the house"}])


def test_scores_are_references(tmp_path):
    rows = [{**row, "text": f"{row['text']} too", "score": score} for row, score in zip(ROWS, [3, "2.5", None], strict=False)]
    assert list(config(tmp_path, ROWS, rows).build().references["test"]) == [3.0, 2.5, None]


def test_truncated_texts_are_counted(tmp_path):
    dataset = config(tmp_path, [*ROWS, {"text": "long " * 40, "second": "longer " * 40}], ROWS[:2]).build()
    assert any(note.startswith("train: ") and "texts are truncated, in" in note for note in dataset.notes)


MISTAKES = {
    "empty text": ({"text": ""}, "line 25: its text is empty; use --data.bad-records skip"),
    "no second": ({"second": None}, "line 25: it has no second"),
    "empty second": ({"second": " "}, "line 25: its second is empty"),
    "score": ({"score": "abc"}, "line 25: its score is 'abc', not a number"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        config(tmp_path, [*ROWS, {**ROWS[0], **changes}], ROWS[:2]).build()
    assert "\n" not in str(caught.value)
