"""Pairs of texts with the same meaning, for embeddings: translations, paraphrases, questions and answers.

Shapes: B batch, T length.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.dataset import Dataset, Spec
from data.text import records
from data.text.pairs import assemble
from data.text.records import Clean, Record, chunks
from data.text.sentences import Scored
from data.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class MatchingTexts(Scored):
    """Batches of two texts, each [CLS] text [SEP]: `tokens` and `mask` [B, T], `second_tokens` and `second_mask` [B, T].

    `score` [B] is the similarity of the texts, NaN where it is not known. Long texts are truncated.
    """

    NEEDS = ("second",)

    pairs: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.pairs:
            raise ValueError("pairs must be True: each row has two texts to match")

    def spec(self) -> dict[str, Spec]:
        both = (self.batch_size, self.length)
        arrays = {
            f"{side}{name}": Spec(both, t) for side in ("", "second_") for name, t in (("tokens", np.int32), ("mask", np.bool_))
        }
        return {**arrays, **{name: super(MatchingTexts, self).spec()[name] for name in ("score", "example", "valid")}}

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        """Accept a row with one text to predict."""
        return super().accepted({**row, "second": row.get("second", row.get("text"))}, clean)

    def build(self) -> Dataset:
        return records.build(self)

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        for chunk in chunks(numbered):
            encoded = iter(vocabulary.encode([text for _, record in chunk for text in record["texts"]]))
            for number, record in chunk:
                row: dict[str, Any] = {**self.arrays(record["answer"]), "record": number}
                for side in ("", "second_"):
                    ids, words = next(encoded)
                    counts["texts are truncated"] += len(ids) > self.length - 2
                    arrays = assemble([(ids[: self.length - 2], words[: self.length - 2])], self.length, vocabulary)
                    row |= {f"{side}{name}": arrays[name] for name in ("tokens", "mask")}
                yield row
