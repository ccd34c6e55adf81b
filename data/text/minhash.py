"""Which sets are similar, without comparing each with each: MinHash signatures in bands."""

import re
import zlib
from functools import reduce

import numpy as np

WORD = re.compile(r"\w+")


class Signatures:
    """Of texts (Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, §3.4).

    A document is the set of its shingles, S 32-bit hashes of 5 words in a row, without case and punctuation. (Where words are not
    separated, as in Chinese, a word is what stands between marks, and a shingle is 5 of these.) Two sets of similarity s have the
    same least value under a random hash with chance s, so `rows` of them alike in one of `bands` with 1 - (1 - s**rows)**bands.
    """

    HASHES, RECALL, SHINGLE = 128, 0.99, 5

    def __init__(self, threshold: float):
        self.threshold = threshold
        found = lambda rows: 1 - (1 - threshold**rows) ** (self.HASHES // rows)
        self.rows = max((rows for rows in range(1, self.HASHES + 1) if found(rows) >= self.RECALL), default=1)
        self.bands = self.HASHES // self.rows
        draw = np.random.Generator(np.random.PCG64(0))
        self.factors, self.offsets, self.mixers = draw.integers(1 << 64, size=(3, self.HASHES), dtype=np.uint64)
        self.mixers |= np.uint64(1)

    def shingles(self, text: str) -> np.ndarray:
        """uint32 [S], sorted, S at least 1."""
        words = WORD.findall(text.lower()) or [text]
        hashes = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], np.uint64)
        count = max(len(words) - self.SHINGLE + 1, 1)
        parts = (hashes[i : i + count] for i in range(min(self.SHINGLE, len(words))))
        joined = reduce(lambda high, low: high * np.uint64(0x9E3779B97F4A7C15) + low, parts)
        return np.unique((joined ^ (joined >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(32)).astype(np.uint32)

    def keys(self, documents: list[np.ndarray]) -> list[list[int]]:
        """For each document a 64-bit key of each of its bands. Hashes are (a x + b) mod 2**64 >> 32 (Dietzfelbinger 1996)."""
        if not documents:
            return []
        x = np.concatenate(documents).astype(np.uint64)
        begins = np.cumsum([0, *map(len, documents[:-1])])
        keys = np.zeros((self.bands, len(documents)), np.uint64)
        for k in range(self.bands * self.rows):  # one hash at a time, which fits in the processor's cache
            band, factor = k // self.rows, self.mixers[k]
            least = np.minimum.reduceat((self.factors[k] * x + self.offsets[k]) >> np.uint64(32), begins)
            keys[band] = (keys[band] ^ (keys[band] >> np.uint64(31)) ^ least ^ self.mixers[band]) * factor
        return keys.T.astype(np.int64).tolist()

    def similar(self, a: np.ndarray, b: np.ndarray) -> bool:
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common >= self.threshold * (len(a) + len(b) - common)
