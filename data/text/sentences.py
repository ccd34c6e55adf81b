"""Rows of one text or of a pair of texts, and an answer: a label, several labels, or a number.

Shapes: B batch, T length, L most labels of a row.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from data.dataset import Dataset, Spec
from data.text import records
from data.text.named import Named
from data.text.pairs import assemble
from data.text.records import Clean, FromRecords, Record, chunks
from data.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Sentences(FromRecords):
    """Base class of batches of [CLS] text [SEP], or [CLS] text [SEP] second [SEP].

    The arrays are `tokens`, `words`, `segments` and `mask` [B, T]. Of a long pair, the longer text is truncated first.
    """

    READS = ("text", "second")

    pairs: bool = False
    "each row is a pair of texts, `text` and `second`"

    def spec(self) -> dict[str, Spec]:
        both, rows = (self.batch_size, self.length), (self.batch_size,)
        return {
            **dict.fromkeys(["tokens", "words", "segments"], Spec(both, np.int32)),
            "mask": Spec(both, np.bool_),
            "example": Spec(rows, np.uint32),
            "valid": Spec(rows, np.float32),
        }

    def answer(self, row: Mapping[str, Any]) -> tuple[Any, str]:
        """Return the answer of a row, a JSON value that is None if the row has none, and what is wrong with it, or ""."""
        raise NotImplementedError(type(self).__name__)

    def arrays(self, answer: Any) -> dict[str, Any]:
        """Return the arrays of an answer."""
        raise NotImplementedError(type(self).__name__)

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        texts = []
        for name in ("text", "second")[: 1 + self.pairs]:
            text = row.get(name)
            if text is None:
                return f"it has no {name}"
            if not isinstance(text, str):
                return f"its {name} is {type(text).__name__}, not a string"
            if not text.strip():
                return f"its {name} is empty"
            texts.append(clean(text))
        answer, problem = self.answer(row)
        return problem or {"texts": texts, "answer": answer}

    def texts_of(self, record: Record) -> list[str]:
        return record["texts"]

    def reference(self, record: Record) -> Any:
        return record["answer"]

    def row_fields(self) -> tuple[Any, ...]:
        return (*super().row_fields(), self.pairs)

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        for chunk in chunks(numbered):
            encoded = iter(vocabulary.encode([text for _, record in chunk for text in record["texts"]]))
            for number, record in chunk:
                parts = [next(encoded) for _ in record["texts"]]
                keep = fitting([len(ids) for ids, _ in parts], self.length - 1 - len(parts))
                counts["rows are truncated"] += sum(keep) < sum(len(ids) for ids, _ in parts)
                cut = [(ids[:size], words[:size]) for (ids, words), size in zip(parts, keep, strict=True)]
                yield {**assemble(cut, self.length, vocabulary), **self.arrays(record["answer"]), "record": number}


def fitting(sizes: list[int], limit: int) -> list[int]:
    """Return at most these sizes, with a sum of at most `limit`. The larger one is reduced first."""
    least = limit // len(sizes)
    spare = limit - sum(min(size, least) for size in sizes)
    kept = []
    for size in sizes:
        more = min(max(size - least, 0), spare)
        kept.append(min(size, least) + more)
        spare -= more
    return kept


@dataclass(frozen=True, kw_only=True)
class LabelledSentences(Named, Sentences):
    """Texts or pairs of texts, with `label` [B]: entailment, paraphrase, …"""

    READS = (*Sentences.READS, "label")
    NEEDS = READS[2:]
    LABELLED = True

    pairs: bool = True

    def spec(self) -> dict[str, Spec]:
        return {**super().spec(), "label": Spec((self.batch_size,), np.int32)}

    def answer(self, row: Mapping[str, Any]) -> tuple[str | None, str]:
        return row.get("label"), ""

    def arrays(self, answer: str | None) -> dict[str, Any]:
        return {"label": -1 if answer is None else self.numbers[answer]}

    def names_of(self, record: Record) -> list[str]:
        return [] if record["answer"] is None else [record["answer"]]


@dataclass(frozen=True, kw_only=True)
class MultiLabelled(Named, Sentences):
    """Texts or pairs of texts, with any number of labels: `labels` [B, L], padded with -1.

    A row has the list `labels`, or a string of labels between separators.
    """

    READS = (*Sentences.READS, "labels")
    NEEDS = READS[2:]

    most_labels: int = 16
    "maximum number of labels of a row, L"
    separator: str = ","
    "text between the labels of a string"

    def __post_init__(self):
        super().__post_init__()
        if self.most_labels < 1:
            raise ValueError(f"most_labels must be at least 1, not {self.most_labels}")
        if not self.separator:
            raise ValueError("separator must not be empty")

    def spec(self) -> dict[str, Spec]:
        return {**super().spec(), "labels": Spec((self.batch_size, self.most_labels), np.int32)}

    def answer(self, row: Mapping[str, Any]) -> tuple[list[str] | None, str]:
        found = row.get("labels")
        if found is None:
            return None, ""
        found = found.split(self.separator) if isinstance(found, str) else found
        if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
            return None, "its labels are not a list of strings"
        names = sorted({" ".join(name.split()) for name in found} - {""})
        if len(names) > self.most_labels:
            return None, f"it has {len(names)} labels, more than data.most_labels {self.most_labels}"
        return names, ""

    def arrays(self, answer: list[str] | None) -> dict[str, Any]:
        found = np.full(self.most_labels, -1, np.int32)
        found[: len(answer or ())] = [self.numbers[name] for name in answer or ()]
        return {"labels": found}

    def names_of(self, record: Record) -> list[str]:
        return record["answer"]

    def row_fields(self) -> tuple[Any, ...]:
        return (*super().row_fields(), self.most_labels)


@dataclass(frozen=True, kw_only=True)
class Scored(Sentences):
    """Texts or pairs of texts, with a number: `score` [B], such as a similarity or a rating."""

    READS = (*Sentences.READS, "score")
    NEEDS = READS[2:]

    def spec(self) -> dict[str, Spec]:
        return {**super().spec(), "score": Spec((self.batch_size,), np.float32)}

    def answer(self, row: Mapping[str, Any]) -> tuple[float | None, str]:
        found = row.get("score")
        if found is None:
            return None, ""
        try:
            value = float(found) if isinstance(found, str | Real) and not isinstance(found, bool) else math.nan
        except ValueError:
            value = math.nan
        return value, "" if math.isfinite(value) else f"its score is {found!r}, not a finite number"

    def arrays(self, answer: float | None) -> dict[str, Any]:
        return {"score": np.float32(math.nan if answer is None else answer)}

    def assumed(self) -> dict[str, Any]:
        return {**super().assumed(), "score_mean": 0.0, "score_std": 1.0}

    def build(self) -> Dataset:
        """The facts include the mean and the standard deviation of the scores in train."""
        dataset = super().build()
        scores = np.array(list(records.records(self).rows("train", self.reference)), np.float64)
        facts = {"score_mean": float(scores.mean()), "score_std": float(scores.std()) or 1.0}
        return replace(dataset, facts={**dataset.facts, **facts})
