"""From documents to the fixed shapes of language modelling: windows of a stream, or pairs of segments.

Shapes: B batch, T length.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data import labels as labelling
from data import sources
from data.dataset import Columns, Dataset, Row, Spec, fingerprint
from data.errors import DataError
from data.sources import Rows
from data.tokenizer import CLS, MASK, PAD, SEP, SPECIAL, TOKENIZER_FILE, Tokenizer

VARIANTS = (
    10  # of each stretch in an epoch of training, with other cuts and partners (the duplication of Devlin et al. 2019's own code)
)


@dataclass(frozen=True, kw_only=True)
class Text:
    """Batches of `tokens`, `words` [B, T] (number of the word in its row, -1 for special tokens), and where they can differ from
    all zeros and all ones, `segments` [B, T] and `mask` [B, T] (True at tokens, False at padding).

    `windows`: [CLS] text [SEP], cut from the documents in a row, [SEP] between two; no padding.
    `pairs`: [CLS] A [SEP] B [SEP] of one document; `is_random` [B] is 1 for the half of them whose B comes from another document.
    """

    source: Any = "pydocs"
    "NAME or NAME:ARGUMENT of data.sources, such as files:PATH"
    batch_size: int = 64
    length: int = 128
    "tokens in a row, T"
    layout: Literal["windows", "pairs"] = "windows"
    vocab_size: int = 4096
    "of the tokenizer that is trained on the source"
    tokenizer: str | None = None
    "path of a tokenizer.json to use instead; None is that of --init-from, or one trained on the source"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.length < 8:
            raise ValueError(f"length must be at least 8, not {self.length}")
        if self.vocab_size < 300:
            raise ValueError(f"vocab_size must be at least 300, which holds the characters, not {self.vocab_size}")

    def spec(self) -> dict[str, Spec]:
        rows = (self.batch_size,)
        both = (self.batch_size, self.length)
        spec = {"tokens": Spec(both, np.int32), "words": Spec(both, np.int32)}
        if self.layout == "pairs":
            spec |= {"segments": Spec(both, np.int32), "mask": Spec(both, np.bool_), "is_random": Spec(rows, np.int32)}
        return spec | {"example": Spec(rows, np.uint32), "valid": Spec(rows, np.float32)}

    def build(self, tokenizer: str | None = None) -> Dataset:
        documents = {split: joined(rows) for split, rows in sources.load(self.source).items()}
        vocabulary = vocabulary_for(self, tokenizer, documents["train"])
        encoded = {split: vocabulary.encode(texts) for split, texts in documents.items()}
        make = {
            "windows": lambda split, texts: windows(texts, self.length, vocabulary),
            "pairs": lambda split, texts: Pairs(texts, self.length, vocabulary, VARIANTS if split == "train" else 1),
        }[self.layout]
        for split, texts in encoded.items():
            tokens = sum(len(ids) for ids, _ in texts)
            if tokens < self.length:
                raise DataError(f"data.source {self.source}: {split} has {tokens} tokens, fewer than data.length {self.length}")
        return Dataset(
            splits={split: make(split, texts) for split, texts in encoded.items()},
            facts=facts(vocabulary),
            fingerprint=fingerprint(self.layout, self.length, vocabulary.json, *(ids for t in encoded.values() for ids, _ in t)),
            codec=TextCodec(self.length, vocabulary),
        )

    def codec(self, folder: Path) -> "TextCodec":
        return TextCodec(self.length, Tokenizer.load(str(folder / TOKENIZER_FILE)))


def joined(rows: Rows) -> list[str]:
    """Consecutive rows of one `document` as one text; a row without is a document of its own."""
    numbered = enumerate(rows)
    groups = groupby(numbered, key=lambda item: item[1].get("document", item[0]))
    return [" ".join(row["text"] for _, row in group) for _, group in groups]


def vocabulary_for(config: Any, given: str | None, texts: list[str]) -> Tokenizer:
    """The tokenizer that `config` names, or else the `given` one, or else one trained on `texts`."""
    path = config.tokenizer or given
    return Tokenizer.load(path) if path else Tokenizer.train(texts, config.vocab_size)


@dataclass(frozen=True)
class TextCodec:
    """Texts to [CLS] text [SEP] of `length` tokens and back."""

    length: int
    vocabulary: Tokenizer
    labels: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, str]:
        kept = {TOKENIZER_FILE: self.vocabulary.json}
        return kept | ({labelling.FILE: json.dumps(self.labels)} if self.labels else {})

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, np.ndarray], list[str]]:
        return encode(rows, self.length, self.vocabulary)

    def token(self, index: int) -> str:
        return self.vocabulary.token(index)


def facts(vocabulary: Tokenizer) -> dict[str, Any]:
    return {"vocab_size": vocabulary.vocab_size, "mask_id": vocabulary.id(MASK), "random_ids": vocabulary.random_ids}


def windows(texts: list[tuple[np.ndarray, np.ndarray]], length: int, vocabulary: Tokenizer) -> Columns:
    """Every token of the documents once, in order, but for the last incomplete window."""
    separator = np.array([vocabulary.id(SEP)], np.int32)
    stream = np.concatenate([part for ids, _ in texts for part in (ids, separator)])
    # Words are numbered on from document to document; a word is new where its number differs from the token before.
    begins = np.concatenate([part for _, words in texts for part in (np.diff(words, prepend=-2) != 0, [True])])
    ordinary = ~np.isin(stream, [vocabulary.id(token) for token in SPECIAL])
    count, inner = len(stream) // (length - 2), length - 2
    shape = (count, inner)
    tokens, begins, ordinary = (x[: count * inner].reshape(shape) for x in (stream, begins, ordinary))
    words = np.where(ordinary, np.maximum(np.cumsum(begins, axis=1) - 1, 0), -1).astype(np.int32)
    edges = ((0, 0), (1, 1))
    tokens = np.pad(tokens, edges, constant_values=((0, 0), (vocabulary.id(CLS), vocabulary.id(SEP))))
    return Columns({"tokens": tokens, "words": np.pad(words, edges, constant_values=-1)})


class Pairs:
    """Examples of next-sentence prediction: a stretch of a document cut in two, or its first part and a stretch of another.

    A stretch is as long as a row holds, or its whole document. Every draw is a function of the index.
    """

    def __init__(self, texts: list[tuple[np.ndarray, np.ndarray]], length: int, vocabulary: Tokenizer, variants: int):
        self.texts = [(ids, words) for ids, words in texts if len(ids) >= 2]
        if len(self.texts) < 2:
            raise DataError("data.layout pairs: two documents or more are needed, to draw a second segment from another")
        self.length, self.vocabulary, self.variants = length, vocabulary, variants
        self.room = length - 3
        self.stretches = [(d, s) for d, (ids, _) in enumerate(self.texts) for s in range(0, len(ids) - 1, self.room)]

    def __len__(self) -> int:
        return self.variants * len(self.stretches)

    def __getitem__(self, index: int, /) -> Row:
        rng = np.random.default_rng(index)
        document, start = self.stretches[index % len(self.stretches)]
        stretch = min(self.room, len(self.texts[document][0]) - start)
        cut = int(rng.integers(1, stretch)) if stretch < 8 else int(rng.integers(stretch // 4, stretch - stretch // 4))
        is_random = bool(rng.integers(2))
        first, second = (document, start, start + cut), (document, start + cut, start + stretch)
        if is_random:
            other = (document + int(rng.integers(1, len(self.texts)))) % len(self.texts)
            wanted = self.room - cut
            begin = int(rng.integers(max(len(self.texts[other][0]) - wanted, 0) + 1))
            second = (other, begin, begin + wanted)
        return {**self.row(first, second), "is_random": np.int32(is_random)}

    def row(self, *segments: tuple[int, int, int]) -> dict[str, np.ndarray]:
        parts = [tuple(x[begin:end] for x in self.texts[d]) for d, begin, end in segments]
        return assemble(parts, self.length, self.vocabulary)


def assemble(parts: Sequence[tuple], length: int, vocabulary: Tokenizer) -> dict[str, np.ndarray]:
    """[CLS] part [SEP] part [SEP] …, padded to `length`."""
    tokens = np.full(length, vocabulary.id(PAD), np.int32)
    words = np.full(length, -1, np.int32)
    segments = np.zeros(length, np.int32)
    tokens[0], at, word = vocabulary.id(CLS), 1, 0
    for number, (ids, numbers) in enumerate(parts):
        end = at + len(ids)
        tokens[at:end], tokens[end] = ids, vocabulary.id(SEP)
        segments[at : end + 1] = number
        if len(ids):
            words[at:end] = numbers - numbers[0] + word
            word = words[end - 1] + 1
        at = end + 1
    words[np.isin(tokens, [vocabulary.id(token) for token in SPECIAL])] = -1
    return {"tokens": tokens, "words": words, "segments": segments, "mask": np.arange(length) < at}


def encode(rows: Sequence[Mapping[str, Any]], length: int, vocabulary: Tokenizer) -> tuple[Mapping[str, np.ndarray], list[str]]:
    """(`tokens`, `words`, `segments` and `mask` [rows, T] of [CLS] text [SEP]; what there is to say of texts that were cut).

    Raises DataError for a row without text."""
    for i, row in enumerate(rows):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise DataError(f"row {i} has no text; it has: {', '.join(row) or 'nothing'}")
    texts = vocabulary.encode([row["text"] for row in rows])
    cut = sum(len(ids) > length - 2 for ids, _ in texts)
    notes = [f"{cut} of {len(rows)} texts are longer than data.length {length} and are cut to it"] if cut else []
    assembled = [assemble([tuple(x[: length - 2] for x in text)], length, vocabulary) for text in texts]
    return {name: np.stack([row[name] for row in assembled]) for name in assembled[0]}, notes
