"""Data sources: one module per source.

A source is a frozen dataclass with two methods:

    stamp() -> {part: state}          The parts of the source (files, a version) and the state of each, such as size and time.
                                      Rows are read again only after the stamp changes.
    splits(wanted, names) -> {split: rows}
                                      `wanted` maps our splits (`train`, `validation`, `test`) to splits of the source; if empty,
                                      the source chooses. `names` maps our fields (`label`, `document`, …) to fields of the
                                      source, which may use it to choose held-out rows, but does not rename fields.

A source with rows that name other files also has `named_files(names) -> {file: state}`, which Reading adds to the stamp.
A source that changes its texts, such as by masking names, also has `prepared(text) -> text` for prediction.

Rows are iterables with a fixed order that can be iterated again; they need not fit in memory. A row is a dict with the fields of
the source, such as `text`, `image`, `audio`, `label` and `document` (consecutive rows of one document), and WHERE if the location
is known. An unreadable row is a `Bad`, which `data.reading` skips or reports. An unusable source raises DataError.

An experiment has a source object, or the name of one: `NAME` or `NAME:ARGUMENT` calls `source(ARGUMENT)` of the module
`data.sources.NAME`.
"""

import dataclasses
import difflib
import glob
import importlib
import math
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations, islice
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
    """Return the source with a given name, or a given source unchanged. Raises DataError for an unknown name."""
    if not isinstance(source, str):
        if not dataclasses.is_dataclass(source):
            raise DataError(f"data.source {source!r}: must be NAME, NAME:ARGUMENT or a source object")
        return source  # pyright: ignore[reportReturnType]
    name, _, argument = source.partition(":")
    if name not in (known := names()):
        if os.path.exists(os.path.expanduser(source)) or glob.glob(source):
            raise DataError(f"data.source {source!r} is a path; did you mean files:{source}?")
        raise DataError(
            f"data.source {source!r}: there is no source {name!r}{near(name, known)}; "
            f"use NAME or NAME:ARGUMENT with one of: {', '.join(known)}"
        )
    return importlib.import_module(f"data.sources.{name}").source(argument)


def names() -> list[str]:
    """Return the names of all sources."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def near(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` if a known name is similar, else an empty string."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def default_splits(available: Iterable[str], source: object) -> dict[str, str]:
    """Return the default `wanted` for a published dataset: its splits with our names or common names (`dev`).

    Raises DataError if the names do not determine the splits. For a dataset with `train` only, see `data.held_out`.
    """
    available = list(available)
    common = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
    found = {split: name for split in SPLITS for name in reversed(common[split]) if name in available}
    if "train" not in found or len(found) < 2:
        raise DataError(
            f"data.source {source}: cannot infer which splits to train on and which to hold out; available: "
            f"{', '.join(available)}; use --data.splits train=NAME,validation=NAME, or validation=held_out for a tenth of train"
        )
    return found


def file_state(status: os.stat_result) -> str:
    """Return the size, modification time and change time of a file.

    The change time detects a replacement with the same size and modification time, such as from an archive.
    """
    return f"{status.st_size} bytes, {status.st_mtime_ns}, {status.st_ctime_ns}"


def choose(
    own: Mapping[str, Rows],
    wanted: Mapping[str, str],
    source: object,
    shares: Callable[[Rows, Rows], bool] = lambda a, b: False,
) -> Mapping[str, Rows]:
    """Return the wanted splits, or all splits in `own` if `wanted` is empty.

    A wanted split is an expression over the names in `own`: NAME, NAME[FROM:TO] in rows or percent, or several joined by +.
    `shares` tells whether two of `own` have rows in common. Raises DataError for an invalid expression, an unknown split, or
    two wanted splits with rows in common.
    """
    terms = {split: list(_terms(own, expression, source)) for split, expression in wanted.items()}
    for one, other in combinations(terms, 2):
        if any(_overlap(a, b) if a.rows is b.rows else shares(a.rows, b.rows) for a in terms[one] for b in terms[other]):
            raise overlapping(wanted, one, other)
    return {split: own.get(wanted[split], _Chosen(found)) for split, found in terms.items()} or own


def overlapping(wanted: Mapping[str, str], one: str, other: str) -> DataError:
    return DataError(f"data.splits: {one}={wanted[one]} and {other}={wanted[other]} overlap; a row may be in one split only")


def check_slice(term: str) -> None:
    """Raises DataError for an empty slice."""
    bounds = re.search(r"\[\s*(?:(\d+)(%?))?\s*:\s*(\d+)(%?)\s*\]", term)
    if bounds and bounds[2] in (bounds[4], None) and int(bounds[1] or 0) >= int(bounds[3]):
        raise DataError(f"data.splits: {term!r} is an empty slice; use a range such as NAME[:1000] or NAME[10%:20%]")


class _Term(NamedTuple):
    """A slice of rows. The bounds are numbers of rows, or percentages with %; None: the beginning or the end."""

    rows: Rows
    begin: str | None
    end: str | None

    @property
    def bounds(self) -> list[str]:
        return [bound for bound in (self.begin, self.end) if bound]

    def range(self, count: float) -> tuple[float, float]:
        """Return the first and the past-the-last index, where `count` is the number of rows."""
        index = lambda bound: round(count * int(bound[:-1]) / 100) if bound[-1] == "%" else int(bound)
        return index(self.begin) if self.begin else 0, index(self.end) if self.end else count


def _terms(own: Mapping[str, Rows], expression: str, source: object) -> Iterator[_Term]:
    for term in [expression] if expression in own else expression.split("+"):
        if term in own:
            yield _Term(own[term], None, None)
            continue
        match = re.fullmatch(r"\s*([\w.-]+)\s*(?:\[(\d+%?)?:(\d+%?)?\])?\s*", term)
        if match is None:
            raise DataError(f"data.splits: {term!r} is invalid; use NAME, NAME[:1000] or NAME[10%:20%]")
        name, begin, end = match.groups()
        if any(bound and bound.endswith("%") and int(bound[:-1]) > 100 for bound in (begin, end)):
            raise DataError(f"data.splits: {term!r} exceeds 100%")
        check_slice(term)
        if name not in own:
            raise DataError(f"data.source {source}: no split {name!r}{near(name, own)}; available: {', '.join(own)}")
        yield _Term(own[name], begin, end)


def _overlap(a: _Term, b: _Term) -> bool:
    """Return whether two slices of the same rows have rows in common. Counts the rows only if rows and percent are mixed."""
    in_percent = {"%" in bound for bound in (*a.bounds, *b.bounds)}
    count = sum(1 for _ in a.rows) if len(in_percent) > 1 else 100 if in_percent == {True} else math.inf
    (begin, end), (other_begin, other_end) = a.range(count), b.range(count)
    return max(begin, other_begin) < min(end, other_end)


class _Chosen:
    def __init__(self, terms: list[_Term]):
        self.terms = terms

    def __iter__(self) -> Iterator[Row | Bad]:
        for number, term in enumerate(self.terms):
            is_counted = any("%" in bound for bound in term.bounds)
            begin, end = term.range(sum(1 for _ in term.rows) if is_counted else sys.maxsize)
            # islice takes no index above sys.maxsize.
            for row in islice(term.rows, int(begin), min(int(end), sys.maxsize)):
                if not isinstance(row, Bad) and "document" in row and len(self.terms) > 1:  # ids repeat between terms
                    row = {**row, "document": (number, row["document"])}
                yield row
