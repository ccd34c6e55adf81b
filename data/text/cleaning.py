"""Text cleaning and deduplication, with a count of every change.

Hashes of earlier documents are stored on disk, so memory does not grow with the number of documents.
"""

import hashlib
import importlib.util
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data.errors import DataError
from data.text.minhash import Signatures

ORDER = ("test", "validation", "train")
"""The order in which to clean the splits. Held-out splits come first, so that their texts are dropped from train. Duplicates
within held-out splits are kept, so that results are comparable with published ones."""

BREAK = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85]")  # line breaks, replaced by newlines: removing them would join words
CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # Unicode category Cc, and surrogates

DROPPED = ("too long", "empty", "too short", "exact duplicates", "rejected by keep", "near duplicates")
COUNTS = ("documents in", "control characters removed", "normalized", "cut", *DROPPED, "documents out")


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    normalize: bool = True
    "normalize text to Unicode NFC"
    strip_control: bool = True
    "remove control characters except newline and tab; other line breaks become newlines"
    min_characters: int = 1
    "minimum number of characters; shorter and blank documents are dropped"
    max_characters: int | None = None
    "maximum number of characters (None: no limit)"
    too_long: Literal["cut", "drop"] = "cut"
    "cut or drop documents longer than max_characters"
    duplicates: Literal["keep", "drop"] = "drop"
    "keep or drop training documents with the same cleaned text as an earlier document, also of a held-out split"
    near_duplicates: float | None = None
    "drop training documents with at least this Jaccard similarity of 5-word shingles to an earlier document (None: off)"
    keep: str | None = None
    "filter function PATH/TO/FILE.py:FUNCTION, in a self-contained file; documents are dropped if it returns False"

    def __post_init__(self):
        if self.min_characters < 1:
            raise ValueError(f"min_characters must be at least 1, not {self.min_characters}")
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(f"max_characters must be at least min_characters {self.min_characters}, not {self.max_characters}")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ValueError(f"near_duplicates must be in (0, 1], not {self.near_duplicates}")
        if self.near_duplicates is not None and self.duplicates == "keep":
            raise ValueError("duplicates must be drop, not keep, when near_duplicates is set")
        if self.keep is not None and not re.fullmatch(r".+\.py:\w+", self.keep):
            raise ValueError(f"keep must be PATH/TO/FILE.py:FUNCTION, not {self.keep!r}")

    def stamp(self) -> dict[str, str]:
        """Return {file: hash} for the file of `keep`, if any. Raises DataError if it cannot be read."""
        if self.keep is None:
            return {}
        try:
            where = self.keep.rpartition(":")[0]
            return {where: hashlib.sha256(Path(where).read_bytes()).hexdigest()}
        except OSError as error:
            raise DataError(f"data.cleaning.keep {self.keep}: {_one_line(error)}") from None


def cleaned(text: str, cleaning: Cleaning) -> tuple[str, dict[str, int]]:
    """Return the cleaned text and the changes, counted by name in COUNTS. A name in DROPPED means that training drops the text.

    Control characters are removed before normalization, which may compose their neighbours, so cleaning is idempotent.
    """
    done = {}
    if cleaning.strip_control and CONTROL.search(text):
        text, breaks = BREAK.subn("\n", text)
        text, others = CONTROL.subn("", text)
        done["control characters removed"] = breaks + others
    if cleaning.normalize and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
        done["normalized"] = 1
    if cleaning.max_characters is not None and len(text) > cleaning.max_characters:
        if cleaning.too_long == "drop":
            return text, {**done, "too long": 1}
        text = text[: cleaning.max_characters]
        done["cut"] = 1
    if not text or text.isspace():
        done["empty"] = 1
    elif len(text) < cleaning.min_characters:
        done["too short"] = 1
    return text, done


def left_out(counts: Mapping[str, int]) -> str:
    """Return the numbers of dropped documents by reason, as text; empty if there are none."""
    return ", ".join(f"{counts[why]:,} {why}" for why in DROPPED if counts.get(why))


class Document(NamedTuple):
    row: dict[str, Any]
    text: str
    where: str


class Cleaner:
    """Cleans and deduplicates the splits of a source. The result is deterministic.

    Use as `with Cleaner(cleaning, folder) as cleaner:`, then `cleaner.clean(rows, split)` for each split in ORDER. `counts` has
    the number of documents per action ("control characters removed" counts characters). "documents in" is the sum of DROPPED and
    "documents out". `folder` is for temporary files.
    """

    BATCH = 4096, 1 << 22  # documents and characters per batch
    CACHE = 1 << 16  # KiB of database cache in memory

    def __init__(self, cleaning: Cleaning, folder: Path):
        self.cleaning, self.counts = cleaning, {name: 0 for name in COUNTS}
        self.keep = None if cleaning.keep is None else _load_function(cleaning.keep)
        self.near = None if cleaning.near_duplicates is None else Signatures(cleaning.near_duplicates)
        self.path = folder / "cleaning.sqlite"

    def __enter__(self) -> "Cleaner":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)  # left by a killed process
        with self._disk():
            self.db = sqlite3.connect(self.path, isolation_level=None)
            self.db.executescript(
                f"""PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{self.CACHE};
                CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID;
                CREATE TABLE kept (document INTEGER PRIMARY KEY, shingles BLOB);
                CREATE TABLE bands (key INTEGER, document INTEGER, PRIMARY KEY (key, document)) WITHOUT ROWID;
                BEGIN"""  # never committed, since the database is temporary
            )
        return self

    def __exit__(self, *_) -> None:
        self.db.close()
        self.path.unlink(missing_ok=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: {error}; cleaning needs a writable folder with enough space") from None

    def clean(self, rows: Iterable[dict[str, Any]], split: str = "data") -> Iterator[dict[str, Any]]:
        """Yield the remaining rows, in order, with cleaned `text`.

        Duplicates in `test` and `validation` remain. Raises DataError if a row has no text, `keep` fails, or the folder cannot be
        written.
        """
        batch, characters = list[Document](), 0
        for number, row in enumerate(rows):
            self.counts["documents in"] += 1
            where = f"{split} row {number}"
            if not isinstance(row.get("text"), str):
                raise DataError(f"{where} has no text; its fields: {', '.join(row) or 'none'}")
            text, done = cleaned(row["text"], self.cleaning)
            for name, count in done.items():
                self.counts[name] += count
            if done.keys().isdisjoint(DROPPED):
                batch.append(Document(row, text, where))
                characters += len(text)
            if len(batch) == self.BATCH[0] or characters >= self.BATCH[1]:
                yield from self._filtered(batch, split)
                batch, characters = [], 0
        yield from self._filtered(batch, split)

    def _filtered(self, batch: list[Document], split: str) -> list[dict[str, Any]]:
        """Return the remaining rows. `keep` comes before near duplicates: rejected documents displace no similar ones."""
        dropping = split not in ("test", "validation")
        if self.cleaning.duplicates == "drop":
            with self._disk():
                new = self._new(batch)
                batch = self._drop("exact duplicates", batch, new) if dropping else batch
        if self.keep is not None:
            batch = self._drop("rejected by keep", batch, [self._accepts(self.keep, document) for document in batch])
        if self.near is not None:
            with self._disk():
                dissimilar = self._dissimilar(self.near, batch)
                batch = self._drop("near duplicates", batch, dissimilar) if dropping else batch
        self.counts["documents out"] += len(batch)
        return [{**document.row, "text": document.text} for document in batch]

    def _drop(self, why: str, batch: list[Document], kept: list[bool]) -> list[Document]:
        self.counts[why] += kept.count(False)
        return [document for document, keep in zip(batch, kept, strict=True) if keep]

    def _new(self, batch: list[Document]) -> list[bool]:
        """Return whether each text is new, by a 16-byte hash; 10**12 texts collide with probability 10**-15."""
        hashes = [hashlib.blake2b(d.text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for d in batch]
        fresh, distinct = set(hashes), sorted(set(hashes))  # sorted, so that a batch traverses the tree once
        for at in range(0, len(distinct), 512):
            part = distinct[at : at + 512]
            fresh.difference_update(h for (h,) in self.db.execute(f"SELECT hash FROM seen WHERE hash IN ({_qmarks(part)})", part))
        self.db.executemany("INSERT INTO seen VALUES (?)", [(h,) for h in distinct if h in fresh])
        kept = []
        for found in hashes:
            kept.append(found in fresh)
            fresh.discard(found)  # later copies in this batch are duplicates
        return kept

    def _accepts(self, keep: Callable[[str], object], document: Document) -> bool:
        at = f"data.cleaning.keep {self.cleaning.keep}: {document.where}, {document.text[:40]!r}"
        try:
            verdict = keep(document.text)
        except Exception as error:  # the user's function may raise anything
            raise DataError(f"{at}: {_one_line(error)}") from None
        if not isinstance(verdict, bool | np.bool_):
            raise DataError(f"{at}: must return True or False, not {verdict!r}")
        return bool(verdict)

    def _dissimilar(self, near: "Signatures", batch: list[Document]) -> list[bool]:
        """Return whether each document is dissimilar to all earlier remaining documents.

        Candidates are compared exactly, so there are no false positives. A near duplicate is missed with probability at most
        1 - RECALL. Many half-similar documents, such as from a template, give many candidates and are slow.
        """
        kept = list[bool]()
        shingles = [near.shingles(document.text) for document in batch]
        for own, keys in zip(shingles, near.keys(shingles), strict=True):
            candidates = self.db.execute(
                f"SELECT shingles FROM kept WHERE document IN (SELECT document FROM bands WHERE key IN ({_qmarks(keys)}))", keys
            )
            kept.append(not any(near.similar(own, np.frombuffer(other, np.uint32)) for (other,) in candidates))
            if kept[-1]:
                document = self.db.execute("INSERT INTO kept (shingles) VALUES (?)", (own.tobytes(),)).lastrowid
                self.db.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(key, document) for key in keys])
        return kept


def _load_function(keep: str) -> Callable[[str], object]:
    where, _, name = keep.rpartition(":")
    try:
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert spec is not None and spec.loader is not None, where
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise DataError(f"data.cleaning.keep {keep}: {_one_line(error)}") from None
    if not callable(found := getattr(module, name, None)):
        raise DataError(f"data.cleaning.keep {keep}: no function {name} in {where}")
    return found


def _qmarks(values: list[Any]) -> str:
    return ", ".join("?" * len(values))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
