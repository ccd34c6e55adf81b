"""Whole sentences held out of rows that are phrases of sentences, as `validation=held_out_sentences` in data.splits.

The training rows of SST-2 are sentences and phrases cut from them, in random order. If random rows are held out, most of them
are also in train within longer or shorter phrases of the same sentences. Here a sentence is a text that is not part of a longer
one. A tenth of the sentences, chosen by hash, are held out, and the texts that are parts of them are in neither split. Texts are
compared word by word, ignoring case.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from data.errors import DataError
from data.held_out import HELD_OUT_ONE_IN
from data.sources import WHERE, Bad, Row, Rows

MAX_WORDS = 100  # a text of n words has n**2 / 2 parts


def split(rows: Rows, text: str) -> dict[str, Rows]:
    """Return `train` and `validation`. `text` is the field of the text. All texts are held in memory.

    Iteration raises DataError for a text of more than MAX_WORDS words.
    """
    sentences = Sentences(rows, text)
    return {"train": Part(sentences, False), "validation": Part(sentences, True)}


@dataclass(frozen=True)
class Sentences:
    rows: Rows
    text: str

    @cached_property
    def held_out(self) -> tuple[frozenset[str], frozenset[str]]:
        """The texts that are held-out sentences, and the texts that are parts of them."""
        texts = {self.normalized(row) for row in self.rows if not isinstance(row, Bad)} - {""}
        sentences = texts - {part for text in texts for part in parts(text)}
        in_order = sorted(sentences, key=lambda text: (zlib.crc32(text.encode("utf-8", "surrogatepass")), text))
        held_out = frozenset(in_order[: -(-len(in_order) // HELD_OUT_ONE_IN)])
        return held_out, frozenset(part for text in held_out for part in parts(text))

    def normalized(self, row: Row) -> str:
        """Return the words of a row in lower case; empty if it has no text."""
        words = found.lower().split() if isinstance(found := row.get(self.text), str) else []
        if len(words) > MAX_WORDS:
            where = row.get(WHERE, f"text {' '.join(words[:5])!r}")
            raise DataError(
                f"{where}: {len(words)} words; held_out_sentences takes at most {MAX_WORDS}: use held_out in data.splits"
            )
        return " ".join(words)


@dataclass(frozen=True)
class Part:
    """The held-out sentences if `out`, or else the rows that are not part of one."""

    sentences: Sentences
    out: bool

    def __iter__(self) -> Iterator[Row | Bad]:
        held_out, inside = self.sentences.held_out
        for row in self.sentences.rows:
            if isinstance(row, Bad):
                if not self.out:
                    yield row
                continue
            text = self.sentences.normalized(row)
            if text in held_out if self.out else text not in held_out and text not in inside:
                yield row


def parts(text: str) -> Iterator[str]:
    """Yield the shorter sequences of consecutive words of a text."""
    words = text.split(" ")
    for length in range(1, len(words)):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])
