"""Texts, or pairs of texts, with any number of labels each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.dataset import Spec
from data.reading import label_name
from data.text.named import Named
from data.text.one_or_two import OneOrTwo
from data.text.records import Record


@dataclass(frozen=True, kw_only=True)
class MultiLabelledText(Named, OneOrTwo):
    """Batches of [CLS] text [SEP], or with `pairs` [CLS] text [SEP] second [SEP].

    `tokens`, `words`, `segments` and `mask` [B, T], and `labels` [B, L], the indices of the labels of a row (-1: no more).
    """

    READS = ("text", "second", "labels")
    NEEDS = ("labels",)

    pairs: bool = False
    "read pairs of texts, `text` and `second`"
    most_labels: int = 16
    "maximum number of labels of a row, L"
    separator: str = ","
    "separator of the labels of a row that are written in one string"

    def __post_init__(self):
        super().__post_init__()
        if self.most_labels < 1:
            raise ValueError(f"most_labels must be at least 1, not {self.most_labels}")
        if not self.separator:
            raise ValueError("separator must not be empty")

    def has_second(self) -> bool:
        return self.pairs

    def spec(self) -> dict[str, Spec]:
        return {**super().spec(), "labels": Spec((self.batch_size, self.most_labels), np.int32)}

    def answer(self, row: Mapping[str, Any]) -> Record | str:
        """Accept a list of labels, or one string. Repeated labels count once."""
        labels = row.get("labels")
        if isinstance(labels, str):
            labels = [label for label in labels.split(self.separator) if labels.strip()]
        elif labels is None:
            labels = []
        elif not isinstance(labels, Sequence | np.ndarray):
            return f"its labels are {type(labels).__name__}, not a list or a string"
        for label in labels:
            if not isinstance(label, str | int | np.integer) or isinstance(label, bool):
                return f"its label {label!r} is not a string or a whole number"
            if isinstance(label, str) and not label.strip():
                return f"its labels {self.separator.join(map(str, labels))!r} contain an empty one"
        names = list(dict.fromkeys(label_name(label) for label in labels))
        if len(names) > self.most_labels:
            return f"it has {len(names)} labels, more than data.most_labels {self.most_labels}"
        return {"labels": names}

    def answer_arrays(self, record: Record) -> dict[str, Any]:
        known = [self.numbers[name] for name in record["labels"] if name in self.numbers]  # a row to predict may have others
        return {"labels": np.array([*known, *[-1] * (self.most_labels - len(known))], np.int32)}

    def reference(self, record: Record) -> list[str]:
        return record["labels"]

    def names_of(self, record: Record) -> list[str]:
        return record["labels"]

    def record_fields(self) -> tuple[Any, ...]:
        return (*super().record_fields(), self.most_labels, self.separator)
