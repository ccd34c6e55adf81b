"""Parallel texts: every pair is in a row exactly once, held-out rows keep the order, and mismatches are refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.text.parallel import ParallelText

SOURCES = [f"the {word} number {i} of a house" for i, word in enumerate(["red", "green", "blue", "old", "new"] * 12)]
TARGETS = [text.upper().replace("NUMBER", "NR") for text in SOURCES]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, split: str, sources: list[str], targets: list[str]) -> None:
    with gzip.open(folder / f"{split}.en.gz", "wt") as file:
        file.write("".join(f"{text}\n" for text in sources))
    (folder / f"{split}.de").write_text("".join(f"{text}\n" for text in targets))


def config(folder: Path, **changes) -> ParallelText:
    defaults = {"source": f"files:{folder}/*.*", "fields": "source=en,target=de", "length": 40, "batch_size": 4}
    return ParallelText(**{**defaults, "tokenizer_kind": "bpe", "vocab_size": 400, **changes})


def pairs_of(row: dict[str, np.ndarray], codec) -> list[tuple[str, str]]:
    """The texts of each pair of a row."""
    decode = lambda ids: codec.vocabulary.implementation.decode(ids.tolist(), skip_special_tokens=False)
    found = []
    for number in range(1, row["sequences"].max() + 1):
        here, there = row["sequences"] == number, row["source_sequences"] == number
        source, tokens, targets = row["source"][there], row["tokens"][here], row["targets"][here]
        assert row["positions"][here].tolist() == list(range(here.sum()))
        assert row["source_positions"][there].tolist() == list(range(there.sum()))
        assert tokens[1:].tolist() == targets[:-1].tolist()
        special = codec.vocabulary.special
        assert (tokens[0], targets[-1], source[-1]) == (special["cls"], special["sep"], special["sep"])
        found.append((decode(source[:-1]), decode(tokens[1:])))
    assert (row["targets"][row["sequences"] == 0] == -1).all()
    return found


def changed(texts: list[str]) -> list[str]:
    return [f"{text} too" for text in texts[::-1]]


@pytest.mark.parametrize("packed", [True, False])
def test_every_pair_is_in_one_row(tmp_path, packed):
    write(tmp_path, "train", SOURCES, TARGETS)
    write(tmp_path, "val", changed(SOURCES), changed(TARGETS))
    dataset = config(tmp_path, packed=packed).build()
    found = {}
    for split, examples in dataset.splits.items():
        rows = examples[np.arange(len(examples))]
        found[split] = [pairs_of({name: column[i] for name, column in rows.items()}, dataset.codec) for i in range(len(examples))]
    assert found["validation"] == [[pair] for pair in zip(changed(SOURCES), changed(TARGETS), strict=True)]
    assert sorted(pair for row in found["train"] for pair in row) == sorted(zip(SOURCES, TARGETS, strict=True))
    assert max(map(len, found["train"])) == (5 if packed else 1)
    assert list(dataset.references["validation"]) == changed(TARGETS)
    assert ("train" in dataset.references) == (not packed), "a packed row has no single reference"
    assert list(dataset.shown["validation"]) == changed(SOURCES)


def test_truncated_texts_are_counted(tmp_path):
    write(tmp_path, "train", [*SOURCES, "long " * 40, "longer " * 40], [*TARGETS, "lang " * 40, "short"])
    write(tmp_path, "val", ["a"], ["b"])
    dataset = config(tmp_path).build()
    assert "train: 2 source texts are truncated, in 62 rows (data.length 40)" in dataset.notes
    assert "train: 1 target texts are truncated, in 62 rows (data.length 40)" in dataset.notes
    arrays, notes = dataset.codec.encode([{"source": "long " * 40}])
    assert notes == ["1 source texts are truncated (data.length 40)"]
    assert (arrays["source"][0] != 0).all()


def test_unknown_tokens_are_counted(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc"]))
    write(tmp_path, "train", ["a b c", "c b a"], ["a", "b c"])
    write(tmp_path, "val", ["a b ☃"], ["☃ a"])
    fields = {"vocab_size": None, "tokenizer_kind": None, "tokenizer": str(tmp_path / "vocab.txt")}
    dataset = config(tmp_path, source=f"files:{tmp_path}/*.[dg]*", **fields).build()
    # Three tokens and [SEP] of the source, [CLS] and two tokens of the target.
    assert dataset.notes == ["validation: 2 of 7 tokens are unknown to the tokenizer; another one may fit the texts"]
    _, notes = dataset.codec.encode([{"source": "☃"}, {"source": "a"}])
    assert notes == ["1 of 6 tokens are unknown to the tokenizer"]


def test_repeated_pairs_are_dropped_but_not_repeated_sources(tmp_path):
    write(tmp_path, "train", ["one", "one", "one"], ["eins", "einer", "eins"])
    write(tmp_path, "val", ["two"], ["zwei"])
    dataset = config(tmp_path, packed=False).build()
    assert len(dataset.splits["train"]) == 2
    assert dataset.notes[0] == "cleaning removed 1 exact duplicates, of 4 rows"


def test_tables_and_objects_with_two_fields(tmp_path):
    for split, texts in (("train", SOURCES), ("test", ["a b"])):
        rows = [{"article": text, "summary": text[:8]} for text in texts]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = config(tmp_path, source=f"files:{tmp_path}", fields="source=article,target=summary").build()
    assert list(dataset.references["test"]) == ["a b"]


MISTAKES = {
    "unequal lengths": (SOURCES, TARGETS[:-1], r"train.en.gz has 60 lines, .*train.de has 59 lines: the lines of .* correspond"),
    "empty source": ([*SOURCES, " "], [*TARGETS, "x"], r"train.en.gz, line 61: its source is empty; use --data.bad-records skip"),
    "empty target": ([*SOURCES, "x"], [*TARGETS, ""], r"train.en.gz, line 61: its target is empty; use --data.bad-records skip"),
}


@pytest.mark.parametrize(("sources", "targets", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_parallel_files(tmp_path, sources, targets, message):
    write(tmp_path, "train", sources, targets)
    write(tmp_path, "val", ["a"], ["b"])
    with pytest.raises(DataError, match=message) as caught:
        config(tmp_path).build()
    assert "\n" not in str(caught.value)


def test_missing_and_unknown_languages(tmp_path):
    write(tmp_path, "train", SOURCES, TARGETS)
    write(tmp_path, "val", ["a"], ["b"])
    (tmp_path / "train.more.en").write_text("a house\n")
    with pytest.raises(DataError, match=r"train.more.en has no counterpart train.more.de"):
        config(tmp_path).build()
    with pytest.raises(DataError, match=r"no field 'fr'; available: en"):
        config(tmp_path, fields="source=en,target=fr").build()


def test_bad_pairs_can_be_skipped(tmp_path):
    write(tmp_path, "train", [*SOURCES, ""], [*TARGETS, "x"])
    write(tmp_path, "val", ["a"], ["b"])
    dataset = config(tmp_path, bad_records="skip", packed=False).build()
    assert len(dataset.splits["train"]) == 60
    assert [json.loads(line)["what"] for line in dataset.bad_records] == ["its source is empty"]


def test_rows_to_predict_may_lack_a_target(tmp_path):
    write(tmp_path, "train", SOURCES, TARGETS)
    write(tmp_path, "val", ["a"], ["b"])
    built = config(tmp_path)
    codec = built.build().codec
    (tmp_path / "new.en").write_text("one house\ntwo houses\n")
    rows = built.read_input([str(tmp_path / "new.en")])
    arrays, _ = codec.encode([*rows, {"text": "one house"}])
    np.testing.assert_array_equal(arrays["source"][0], arrays["source"][2])
    with pytest.raises(DataError, match="row 0: it has no source"):
        codec.encode([{"target": "x"}])
    with pytest.raises(DataError, match="row 0: its source is empty"):
        codec.encode([{"text": " "}])
    with pytest.raises(DataError, match="row 0: its source is int, not a string"):
        codec.encode([{"source": 3}])
