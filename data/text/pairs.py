"""Examples for next-sentence prediction (Devlin et al. 2019, §3.1), built from stored stretches of documents.

Shapes: B batch, T length.
"""

from collections.abc import Sequence

import numpy as np

from data.dataset import Batch
from data.errors import DataError
from data.store import Stored
from data.text.packing import renumbered
from data.text.tokenizer import Tokenizer

VARIANTS = 10  # examples per stretch and epoch, with different cuts and partners (like `dupe_factor` in Devlin et al.'s code)


class Pairs:
    """Pairs of segments: the two parts of a stretch, or the first part and a random segment of another document.

    An example is a pure function of its index.
    """

    def __init__(self, stretches: Stored, length: int, vocabulary: Tokenizer, variants: int):
        self.stretches, self.length, self.vocabulary, self.variants = stretches, length, vocabulary, variants
        self.documents, self.sizes = stretches.column("document"), stretches.column("size")
        if not np.any(np.diff(self.documents)):
            raise DataError(
                f"data.layout pairs: {stretches.path.stem} has one document; random second segments need at least two"
            )

    def __len__(self) -> int:
        return self.variants * len(self.stretches)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        drawn = [self._draw(int(index)) for index in indices]
        firsts, seconds = ([d[i] for d in drawn] for i in (0, 1))
        read = self.stretches[np.array([*firsts, *seconds])]
        rows = []
        for i, (first, second, cut, begin) in enumerate(drawn):
            parts = [tuple(read[name][i, :cut] for name in ("tokens", "words"))]
            other = i + len(drawn)
            end = self.sizes[first] if first == second else begin + self.length - 3 - cut
            parts.append(tuple(read[name][other, begin : min(end, self.sizes[second])] for name in ("tokens", "words")))
            rows.append(assemble(parts, self.length, self.vocabulary) | {"is_random": np.int32(first != second)})
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _draw(self, index: int) -> tuple[int, int, int, int]:
        """Return (stretch of the first segment, stretch of the second, length of the first segment, begin of the second)."""
        rng = np.random.default_rng(index)
        first = index % len(self.stretches)
        size = int(self.sizes[first])
        cut = int(rng.integers(1, size)) if size < 8 else int(rng.integers(size // 4, size - size // 4))
        if not rng.integers(2):
            return first, first, cut, cut
        second = first
        while self.documents[second] == self.documents[first]:
            second = int(rng.integers(len(self.stretches)))
        wanted = self.length - 3 - cut
        return first, second, cut, int(rng.integers(max(int(self.sizes[second]) - wanted, 0) + 1))


def assemble(parts: Sequence[tuple], length: int, vocabulary: Tokenizer) -> dict[str, np.ndarray]:
    """Return [CLS] part [SEP] part [SEP] …, padded to `length`: `tokens`, `words`, `segments` and `mask` [T]."""
    tokens = np.full(length, vocabulary.special["pad"], np.int32)
    words = np.full(length, -1, np.int32)
    segments = np.zeros(length, np.int32)
    tokens[0], at, word = vocabulary.special["cls"], 1, 0
    for number, (ids, numbers) in enumerate(parts):
        end = at + len(ids)
        tokens[at:end], tokens[end] = ids, vocabulary.special["sep"]
        segments[at : end + 1] = number
        words[at:end], word = renumbered(numbers, word)
        at = end + 1
    words[np.isin(tokens, vocabulary.special_ids)] = -1
    return {"tokens": tokens, "words": words, "segments": segments, "mask": np.arange(length) < at}
