"""Mismatched pairs: half of the rows, with the second text of the most similar other row."""

import json

import numpy as np
import pytest

from data import sources
from data.errors import DataError
from data.sources.mismatched import Mismatched, nearest
from data.text.language_modelling import Text
from data.text.sentence_pairs import SentencePairs

PAIRS = [(f"a {animal} on the {place}", f"ein {animal} auf dem {place}") for animal in ("dog", "cat", "cow") for place in "xyzu"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder, extra=()) -> str:
    for split, end in (("train", ""), ("test", " too")):
        rows = [{"en": en + end, "de": de} for en, de in PAIRS]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
    return f"mismatched:files:{folder}"


def test_the_partner_is_the_most_similar_text_of_another_second():
    texts = ["a red big house", "a red house", "two dogs run", "two dogs sleep", "two dogs run"]
    seconds = ["A", "B", "C", "D", "C"]
    assert nearest(texts, seconds).tolist() == [1, 0, 3, 2, 3]
    with pytest.raises(DataError, match="fewer than two different second texts"):
        nearest(texts, ["A"] * 5)


def test_half_of_the_rows_are_mismatched_and_always_the_same(tmp_path):
    names = {"text": "en", "second": "de", "label": "label"}
    splits = sources.find(write(tmp_path)).splits({}, names)
    rows = list(splits["train"])
    assert rows == list(splits["train"])
    labels = [row["label"] for row in rows]
    assert labels.count("match") == labels.count("mismatch") == 6
    for row, (en, de) in zip(rows, PAIRS, strict=True):
        assert row["en"] == en and (row["de"] == de) == (row["label"] == "match")
        assert len(set(row["de"].split()) & set(de.split())) >= 3, "a mismatch is similar"


def test_labelled_pairs_read_it(tmp_path):
    config = SentencePairs(source=write(tmp_path), fields="text=en,second=de", length=32, vocab_size=300)
    dataset = config.build()
    assert dataset.codec.labels == ("match", "mismatch") and len(dataset.splits["test"]) == 12
    assert np.bincount(dataset.splits["test"][np.arange(12)]["label"]).tolist() == [6, 6]


def test_mistakes_are_one_line(tmp_path):
    source = write(tmp_path, extra=[{"en": "no translation"}])
    with pytest.raises(DataError, match="line 13: it has no second"):
        SentencePairs(source=source, fields="text=en,second=de", length=32, vocab_size=300).build()
    with pytest.raises(DataError, match="needs data with pairs of texts, `text` and `second`"):
        Text(source=source, fields="text=en", length=32, vocab_size=300).build()
    with pytest.raises(DataError, match="name a source with pairs of texts"):
        sources.find("mismatched")
    assert Mismatched("digits").stamp() == sources.find("digits").stamp()
