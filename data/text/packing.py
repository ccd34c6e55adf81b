"""Rows of fixed length from tokenized documents: a stream, windows of it, packed documents, or stretches for sentence pairs.

Rows are built and cached before shuffling and sharding. A row is identified by its index, so a run can resume exactly on any
number of hosts. (Grain's packing carries half-filled rows between batches, so it needs the same number of processes.)

Shapes: T length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.text.tokenizer import Tokenizer

Encoded = tuple[np.ndarray, np.ndarray]  # token ids, and the word index of each token
Row = dict[str, Any]  # arrays and scalars
OPEN_ROWS = 64  # rows that first-fit packing keeps open


class Tally:
    """Counter of the documents, tokens and rows that pass through its iterators."""

    def __init__(self, vocabulary: Tokenizer, length: int):
        self.vocabulary, self.length = vocabulary, length
        self.documents = self.tokens = self.unknown = self.rows = self.filled = 0
        self.lengths = np.zeros(32, np.int64)  # [i]: documents of 2^i to 2^(i + 1) - 1 tokens
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
    """Yield windows [CLS] text [SEP] of the documents, concatenated with [SEP] between them: `tokens` and `words` [T].

    Windows do not overlap. An incomplete last window is dropped.
    """
    inner = length - 2
    tokens, begins = np.empty(0, np.int32), np.empty(0, bool)
    cls, separator = vocabulary.special["cls"], vocabulary.special["sep"]
    for ids, words in texts:
        tokens = np.concatenate([tokens, ids, [separator]]).astype(np.int32)
        # A token begins a word if its word index differs from the previous token's.
        begins = np.concatenate([begins, np.diff(words, prepend=-2) != 0, [True]])
        count = len(tokens) // inner
        for i in range(count):
            part = slice(i * inner, (i + 1) * inner)
            ordinary = ~np.isin(tokens[part], vocabulary.special_ids)
            first = np.arange(inner) == 0  # a word cut by the window starts again
            numbers = np.where(ordinary, np.cumsum(begins[part] | first) - 1, -1)
            yield {
                "tokens": np.concatenate([[cls], tokens[part], [separator]]),
                "words": np.concatenate([[-1], numbers, [-1]]),
            }
        tokens, begins = tokens[count * inner :], begins[count * inner :]


def stream(texts: Iterable[Encoded], length: int, vocabulary: Tokenizer) -> Iterator[Row]:
    """Yield rows of consecutive tokens of the concatenated documents [CLS] text [SEP]: `tokens`, `words` and `targets` [T].

    `targets` is the next token of each, also that of the next row. Every token but the first is a target once. The last row is
    padded; the targets of padding are -1. A tokenizer with one token for [CLS] and [SEP] has it once between documents.
    """
    cls, separator, pad = (vocabulary.special[name] for name in ("cls", "sep", "pad"))
    before = [cls] if cls != separator else []
    tokens, begins = np.empty(0, np.int32), np.empty(0, bool)

    def row(start: int) -> Row:
        part, targets = tokens[start : start + length], tokens[start + 1 : start + 1 + length]
        first = np.arange(len(part)) == 0  # a word cut by the row starts again
        numbers = np.cumsum(begins[start : start + length] | first) - 1
        columns = (part, np.where(np.isin(part, vocabulary.special_ids), -1, numbers), targets)
        padded = [np.pad(x, (0, length - len(x)), constant_values=fill) for x, fill in zip(columns, (pad, -1, -1), strict=True)]
        return dict(zip(("tokens", "words", "targets"), padded, strict=True))

    for ids, words in texts:
        tokens = np.concatenate([tokens, before, ids, [separator]]).astype(np.int32)
        begins = np.concatenate([begins, [True] * len(before), np.diff(words, prepend=-2) != 0, [True]])
        count = (len(tokens) - 1) // length
        yield from (row(i * length) for i in range(count))
        tokens, begins = tokens[count * length :], begins[count * length :]
    if len(tokens) > 1:
        yield row(0)


def packed(texts: Iterable[Encoded], length: int, vocabulary: Tokenizer) -> Iterator[Row]:
    """Yield rows of as many sequences [CLS] text [SEP] as fit (first fit): `tokens`, `words`, `sequences`, `positions` [T].

    `sequences` numbers the sequences from 1 (0: padding); `positions` counts from 0 in each sequence. A text longer than a row is
    split into several sequences.
    """
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
            if row.used > length - 3:  # the shortest sequence is [CLS] token [SEP]
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
    """Return the word indices of a piece, renumbered from `start` with -1 unchanged, and the next free index."""
    ordinary = words >= 0
    if not ordinary.any():
        return words, start
    numbers = np.where(ordinary, words - words[ordinary][0] + start, -1)
    return numbers, int(numbers.max()) + 1


def stretches(texts: Iterable[Encoded], room: int, pad: int, first: int = 0) -> Iterator[Row]:
    """Yield stretches of at least two tokens of a document, for `Pairs`.

    Each has `tokens` and `words` [room], padded; `size`, its number of tokens; and `document`, numbered from `first`.
    """
    for document, (ids, words) in enumerate(texts, first):
        for start in range(0, len(ids) - 1, room):
            part = ids[start : start + room], renumbered(words[start : start + room], 0)[0]
            padded = [np.pad(x, (0, room - len(x)), constant_values=fill) for x, fill in zip(part, (pad, -1), strict=True)]
            yield {"tokens": padded[0], "words": padded[1], "size": np.int32(len(part[0])), "document": np.int32(document)}
