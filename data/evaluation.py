"""Evaluation on other data than that of the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data import held_out, sources
from data.errors import DataError
from data.sources import SPLITS, Rows


@dataclass(frozen=True)
class Whole:
    """A source with one split of another source, as both `train` and `test`. Only `test` is used."""

    source: Any
    wanted: str = ""
    "the split: NAME, NAME[FROM:TO] or several joined by + (empty: test, validation, or all rows of a source without splits)"

    def stamp(self) -> Mapping[str, str]:
        return sources.find(self.source).stamp()

    def named_files(self, names: Mapping[str, str]) -> Mapping[str, str]:
        source = sources.find(self.source)
        return source.named_files(names) if hasattr(source, "named_files") else {}  # pyright: ignore

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        source = sources.find(self.source)
        if self.wanted:
            rows = source.splits({"test": self.wanted}, names)["test"]
        else:
            found = source.splits({}, names)
            rows = next(found[split] for split in reversed(SPLITS) if split in found)
            rows = rows.rows if isinstance(rows, held_out.HeldOut) else rows
        return {"train": rows, "test": rows}

    def prepared(self, text: str) -> str:
        source = sources.find(self.source)
        return source.prepared(text) if hasattr(source, "prepared") else text  # pyright: ignore

    def __str__(self) -> str:
        return str(self.source)


def expression(splits: Mapping[str, str]) -> str:
    """Return the only value of `splits`. Raises DataError if there are several."""
    if len(splits) > 1:
        raise DataError(f"data.splits: an evaluation has one split, as in test=NAME, not {', '.join(splits)}")
    return next(iter(splits.values()), "")
