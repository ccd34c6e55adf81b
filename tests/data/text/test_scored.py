"""Texts and pairs of texts with scores: facts of train, references, and mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.text.scored import ScoredText

ROWS = [{"text": f"the {word} house {i}", "second": f"a {word} one {i}", "score": i / 4} for i, word in enumerate("abc" * 8)]
SINGLE = [{name: row[name] for name in ("text", "score")} for row in ROWS]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))


def config(folder: Path, train: list[dict], **changes) -> ScoredText:
    for split, rows in (("train", train), ("test", [{**row, "text": f"{row['text']} too"} for row in ROWS[:5]])):
        rows = [{name: row[name] for name in row if name in train[0]} for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ScoredText(**{"source": f"files:{folder}", "length": 32, "vocab_size": 300, "batch_size": 4, **changes})


@pytest.mark.parametrize("pairs", [False, True])
def test_scores_are_targets_references_and_facts(tmp_path, pairs):
    dataset = config(tmp_path, ROWS if pairs else SINGLE, pairs=pairs).build()
    rows = dataset.splits["test"][np.arange(5)]
    assert rows["score"].tolist() == [0, 0.25, 0.5, 0.75, 1] == list(dataset.references["test"])
    assert rows["segments"].any(1).tolist() == [pairs] * 5
    scores = [row["score"] for row in ROWS]
    assert dataset.facts["score_mean"] == pytest.approx(np.mean(scores))
    assert dataset.facts["score_std"] == pytest.approx(np.std(scores))
    row = {"text": "the a house 0 too", **({"second": ROWS[0]["second"]} if pairs else {})}
    arrays, _ = dataset.codec.encode([row])
    assert np.isnan(arrays["score"]).all() and (arrays["tokens"][0] == rows["tokens"][0]).all()


def test_scores_of_another_source_keep_the_unit_of_the_run(tmp_path):
    own = config(tmp_path, SINGLE)
    for name, text in own.build().codec.files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "other.tsv").write_text("text\tscore\nhello\t90.5\nbye\t70")
    dataset = own.elsewhere(tmp_path, f"files:{tmp_path}/other.tsv", None, "")
    assert dataset.splits["test"][np.arange(2)]["score"].tolist() == [90.5, 70]
    assert dataset.facts["score_mean"] is None


MISTAKES = {
    "text": (False, {"score": "abc"}, "line 25: its score is 'abc', not a number; use --data.bad-records skip"),
    "not a number": (False, {"score": float("nan")}, "line 25: its score is nan, not a finite number"),
    "infinite": (False, {"score": "inf"}, "line 25: its score is inf, not a finite number"),
    "missing": (False, {"score": None}, "line 25: it has no score"),
    "second": (False, {"second": "more"}, "line 25: it has a second text; read pairs with --data.pairs"),
    "no second": (True, {"second": None}, "line 25: it has no second; choose a field with --data.fields second=NAME"),
}


@pytest.mark.parametrize(("pairs", "changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(tmp_path, pairs, changes, message):
    rows = ROWS if pairs else SINGLE
    built = config(tmp_path, rows, pairs=pairs)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps({**rows[0], **changes}) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        built.build()
    assert "\n" not in str(caught.value)


def test_scores_must_differ_and_exist(tmp_path):
    with pytest.raises(DataError, match="every row of train has the score 2; two scores are needed"):
        config(tmp_path, [{**row, "score": 2} for row in SINGLE]).build()
    with pytest.raises(DataError, match="no field 'stars'; available: text, score"):
        replace(config(tmp_path, SINGLE), fields="score=stars").build()
