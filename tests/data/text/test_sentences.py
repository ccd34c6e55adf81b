"""Texts and pairs with labels and scores: the arrays give back the texts and the answers, and mistakes are one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.text.matching import MatchingTexts
from data.text.sentences import LabelledSentences, MultiLabelled, Scored, Sentences, fitting

FIRST = [f"the {word} cat number {i}" for i, word in enumerate(["red", "green", "blue", "old"] * 10)]
SECOND = [f"a dog of {i} years, {'asleep' if i % 3 else 'awake'}" for i in range(40)]
SIZES = {"length": 40, "batch_size": 4, "vocab_size": 400, "tokenizer_kind": "bpe"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def build(kind: type[Sentences], folder: Path, rows: list[dict], test_rows: int = 6, **changes):
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(
        "".join(json.dumps({**row, "text": f"so {row['text']}"}) + "\n" for row in rows[:test_rows])
    )
    return kind(**{"source": f"files:{folder}", **SIZES, **changes}).build()


def pairs(**answers) -> list[dict]:
    columns = {"text": FIRST, "second": SECOND, **answers}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def texts_of(row: dict[str, np.ndarray], codec) -> list[str]:
    decode = codec.vocabulary.implementation.decode
    return [
        decode(row["tokens"][row["mask"] & (row["segments"] == number)].tolist()) for number in range(row["segments"].max() + 1)
    ]


@pytest.mark.parametrize(
    ("kind", "name", "answers"),
    [
        (LabelledSentences, "label", [["yes", "no", "maybe"][i % 3] for i in range(40)]),
        (MultiLabelled, "labels", [["a", "b", "c"][: i % 4] for i in range(40)]),
        (Scored, "score", [i / 7 - 2 for i in range(40)]),
    ],
)
@pytest.mark.parametrize("paired", [True, False])
def test_rows_give_back_texts_and_answers(tmp_path, kind, name, answers, paired):
    rows = pairs(**{name: answers})
    dataset = build(kind, tmp_path, rows, pairs=paired)
    found, labels = dataset.splits["test"][np.arange(6)], dataset.codec.labels
    for i in range(6):
        row = {key: column[i] for key, column in found.items()}
        assert texts_of(row, dataset.codec) == [f"so {FIRST[i]}", SECOND[i]][: 1 + paired]
        if name == "label":
            answer = labels[row["label"]]
        elif name == "labels":
            answer = [labels[number] for number in row["labels"] if number >= 0]
        else:
            answer = pytest.approx(row["score"])
        assert answer == answers[i]
    assert list(dataset.references["test"]) == answers[:6]
    train = dataset.splits["train"]
    assert len(train) == 40
    if name == "score":
        assert dataset.facts["score_mean"] == pytest.approx(np.mean(answers))
        assert dataset.facts["score_std"] == pytest.approx(np.std(answers))
    else:
        assert dataset.facts["classes"] == 3


def test_the_longer_text_of_a_pair_is_truncated_first(tmp_path):
    assert fitting([10, 30], 20) == [10, 10]
    assert fitting([4, 30], 20) == [4, 16]
    assert fitting([30, 4], 20) == [16, 4]
    assert fitting([30, 30], 21) == [11, 10]
    assert fitting([50], 20) == [20]
    dataset = build(Scored, tmp_path, [*pairs(score=[0] * 40), {"text": "a", "second": "b " * 90, "score": 1}], pairs=True)
    assert "train: 1 rows are truncated, in 41 rows (data.length 40)" in dataset.notes


def test_labels_of_a_string_are_between_separators(tmp_path):
    rows = pairs(labels=["red ; green", "", "green", ";red;;red"] * 10)
    dataset = build(MultiLabelled, tmp_path, rows, separator=";")
    assert dataset.codec.labels == ("green", "red")
    assert list(dataset.references["test"])[:4] == [["green", "red"], [], ["green"], ["red"]]


def test_matching_texts_are_two_inputs(tmp_path):
    dataset = build(MatchingTexts, tmp_path, pairs())
    row = {name: column[0] for name, column in dataset.splits["test"][np.arange(1)].items()}
    decode = dataset.codec.vocabulary.implementation.decode
    assert decode(row["tokens"][row["mask"]].tolist()) == f"so {FIRST[0]}"
    assert decode(row["second_tokens"][row["second_mask"]].tolist()) == SECOND[0]
    assert np.isnan(row["score"]) and list(dataset.references["test"]) == [None] * 6
    assert dataset.codec.encode([{"text": "one text"}])[0]["second_tokens"].shape == (1, 40)


BAD = {
    "no second": (Scored, {"text": "a", "score": 1}, "it has no second"),
    "empty second": (Scored, {"text": "a", "second": " ", "score": 1}, "its second is empty"),
    "number for a text": (Scored, {"text": "a", "second": 3, "score": 1}, "its second is int, not a string"),
    "no score": (Scored, {"text": "a", "second": "b"}, "it has no score"),
    "not a score": (Scored, {"text": "a", "second": "b", "score": "abc"}, "its score is 'abc', not a finite number"),
    "infinite": (Scored, {"text": "a", "second": "b", "score": "inf"}, "its score is 'inf', not a finite number"),
    "truth": (Scored, {"text": "a", "second": "b", "score": True}, "its score is True, not a finite number"),
    "labels": (MultiLabelled, {"text": "a", "second": "b", "labels": 3}, "its labels are not a list of strings"),
    "many": (MultiLabelled, {"text": "a", "second": "b", "labels": "a,b,c"}, "it has 3 labels, more than data.most_labels 2"),
    "no label": (LabelledSentences, {"text": "a", "second": "b"}, "it has no label"),
}


@pytest.mark.parametrize(("kind", "row", "message"), BAD.values(), ids=BAD.keys())
def test_mistakes_are_one_line(tmp_path, kind, row, message):
    good = {Scored: {"score": 1.5}, MultiLabelled: {"labels": ["x", "y"]}, LabelledSentences: {"label": "x"}}[kind]
    options = {"most_labels": 2} if kind is MultiLabelled else {}
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: ") as caught:
        build(kind, tmp_path, [{"text": "c", "second": "d", **good}, row], 1, pairs=True, **options)
    assert message in str(caught.value)


def test_labels_unknown_to_train_are_errors(tmp_path):
    rows = pairs(label=["x", "y"] * 20)
    with pytest.raises(DataError, match="train has the label 'y'; the labels are x, z"):
        build(LabelledSentences, tmp_path, rows, labels=("x", "z"))
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match="at least two labels are needed; train has x"):
        build(LabelledSentences, tmp_path / "one", pairs(label=["x"] * 40))
