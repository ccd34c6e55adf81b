"""Pairs of texts that belong together, each encoded by itself, such as a sentence and its translation.

Shapes: B batch, T length.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.dataset import Spec
from data.text.numbers import number_of
from data.text.pairs import assemble
from data.text.records import Clean, FromRecords, Record, chunks
from data.text.tokenizer import Tokenizer

SIDES = ("text", "second")
ARRAYS = ("tokens", "words", "segments", "mask")


@dataclass(frozen=True, kw_only=True)
class RelatedTexts(FromRecords):
    """Batches of [CLS] text [SEP]: `tokens`, `words`, `segments` and `mask` [B, T], and of [CLS] second [SEP]: `second_tokens`,
    `second_words`, `second_segments` and `second_mask`.

    A row may have a `score`, which is its reference. Long texts are truncated.
    """

    READS = (*SIDES, "score")
    NEEDS = ("second",)

    def spec(self) -> dict[str, Spec]:
        both, rows = (self.batch_size, self.length), (self.batch_size,)
        kinds = {name: Spec(both, np.bool_ if name == "mask" else np.int32) for name in ARRAYS}
        return {
            **kinds,
            **{f"second_{name}": kind for name, kind in kinds.items()},
            "example": Spec(rows, np.uint32),
            "valid": Spec(rows, np.float32),
        }

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        """Accept a row without `second` to predict."""
        texts = {}
        for name in SIDES:
            text = row.get(name)
            if text is None and name == "second":
                texts[name] = None
            elif not isinstance(text, str):
                return f"it has no {name}" if text is None else f"its {name} is {type(text).__name__}, not a string"
            elif not text.strip():
                return f"its {name} is empty"
            else:
                texts[name] = clean(text)
        score = None if row.get("score") is None else number_of(row["score"], "score")
        return score if isinstance(score, str) else {**texts, "score": score}

    def texts_of(self, record: Record) -> list[str]:
        return [record[name] for name in SIDES if record[name] is not None]

    def reference(self, record: Record) -> float | None:
        return record["score"]

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        for chunk in chunks(numbered):
            encoded = [vocabulary.encode([record[name] or "" for _, record in chunk]) for name in SIDES]
            for (number, record), *texts in zip(chunk, *encoded, strict=True):
                row: dict[str, Any] = {"record": number}
                for name, prefix, (ids, words) in zip(SIDES, ("", "second_"), texts, strict=True):
                    counts["texts are truncated"] += len(ids) > self.length - 2
                    made = assemble([(ids[: self.length - 2], words[: self.length - 2])], self.length, vocabulary)
                    if record[name] is None:
                        made["mask"][:] = False
                    row |= {f"{prefix}{key}": made[key] for key in ARRAYS}
                yield row
