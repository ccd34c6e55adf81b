"""Text cleaning: changes to texts, dropped documents, and counts."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.text.cleaning import COUNTS, DROPPED, Cleaner, Cleaning
from data.text.minhash import Signatures


def cleaned(folder, texts, **fields):
    with Cleaner(Cleaning(**fields), folder) as cleaner:
        rows = list(cleaner.clean({"text": text, "number": i} for i, text in enumerate(texts)))
    assert cleaner.counts["documents in"] == cleaner.counts["documents out"] + sum(cleaner.counts[why] for why in DROPPED)
    assert list(cleaner.counts) == list(COUNTS) and cleaner.counts["documents out"] == len(rows)
    return [row["text"] for row in rows], {name: count for name, count in cleaner.counts.items() if count}, rows


@pytest.mark.parametrize(
    ("text", "fields", "expected", "count"),
    [
        ("cafe\u0301", {}, "caf\u00e9", "normalized"),
        ("cafe\u0301", {"normalize": False}, "cafe\u0301", None),
        ("a\0 \x1b b\tc\n", {}, "a  b\tc\n", "control characters removed"),
        ("a\r\nb\fc\rd", {}, "a\nb\nc\nd", "control characters removed"),
        ("a\0", {"strip_control": False}, "a\0", None),
        ("e\0\u0301", {}, "\u00e9", "normalized"),
        ("half \ud83d of a pair", {}, "half  of a pair", "control characters removed"),
        ("four", {"max_characters": 2}, "fo", "cut"),
        ("four", {"max_characters": 2, "too_long": "drop"}, None, "too long"),
        ("four", {"min_characters": 5}, None, "too short"),
        (" \n\0\t", {}, None, "empty"),
        ("  four", {"max_characters": 2}, None, "empty"),
    ],
)
def test_a_text_is_cleaned_and_counted(tmp_path, text, fields, expected, count):
    texts, counts, _ = cleaned(tmp_path, [text], **fields)
    assert texts == ([] if expected is None else [expected])
    assert count is None or counts[count]


FIELDS = [{}, {"max_characters": 5}, {"max_characters": 6, "too_long": "drop", "min_characters": 2}, {"near_duplicates": 0.5}]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters() | st.sampled_from("\0\r\n\f \u0301e\ud800"), max_size=12), max_size=8),
    st.sampled_from(FIELDS),
)
def test_cleaning_is_idempotent(tmp_path_factory, texts, fields):
    folder = tmp_path_factory.getbasetemp()
    once, _, _ = cleaned(folder, texts, **fields)
    again, counts, _ = cleaned(folder, once, **fields)
    assert again == once and set(counts) <= {"documents in", "documents out"}
    assert all(unicodedata.is_normalized("NFC", text) and text.encode() and not text.isspace() for text in once)


@pytest.mark.parametrize("batch", [1, 3, 4096])
def test_the_first_of_exact_duplicates_is_kept_across_splits(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(Cleaner, "BATCH", (batch, 1 << 20))
    splits = {"test": ["x", "held out"], "train": ["a", "held\0 out", "b", "a", "c", "b", "A"]}
    with Cleaner(Cleaning(), tmp_path) as cleaner:
        rows = {split: [{"text": text, "at": i} for i, text in enumerate(texts)] for split, texts in splits.items()}
        kept = {split: [(row["text"], row["at"]) for row in cleaner.clean(rows[split], split)] for split in splits}
    assert kept == {"test": [("x", 0), ("held out", 1)], "train": [("a", 0), ("b", 2), ("c", 4), ("A", 6)]}
    assert cleaner.counts["exact duplicates"] == 3
    assert not list(tmp_path.iterdir()), "scratch files are removed"
    assert cleaned(tmp_path, splits["train"] * 2, duplicates="keep")[1]["documents out"] == 14


@pytest.mark.parametrize("cache", [64, 1 << 16])
def test_exact_duplicates_are_found_with_any_cache_size(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(Cleaner, "CACHE", cache)
    texts = [f"document {i}" for i in np.random.default_rng(0).integers(15_000, size=30_000)]
    assert cleaned(tmp_path, texts)[0] == list(dict.fromkeys(texts))


def jaccard(a, b, size=5):
    a, b = ({tuple(x[i : i + size]) for i in range(max(len(x) - size + 1, 1))} for x in (a.lower().split(), b.lower().split()))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_near_duplicates_match_jaccard_similarity(tmp_path, threshold):
    """For documents of 60 words and copies with up to 7 replaced: no false positives, and recall of at least RECALL."""
    rng, texts = np.random.default_rng(0), list[str]()
    for _ in range(200):
        words = np.array([f"w{word}" for word in rng.integers(500, size=60)])
        other = words.copy()
        other[rng.choice(60, rng.integers(0, 8), replace=False)] = "x"
        texts += [" ".join(words), " ".join(other).upper()]
    kept = {row["number"] for row in cleaned(tmp_path, texts, near_duplicates=threshold)[2]}
    assert kept == {row["number"] for row in cleaned(tmp_path, texts, near_duplicates=threshold)[2]}
    assert kept >= set(range(0, 400, 2))
    similar = np.array([jaccard(texts[i - 1], texts[i]) >= threshold for i in range(1, 400, 2)])
    dropped = np.array([i not in kept for i in range(1, 400, 2)])
    assert similar.any() and not (dropped & ~similar).any()
    assert (dropped & similar).sum() >= Signatures.RECALL * similar.sum()


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_have_the_required_recall_at_the_threshold(threshold):
    near = Signatures(threshold)
    assert 1 - (1 - threshold**near.rows) ** near.bands >= Signatures.RECALL and near.rows * near.bands <= Signatures.HASHES


def test_near_duplicates_ignore_case_and_punctuation(tmp_path):
    texts = ["One two three, four five six.", "one two THREE four five six", "one two three", "One, two: three!", "…", "!?"]
    assert cleaned(tmp_path, texts, near_duplicates=0.9)[0] == [texts[0], texts[2], "…", "!?"]


KEEP = """
def short(text): return len(text) < 5
def fails(text): return bool(1 / (text != "bad"))
def returns_none(text): print(end="")
"""


def test_keep_filters_documents_and_its_file_is_stamped(tmp_path):
    (tmp_path / "judge.py").write_text(KEEP)
    keep = f"{tmp_path}/judge.py:short"
    texts, counts, _ = cleaned(tmp_path / "scratch", ["yes", "no, too long"], keep=keep)
    assert texts == ["yes"] and counts["rejected by keep"] == 1
    before = Cleaning(keep=keep).stamp()
    (tmp_path / "judge.py").write_text(KEEP + "#")
    assert Cleaning(keep=keep).stamp() != before and Cleaning().stamp() == {}


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("{}/none.py:f", "keep .*none.py:f: FileNotFoundError"),
        ("{}/judge.py:f", "no function f in .*judge.py"),
        ("{}/judge.py:fails", r"judge.py:fails: train row 1, 'bad': ZeroDivisionError: division by zero"),
        ("{}/judge.py:returns_none", r"train row 0, 'good': must return True or False, not None"),
    ],
)
def test_failing_keep_is_reported_with_the_row(tmp_path, keep, message):
    (tmp_path / "judge.py").write_text(KEEP)
    with pytest.raises(DataError, match=message) as raised, Cleaner(Cleaning(keep=keep.format(tmp_path)), tmp_path) as cleaner:
        list(cleaner.clean([{"text": "good"}, {"text": "bad"}], "train"))
    assert "\n" not in str(raised.value)


def test_row_without_text_is_reported(tmp_path):
    with pytest.raises(DataError, match="test row 1 has no text; its fields: label"), Cleaner(Cleaning(), tmp_path) as cleaner:
        list(cleaner.clean([{"text": "a"}, {"label": "b"}], "test"))


@pytest.mark.parametrize("fields", [{}, {"near_duplicates": 0.5}])
def test_full_disk_is_reported(tmp_path, monkeypatch, fields):
    monkeypatch.setattr(Cleaner, "CACHE", 64)
    with (
        pytest.raises(DataError, match=r"cleaning.sqlite: database or disk is full; cleaning needs"),
        Cleaner(Cleaning(**fields), tmp_path) as cleaner,
    ):
        cleaner.db.execute("PRAGMA max_page_count = 40")
        list(cleaner.clean({"text": f"document {i}"} for i in range(20_000)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_characters": 0}, "min_characters must be at least 1, not 0"),
        ({"min_characters": 5, "max_characters": 4}, "max_characters must be at least min_characters 5, not 4"),
        ({"near_duplicates": 0.0}, r"near_duplicates must be in \(0, 1\], not 0.0"),
        ({"near_duplicates": 0.5, "duplicates": "keep"}, "duplicates must be drop, not keep"),
        ({"keep": "judge.py"}, "keep must be PATH/TO/FILE.py:FUNCTION, not 'judge.py'"),
    ],
)
def test_invalid_fields_are_reported(fields, message):
    with pytest.raises(ValueError, match=message):
        Cleaning(**fields)


@pytest.mark.skipif("FMODELS_DATA" not in os.environ, reason="FMODELS_DATA is not set")
def test_near_copies_of_a_corpus_are_dropped(tmp_path):
    lines = (Path(os.environ["FMODELS_DATA"]) / "wikitext2" / "valid.txt").read_text("utf-8").splitlines()
    texts, counts, _ = cleaned(tmp_path, lines, near_duplicates=0.8)
    # Prefixing a paragraph with a word makes it a near duplicate, not an exact one, if it is long.
    again, _, _ = cleaned(tmp_path, [*lines, *("again " + line for line in lines if len(line) > 200)], near_duplicates=0.8)
    assert again[: len(texts)] == texts and len(again) - len(texts) < 0.01 * len(lines)
    assert counts["empty"] == sum(not line.strip() for line in lines)
