"""Texts with several labels: lists and strings, order, other sources, and mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.text.multi_labelled import MultiLabelledText

LABELS = [["b", "a"], [], ["c"], ["a", "c", "b"], ["a"], ["b", "b"]]
ROWS = [{"text": f"text number {i}", "labels": LABELS[i % 6]} for i in range(24)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def config(folder: Path, train: list[dict] = ROWS, test: list[dict] = ROWS[:6], **changes) -> MultiLabelledText:
    for split, rows in (("train", train), ("test", [{**row, "text": f"{row['text']} too"} for row in test])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"source": f"files:{folder}", "length": 16, "vocab_size": 300, "batch_size": 4, "most_labels": 3}
    return MultiLabelledText(**{**fields, **changes})


INDICES = [[1, 0, -1], [-1, -1, -1], [2, -1, -1], [0, 2, 1], [0, -1, -1], [1, -1, -1]]


def test_labels_are_indices_of_the_sorted_names(tmp_path):
    dataset = config(tmp_path).build()
    assert dataset.splits["test"][np.arange(6)]["labels"].tolist() == INDICES
    assert dataset.codec.labels == ("a", "b", "c") and dataset.facts["classes"] == 3
    assert list(dataset.references["test"]) == [*LABELS[:5], ["b"]]
    assert dataset.about["labels of test"] == {"a": 3, "b": 3, "c": 2}
    arrays, _ = dataset.codec.encode([{"text": ROWS[0]["text"] + " too"}, {"text": "new", "labels": ["a", "unknown"]}])
    assert (arrays["tokens"][0] == dataset.splits["test"][np.array([0])]["tokens"][0]).all()


def test_labels_in_one_string_give_the_same_arrays(tmp_path):
    for split, rows in (("train", ROWS), ("test", ROWS[:6])):
        lines = [f"{row['text']} {split}\t{' ; '.join(row['labels'])}" for row in rows]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["text\ttopics", *lines]))
    config = MultiLabelledText(source=f"files:{tmp_path}", fields="labels=topics", length=16, vocab_size=300, separator=";")
    assert config.build().splits["test"][np.arange(6)]["labels"][:, :3].tolist() == INDICES
    assert replace(config, separator="|").build().facts["classes"] == 5, "each string is one label"


def test_other_sources_have_the_labels_of_the_run(tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    own = config(tmp_path / "own")
    for name, text in own.build().codec.files.items():
        (tmp_path / name).write_text(text)
    other = config(tmp_path / "other", test=[{"text": "new", "labels": ["c"]}])
    dataset = own.elsewhere(tmp_path, other.source, None, "")
    assert dataset.splits["test"][np.arange(1)]["labels"].tolist() == [[2, -1, -1]]
    config(tmp_path / "other", test=[{"text": "new", "labels": ["d"]}])
    with pytest.raises(DataError, match="has the label 'd'; the labels are a, b, c"):
        own.elsewhere(tmp_path, other.source, None, "")


MISTAKES = {
    "number": ({"labels": 3}, "line 25: its labels are int, not a list or a string; use --data.bad-records skip"),
    "object": ({"labels": {"a": 1}}, "line 25: its labels are dict, not a list or a string"),
    "nested": ({"labels": [["a"]]}, r"line 25: its label \['a'\] is not a string or a whole number"),
    "empty label": ({"labels": "a,,b"}, "line 25: its labels 'a,,b' contain an empty one"),
    "missing": ({"labels": None}, "line 25: it has no labels"),
    "too many": ({"labels": list("abcd")}, "line 25: it has 4 labels, more than data.most_labels 3"),
    "empty text": ({"text": " "}, "line 25: its text is empty"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        config(tmp_path, [*ROWS, {**ROWS[0], **changes}]).build()
    assert "\n" not in str(caught.value)


def test_unknown_and_too_few_labels(tmp_path):
    with pytest.raises(DataError, match="test has the label 'd'; train has a, b, c"):
        config(tmp_path, test=[{"text": "x", "labels": "d"}]).build()
    with pytest.raises(DataError, match="at least two labels are needed; train has a"):
        config(tmp_path, [{"text": "x", "labels": ["a"]}], [{"text": "y", "labels": ["a"]}]).build()
    with pytest.raises(ValueError, match="labels must be at least two distinct names, not a, a"):
        MultiLabelledText(source="x", labels=("a", "a"))
