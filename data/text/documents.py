"""Cleaned documents: the first of two cached stages of text data. The second is tokenized rows.

A source is read as a stream. Its documents are stored in one ArrayRecord file per split, to train tokenizers, to build rows
(`data.text.packing`) and to display texts.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data import sources
from data.cache import cached, read_json
from data.dataset import Dataset, Spec, fingerprint
from data.errors import DataError
from data.reading import FromSource, Reading
from data.sources import Row
from data.sources.mixture import PART
from data.store import Stored, Writer
from data.text import overlap
from data.text.cleaning import ORDER, Cleaner, Cleaning, cleaned, left_out

CHUNK = 1000  # texts in memory at a time
COLUMNS = {
    "label": Spec((), np.int32),  # index of the label by first appearance; -1: no label
    "part": Spec((), np.int16),  # index of the part of a mixture
}


@dataclass(frozen=True, kw_only=True)
class FromText(FromSource):
    """Base class of the configs of text data."""

    READS = ("text", "label", "document")
    JOINS: ClassVar[bool] = True  # whether to join consecutive rows of one document into one text

    cleaning: Cleaning = Cleaning()

    def elsewhere(self, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
        """Return the data as in FromSource. Duplicates, which are dropped from training data only, are kept."""
        config = replace(self, cleaning=replace(self.cleaning, duplicates="keep", near_duplicates=None))
        return super(FromText, config).elsewhere(folder, source, fields, splits)

    def prepared(self, text: str) -> tuple[str, dict[str, int]]:
        """Prepare a user's text as in training. Return the text and the changes, counted by name in `cleaning.COUNTS`.

        A source that changes its texts, such as by masking names, has a method `prepared(text)` with the same change.
        """
        source = sources.find(self.source)
        return cleaned(source.prepared(text) if hasattr(source, "prepared") else text, self.cleaning)  # pyright: ignore

    def overlaps(self, dataset: Dataset) -> list[str]:
        """Return a line on the texts of each held-out split that are nearly in train."""
        stored = documents(self)
        return overlap.lines(dataset.shown or {split: stored.texts(split) for split in stored.splits})

    def code(self) -> str | None:
        """Return the user's Python file in `cleaning.keep`, if any."""
        return self.cleaning.keep.rpartition(":")[0] if self.cleaning.keep else None


@dataclass(frozen=True)
class Documents:
    """The cached documents of a source. `folder` holds a store per split, and `about.json`."""

    folder: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        """The contents of `about.json`.

        `splits`: {split: number of documents}; `fields`: the fields of the source; `labels`: labels in order of appearance;
        `counts`: counts of the Cleaner; `bad`: skipped records; `fingerprint`: {split: hash}; `source`: stamp of the source;
        `weights`: weights of the parts of a mixture.
        """
        return read_json(self.folder / "about.json")

    @property
    def splits(self) -> list[str]:
        return list(self.about["splits"])

    def store(self, split: str) -> Stored:
        return Stored(self.folder / f"{split}.array_record")

    @property
    def weights(self) -> list[float]:
        """The weights of the parts of a mixture (other sources: one weight)."""
        return self.about["weights"]

    def texts(self, split: str, chosen: np.ndarray | None = None) -> "Texts":
        """Return the texts of a split, or only of the rows `chosen`."""
        return Texts(self.store(split), chosen)

    def chunks(self, split: str, part: int) -> Iterator[list[str]]:
        """Yield the texts of a part of a split, in chunks."""
        store = self.store(split)
        begin, end = np.searchsorted(store.column("part"), [part, part + 1])
        for start in range(begin, end, CHUNK):
            yield texts_of(store, range(start, min(start + CHUNK, end)))


class Texts(Sequence[str]):
    """The texts of documents, read on access."""

    def __init__(self, store: Stored, chosen: np.ndarray | None = None):
        self.store, self.chosen = store, np.arange(len(store)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(index, slice):
            return texts_of(self.store, self.chosen[index])
        return texts_of(self.store, self.chosen[[index]])[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]


def texts_of(store: Stored, indices: Sequence[int] | np.ndarray) -> list[str]:
    return [text.decode("utf-8", "surrogatepass") for text in store.payloads(indices)]


def documents(config: FromText) -> Documents:
    """Return the cleaned documents of a config's source. Raises DataError if the source is missing or cannot be read."""
    reading = Reading(config)
    key = fingerprint(reading.key, config.JOINS, repr(config.cleaning), config.cleaning.stamp())
    return Documents(cached(f"documents/{key}", lambda folder: _write(folder, config, reading)))


def _write(folder: Path, config: FromText, reading: Reading) -> None:
    labels: dict[str, int] = {}
    sizes, prints = {}, {}
    with Cleaner(config.cleaning, folder) as cleaner:
        splits = reading.splits()
        for split in (split for split in ORDER if split in splits):
            digest = hashlib.sha256()
            with Writer(folder / f"{split}.array_record", COLUMNS) as writer:
                rows = _with_text(splits[split], reading)
                for row in cleaner.clean(_joined(rows) if config.JOINS else rows, split):
                    label = row.get("label")
                    number = -1 if label is None else labels.setdefault(label, len(labels))
                    text = row["text"].encode("utf-8", "surrogatepass")
                    digest.update(f"{label} {len(text)} ".encode() + text)
                    writer.append({"label": number, "part": row[PART]}, text)
            sizes[split], prints[split] = writer.count, digest.hexdigest()[:16]
            if not writer.count:
                why = left_out(cleaner.counts)
                raise DataError(f"data.source {config.source}: no text in {split}{why and ': cleaning left out ' + why}")
    reading.check_unchanged()
    about = {
        "splits": {split: sizes[split] for split in splits},
        "fields": reading.fields,
        "labels": list(labels),
        "counts": cleaner.counts,
        "bad": reading.bad,
        "fingerprint": prints,
        "source": reading.stamp,
        "weights": reading.weights,
    }
    (folder / "about.json").write_text(json.dumps(about), "utf-8")


def _with_text(rows: Iterator[Row], reading: Reading) -> Iterator[Row]:
    for row in rows:
        if isinstance(row.get("text"), str):
            yield row
        else:
            reading.reject(f"its text is {type(row['text']).__name__}, not a string" if "text" in row else "it has no text")


def _document_key(row: Row) -> tuple:
    return row[PART], row.get("document")


def _joined(rows: Iterator[Row]) -> Iterator[Row]:
    """Join consecutive rows of the same `document`. A row without `document` is a document of its own."""
    current: dict[str, Any] | None = None
    parts: list[str] = []
    for row in rows:
        if current is not None and row.get("document") is not None and _document_key(row) == _document_key(current):
            parts.append(row["text"])
            continue
        if current is not None:
            yield {**current, "text": " ".join(parts)}
        current, parts = row, [row["text"]]
    if current is not None:
        yield {**current, "text": " ".join(parts)}
