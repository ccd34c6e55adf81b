"""Tagged sentences: tags stay with the first tokens of their words, long sentences are counted, mismatches are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.text.tagged import TaggedText

WORDS = ["Ada", "Lovelace", "works", "in", "Überlingen", "antidisestablishmentarianism", "now"]
TAGS = ["B-person", "I-person", "O", "O", "B-place", "O", "O"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, split: str, rows: list[tuple[list[str], list[str]]]) -> None:
    lines = ["".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows]
    (folder / f"{split}.conll").write_text("\n".join(lines), "utf-8")


def config(folder: Path, **changes) -> TaggedText:
    return TaggedText(**{"source": f"files:{folder}", "length": 60, "batch_size": 4, "vocab_size": 300, **changes})


def rotated(count: int) -> list[tuple[list[str], list[str]]]:
    return [([*WORDS[i % 7 :], f"w{i}"], [*TAGS[i % 7 :], "O"]) for i in range(count)]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_tags_are_at_the_first_token_of_their_word(tmp_path, kind):
    write(tmp_path, "train", rotated(20))
    write(tmp_path, "test", rotated(9))
    dataset = config(tmp_path, tokenizer_kind=kind).build()
    assert dataset.codec.labels == ("B-person", "B-place", "I-person", "O") and dataset.facts["classes"] == 4
    rows = dataset.splits["test"][np.arange(9)]
    pieces = 0
    for i, (words, tags) in enumerate(rotated(9)):
        starts = np.flatnonzero(rows["starts"][i])
        assert [dataset.codec.labels[tag] for tag in rows["tags"][i, starts]] == tags
        assert (rows["tags"][i, ~rows["starts"][i]] == -1).all() and starts[0] == 1
        ends = [*starts[1:], rows["mask"][i].sum() - 1]
        found = [dataset.codec.decoded(rows["tokens"][i, a:b]) for a, b in zip(starts, ends, strict=True)]
        assert found == ([word.lower().replace("ü", "u") for word in words] if kind == "wordpiece" else words)
        pieces += rows["mask"][i].sum() - 2 - len(words)
    assert pieces > 0, "some words have several tokens"
    assert list(dataset.references["test"]) == [tags for _, tags in rotated(9)]


def test_truncated_sentences_are_counted(tmp_path):
    write(tmp_path, "train", [*rotated(20), (["word"] * 50, ["O"] * 50)])
    write(tmp_path, "test", rotated(1))
    dataset = config(tmp_path, length=30, vocab_size=400).build()
    assert "train: 1 sentences are truncated, in 20 rows (data.length 30)" in dataset.notes


def test_rows_to_predict_need_no_tags(tmp_path):
    write(tmp_path, "train", rotated(20))
    write(tmp_path, "test", rotated(1))
    codec = config(tmp_path).build().codec
    by_text, _ = codec.encode([{"text": "Ada works now"}])
    by_words, _ = codec.encode([{"tokens": ["Ada", "works", "now"]}])
    assert by_text["starts"].sum() == 3 and (by_text["tags"] == -1).all()
    np.testing.assert_array_equal(by_text["tokens"], by_words["tokens"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "it has 2 words but 1 tags"),
        ({"tokens": [], "tags": []}, "it has no words"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "its tokens are not a list of strings"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "its tokens are not a list of strings"),
        ({"tokens": ["a", "b"], "tags": "O O"}, "its tags are not a list of strings"),
        ({"tokens": ["a", "b"], "tags": ["O", ""]}, "its word 2, 'b', has no tag"),
        ({"tokens": ["a"], "tags": None}, "tags"),
    ],
    ids=str,
)
def test_rows_whose_words_and_tags_do_not_match_are_errors(tmp_path, row, message):
    (tmp_path / "train.jsonl").write_text('{"tokens": ["a"], "tags": ["O"]}\n' + json.dumps(row) + "\n")
    (tmp_path / "test.jsonl").write_text('{"tokens": ["a"], "tags": ["O"]}\n')
    with pytest.raises(DataError, match=r"train\.jsonl, line 2") as caught:
        config(tmp_path).build()
    assert message in str(caught.value)


def test_tags_unknown_to_train_are_errors(tmp_path):
    write(tmp_path, "train", rotated(20))
    write(tmp_path, "test", [(["a"], ["B-thing"])])
    with pytest.raises(DataError, match="test has the label 'B-thing'; train has B-person, B-place, I-person, O"):
        config(tmp_path).build()
    with pytest.raises(DataError, match="a row has the label 'I-person'; the labels are B-person, B-place, B-thing, O"):
        config(tmp_path, labels=("B-person", "B-place", "B-thing", "O")).build()


def test_columns_between_tabs_or_spaces(tmp_path):
    text = "-DOCSTART- -X- O\n\n# id = 1\nNew NNP B-place\nYork NNP I-place\n \n\nno\tbreak\xa0space\tO\n#1\tO\n"
    (tmp_path / "train.conll").write_text(text)
    write(tmp_path, "test", [(["a"], ["O"])])
    dataset = config(tmp_path).build()
    assert [text.splitlines() for text in dataset.shown["train"]] == [["New York"], ["no #1"]]
    (tmp_path / "train.conll").write_text("a O\nb\nc O\n\nd O\n")
    with pytest.raises(DataError, match=r"train\.conll, line 2: expected a word and its tag, not 'b'"):
        config(tmp_path).build()
