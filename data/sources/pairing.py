"""Pairs that match and pairs that do not, from a source of pairs: `pairing:tfds:multi30k_de_en`.

Half of the rows, at random, swap their `second` text with that of another row: of those around it, one of about the same length.
Thus every text occurs once, and neither text alone tells whether the pair matches. Each row has the field `label`, `match` or
`other`.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from data import sources
from data.errors import DataError
from data.sources import Bad, Row, Rows

WINDOW = 64  # rows among which to look for another text
MATCH, OTHER = "match", "other"


@dataclass(frozen=True)
class Pairing:
    source: Any
    "source of the pairs, or its name"

    def stamp(self) -> Mapping[str, str]:
        return sources.find(self.source).stamp()

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        found = sources.find(self.source).splits(wanted, names)
        return {split: _Paired(rows, names["second"]) for split, rows in found.items()}


class _Paired:
    def __init__(self, rows: Rows, second: str):
        self.rows, self.second = rows, second

    def __iter__(self) -> Iterator[Row | Bad]:
        rows, rng = iter(self.rows), random.Random(0)
        while window := list(islice(rows, WINDOW)):
            texts = [None if isinstance(row, Bad) else row.get(self.second) for row in window]
            chosen = rng.sample(range(len(window)), len(window) // 2)
            others = dict(self.swapped({i: text for i in chosen if isinstance(text := texts[i], str)}))
            for i, row in enumerate(window):
                if isinstance(row, Bad):
                    yield row
                elif i in others:
                    yield {**row, self.second: others[i], "label": OTHER}
                else:
                    yield {**row, "label": MATCH}

    def swapped(self, texts: Mapping[int, str]) -> Iterator[tuple[int, str]]:
        """Yield the index of each text with the text of its neighbour in order of length, if the two differ."""
        order = sorted(texts, key=lambda i: (len(texts[i]), i))
        for i, j in zip(order[::2], order[1::2], strict=False):
            if texts[i] != texts[j]:
                yield from ((i, texts[j]), (j, texts[i]))


def source(argument: str) -> Pairing:
    if not argument:
        raise DataError("data.source pairing: name a source of pairs, as in pairing:tfds:multi30k_de_en")
    return Pairing(argument)
