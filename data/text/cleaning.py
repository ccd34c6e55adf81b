"""Text made fit to learn from, and each text once: rows in, cleaned rows out, and a count of everything that was done.

What was seen is remembered on disk, so memory does not grow with the number of documents.
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
"""The order in which one Cleaner is given the splits: a text that is held out and also in train is dropped from train. Nothing is
dropped from what is held out, which stays the set that others report on."""

BREAK = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85]")  # ends a line; removed, it would join two words
CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # Unicode's Cc, and halves of surrogate pairs

DROPPED = ("too long", "empty", "too short", "exact duplicates", "rejected by keep", "near duplicates")
COUNTS = ("documents in", "control characters removed", "normalized", "cut", *DROPPED, "documents out")


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    normalize: bool = True
    "to Unicode's composed form, NFC"
    strip_control: bool = True
    "remove control characters but newline and tab; other ends of a line become newlines"
    min_characters: int = 1
    "of a document; shorter ones are dropped, and blank ones always"
    max_characters: int | None = None
    "of a document; None is no limit"
    too_long: Literal["cut", "drop"] = "cut"
    "what becomes of a document with more than max_characters"
    duplicates: Literal["keep", "drop"] = "drop"
    "what becomes of a training document whose cleaned text was there before, in a held-out split or in this one"
    near_duplicates: float | None = None
    "similarity (Jaccard, of the sets of 5 words in a row) to one before from which a document is dropped; None is off"
    keep: str | None = None
    "PATH/TO/FILE.py:FUNCTION, from text to True or False: what it says False to is dropped. The file must need no other of yours"

    def __post_init__(self):
        if self.min_characters < 1:
            raise ValueError(f"min_characters must be at least 1, not {self.min_characters}")
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(f"max_characters must be at least min_characters {self.min_characters}, not {self.max_characters}")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ValueError(f"near_duplicates must be in (0, 1], not {self.near_duplicates}")
        if self.near_duplicates is not None and self.duplicates == "keep":
            raise ValueError("duplicates must be drop, not keep, where near_duplicates are dropped")
        if self.keep is not None and not re.fullmatch(r".+\.py:\w+", self.keep):
            raise ValueError(f"keep must be PATH/TO/FILE.py:FUNCTION, not {self.keep!r}")

    def stamp(self) -> dict[str, str]:
        """{file: hash} of what the result depends on beside the fields: the file of `keep`. Raises DataError if there is none."""
        if self.keep is None:
            return {}
        try:
            where = self.keep.rpartition(":")[0]
            return {where: hashlib.sha256(Path(where).read_bytes()).hexdigest()}
        except OSError as error:
            raise DataError(f"data.cleaning.keep {self.keep}: {_said(error)}") from None


def left_out(counts: Mapping[str, int]) -> str:
    """What was dropped and why, in words; empty if nothing was."""
    return ", ".join(f"{counts[why]:,} {why}" for why in DROPPED if counts[why])


class Document(NamedTuple):
    row: dict[str, Any]
    text: str
    where: str


class Cleaner:
    """`with Cleaner(cleaning, folder) as cleaner:` and then `cleaner.clean(rows)` for each split, in ORDER.

    `counts` says of how many documents what was done (of control characters, how many were removed); "documents in" is the sum
    of DROPPED and "documents out". `folder` is scratch, and is left as it was. The same rows give the same rows.
    """

    BATCH = 4096, 1 << 22  # documents, and characters, that are held at once
    CACHE = 1 << 16  # KiB of the database that are kept in memory

    def __init__(self, cleaning: Cleaning, folder: Path):
        self.cleaning, self.counts = cleaning, {name: 0 for name in COUNTS}
        self.keep = None if cleaning.keep is None else _imported(cleaning.keep)
        self.near = None if cleaning.near_duplicates is None else Signatures(cleaning.near_duplicates)
        self.path = folder / "cleaning.sqlite"

    def __enter__(self) -> "Cleaner":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)  # of a process that was killed
        with self._disk():
            self.db = sqlite3.connect(self.path, isolation_level=None)
            self.db.executescript(
                f"""PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{self.CACHE};
                CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID;
                CREATE TABLE kept (document INTEGER PRIMARY KEY, shingles BLOB);
                CREATE TABLE bands (key INTEGER, document INTEGER, PRIMARY KEY (key, document)) WITHOUT ROWID;
                BEGIN"""  # and never committed: it is scratch
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
            raise DataError(f"{self.path}: {error}; it needs a folder that can be written, with room for it") from None

    def clean(self, rows: Iterable[dict[str, Any]], split: str = "data") -> Iterator[dict[str, Any]]:
        """The rows that stay, their `text` cleaned, in their order. `split` is what errors call them.

        Raises DataError for a row without text, a `keep` that fails, and a folder that cannot be written."""
        batch, characters = list[Document](), 0
        for number, row in enumerate(rows):
            self.counts["documents in"] += 1
            where = f"{split} row {number}"
            if not isinstance(row.get("text"), str):
                raise DataError(f"{where} has no text; it has: {', '.join(row) or 'nothing'}")
            text = self._cleaned(row["text"])
            if text is not None:
                batch.append(Document(row, text, where))
                characters += len(text)
            if len(batch) == self.BATCH[0] or characters >= self.BATCH[1]:
                yield from self._chosen(batch, split)
                batch, characters = [], 0
        yield from self._chosen(batch, split)

    def _cleaned(self, text: str) -> str | None:
        """Characters go before normalization, which may join what they stood between; so to clean twice is to clean once."""
        cleaning, counts = self.cleaning, self.counts
        if cleaning.strip_control and CONTROL.search(text):
            text, breaks = BREAK.subn("\n", text)
            text, others = CONTROL.subn("", text)
            counts["control characters removed"] += breaks + others
        if cleaning.normalize and not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
            counts["normalized"] += 1
        if cleaning.max_characters is not None and len(text) > cleaning.max_characters:
            if cleaning.too_long == "drop":
                return self._dropped("too long")
            text = text[: cleaning.max_characters]
            counts["cut"] += 1
        if not text or text.isspace():
            return self._dropped("empty")
        return text if len(text) >= cleaning.min_characters else self._dropped("too short")

    def _dropped(self, why: str, number: int = 1) -> None:
        self.counts[why] += number

    def _chosen(self, batch: list[Document], split: str) -> list[dict[str, Any]]:
        """The cheap comes first, but `keep` before near duplicates: what it rejects must not displace what it accepts."""
        dropping = split not in ("test", "validation")
        if self.cleaning.duplicates == "drop":
            with self._disk():
                new = self._new(batch)
                batch = self._counted("exact duplicates", batch, new) if dropping else batch
        if self.keep is not None:
            batch = self._counted("rejected by keep", batch, [self._judged(self.keep, document) for document in batch])
        if self.near is not None:
            with self._disk():
                different = self._different(self.near, batch)
                batch = self._counted("near duplicates", batch, different) if dropping else batch
        self.counts["documents out"] += len(batch)
        return [{**document.row, "text": document.text} for document in batch]

    def _counted(self, why: str, batch: list[Document], stays: list[bool]) -> list[Document]:
        self._dropped(why, stays.count(False))
        return [document for document, stay in zip(batch, stays, strict=True) if stay]

    def _new(self, batch: list[Document]) -> list[bool]:
        """Whether a text is the first of its kind. By 16 bytes of hash, of 10**12 texts two collide with a chance of 10**-15."""
        hashes = [hashlib.blake2b(d.text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for d in batch]
        fresh, distinct = set(hashes), sorted(set(hashes))  # sorted, a batch goes through the tree once
        for at in range(0, len(distinct), 512):
            part = distinct[at : at + 512]
            fresh.difference_update(h for (h,) in self.db.execute(f"SELECT hash FROM seen WHERE hash IN ({_marks(part)})", part))
        self.db.executemany("INSERT INTO seen VALUES (?)", [(h,) for h in distinct if h in fresh])
        stays = []
        for found in hashes:
            stays.append(found in fresh)
            fresh.discard(found)  # the next of the same batch is none
        return stays

    def _judged(self, keep: Callable[[str], object], document: Document) -> bool:
        at = f"data.cleaning.keep {self.cleaning.keep}: {document.where}, {document.text[:40]!r}"
        try:
            verdict = keep(document.text)
        except Exception as error:  # whatever the user's function raises
            raise DataError(f"{at}: {_said(error)}") from None
        if not isinstance(verdict, bool | np.bool_):
            raise DataError(f"{at}: it must return True or False, not {verdict!r}")
        return bool(verdict)

    def _different(self, near: "Signatures", batch: list[Document]) -> list[bool]:
        """Whether no document that was kept is similar. Each candidate is compared itself, so nothing else is dropped; a similar
        one is overlooked with a chance of at most 1 - RECALL. Where most documents are half alike, as by a template, there are
        many candidates, and this is slow."""
        stays = list[bool]()
        shingles = [near.shingles(document.text) for document in batch]
        for own, keys in zip(shingles, near.keys(shingles), strict=True):
            candidates = self.db.execute(
                f"SELECT shingles FROM kept WHERE document IN (SELECT document FROM bands WHERE key IN ({_marks(keys)}))", keys
            )
            stays.append(not any(near.similar(own, np.frombuffer(other, np.uint32)) for (other,) in candidates))
            if stays[-1]:
                document = self.db.execute("INSERT INTO kept (shingles) VALUES (?)", (own.tobytes(),)).lastrowid
                self.db.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(key, document) for key in keys])
        return stays


def _imported(keep: str) -> Callable[[str], object]:
    where, _, name = keep.rpartition(":")
    try:
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert spec is not None and spec.loader is not None, where
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise DataError(f"data.cleaning.keep {keep}: {_said(error)}") from None
    if not callable(found := getattr(module, name, None)):
        raise DataError(f"data.cleaning.keep {keep}: there is no function {name} in {where}")
    return found


def _marks(values: list[Any]) -> str:
    return ", ".join("?" * len(values))


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())  # in one line
