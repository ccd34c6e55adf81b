"""Data sources: one module per source.

A source is a frozen dataclass with two methods:

    stamp() -> {part: state}          Parts of the source (files, a version) and the state of each, such as size and time.
                                      While the stamp is unchanged, the rows are unchanged and are not read again.
    splits(wanted, names) -> {split: rows}
                                      `wanted` maps our splits (`train`, `validation`, `test`) to the source's; if empty, the
                                      source chooses. `names` maps our field names (`label`, `document`, …) to the source's. A
                                      source may use it to choose held-out rows, but does not rename fields.

A source that changes its texts, such as by masking names, also has `prepared(text) -> text` for prediction.

Rows are a re-iterable with a fixed order; they need not fit in memory. Each row is a dict of the source's fields, such as `text`,
`image`, `audio`, `label` and `document` (consecutive rows with the same document belong together), and WHERE if the location is
known. A row that cannot be read is a `Bad`, and the reader decides what to do about it. A source that is unusable as a whole
raises DataError.

An experiment holds either a source or its name: `NAME` or `NAME:ARGUMENT`, which calls `source(ARGUMENT)` in the module
`data.sources.NAME`.
"""

import dataclasses
import difflib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

from data.errors import DataError

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
WHERE = "where it is"  # name of the field with the location of a row, such as its file and line


class Bad(NamedTuple):
    """A row that cannot be read."""

    where: str
    "location, such as `reviews.csv, line 7`"
    what: str
    "the problem and, if known, its fix"


Rows = Iterable[Row | Bad]


class Source(Protocol):
    def stamp(self) -> Mapping[str, str]: ...
    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]: ...


def find(source: Any) -> Source:
    """Return the source with the given name; a source is returned unchanged. Raises DataError for an unknown name."""
    if not isinstance(source, str):
        if not dataclasses.is_dataclass(source):
            raise DataError(f"data.source {source!r}: must be NAME, NAME:ARGUMENT or a source object")
        return source  # pyright: ignore[reportReturnType]
    name, _, argument = source.partition(":")
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise DataError(
            f"data.source {source!r}: there is no source {name!r}{near(name, known)}; "
            f"use NAME or NAME:ARGUMENT with one of: {', '.join(known)}"
        )
    return importlib.import_module(f"data.sources.{name}").source(argument)


def near(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` if a known name is similar, else an empty string."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def default_splits(available: Iterable[str], source: object) -> dict[str, str]:
    """Return the default value of `wanted` for a published dataset: its splits with our names or common ones (`dev`).

    Raises DataError if the names do not determine the splits. See `data.held_out` for a dataset with `train` only.
    """
    available = list(available)
    common = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
    found = {ours: theirs for ours in SPLITS for theirs in reversed(common[ours]) if theirs in available}
    if "train" not in found or len(found) < 2:
        raise DataError(
            f"data.source {source}: cannot infer which splits to train on and which to hold out; available: "
            f"{', '.join(available)}; use --data.splits train=NAME,validation=NAME or train=NAME[:90%],validation=NAME[90%:]"
        )
    return found


def file_state(status: os.stat_result) -> str:
    """Return the size, modification time and change time of a file.

    The change time differs even after a file of the same size and modification time replaces it, such as from an archive.
    """
    return f"{status.st_size} bytes, {status.st_mtime_ns}, {status.st_ctime_ns}"


def choose(own: Mapping[str, Rows], wanted: Mapping[str, str], source: object) -> Mapping[str, Rows]:
    """Return the wanted splits, or the source's own splits if `wanted` is empty.

    Each is an expression over the source's own splits: NAME, NAME[FROM:TO] in rows or percent, or several joined by +.
    Raises DataError for an invalid expression or an unknown split.
    """
    return {split: _Chosen(own, expression, source) for split, expression in wanted.items()} or own


def check_slice(term: str) -> None:
    """Raises DataError for an empty slice."""
    bounds = re.search(r"\[\s*(?:(\d+)(%?))?\s*:\s*(\d+)(%?)\s*\]", term)
    if bounds and bounds[2] in (bounds[4], None) and int(bounds[1] or 0) >= int(bounds[3]):
        raise DataError(f"data.splits: {term!r} is an empty slice; use a range such as NAME[:1000] or NAME[10%:20%]")


class _Chosen:
    def __init__(self, own: Mapping[str, Rows], expression: str, source: object):
        self.parts = []
        for term in expression.split("+"):
            match = re.fullmatch(r"\s*([\w.-]+)\s*(?:\[(\d+%?)?:(\d+%?)?\])?\s*", term)
            if match is None:
                raise DataError(f"data.splits: {term!r} is invalid; use NAME, NAME[:1000] or NAME[10%:20%]")
            name, begin, end = match.groups()
            if any(bound and bound.endswith("%") and int(bound[:-1]) > 100 for bound in (begin, end)):
                raise DataError(f"data.splits: {term!r} exceeds 100%")
            check_slice(term)
            if name not in own:
                raise DataError(f"data.source {source}: no split {name!r}{near(name, own)}; available: {', '.join(own)}")
            self.parts.append((own[name], begin, end))

    def __iter__(self) -> Iterator[Row | Bad]:
        for term, (rows, begin, end) in enumerate(self.parts):
            count = sum(1 for _ in rows) if "%" in f"{begin}{end}" else 0
            # islice takes no index above sys.maxsize.
            index = lambda bound, n=count: round(n * int(bound[:-1]) / 100) if bound[-1] == "%" else min(int(bound), sys.maxsize)
            for row in islice(rows, index(begin) if begin else 0, index(end) if end else None):
                if not isinstance(row, Bad) and "document" in row and len(self.parts) > 1:  # document ids repeat between terms
                    row = {**row, "document": (term, row["document"])}
                yield row
