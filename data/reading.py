"""Base class of the configs of data from a source, and the reader of its rows."""

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from data import held_out, held_out_sentences, sources
from data.dataset import Dataset
from data.errors import DataError
from data.evaluation import Whole, expression
from data.sources import SPLITS, WHERE, Bad, Row
from data.sources.files import Files
from data.sources.mixture import PART

HELD_OUT, HELD_OUT_SENTENCES = "held_out", "held_out_sentences"  # in data.splits: a tenth of train, chosen by these modules


@dataclass(frozen=True, kw_only=True)
class FromSource:
    READS: ClassVar[tuple[str, ...]] = ()  # fields to read; the first is required
    NEEDS: ClassVar[tuple[str, ...]] = ()  # fields of READS that training rows need besides the first
    LABELLED: ClassVar[bool] = False  # whether training rows need labels; otherwise labels only stratify the held-out rows

    source: Any
    "data source: NAME or NAME:ARGUMENT, such as files:PATH or tfds:NAME"
    fields: str = ""
    "source fields for our fields: text=sentence,label=sentiment (empty: the names are the same)"
    splits: str = ""
    """source splits for our splits: train=train[:90%],validation=train[90%:]; validation=held_out holds out a tenth of each \
label of train, and held_out_sentences a tenth of its sentences without their phrases (empty: the source chooses)"""
    bad_records: Literal["error", "skip"] = "error"
    "on an unreadable row: error stops the run; skip counts the row and writes it to bad_records.jsonl"
    bad_limit: int = 100
    "maximum number of skipped rows"
    accept_changed: bool = field(default=False, metadata={"how": True})
    "resume a run even if its data has changed"
    batch_size: int = 32
    "rows per step over all devices, B"

    def __post_init__(self):
        for name in pairs("fields", self.fields):
            if name not in self.READS:
                raise ValueError(f"fields must map {', '.join(self.READS)}, not {name!r}; use NAME=SOURCE_NAME")
        for split in pairs("splits", self.splits):
            if split not in SPLITS:
                raise ValueError(f"splits must map {', '.join(SPLITS)}, not {split!r}")
        splits = pairs("splits", self.splits)
        if splits and "train" not in splits:
            raise ValueError("splits must include train")
        held = [split for split, expression in splits.items() if expression in (HELD_OUT, HELD_OUT_SENTENCES)]
        if len(held) > 1 or "train" in held:
            raise ValueError(f"splits: {splits[held[0]]} is a tenth of train, for validation or for test")
        if HELD_OUT_SENTENCES in splits.values() and "text" not in self.READS:
            raise ValueError(f"splits: {HELD_OUT_SENTENCES} needs texts; use {HELD_OUT}")
        for name in ("bad_limit", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def names(self) -> dict[str, str]:
        """Our field names, and those of the source."""
        return {**{name: name for name in self.READS}, **pairs("fields", self.fields)}

    def assumed(self) -> dict[str, Any]:
        """Return facts that a plan may assume without reading the data. They have the types of the real ones, not the values."""
        return {}

    def elsewhere(self, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
        """Return the data of another source, prepared like that of the run in `folder`. Its only held-out split is `test`.

        `fields` is None if they are those of the run. Raises DataError if the source does not fit the run.
        """
        whole = Whole(source, expression(pairs("splits", splits)))
        config = replace(self, source=whole, fields=self.fields if fields is None else fields, splits="")
        config = config.inherits(folder, True) if hasattr(config, "inherits") else config  # pyright: ignore
        return config.build()  # pyright: ignore

    def read_input(self, paths: Sequence[str]) -> list[Row]:
        """Return the rows of files, folders and globs, to predict. Raises DataError for a bad row or one without data."""
        rows, needed = [], self.READS[0]
        for path in paths:
            for row in Files(path).rows(self.names):
                if isinstance(row, Bad):
                    raise DataError(f"{row.where}: {row.what}")
                renamed = {name: row[key] for name, key in self.names.items() if key in row}
                found = {name: value for name, value in {**row, **renamed}.items() if value is not None}
                if needed not in found:
                    available = ", ".join(name for name in row if name != WHERE)
                    raise DataError(
                        f"{row.get(WHERE, path)}: no field {self.names[needed]!r}, from which the run reads its {needed}; "
                        f"available: {available}"
                    )
                rows.append(found)
        return rows


def pairs(field_name: str, text: str) -> dict[str, str]:
    """Parse `a=b,…` as {"a": "b", …}. Raises ValueError for anything else."""
    found = {}
    for part in filter(None, text.split(",")):
        name, equals, source_name = map(str.strip, part.partition("="))
        if not (equals and name and source_name):
            raise ValueError(f"{field_name} must be NAME=SOURCE_NAME,…, not {part!r}")
        if name in found:
            raise ValueError(f"{field_name} must name {name} once")
        found[name] = source_name
    return found


class Reading:
    """Reader of the rows of a source. Renames the fields, and applies the config's policy for bad rows.

    `bad` has one line of JSON per skipped row. `fields` lists the fields that the first rows of the source have.
    """

    def __init__(self, config: FromSource):
        self.config, self.bad, self.fields = config, list[str](), list[str]()
        self.where = ""  # location of the last row read
        self.source = sources.find(config.source)
        self.weights = list(getattr(self.source, "weights", [1.0]))  # one per part of a mixture
        self.names = config.names

    @property
    def key(self) -> list[Any]:
        """Everything that the rows depend on, for the cache key."""
        config = self.config
        return [
            repr(config.source),
            self.names,
            config.splits,
            config.bad_records,
            config.bad_limit,
            self.stamp,
        ]

    @cached_property
    def stamp(self) -> dict[str, str]:
        """The stamp of the source before reading."""
        return self._stamp()

    def _stamp(self) -> dict[str, str]:
        named = self.source.named_files(self.names) if hasattr(self.source, "named_files") else {}  # pyright: ignore
        return {**self.source.stamp(), **named}

    def check_unchanged(self) -> None:
        """Raises DataError if the source changed during reading. Call after the last row."""
        now = self._stamp()
        changed = sorted(name for name in self.stamp.keys() | now.keys() if self.stamp.get(name) != now.get(name))
        if changed:
            raise DataError(f"data.source {self.config.source}: {changed[0]} changed while it was read; rerun the command")

    def splits(self) -> dict[str, Iterator[Row]]:
        """Return the rows of each split, with the fields in READS. Labels are class names.

        Raises DataError if there is no training split or no held-out split.
        """
        wanted = pairs("splits", self.config.splits)
        held = [split for split, expression in wanted.items() if expression in (HELD_OUT, HELD_OUT_SENTENCES)]
        found = dict(self.source.splits({split: wanted[split] for split in wanted if split not in held}, self.names))
        for split in held:
            rows = found["train"]
            rows = rows.rows if isinstance(rows, held_out.HeldOut) else rows  # the source itself held out a tenth
            if wanted[split] == HELD_OUT:
                found["train"], found[split] = held_out.split(rows, self.names, str(self.config.source)).values()
            else:
                found["train"], found[split] = held_out_sentences.split(rows, self.names["text"]).values()
        if "train" not in found or len(found) < 2:
            raise DataError(
                f"data.source {self.config.source}: a run needs the split train, and validation or test; available: "
                f"{', '.join(found)}; use --data.splits train=NAME,validation=NAME, or validation=held_out for a tenth of train"
            )
        return {split: self._checked(split, found[split]) for split in SPLITS if split in found}

    def _checked(self, split: str, rows: sources.Rows) -> Iterator[Row]:
        labelled = self.config.LABELLED
        needs_label, checked = labelled and split == "train", set[int]()
        for number, row in enumerate(rows):
            if isinstance(row, Bad):
                self._skip(row)
                continue
            self.where = row.get(WHERE) or f"data.source {self.config.source}, row {number} of {split}"
            part = row[PART] if len(self.weights) > 1 else 0
            if part not in checked:
                self._check_fields(row, needs_label)
                checked.add(part)
            found = {name: row[key] for name, key in self.names.items() if key in row and row[key] is not None}
            for name in ("label", "document"):
                if _is_missing(found.get(name)):
                    found.pop(name, None)
            label = found.pop("label", None)
            if labelled and (problem := _label_problem(label) or (needs_label and label is None and "it has no label")):
                self.reject(problem)
                continue
            if labelled and label is not None:
                needs_label, found["label"] = True, label_name(label)  # a split is labelled completely or not at all
            yield {**found, PART: part}

    def reject(self, what: str) -> None:
        """Treat the last row as bad because of the problem `what`. Raises DataError if the policy is to stop."""
        self._skip(Bad(self.where, what))

    def _skip(self, bad: Bad) -> None:
        """Record a skipped row. Raises DataError if the policy is to stop, or above the limit."""
        if self.config.bad_records == "error":
            raise DataError(f"{bad.where}: {bad.what}; use --data.bad-records skip to skip bad rows")
        self.bad.append(json.dumps({"where": bad.where, "what": bad.what}))
        if len(self.bad) > self.config.bad_limit:
            raise DataError(f"{bad.where}: {bad.what}; the number of bad records exceeds data.bad_limit {self.config.bad_limit}")

    def _check_fields(self, row: Row, needs_label: bool) -> None:
        """Raises DataError if the first row lacks a required or mapped field. Later rows may lack optional fields."""
        available = [name for name in row if name not in (WHERE, PART)]
        self.fields = list(dict.fromkeys([*self.fields, *available]))
        needed = {self.config.READS[0], *self.config.NEEDS, *pairs("fields", self.config.fields)}
        for name, source_name in self.names.items():
            if source_name not in row and (needs_label if name == "label" else name in needed):
                raise DataError(
                    f"data.source {self.config.source}: no field {source_name!r}{sources.near(source_name, available)}; "
                    f"available: {', '.join(available)}; choose one with --data.fields {name}=NAME"
                )


def _is_missing(value: Any) -> bool:
    """Return whether a table cell is missing: None, blank or NaN."""
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, Real) and value != value)


def _label_problem(label: Any) -> str:
    """Return why a label is invalid, or "" if it is a string, a finite number or None."""
    if isinstance(label, str):
        has_surrogate = any("\ud800" <= character <= "\udfff" for character in label)
        return f"its label {label!r} is not valid Unicode" if has_surrogate else ""
    is_number = isinstance(label, Real | Decimal | np.bool_)
    if label is None or (is_number and math.isfinite(label)):
        return ""
    return f"its label is {label if is_number else type(label).__name__}, not a string or a number"


def label_name(label: Any) -> str:
    """Return the class name of a label. White space, Unicode normalization and a trailing `.0` make no difference."""
    if isinstance(label, bool | np.bool_):
        return str(bool(label))
    if not isinstance(label, str) and label == int(label):
        return str(int(label))
    name = " ".join(unicodedata.normalize("NFC", str(label)).split())
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", name)
