"""Texts, or pairs of texts, with something to predict from them.

Shapes: B batch, T length.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data.dataset import Spec
from data.text.pairs import assemble
from data.text.records import Clean, FromRecords, Record, chunks
from data.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class OneOrTwo(FromRecords):
    """Base class of the configs of [CLS] text [SEP] or [CLS] text [SEP] second [SEP] with an answer.

    Batches have `tokens`, `words`, `segments` (0 in the text, 1 in the second) and `mask` [B, T]. Of texts that are too long
    together, the longer one is truncated first, as in BERT (Devlin et al. 2019).
    """

    READS = ("text", "second")

    def has_second(self) -> bool:
        """Return whether rows are pairs of texts."""
        raise NotImplementedError(type(self).__name__)

    def answer(self, row: Mapping[str, Any]) -> Record | str:
        """Return the fields of a record with the answer of a row, or what is wrong with it. A row to predict may have none."""
        raise NotImplementedError(type(self).__name__)

    def answer_arrays(self, record: Record) -> dict[str, Any]:
        """Return the arrays of a record's answer."""
        return {}

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the data has pairs and the model has fewer than two segments."""
        segments = getattr(experiment.model, "segments", 2)
        if self.has_second() and segments == 1:
            raise ValueError("data has pairs of texts, but model.segments is 1: set it to 2, or to 0 for none")

    def spec(self) -> dict[str, Spec]:
        return self.arrays(["tokens", "words", "segments"], ["mask"])

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        names, texts = ("text", "second") if self.has_second() else ("text",), {}
        for name in names:
            text = row.get(name)
            if text is None:
                return f"it has no {name}; choose a field with --data.fields {name}=NAME"
            if not isinstance(text, str):
                return f"its {name} is {type(text).__name__}, not a string"
            if not text.strip():
                return f"its {name} is empty"
            texts[name] = clean(text)
        if "second" in row and not self.has_second():
            return "it has a second text; read pairs with --data.pairs"
        answer = self.answer(row)
        return answer if isinstance(answer, str) else {**texts, **answer}

    def texts_of(self, record: Record) -> list[str]:
        return [record[name] for name in ("text", "second") if name in record]

    def record_fields(self) -> tuple[Any, ...]:
        return (self.has_second(),)

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        what = "pairs are truncated" if self.has_second() else "texts are truncated"
        for chunk in chunks(numbered):
            texts = zip(*(self.texts_of(record) for _, record in chunk), strict=True)
            encoded = [vocabulary.encode(list(side)) for side in texts]
            for (number, record), *parts in zip(chunk, *encoded, strict=True):
                sizes = truncated([len(ids) for ids, _ in parts], self.length - 1 - len(parts))
                counts[what] += sum(sizes) < sum(len(ids) for ids, _ in parts)
                kept = [(ids[:size], words[:size]) for (ids, words), size in zip(parts, sizes, strict=True)]
                yield {**assemble(kept, self.length, vocabulary), **self.answer_arrays(record), "record": number}


def truncated(sizes: list[int], limit: int) -> list[int]:
    """Return the sizes of one or two texts of together at most `limit` tokens, by truncating the longer one."""
    if len(sizes) == 1 or sum(sizes) <= limit:
        return [min(size, limit) for size in sizes]
    first, second = sizes
    if min(sizes) <= limit // 2:
        return [first, limit - first] if first < second else [limit - second, second]
    return [limit - limit // 2, limit // 2]
