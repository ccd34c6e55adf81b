"""Where rows come from: one source a file.

A source is a frozen dataclass with

    stamp() -> {part: state}          what it reads (files, a version) and the state of each, such as size and time:
                                      where no stamp has changed, no row has, and nothing is read again
    splits(wanted, names) -> {split: rows}
                                      `wanted` says for each of our splits (`train`, `validation`, `test`) which of the
                                      source's it is; empty is the source's own choice. `names` says which of the source's fields
                                      are the `label`, the `document` and whatever else is read, for the choice of what is held
                                      out: rows keep the names of the source

Rows are an iterable that is read as often as it is asked for, in the same order, and never held in memory as a whole. Each is a
dict (`text`, `document`, which joins consecutive rows into one, `image`, `audio`, `label`, or whatever names the source has, and
WHERE, if it can say that), or a `Bad`: a row that cannot be read, which is the reader's to judge. What makes the whole source
unusable is a DataError.

An experiment names a source by a string, `NAME` or `NAME:ARGUMENT`, which is `source(ARGUMENT)` of the module
`data.sources.NAME`, or holds the source itself.
"""

import dataclasses
import difflib
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

from data.errors import DataError

MOST = sys.maxsize  # rows

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
WHERE = "where it is"  # the field that says in which file and line a row was found


class Bad(NamedTuple):
    """A row that cannot be read."""

    where: str
    "`reviews.csv, line 7`"
    what: str
    "what is wrong with it, and what would be right"


Rows = Iterable[Row | Bad]


class Source(Protocol):
    def stamp(self) -> Mapping[str, str]: ...
    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]: ...


def find(source: Any) -> Source:
    """The source of that name, or itself. Raises DataError if there is none of that name."""
    if not isinstance(source, str):
        if not dataclasses.is_dataclass(source):
            raise DataError(f"data.source {source!r}: NAME or NAME:ARGUMENT is needed, or a source itself")
        return source  # pyright: ignore[reportReturnType]
    name, _, argument = source.partition(":")
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise DataError(
            f"data.source {source!r}: there is no source {name!r}{near(name, known)}; "
            f"there are: {', '.join(known)}, as NAME or NAME:ARGUMENT"
        )
    return importlib.import_module(f"data.sources.{name}").source(argument)


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, if one of the known names is close."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def usual(there: Iterable[str], source: object) -> dict[str, str]:
    """The choice of splits where none was made, for data that others have published: those with our names or a usual one (`dev`);
    where there is `train` and nothing else, its last tenth is `validation`. Raises DataError where the choice is not plain."""
    there = list(there)
    if there == ["train"]:
        return {"train": "train[:90%]", "validation": "train[90%:]"}
    usual = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
    found = {ours: theirs for ours in SPLITS for theirs in reversed(usual[ours]) if theirs in there}
    if "train" not in found or len(found) < 2:
        raise DataError(
            f"data.source {source}: which splits to train on and which to hold out is not plain; it has: {', '.join(there)}; "
            "data.splits says: train=NAME,validation=NAME, or train=NAME[:90%],validation=NAME[90%:]"
        )
    return found


def choose(own: Mapping[str, Rows], wanted: Mapping[str, str], source: object) -> Mapping[str, Rows]:
    """The splits that are wanted, each an expression over the source's own: NAME, NAME[FROM:TO] with numbers of rows or percents,
    or several of these joined by +. Raises DataError for what is none, or not there."""
    return {split: _Chosen(own, expression, source) for split, expression in wanted.items()} or own


def check_slice(term: str) -> None:
    """Raises DataError for one that ends where it begins, or before."""
    bounds = re.search(r"\[\s*(?:(\d+)(%?))?\s*:\s*(\d+)(%?)\s*\]", term)
    if bounds and bounds[2] in (bounds[4], None) and int(bounds[1] or 0) >= int(bounds[3]):
        raise DataError(f"data.splits: {term!r} ends where it begins, or before; NAME[:1000] or NAME[10%:20%] would have rows")


class _Chosen:
    def __init__(self, own: Mapping[str, Rows], expression: str, source: object):
        self.parts = []
        for term in expression.split("+"):
            match = re.fullmatch(r"\s*([\w.-]+)\s*(?:\[(\d+%?)?:(\d+%?)?\])?\s*", term)
            if match is None:
                raise DataError(f"data.splits: {term!r} is no split; NAME, NAME[:1000] or NAME[10%:20%] would be")
            name, begin, end = match.groups()
            if any(bound and bound.endswith("%") and int(bound[:-1]) > 100 for bound in (begin, end)):
                raise DataError(f"data.splits: {term!r} has more than 100 %")
            check_slice(term)
            if name not in own:
                raise DataError(f"data.source {source}: it has no split {name!r}{near(name, own)}; it has: {', '.join(own)}")
            self.parts.append((own[name], begin, end))

    def __iter__(self) -> Iterator[Row | Bad]:
        for term, (rows, begin, end) in enumerate(self.parts):
            count = sum(1 for _ in rows) if "%" in f"{begin}{end}" else 0
            at = lambda bound, count=count: round(count * int(bound[:-1]) / 100) if bound.endswith("%") else min(int(bound), MOST)
            for row in islice(rows, at(begin) if begin else 0, at(end) if end else None):
                if not isinstance(row, Bad) and "document" in row and len(self.parts) > 1:  # its number is of its term
                    row = {**row, "document": (term, row["document"])}
                yield row
