"""Questions about texts: windows cover the context, offsets give back the answers, and mistakes are one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import DataError
from data.text.squad import SquadText

LONG = " ".join(f"In {1900 + i} the café №{i} of Zürich sold {i * 7} cakes." for i in range(30))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def question(text: str, context: str, *answers: str, name: str = "") -> dict[str, Any]:
    found = [{"text": answer, "answer_start": context.index(answer)} for answer in answers]
    return {"id": name or text, "question": text, "answers": found, "is_impossible": not answers}


def write(folder: Path, context: str, *questions: dict[str, Any], split: str = "train") -> None:
    article = {"title": "cakes", "paragraphs": [{"context": context, "qas": list(questions)}]}
    (folder / f"{split}.json").write_text(json.dumps({"version": "1.1", "data": [article]}))


QUESTIONS = [question(f"How many cakes in {1900 + i}?", LONG, f"{i * 7} cakes") for i in range(2, 30, 3)]


def build(folder: Path, *train: dict[str, Any], **changes):
    write(folder, LONG, *(train or QUESTIONS))
    write(folder, f"{LONG} Or none.", question("None?", f"{LONG} Or none.", "none"), split="test")
    sizes = {"length": 64, "stride": 20, "question_length": 16, "vocab_size": 400, "batch_size": 2, "tokenizer_kind": "bpe"}
    return SquadText(**{"source": f"files:{folder}", **sizes, **changes}).build()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_windows_cover_the_context_and_offsets_give_back_the_answers(tmp_path, kind):
    dataset = build(tmp_path, tokenizer_kind=kind, vocab_size=320)
    train = dataset.splits["train"]
    rows, found = train[np.arange(len(train))], dict[bytes, set[int]]()
    for i in range(len(train)):
        row = {name: column[i] for name, column in rows.items()}
        inside = row["begins"] >= 0
        assert (row["segments"][inside] == 1).all() and row["mask"][inside].all()
        asked = row["tokens"][row["mask"] & (row["segments"] == 0)].tobytes()
        for begin, end in zip(row["begins"][inside], row["ends"][inside], strict=True):
            found.setdefault(asked, set()).update(range(begin, end))
        if row["start"]:
            answer = LONG[row["begins"][row["start"]] : row["ends"][row["end"]]]
            assert any(answer == one["answers"][0]["text"] for one in QUESTIONS)
        else:
            assert row["end"] == 0
    letters = {at for at, character in enumerate(LONG) if not character.isspace()}
    assert len(found) == len(QUESTIONS) and all(letters <= places for places in found.values())
    answered = {rows["tokens"][i][rows["mask"][i] & (rows["segments"][i] == 0)].tobytes() for i in np.flatnonzero(rows["start"])}
    assert answered == set(found), "each question has its answer in a window"
    test = dataset.splits["test"]
    assert len(test) > 5 and len(dataset.references["test"]) == len(test)
    assert {reference["id"] for reference in dataset.references["test"]} == {"None?"}


def test_rows_to_predict_have_their_record(tmp_path):
    codec = build(tmp_path).codec
    arrays, notes = codec.encode([{"question": "What?", "context": LONG}, {"question": "Why?", "context": "Because."}])
    assert arrays["record"].tolist() == [0] * (len(arrays["record"]) - 1) + [1] and not notes
    assert not arrays["start"].any()


def test_long_questions_are_counted(tmp_path):
    dataset = build(tmp_path, *QUESTIONS, question("What " * 30, LONG, "Zürich"))
    assert any(note.startswith("train: 1 questions are truncated") for note in dataset.notes)


def test_answers_longer_than_every_window_are_counted(tmp_path):
    dataset = build(tmp_path, *QUESTIONS, question("All?", LONG, LONG))
    assert any(note.startswith("train: 1 answers are in no window, in ") for note in dataset.notes)


def test_answers_in_other_forms(tmp_path):
    config = SquadText(source="none", length=64, stride=20, question_length=16)
    row = {"question": "Who?", "context": "It was Ada."}
    expected = [{"text": "Ada", "start": 7}]
    for answers in (
        {"answers": [{"text": "Ada", "answer_start": 7}]},
        {"answers": {"text": ["Ada"], "answer_start": [7]}},
        {"answer": "Ada", "start": 7},
    ):
        assert config.accepted({**row, **answers}, str)["answers"] == expected
    assert config.accepted({**row, "answers": []}, str)["answers"] == []
    assert config.accepted(row, str)["answers"] is None


BAD = {
    "elsewhere": ({"answers": [{"text": "Ada", "answer_start": 6}]}, "its answer 'Ada' is not at character 6 of its context"),
    "negative": ({"answers": [{"text": ".", "answer_start": -1}]}, "its answer '.' is not at character -1 of its context"),
    "no start": ({"answers": [{"text": "Ada"}]}, "its answer 'Ada' has no answer_start, a number of characters"),
    "no text": ({"answers": [{"text": "", "answer_start": 0}]}, "its answer '' is not a text"),
    "no list": ({"answers": "Ada"}, "its answers are not a list of text and answer_start"),
    "no question": ({"question": None}, "it has no question"),
    "empty context": ({"context": " "}, "its context is empty"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_mistakes_are_named(change, message):
    config = SquadText(source="none", length=64, stride=20, question_length=16)
    assert config.accepted({"question": "Who?", "context": "It was Ada.", **change}, str) == message


def test_files_in_another_form_are_errors(tmp_path):
    for content, message in {
        "{": "not JSON in UTF-8",
        "[1]": "not in the format of SQuAD",
        '{"data": [{"title": "a"}]}': "not in the format of SQuAD: no 'paragraphs'",
        '{"data": [{"paragraphs": [{"qas": [{"id": "1", "question": "a", "answers": []}]}]}]}': "no 'context'",
    }.items():
        write(tmp_path, LONG, *QUESTIONS, split="test")
        (tmp_path / "train.json").write_text(content)
        with pytest.raises(DataError, match=r"train\.json") as caught:
            SquadText(source=f"files:{tmp_path}", length=64, stride=20, question_length=16).build()
        assert message in str(caught.value)


def test_windows_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match=r"^stride must be in \[1, 45\], .* not 46"):
        SquadText(source="none", length=64, stride=46, question_length=16)
