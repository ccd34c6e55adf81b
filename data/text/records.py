"""Cached records: the first of two cached stages of data whose rows are more than a text and its label.

A record is a JSON object with the cleaned texts of a row, such as a sentence and its translation. `data.text.documents` does the
same for single texts.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.cache import cached, read_json
from data.dataset import Batch, Dataset, Examples, Spec, Subset, WithLabels, fingerprint
from data.errors import DataError
from data.mixture import weighted
from data.reading import Reading
from data.sources import WHERE, Row
from data.sources.mixture import PART
from data.store import Stored, Writer
from data.text import overlap
from data.text.cleaning import DROPPED, ORDER, Cleaner, left_out
from data.text.language_modelling import FromTokens, TextCodec, facts, stacked, unknown_note, vocabulary_of
from data.text.tokenizer import TOKENIZER_FILE, Tokenizer

CHUNK = 1000  # records in memory at a time
COLUMNS = {"part": Spec((), np.int16)}  # index of the part of a mixture
ADDED = ("example", "valid", "label")  # arrays of a batch that are not stored with the others
TOKENS = ("tokens", "second_tokens", "source")  # arrays of token ids
Record = dict[str, Any]
Clean = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class FromRecords(FromTokens):
    """Base class of the configs of data from records. `cleaning` cleans each text, and finds duplicates of whole records."""

    def arrays(self, integers: Sequence[str], flags: Sequence[str], numbers: Sequence[str] = ()) -> dict[str, Spec]:
        """Return the arrays of a batch: integers and flags [B, T], a number per row [B], and the fields of every batch."""
        both, rows = (self.batch_size, self.length), (self.batch_size,)
        return {
            **dict.fromkeys(integers, Spec(both, np.int32)),
            **dict.fromkeys(flags, Spec(both, np.bool_)),
            **dict.fromkeys(numbers, Spec(rows, np.int32)),
            "example": Spec(rows, np.uint32),
            "valid": Spec(rows, np.float32),
        }

    def spec(self) -> dict[str, Spec]:
        raise NotImplementedError(type(self).__name__)

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        """Return the record of a row, with its texts cleaned by `clean`, or what is wrong with the row.

        The fields in NEEDS are missing only from a user's row to predict.
        """
        raise NotImplementedError(type(self).__name__)

    def texts_of(self, record: Record) -> list[str]:
        """Return the texts of a record: those that train the tokenizer, and by which duplicates are found."""
        raise NotImplementedError(type(self).__name__)

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        """Yield the arrays of records, which come with their indices, and `record`, the index of the record of each row.

        Unless `packed`, each record gives one row. Adds to `counts` the texts that are truncated, by name.
        """
        raise NotImplementedError(type(self).__name__)

    def record_fields(self) -> tuple[Any, ...]:
        """Return the values on which `accepted` depends besides the row and its cleaning."""
        return ()

    def row_fields(self) -> tuple[Any, ...]:
        """Return the values on which `rows` depends."""
        return (type(self).__name__, self.length)

    def shown(self, record: Record) -> Any:
        """Return a record as displayed: its texts, one per line."""
        return "\n".join(self.texts_of(record))

    def reference(self, record: Record) -> Any:
        """Return the correct answer of a record, as a JSON value."""
        raise NotImplementedError(type(self).__name__)

    def label_names(self) -> tuple[str, ...]:
        """Return the labels that the codec saves."""
        return ()

    def build(self) -> Dataset:
        return build(self)

    def codec(self, folder: Path) -> "RecordCodec":
        return RecordCodec(self, Tokenizer.load(str(folder / TOKENIZER_FILE)), self.label_names())

    def overlaps(self, dataset: Dataset) -> list[str]:
        return overlap.lines(dataset.shown)

    def read_records(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Record], list[str]]:
        """Return the records of a user's rows, prepared as in training but not dropped, and notes on them.

        Raises DataError for a row that is not accepted.
        """
        counts, found = Counter[str](), []

        def clean(text: str) -> str:
            text, done = self.prepared(text)
            counts.update(done)
            return text

        for i, row in enumerate(rows):
            record = self.accepted(row, clean)
            if isinstance(record, str):
                raise DataError(f"{row.get(WHERE, f'row {i}')}: {record}")
            found.append(record)
        notes = []
        if why := left_out(counts):
            notes.append(f"data.cleaning drops such texts from training ({why}); they are predicted nevertheless")
        if counts["cut"]:
            limit = self.cleaning.max_characters
            notes.append(f"{counts['cut']} texts are longer than data.cleaning.max_characters {limit} and are truncated")
        return found, notes


@dataclass(frozen=True)
class Records:
    """The cached records of a source. `folder` holds a store per split, and `about.json`, as in `data.text.documents`."""

    folder: Path
    config: FromRecords

    @cached_property
    def about(self) -> dict[str, Any]:
        """`splits`, `fields`, `counts`, `bad`, `fingerprint`, `source` and `weights`, as in `data.text.documents`."""
        return read_json(self.folder / "about.json")

    @property
    def splits(self) -> list[str]:
        return list(self.about["splits"])

    @property
    def weights(self) -> list[float]:
        return self.about["weights"]

    def store(self, split: str) -> Stored:
        return Stored(self.folder / f"{split}.array_record")

    def rows(self, split: str, shown: Callable[[Record], Any] = dict) -> "Rows":
        """Return `shown` of each record of a split."""
        return Rows(self.store(split), shown)

    def numbered(self, split: str, part: int) -> Iterator[tuple[int, Record]]:
        """Yield the index and the record of each row of a part of a split."""
        begin, end = map(int, np.searchsorted(self.store(split).column("part"), [part, part + 1]))
        return zip(range(begin, end), self.rows(split).take(np.arange(begin, end)), strict=True)

    def texts(self, split: str) -> Iterator[str]:
        """Yield the texts of all records of a split."""
        for record in self.rows(split):
            yield from self.config.texts_of(record)


class Rows(Sequence[Any]):
    """Records of a split in some form, read on access."""

    def __init__(self, store: Stored, shown: Callable[[Record], Any], chosen: np.ndarray | None = None):
        self.store, self.shown = store, shown
        self.chosen = np.arange(len(store)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(index, slice):
            return [self.shown(json.loads(record)) for record in self.store.payloads(self.chosen[index])]
        return self.shown(json.loads(self.store.payloads(self.chosen[[index]])[0]))

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]

    def take(self, chosen: np.ndarray) -> "Rows":
        """Return only the rows at these indices."""
        return Rows(self.store, self.shown, self.chosen[chosen])


def records(config: FromRecords) -> Records:
    """Return the records of a config's source. Raises DataError if the source is missing or cannot be read."""
    reading = Reading(config)
    key = fingerprint(reading.key, type(config).__name__, *config.record_fields(), repr(config.cleaning), config.cleaning.stamp())
    return Records(cached(f"records/{key}", lambda folder: _write(folder, config, reading)), config)


def _write(folder: Path, config: FromRecords, reading: Reading) -> None:
    sizes, prints = {}, {}
    with Cleaner(replace(config.cleaning, max_characters=None, min_characters=1), folder) as cleaner:
        splits = reading.splits()
        for split in (split for split in ORDER if split in splits):
            digest = hashlib.sha256()
            with Writer(folder / f"{split}.array_record", COLUMNS) as writer:
                for row in cleaner.clean(_accepted(splits[split], config, reading, cleaner.counts), split):
                    payload = json.dumps(row["record"]).encode()
                    digest.update(payload + b"\n")
                    writer.append({"part": row[PART]}, payload)
            sizes[split], prints[split] = writer.count, digest.hexdigest()[:16]
            if not writer.count:
                why = left_out(cleaner.counts)
                raise DataError(f"data.source {config.source}: no rows in {split}{why and ': cleaning left out ' + why}")
    reading.check_unchanged()
    about = {
        "splits": {split: sizes[split] for split in splits},
        "fields": reading.fields,
        "counts": cleaner.counts,
        "bad": reading.bad,
        "fingerprint": prints,
        "source": reading.stamp,
        "weights": reading.weights,
    }
    (folder / "about.json").write_text(json.dumps(about), "utf-8")


def _accepted(rows: Iterable[Row], config: FromRecords, reading: Reading, counts: dict[str, int]) -> Iterator[Row]:
    """Yield the records of rows for the Cleaner, and count what cleaning does to their texts."""
    for row in rows:
        done = Counter[str]()

        def clean(text: str, done: Counter[str] = done) -> str:
            text, changes = config.prepared(text)
            done.update(changes)
            return text

        missing = next((name for name in (config.READS[0], *config.NEEDS) if name not in row), None)
        record = f"it has no {missing}" if missing else config.accepted(row, clean)
        if isinstance(record, str):
            reading.reject(record)
            continue
        dropped = next((why for why in DROPPED if done[why]), None)
        for why in done.keys() - set(DROPPED):
            counts[why] += done[why]
        if dropped is not None:
            counts["documents in"] += 1
            counts[dropped] += 1
            continue
        yield {"text": "\n".join(config.texts_of(record)), "record": record, PART: row[PART]}


@dataclass(frozen=True)
class RecordCodec(TextCodec):
    """Converts rows of several texts to arrays, and ids to tokens."""

    config: FromRecords

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Batch, list[str]]:
        """Return the arrays of a user's rows, and notes on texts truncated, or dropped in training.

        The array `record` has the index of the row of each example. Raises DataError for a row that is not accepted.
        """
        found, notes = self.config.read_records(rows)
        counts = Counter[str]()
        arrays = stacked(list(self.config.rows(enumerate(found), self.vocabulary, counts, packed=False)))
        cut = [f"{count} {what} (data.length {self.length})" for what, count in counts.items() if count]
        return arrays, [*notes, *cut, *self.unknown_notes(arrays[name] for name in TOKENS if name in arrays)]


def write_arrays(config: FromRecords, found: Records, vocabulary: Tokenizer) -> Path:
    """Return the cache folder with the arrays of each split, building it if needed: the second cached stage.

    A store has the arrays of `config.spec()`, and the columns `part` and `record` (the index of the record of each row).
    """
    made = {name: Spec(s.shape[1:], s.dtype) for name, s in config.spec().items() if name not in ADDED}
    columns = {**made, "part": Spec((), np.int16), "record": Spec((), np.int32)}

    def write(folder: Path) -> None:
        about = {}
        for split in found.splits:
            counts, tokens, unknown = Counter[str](), 0, 0
            with Writer(folder / f"{split}.array_record", columns) as writer:
                for part in range(len(found.weights)):  # rows do not cross parts of a mixture
                    for row in config.rows(found.numbered(split, part), vocabulary, counts, packed=split == "train"):
                        writer.append({**row, "part": part})
                        for ids in (row[name] for name in TOKENS if name in row):
                            tokens += int(np.sum(ids != vocabulary.special["pad"]))
                            unknown += int(np.sum(ids == vocabulary.special["unknown"]))
            about[split] = {"rows": writer.count, "tokens": tokens, "unknown tokens": unknown, "cut": counts}
        (folder / "about.json").write_text(json.dumps(about), "utf-8")

    return cached(f"rows/{fingerprint(found.folder.name, vocabulary.hash, *config.row_fields())}", write)


class Selected(NamedTuple):
    """Records of a split to use, and their labels."""

    rows: np.ndarray
    label: np.ndarray


def build(config: FromRecords, selected: Mapping[str, Selected] | None = None) -> Dataset:
    """Return the dataset of a config: its records, a tokenizer, and the arrays of both.

    With `selected`, only these splits and records, and their `label`. The config must not pack records into rows.
    """
    found = records(config)
    vocabulary = vocabulary_of(config, found.folder.name, lambda: found.texts("train"))
    folder = write_arrays(config, found, vocabulary)
    splits: dict[str, Examples] = {}
    texts, references = ({s: found.rows(s, form) for s in found.splits} for form in (config.shown, config.reference))
    for split in found.splits if selected is None else selected:
        splits[split] = stored = Stored(folder / f"{split}.array_record", config.spec())
        part = stored.column("part")
        if selected is not None:
            rows, label = selected[split]
            splits[split], part = WithLabels(Subset(stored, rows), label), part[rows]
            texts[split], references[split] = texts[split].take(rows), references[split].take(rows)
        else:  # a record may have several rows
            texts[split], references[split] = (of[split].take(stored.column("record")) for of in (texts, references))
        if split == "train":
            # Packed rows hold several records, and those of a weighted mixture have another order.
            if len(found.weights) > 1 or (selected is None and len(stored) < found.about["splits"][split]):
                del references[split]
            splits[split] = weighted(splits[split], part, found.weights, config.source)
    bad = found.about["bad"]
    counted, cleaning = read_json(folder / "about.json"), left_out(found.about["counts"])
    notes = [f"cleaning removed {cleaning}, of {found.about['counts']['documents in']:,} rows"] if cleaning else []
    for split, counts in counted.items():
        total, cut = found.about["splits"][split], counts.pop("cut")
        notes += [f"{split}: {n:,} {what}, in {total:,} rows (data.length {config.length})" for what, n in cut.items() if n]
        if note := unknown_note(counts["unknown tokens"], counts["tokens"]):
            notes.append(f"{split}: {note}; another one may fit the texts")
        counts.update(cut)
    return Dataset(
        splits=splits,
        facts=facts(vocabulary),
        fingerprint={
            **found.about["fingerprint"],
            "tokenizer": vocabulary.hash,
            "rows": " ".join(map(str, config.row_fields())),
        },
        codec=RecordCodec(config, vocabulary, config.label_names()),
        shown={split: texts[split] for split in splits},
        references={split: references[split] for split in splits if split in references},
        notes=notes,
        about={
            "source": {
                **found.about["splits"],
                "fields": ", ".join(found.about["fields"]),
                "bad records": len(found.about["bad"]),
            },
            "cleaning": found.about["counts"],
            **{f"rows of {split}": counts for split, counts in counted.items()},
        },
        bad_records=bad,
    )


def chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most CHUNK rows, to be tokenized together."""
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk
