"""From tokenized documents to rows of one length: windows of a stream, packed documents, or the stretches that pairs are made of.

Rows are made once, before anything is shuffled or shared among hosts, and kept: so a row is an index, any order of them can be
resumed exactly on any number of hosts (grain's own packing carries half-filled rows from batch to batch, which only the same
number of processes can restore), and training only reads integers.

Shapes: T length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.text.tokenizer import Tokenizer

Encoded = tuple[np.ndarray, np.ndarray]  # ids, and the number of the word that each belongs to
Row = dict[str, Any]  # of arrays and numbers
OPEN_ROWS = 64  # that first-fit packing looks for room in


class Tally:
    """Counts what passes through."""

    def __init__(self, vocabulary: Tokenizer, length: int):
        self.vocabulary, self.length = vocabulary, length
        self.documents = self.tokens = self.unknown = self.rows = self.filled = 0
        self.lengths = np.zeros(32, np.int64)  # documents of 2^i tokens or more, and fewer than 2^(i + 1)
        self.cut = 0

    def texts(self, texts: Iterable[Encoded]) -> Iterator[Encoded]:
        for ids, words in texts:
            self.documents += 1
            self.tokens += len(ids)
            self.cut += len(ids) > self.length - 2
            self.unknown += int((ids == self.vocabulary.special["unknown"]).sum())
            self.lengths[max(len(ids), 1).bit_length() - 1] += 1
            yield ids, words

    def made(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.rows += 1
            self.filled += int((row["tokens"] != self.vocabulary.special["pad"]).sum())
            yield row

    def about(self) -> dict[str, Any]:
        shortest, longest = np.flatnonzero(self.lengths)[[0, -1]]
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "unknown tokens": self.unknown,
            "rows": self.rows,
            "share of rows filled": self.filled / max(self.rows * self.length, 1),
            "documents by tokens": {f"{2**i}-{2 ** (i + 1) - 1}": int(self.lengths[i]) for i in range(shortest, longest + 1)},
        }


def windows(texts: Iterable[Encoded], length: int, vocabulary: Tokenizer) -> Iterator[Row]:
    """`tokens` and `words` [T]: [CLS] text [SEP], cut from the documents in a row, [SEP] between two. Every token of the
    documents once, in order, but for the last incomplete window."""
    inner = length - 2
    tokens, begins = np.empty(0, np.int32), np.empty(0, bool)
    cls, separator = vocabulary.special["cls"], vocabulary.special["sep"]
    for ids, words in texts:
        tokens = np.concatenate([tokens, ids, [separator]]).astype(np.int32)
        # Words are numbered on from document to document; a word is new where its number differs from the token before.
        begins = np.concatenate([begins, np.diff(words, prepend=-2) != 0, [True]])
        count = len(tokens) // inner
        for i in range(count):
            part = slice(i * inner, (i + 1) * inner)
            ordinary = ~np.isin(tokens[part], vocabulary.special_ids)
            first = np.arange(inner) == 0  # a word that the window before has begun begins anew
            numbers = np.where(ordinary, np.cumsum(begins[part] | first) - 1, -1)
            yield {
                "tokens": np.concatenate([[cls], tokens[part], [separator]]),
                "words": np.concatenate([[-1], numbers, [-1]]),
            }
        tokens, begins = tokens[count * inner :], begins[count * inner :]


def packed(texts: Iterable[Encoded], length: int, vocabulary: Tokenizer) -> Iterator[Row]:
    """`tokens`, `words`, `sequences` and `positions` [T]: as many [CLS] text [SEP] as fit, first fit among the open rows.
    `sequences` numbers them from 1, 0 is padding; `positions` counts from 0 in each. A text longer than a row becomes several
    sequences."""
    rows: list[_OpenRow] = []
    for ids, words in texts:
        for start in range(0, len(ids), length - 2):
            piece = ids[start : start + length - 2], words[start : start + length - 2]
            size = len(piece[0]) + 2
            row = next((row for row in rows if row.used + size <= length), None)
            if row is None:
                if len(rows) == OPEN_ROWS:
                    yield rows.pop(max(range(OPEN_ROWS), key=lambda i: rows[i].used)).arrays(length, vocabulary)
                rows.append(row := _OpenRow())
            row.add(piece, size)
            if row.used > length - 3:  # [CLS] token [SEP] is the least that could come
                rows.remove(row)
                yield row.arrays(length, vocabulary)
    for row in rows:
        yield row.arrays(length, vocabulary)


@dataclass(eq=False)
class _OpenRow:
    pieces: list[Encoded] = field(default_factory=list)
    used: int = 0

    def add(self, piece: Encoded, size: int) -> None:
        self.pieces.append(piece)
        self.used += size

    def arrays(self, length: int, vocabulary: Tokenizer) -> Row:
        tokens, words = np.full(length, vocabulary.special["pad"], np.int32), np.full(length, -1, np.int32)
        sequences, positions = np.zeros(length, np.int32), np.zeros(length, np.int32)
        at, word = 0, 0
        for number, (ids, numbers) in enumerate(self.pieces, 1):
            end = at + len(ids) + 2
            tokens[at], tokens[at + 1 : end - 1], tokens[end - 1] = vocabulary.special["cls"], ids, vocabulary.special["sep"]
            words[at + 1 : end - 1], word = renumbered(numbers, word)
            sequences[at:end], positions[at:end] = number, np.arange(end - at)
            at = end
        words[np.isin(tokens, vocabulary.special_ids)] = -1
        return {"tokens": tokens, "words": words, "sequences": sequences, "positions": positions}


def renumbered(words: np.ndarray, start: int) -> tuple[np.ndarray, int]:
    """The words of a piece numbered from `start` on, -1 where they were, and the number after the last."""
    ordinary = words >= 0
    if not ordinary.any():
        return words, start
    numbers = np.where(ordinary, words - words[ordinary][0] + start, -1)
    return numbers, int(numbers.max()) + 1


def stretches(texts: Iterable[Encoded], room: int, pad: int, first: int = 0) -> Iterator[Row]:
    """`tokens` and `words` [room], `size` (how many of them there are) and `document`, numbered from `first` on: the documents in
    parts of two tokens or more, which `Pairs` makes examples of."""
    for document, (ids, words) in enumerate(texts, first):
        for start in range(0, len(ids) - 1, room):
            part = ids[start : start + room], renumbered(words[start : start + room], 0)[0]
            padded = [np.pad(x, (0, room - len(x)), constant_values=fill) for x, fill in zip(part, (pad, -1), strict=True)]
            yield {"tokens": padded[0], "words": padded[1], "size": np.int32(len(part[0])), "document": np.int32(document)}
