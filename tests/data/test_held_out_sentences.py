"""Phrases of held-out sentences are not in train."""

import os

import pytest

from data import held_out_sentences
from data.errors import DataError
from data.images.labelled import Images
from data.reading import Reading
from data.text import overlap
from data.text.labelled import LabelledText

SENTENCES = [f"the {number} th film of this director is {word}" for number in range(100) for word in ("fine", "dull")]
SPLITS = "train=train,validation=held_out_sentences,test=validation"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Every sentence and three phrases of it, sorted by length, so that the phrases of a sentence are apart."""
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))
    rows = [part for s in SENTENCES for part in (s, s.split(" film ")[0], s.split(" of ")[0], s[s.index("director") :])]
    (tmp_path / "rows").mkdir()
    lines = [f"{row}\t{'dull' in row:d}\n" for row in sorted(rows, key=len)]
    (tmp_path / "rows/train.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    (tmp_path / "rows/dev.tsv").write_text("sentence\tlabel\na good film\t0\na bad one\t1\n")
    return tmp_path / "rows"


def texts(source, splits=SPLITS, fields="text=sentence"):
    """The texts of each split."""
    config = LabelledText(source=source, fields=fields, splits=splits)
    return {split: [row["text"] for row in rows] for split, rows in Reading(config).splits().items()}


def test_no_part_of_a_held_out_sentence_is_in_train(folder):
    found = texts(f"files:{folder}")
    train, held = set(found["train"]), set(found["validation"])
    assert found["test"] == ["a good film", "a bad one"] and len(held) == 20 and held < set(SENTENCES)
    assert not any(row in sentence for row in train for sentence in held)
    assert {"director is fine", "director is dull"}.isdisjoint(train), "also if other sentences have the same part"
    beginnings = {sentence.split(" film ")[0] for sentence in held}
    kept = [s for s in SENTENCES if s not in held and s.split(" film ")[0] not in beginnings]
    assert set(kept) < train and all(s.split(" film ")[0] in train for s in kept)
    assert found == texts(f"files:{folder}"), "the choice is fixed"
    assert LabelledText(source=f"files:{folder}", fields="text=sentence", splits=SPLITS, length=16, vocab_size=300).build()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TFDS_DATA_DIR"), reason="TFDS_DATA_DIR is not set")
def test_sst2_held_out_by_sentence_does_not_overlap_with_train_but_a_slice_does():
    source, fields = "tfds:glue/sst2", "text=sentence,label=label"
    found = texts(source, SPLITS, fields)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 59_386, "validation": 689, "test": 872}
    assert len(overlap.overlaps(found["train"], found["validation"])) == 3
    sliced = texts(source, "train=train[:90%],validation=train[90%:]", fields)
    assert len(overlap.overlaps(sliced["train"], sliced["validation"][:2000])) == 1360


def test_words_and_not_letters_are_compared():
    assert list(held_out_sentences.parts("a b c")) == ["a", "b", "c", "a b", "b c"]
    rows = [{"text": text} for text in ("Cat sat", "cat", "at", "sat  down", "CAT SAT")]
    found = held_out_sentences.Sentences(rows, "text")
    assert {found.normalized(row) for row in rows} - set(held_out_sentences.parts("cat sat")) == {"cat sat", "at", "sat down"}
    splits = {split: [row["text"] for row in part] for split, part in held_out_sentences.split(rows, "text").items()}
    assert splits["validation"] in (["Cat sat", "CAT SAT"], ["at"], ["sat  down"])
    assert set(splits["train"]).isdisjoint(splits["validation"])


def test_long_texts_and_images_are_errors():
    rows = [{"text": "a b"}, {"text": "word " * 101}]
    with pytest.raises(DataError, match=r"^text 'word word word word word': 101 words; held_out_sentences takes at most 100"):
        list(held_out_sentences.split(rows, "text")["train"])
    with pytest.raises(ValueError, match="splits: held_out_sentences needs texts; use held_out"):
        Images(splits="train=train,validation=held_out_sentences")
