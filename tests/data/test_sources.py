"""Sources: files of a user, the corpus of the machine, the digits; labels and their budget."""

import json

import pytest

from data import cache, labels, sources
from data.errors import DataError
from data.sources import pydocs
from data.sources.files import Files


@pytest.mark.quick
def test_a_text_file_is_a_document_a_line_or_between_blank_lines(tmp_path):
    lines, blocks = tmp_path / "lines.txt", tmp_path / "blocks.txt"
    lines.write_text("one\ntwo\nthree\n")
    blocks.write_text("one\ntwo\n\n\nthree\n\nfour\n")
    texts = lambda path: sorted(row["text"] for rows in Files(str(path)).load().values() for row in rows)
    assert texts(lines) == ["one", "three", "two"]
    assert texts(blocks) == ["four", "one\ntwo", "three"]


@pytest.mark.quick
def test_the_held_out_tenth_does_not_depend_on_the_order(tmp_path):
    rows = [{"text": f"document {i}", "label": "ab"[i % 2]} for i in range(200)]
    held_out = []
    for name, ordered in (("a.jsonl", rows), ("b.jsonl", rows[::-1])):
        (tmp_path / name).write_text("\n".join(map(json.dumps, ordered)))
        held_out.append({row["text"] for row in Files(str(tmp_path / name)).load()["validation"]})
    assert held_out[0] == held_out[1] and 8 <= len(held_out[0]) <= 35


@pytest.mark.quick
def test_digits_are_split_once_for_all():
    splits = sources.load("digits")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1438, "test": 359}
    assert splits["test"][0]["image"].shape == (8, 8, 1) and {row["label"] for row in splits["test"]} == set("0123456789")


@pytest.mark.quick
def test_a_budget_takes_as_many_of_each_label_and_depends_on_its_seed():
    rows = [{"text": str(i), "label": "abc"[i % 3]} for i in range(30)]
    chosen = labels.budget(rows, 4, 0, "x")
    assert sorted(row["label"] for row in chosen) == list("aaaabbbbcccc")
    assert chosen == labels.budget(rows, 4, 0, "x") != labels.budget(rows, 4, 1, "x")
    with pytest.raises(DataError, match="'a' has 10 rows"):
        labels.budget(rows, 11, 0, "x")


@pytest.mark.quick
def test_a_label_that_training_never_sees_is_refused():
    with pytest.raises(DataError, match=r"test has the label 'c', and train only a, b"):
        labels.numbered({"train": [{"label": "a"}, {"label": "b"}], "test": [{"label": "c"}]}, "x")


@pytest.mark.quick
def test_a_cache_that_is_cut_short_or_cannot_be_written_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path))
    made = []
    make = lambda: made.append(1) or {"value": [1, 2]}
    assert cache.cached("a", make) == cache.cached("a", make) == {"value": [1, 2]} and len(made) == 1
    (tmp_path / "a.json").write_text('{"value": [1')
    assert cache.cached("a", make) == {"value": [1, 2]} and len(made) == 2
    monkeypatch.setenv("FMODELS_CACHE", "/proc/nowhere")
    assert cache.cached("a", make) == {"value": [1, 2]} and len(made) == 3


@pytest.fixture(scope="module")
def passages():
    return pydocs.collect()


def test_the_corpus_is_large_and_no_two_passages_are_alike(passages):
    assert len(passages) > 15_000
    assert len({passage.text for passage in passages}) == len(passages)
    words = [len(passage.text.split()) for passage in passages]
    assert min(words) >= 20 and max(words) <= 120


def test_held_out_modules_are_held_out_of_everything(passages):
    corpus, topics = sources.load("pydocs"), sources.load("pydocs:topics")
    documents = {split: {row["document"] for row in rows} for split, rows in corpus.items()}
    assert not documents["train"] & documents["validation"]
    masked = {pydocs.mask_names(row["text"]) for row in corpus["train"]}
    assert not {row["text"] for row in topics["test"]} & masked
    seen = {split: {row["text"] for row in rows} for split, rows in topics.items()}
    assert not seen["train"] & seen["test"] and not seen["validation"] & seen["test"]
    assert {row["label"] for row in topics["test"]} == set(pydocs.TOPICS)


def test_no_name_of_a_library_is_left_in_a_topic_passage():
    words = {
        word.strip(".,()").lower()
        for rows in sources.load("pydocs:topics").values()
        for row in rows
        for word in row["text"].split()
    }
    assert not words & {"numpy", "np", "scipy", "jax", "jnp", "flax", "sklearn", "matplotlib", "orbax", "python", "scikit-learn"}
