"""Labels are read as names of classes."""

import json
from decimal import Decimal

import numpy as np
import pytest

from data.reading import label_name
from data.text.labelled import LabelledText


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (("up", "up ", "\tup\n", "\u00a0up"), "up"),
        (("look up", " look  up"), "look up"),
        (("caf\u00e9", "cafe\u0301"), "caf\u00e9"),
        ((1, 1.0, "1", "1.0", "1.00 ", np.int64(1), np.float32(1), Decimal("1.0")), "1"),
        ((0, -0.0, "0.0"), "0"),
        ((-1, -1.0, "-1.0"), "-1"),
        ((0.5, "0.5", np.float32(0.5)), "0.5"),
        ((True, np.True_, "True"), "True"),
        (("NA",), "NA"),
        (("01",), "01"),
        (("1.0.0",), "1.0.0"),
        (("Up",), "Up"),
    ],
)
def test_spellings_of_a_label_are_one_class(labels, name):
    assert [label_name(label) for label in labels] == [name] * len(labels)


def build(folder, labels):
    rows = [{"text": f"text number {i} of {i * i}", "label": label} for i, label in enumerate(labels)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows[::2])))
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows[1::2])))
    return LabelledText(source=f"files:{folder}", length=16, vocab_size=300).build()


@pytest.fixture(autouse=True)
def temporary_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))


def test_classes_are_counted_by_name(tmp_path):
    (tmp_path / "rows").mkdir()
    dataset = build(tmp_path / "rows", ["up", "up ", 1, "1.0", "caf\u00e9", "cafe\u0301", 1.0, "1"] * 3)
    assert dataset.codec.labels == ("1", "caf\u00e9", "up")
    assert dataset.references["train"] == ["up", "1", "caf\u00e9", "1"] * 3 == dataset.references["test"]


def test_labels_that_are_nan_are_missing(tmp_path):
    (tmp_path / "rows").mkdir()
    dataset = build(tmp_path / "rows", ["a", "a", "b", "b"] * 3 + ["a", "b"])
    assert set(dataset.splits) == {"train", "test"}
    rows = [{"text": f"unlabelled {i}", "label": float("nan")} for i in range(5)]
    (tmp_path / "rows" / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = LabelledText(source=f"files:{tmp_path}/rows", length=16, vocab_size=300).build()
    assert set(dataset.splits) == {"train", "test"} and dataset.notes[-1] == "validation has no labels and is not used"
