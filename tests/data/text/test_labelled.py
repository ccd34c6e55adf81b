"""Labelled texts: the labels of every split."""

import pytest

from data.text.labelled import LabelledText


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_label_counts_of_every_split_are_shown(tmp_path):
    rows = {"train": "aabbbc", "validation": "ab", "test": "ccc"}
    for split, labels in rows.items():
        lines = [f"{split} text number {i}\t{label}" for i, label in enumerate(labels)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["text\tlabel", *lines]))
    about = LabelledText(source=f"files:{tmp_path}", length=16, vocab_size=300).build().about
    assert about["labels of train"] == {"a": 2, "b": 3, "c": 1}
    assert about["labels of validation"] == {"a": 1, "b": 1, "c": 0}
    assert about["labels of test"] == {"a": 0, "b": 0, "c": 3}
