"""Weighted mixture of sources: `mixture:0.7*files:books.txt+0.3*pydocs`.

Each weight is the share of a source in every training batch. Held-out splits are the concatenated splits of the sources.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data import sources
from data.errors import DataError
from data.order import PERIOD
from data.sources import Bad, Row, Rows

PART = "mixture part"  # name of the field with the index of a row's source


@dataclass(frozen=True)
class Mixture:
    parts: tuple[Any, ...]
    "sources or names of sources"
    weights: tuple[float, ...]

    def __post_init__(self):
        if len(self.parts) < 2 or len(self.parts) != len(self.weights):
            raise ValueError("a mixture needs two or more sources, and one weight per source")
        if not all(0 < weight < math.inf for weight in self.weights) or min(self.weights) / sum(self.weights) < 1 / PERIOD:
            raise ValueError(f"weights must be positive, and at least 1/{PERIOD} of their sum, not {self.weights}")

    def stamp(self) -> Mapping[str, str]:
        stamps = {part: sources.find(part).stamp() for part in self.parts}
        return {f"{part}: {name}": state for part, stamp in stamps.items() for name, state in stamp.items()}

    def named_files(self, names: Mapping[str, str]) -> Mapping[str, str]:
        found = [source for source in map(sources.find, self.parts) if hasattr(source, "named_files")]
        return {name: state for source in found for name, state in source.named_files(names).items()}  # pyright: ignore

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Return the splits of all parts. Raises DataError if a part has no training split."""
        found = [sources.find(part).splits(wanted, names) for part in self.parts]
        for part, splits in zip(self.parts, found, strict=True):
            if "train" not in splits:
                raise DataError(f"data.source {part}: no split train, which each part of a mixture needs")
        available = [split for split in sources.SPLITS if any(split in splits for splits in found)]
        return {split: _Concatenated([splits.get(split, ()) for splits in found]) for split in available}


class _Concatenated:
    def __init__(self, parts: list[Rows]):
        self.parts = parts

    def __iter__(self) -> Iterator[Row | Bad]:
        for number, rows in enumerate(self.parts):
            for row in rows:
                yield row if isinstance(row, Bad) else {**row, PART: number}


def source(argument: str) -> Mixture:
    """Parse `WEIGHT*SOURCE+WEIGHT*SOURCE+…`."""
    parts, weights = [], []
    for term in argument.split("+"):
        weight, times, name = term.partition("*")
        try:
            weights.append(float(weight))
        except ValueError:
            times = ""
        if not times or not name.strip():
            raise DataError(f"data.source mixture: {term!r} is not WEIGHT*SOURCE, as in mixture:0.7*files:books.txt+0.3*pydocs")
        parts.append(name.strip())
    try:
        return Mixture(tuple(parts), tuple(weights))
    except ValueError as error:
        raise DataError(f"data.source mixture:{argument}: {error}") from None
