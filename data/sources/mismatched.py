"""Pairs of texts of another source, of which half are made wrong: `mismatched:tfds:multi30k_de_en`.

Shapes: N rows of a split.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data import sources
from data.errors import DataError
from data.sources import Bad, Row, Rows

LABELS = ("mismatch", "match")
CHUNK = 500  # rows compared with all others at a time


@dataclass(frozen=True)
class Mismatched:
    """Rows with the `label` match, or mismatch where `second` is that of the row with the most similar `text` in the split.

    Similarity is the cosine of TF-IDF vectors of words, so a mismatch is about similar things. A fixed random half of the rows
    are mismatches.
    """

    source: Any

    def stamp(self) -> Mapping[str, str]:
        return sources.find(self.source).stamp()

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Raises DataError if no pairs of texts are read."""
        if "second" not in names:
            raise DataError("data.source mismatched: needs data with pairs of texts, `text` and `second`")
        inner = {name: key for name, key in names.items() if name != "label"}
        found = sources.find(self.source).splits(wanted, inner)
        return {split: _Mismatched(rows, names) for split, rows in found.items()}


@dataclass(frozen=True)
class _Mismatched:
    rows: Rows
    names: Mapping[str, str]

    def __iter__(self) -> Iterator[Row | Bad]:
        text, second, label = (self.names.get(name, name) for name in ("text", "second", "label"))
        usable = lambda row: not isinstance(row, Bad) and all(isinstance(row.get(name), str) for name in (text, second))
        rows = list(self.rows)
        pairs = [row for row in rows if usable(row)]
        others = nearest([row[text] for row in pairs], [row[second] for row in pairs])
        wrong = np.random.default_rng(0).permutation(len(pairs)) < len(pairs) // 2
        number = 0
        for row in rows:
            if not usable(row):  # Reading reports what is wrong with it
                yield row if isinstance(row, Bad) else {**row, label: LABELS[1]}
                continue
            partner = pairs[others[number] if wrong[number] else number]
            yield {**row, second: partner[second], label: LABELS[int(not wrong[number])]}
            number += 1


def nearest(texts: list[str], seconds: list[str]) -> np.ndarray:
    """Return the index [N] of the most similar text of another row, among the rows with another second text."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(set(seconds)) < 2:
        raise DataError("data.source mismatched: a split has fewer than two different second texts")
    vectors = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", dtype=np.float32).fit_transform(texts)
    index = {second: number for number, second in enumerate(dict.fromkeys(seconds))}
    same = np.array([index[second] for second in seconds])
    found = []
    for start in range(0, len(texts), CHUNK):
        similar = (vectors[start : start + CHUNK] @ vectors.T).toarray()
        similar[same[start : start + CHUNK, None] == same] = -1
        found.append(similar.argmax(1))
    return np.concatenate(found)


def source(argument: str) -> Mismatched:
    if not argument:
        raise DataError("data.source mismatched: name a source with pairs of texts, as in mismatched:files:PATH")
    return Mismatched(argument)
