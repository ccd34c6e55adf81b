"""Near-duplicate candidates from MinHash signatures and banding (locality-sensitive hashing)."""

import re
import zlib
from functools import reduce

import numpy as np

WORD = re.compile(r"\w+")


class Signatures:
    """MinHash signatures of texts (Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, §3.4).

    A document is a set of S shingles: 32-bit hashes of 5 consecutive words, ignoring case and punctuation. (In a language without
    spaces, such as Chinese, the text between punctuation marks counts as a word.) Two sets of Jaccard similarity s have the same
    minimum under a random hash with probability s, so all `rows` of at least one of the `bands` are equal with probability
    1 - (1 - s**rows)**bands.
    """

    HASHES, RECALL, SHINGLE = 128, 0.99, 5

    def __init__(self, threshold: float):
        self.threshold = threshold
        recall = lambda rows: 1 - (1 - threshold**rows) ** (self.HASHES // rows)
        self.rows = max((rows for rows in range(1, self.HASHES + 1) if recall(rows) >= self.RECALL), default=1)
        self.bands = self.HASHES // self.rows
        draw = np.random.Generator(np.random.PCG64(0))
        self.factors, self.offsets, self.mixers = draw.integers(1 << 64, size=(3, self.HASHES), dtype=np.uint64)
        self.mixers |= np.uint64(1)

    def shingles(self, text: str) -> np.ndarray:
        """Return the distinct shingles of a text, uint32 [S], sorted; S is at least 1."""
        words = WORD.findall(text.lower()) or [text]
        hashes = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], np.uint64)
        count = max(len(words) - self.SHINGLE + 1, 1)
        parts = (hashes[i : i + count] for i in range(min(self.SHINGLE, len(words))))
        joined = reduce(lambda high, low: high * np.uint64(0x9E3779B97F4A7C15) + low, parts)
        return np.unique((joined ^ (joined >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(32)).astype(np.uint32)

    def keys(self, documents: list[np.ndarray]) -> list[list[int]]:
        """Return one 64-bit key per band for each document. Hashes are (a x + b) mod 2**64 >> 32 (Dietzfelbinger 1996)."""
        if not documents:
            return []
        x = np.concatenate(documents).astype(np.uint64)
        begins = np.cumsum([0, *map(len, documents[:-1])])
        keys = np.zeros((self.bands, len(documents)), np.uint64)
        for k in range(self.bands * self.rows):  # one hash at a time fits in the CPU cache
            band, factor = k // self.rows, self.mixers[k]
            minima = np.minimum.reduceat((self.factors[k] * x + self.offsets[k]) >> np.uint64(32), begins)
            keys[band] = (keys[band] ^ (keys[band] >> np.uint64(31)) ^ minima ^ self.mixers[band]) * factor
        return keys.T.astype(np.int64).tolist()

    def similar(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Return whether the Jaccard similarity of two shingle sets is at least the threshold."""
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common >= self.threshold * (len(a) + len(b) - common)
