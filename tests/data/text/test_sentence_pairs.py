"""Labelled pairs of texts: their rows, labels, truncation and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.text.one_or_two import truncated
from data.text.sentence_pairs import SentencePairs

ROWS = [
    {"text": f"is {word} {i} large", "second": f"{word} {i} is a number", "label": "no" if i % 3 else "yes"}
    for i, word in enumerate(["one", "two", "three", "four", "five"] * 6)
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, **splits: list[dict]) -> None:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(folder: Path, **changes) -> SentencePairs:
    return SentencePairs(**{"source": f"files:{folder}", "length": 32, "vocab_size": 300, "batch_size": 4, **changes})


def held_out(rows: list[dict]) -> list[dict]:
    return [{**row, "text": f"{row['text']} too"} for row in rows]


def test_a_row_is_both_texts_and_their_segments(tmp_path):
    write(tmp_path, train=ROWS, validation=held_out(ROWS[:3]))
    dataset = config(tmp_path).build()
    rows = dataset.splits["validation"][np.arange(3)]
    special = dataset.codec.vocabulary.special
    for i, wanted in enumerate(held_out(ROWS[:3])):
        first, second = (dataset.codec.vocabulary.encode([wanted[name]])[0][0] for name in ("text", "second"))
        ids = [special["cls"], *first, special["sep"], *second, special["sep"]]
        size = len(ids)
        assert rows["tokens"][i].tolist() == [*ids, *[special["pad"]] * (32 - size)]
        assert rows["segments"][i].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1) + [0] * (32 - size)
        assert rows["mask"][i].tolist() == [True] * size + [False] * (32 - size)
    assert rows["label"].tolist() == [1, 0, 0] and dataset.codec.labels == ("no", "yes")
    assert list(dataset.references["validation"]) == ["yes", "no", "no"]
    assert next(iter(dataset.shown["validation"])) == "is one 0 large too\none 0 is a number"
    assert dataset.facts["classes"] == 2
    assert dataset.facts["label_shares"] == pytest.approx((2 / 3, 1 / 3), abs=1e-6)
    assert dataset.about["labels of train"] == {"no": 20, "yes": 10}
    predicted, notes = dataset.codec.encode(held_out(ROWS[:3]))
    assert notes == [] and all((predicted[name] == rows[name]).all() for name in predicted.keys() - {"record"})


def test_columns_of_a_table_and_labels_per_class(tmp_path):
    for split, rows in (("train", ROWS), ("validation", held_out(ROWS[:4]))):
        lines = [f"{row['text']}\t{row['second']}\t{row['label']}" for row in rows]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["question\tsentence\tanswer", *lines]))
    dataset = config(tmp_path, fields="text=question,second=sentence,label=answer", labels_per_class=3).build()
    examples = dataset.splits["train"]
    assert np.bincount(examples[np.arange(len(examples))]["label"]).tolist() == [3, 3]
    assert "6 of 30 labelled rows are used: 3 per class" in dataset.notes
    texts = {"\n".join([row["text"], row["second"]]): row["label"] for row in ROWS}
    found = [dataset.codec.labels[label] for label in examples[np.arange(6)]["label"]]
    assert [texts[text] for text in dataset.shown["train"]] == found


@pytest.mark.parametrize("limit", [8, 9])
def test_the_longer_text_is_truncated_first(limit):
    for first in range(14):
        for second in range(14):
            wanted = [first, second]  # as in BERT's truncate_seq_pair
            while sum(wanted) > limit:
                wanted[0 if wanted[0] > wanted[1] else 1] -= 1
            assert truncated([first, second], limit) == wanted
    assert truncated([12], limit) == [limit]


def test_truncated_pairs_are_counted(tmp_path):
    write(tmp_path, train=[*ROWS, {"text": "long " * 40, "second": "short", "label": "no"}], validation=held_out(ROWS[:3]))
    dataset = config(tmp_path).build()
    assert "train: 1 pairs are truncated, in 31 rows (data.length 32)" in dataset.notes
    _, notes = dataset.codec.encode([{"text": "a", "second": "long " * 40}])
    assert notes == ["1 pairs are truncated (data.length 32)"]


def test_a_split_without_labels_is_not_used(tmp_path):
    without = [{name: row[name] for name in ("text", "second")} for row in held_out(ROWS[:3])]
    write(tmp_path, train=ROWS, validation=held_out(ROWS[5:8]), test=without)
    dataset = config(tmp_path).build()
    assert list(dataset.splits) == ["train", "validation"] == list(dataset.shown)
    assert "test has no labels and is not used" in dataset.notes


def test_labels_of_another_source_are_those_of_the_run(tmp_path):
    for name in ("own", "other", "wrong"):
        (tmp_path / name).mkdir()
    write(tmp_path / "own", train=[*ROWS, {**ROWS[0], "text": "unsure", "label": "maybe"}], validation=held_out(ROWS[:3]))
    own = config(tmp_path / "own")
    for name, text in own.build().codec.files.items():
        (tmp_path / name).write_text(text)
    write(tmp_path / "other", test=ROWS[:6])
    dataset = own.elsewhere(tmp_path, f"files:{tmp_path}/other", None, "")
    assert dataset.codec.labels == ("maybe", "no", "yes")
    assert dataset.splits["test"][np.arange(6)]["label"].tolist() == [2, 1, 1, 2, 1, 1]
    write(tmp_path / "wrong", test=[{**ROWS[0], "label": "never"}, ROWS[1]])
    with pytest.raises(DataError, match=r"the run does not know the label\(s\) never; it knows maybe, no, yes"):
        own.elsewhere(tmp_path, f"files:{tmp_path}/wrong", None, "")


MISTAKES = {
    "empty text": ({"text": " "}, r"train.jsonl, line 31: its text is empty; use --data.bad-records skip"),
    "no second": ({"second": None}, r"line 31: it has no second; use --data.bad-records skip"),
    "empty second": ({"second": ""}, r"line 31: its second is empty"),
    "number": ({"second": 3}, r"line 31: its second is int, not a string"),
    "no label": ({"label": None}, r"line 31: it has no label"),
    "list": ({"label": ["no"]}, r"line 31: its label is list, not a string or a number"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(tmp_path, changes, message):
    write(tmp_path, train=[*ROWS, {**ROWS[0], **changes}], validation=held_out(ROWS[:3]))
    with pytest.raises(DataError, match=message) as caught:
        config(tmp_path).build()
    assert "\n" not in str(caught.value)


def test_unknown_labels_and_missing_columns(tmp_path):
    write(tmp_path, train=ROWS, validation=[*held_out(ROWS[:3]), {**ROWS[0], "text": "new", "label": "never"}])
    with pytest.raises(DataError, match="validation has the label 'never', which is not in train; train has no, yes"):
        config(tmp_path).build()
    with pytest.raises(DataError, match="no field 'hypothesis'; available: text, second, label"):
        config(tmp_path, fields="second=hypothesis").build()
