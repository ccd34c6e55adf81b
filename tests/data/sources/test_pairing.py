"""Pairs that match and pairs that do not: every text occurs once, half of the pairs are swapped, and labels are right."""

import json
from collections import Counter

import pytest

from data import sources
from data.errors import DataError
from data.sources import Bad

NAMES = {"text": "en", "second": "de", "label": "label"}


def test_every_text_occurs_once_and_labels_are_right(tmp_path):
    own = {f"english {i}": f"deutsch {'x' * (i * 7 % 50)} {i}" for i in range(150)}
    for split in ("train", "test"):
        lines = [json.dumps({"en": en, "de": de}) for en, de in own.items()]
        (tmp_path / f"{split}.jsonl").write_text("\n".join([*lines[:20], "{broken", *lines[20:]]))
    source = sources.find(f"pairing:files:{tmp_path}")
    rows = list(source.splits({}, NAMES)["train"])
    assert rows == list(source.splits({}, NAMES)["train"]), "the rows are the same each time"
    assert [type(row) for row in rows].index(Bad) == 20
    good = [row for row in rows if not isinstance(row, Bad)]
    assert [row["en"] for row in good] == list(own) and sorted(row["de"] for row in good) == sorted(own.values())
    assert all((own[row["en"]] == row["de"]) == (row["label"] == "match") for row in good)
    assert 68 <= Counter(row["label"] for row in good)["other"] <= 76
    swapped = [row for row in good if row["label"] == "other"]
    assert max(abs(len(own[row["en"]]) - len(row["de"])) for row in swapped) < 10


def test_a_pairing_without_a_source_is_an_error():
    with pytest.raises(DataError, match="pairing: name a source of pairs"):
        sources.find("pairing:")
