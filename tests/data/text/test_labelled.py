"""Labelled texts: the labels of every split, and prediction of the same rows."""

import json
import unicodedata

import numpy as np
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


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_prediction_reads_a_row_like_evaluation(tmp_path, kind):
    """Also text in Unicode NFD, with control characters, and with names of special tokens."""
    texts = [f"caf\u00e9 na\u00efve [MASK] \u00fcber [SEP] {i}\0\r\n end" for i in range(20)]
    rows = [{"text": unicodedata.normalize("NFD", text), "label": "ab"[i % 2]} for i, text in enumerate(texts)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps({**row, "text": row["text"] + split}) for row in rows))
    dataset = LabelledText(source=f"files:{tmp_path}", length=48, vocab_size=400, tokenizer_kind=kind).build()
    evaluated = dataset.splits["validation"][np.arange(len(rows))]
    predicted, _ = dataset.codec.encode([{"text": row["text"] + "validation"} for row in rows])
    for name, array in predicted.items():
        np.testing.assert_array_equal(array, evaluated[name], err_msg=name)


def test_note_on_truncated_texts_counts_the_texts_in_use(tmp_path):
    for split in ("train", "validation"):
        lines = [f"{split} {label} {i} {'long ' * 30}\t{label}" for i in range(9) for label in "ab"]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["text\tlabel", *lines]))
    config = LabelledText(source=f"files:{tmp_path}", length=16, vocab_size=300, labels_per_class=2)
    assert "train: 4 of 4 texts are longer than data.length 16 and are truncated" in config.build().notes


def test_note_on_words_that_an_inherited_tokenizer_does_not_know(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "note", "is"]))
    (folder := tmp_path / "rows").mkdir()
    for split in ("train", "validation"):
        lines = [
            f"note is is is is is is is {word if split == 'train' else label}\t{label}"
            for word, label in (("is", "good"), ("note", "bad"))
        ]
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *lines]))
    config = LabelledText(source=f"files:{folder}", length=16, tokenizer=str(tmp_path / "vocab.txt"))
    unknown = [note for note in config.build().notes if "unknown" in note]
    assert unknown == ["validation: 2 of 18 tokens are unknown to the tokenizer; another one may fit the texts"]
