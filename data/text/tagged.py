"""Sentences with a tag for each word, such as those of named entities.

Shapes: B batch, T length.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.dataset import Spec
from data.text.named import Named
from data.text.pairs import assemble
from data.text.records import Clean, Record, chunks
from data.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TaggedText(Named):
    """Batches of [CLS] sentence [SEP]: `tokens`, `words`, `segments` and `mask` [B, T], and the tags of the words.

    A word is tokenized by itself. `starts` [B, T] is True at its first token, where `tags` [B, T] is its tag; elsewhere `tags` is
    -1. Long sentences are truncated.
    """

    READS = ("tokens", "tags")
    NEEDS = READS[1:]

    def __post_init__(self):
        super().__post_init__()
        if self.cleaning.max_characters is not None or self.cleaning.min_characters > 1:
            raise ValueError("cleaning: min_characters and max_characters do not apply to tagged words")

    def spec(self) -> dict[str, Spec]:
        return self.arrays(["tokens", "words", "segments", "tags"], ["mask", "starts"])

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        """Accept a `text`, with words between spaces, for tokens, and a row without tags to predict."""
        words, tags = row.get("tokens"), row.get("tags")
        if words is None and isinstance(row.get("text"), str):
            words = row["text"].split()
        if words is None:
            return "it has no tokens"
        for name, values in {"tokens": words, "tags": tags or []}.items():
            if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
                return f"its {name} are not a list of strings"
        if not any(word.strip() for word in words):
            return "it has no words"
        if tags is not None and len(tags) != len(words):
            return f"it has {len(words)} words but {len(tags)} tags"
        if blank := [i for i, tag in enumerate(tags or ()) if not tag.strip()]:
            return f"its word {blank[0] + 1}, {words[blank[0]]!r}, has no tag"
        return {"words": [self.prepared(word)[0].strip() for word in words], "tags": None if tags is None else list(tags)}

    def texts_of(self, record: Record) -> list[str]:
        return [" ".join(record["words"])]

    def reference(self, record: Record) -> list[str]:
        return record["tags"]

    def names_of(self, record: Record) -> list[str]:
        return record["tags"]

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        for chunk in chunks(numbered):
            # Byte-level tokens include the space before a word.
            texts = [f" {word}" if at else word for _, record in chunk for at, word in enumerate(record["words"])]
            pieces = iter(vocabulary.encode(texts))
            for number, record in chunk:
                words = [next(pieces)[0] for _ in record["words"]]
                words = [ids if len(ids) else np.array([vocabulary.special["unknown"]], np.int32) for ids in words]
                index = np.repeat(np.arange(len(words)), [len(ids) for ids in words]).astype(np.int32)
                counts["sentences are truncated"] += len(index) > self.length - 2
                ids, index = np.concatenate(words)[: self.length - 2], index[: self.length - 2]
                row = assemble([(ids, index)], self.length, vocabulary)
                starts, tags = np.zeros(self.length, bool), np.full(self.length, -1, np.int32)
                starts[1 : 1 + len(index)] = np.diff(index, prepend=-1) > 0
                if record["tags"] is not None:
                    known = self.numbers  # a row to predict may have other tags
                    tags[starts] = [known.get(tag, -1) for tag in record["tags"][: starts.sum()]]
                yield {**row, "starts": starts, "tags": tags, "record": number}
