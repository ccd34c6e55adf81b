"""Texts, or pairs of texts, with any number of labels each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from data import labels as labelling
from data.dataset import Dataset, Spec
from data.errors import DataError
from data.reading import label_name
from data.text import records
from data.text.one_or_two import OneOrTwo
from data.text.records import Record, RecordCodec


@dataclass(frozen=True, kw_only=True)
class MultiLabelledText(OneOrTwo):
    """Batches of [CLS] text [SEP], or with `pairs` [CLS] text [SEP] second [SEP].

    `tokens`, `words`, `segments` and `mask` [B, T], and `labels` [B, L], the indices of the labels of a row (-1: no more).
    """

    READS = ("text", "second", "labels")
    NEEDS = ("labels",)

    pairs: bool = False
    "read pairs of texts, `text` and `second`"
    labels: tuple[str, ...] | None = None
    "the labels in order (None: those of train, sorted)"
    most_labels: int = 16
    "maximum number of labels of a row, L"
    separator: str = ","
    "separator of the labels of a row that are written in one string"

    def __post_init__(self):
        super().__post_init__()
        if self.labels is not None and len(set(self.labels)) != max(len(self.labels), 2):
            raise ValueError(f"labels must be at least two distinct names, not {', '.join(self.labels)}")
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
        index = {name: number for number, name in enumerate(self.labels or ())}
        known = [index[name] for name in record["labels"] if name in index]  # a row to predict may have other labels
        return {"labels": np.array([*known, *[-1] * (self.most_labels - len(known))], np.int32)}

    def reference(self, record: Record) -> list[str]:
        return record["labels"]

    def label_names(self) -> tuple[str, ...]:
        return self.labels or ()

    def record_fields(self) -> tuple[Any, ...]:
        return (*super().record_fields(), self.most_labels, self.separator)

    def row_fields(self) -> tuple[Any, ...]:
        return (*super().row_fields(), self.labels)

    def build(self) -> Dataset:
        """Raises DataError for a label of a held-out split that does not occur in train, or in `labels`."""
        found = records.records(self)
        rows = {split: found.rows(split, self.reference) for split in found.splits}
        counts = {split: Counter(name for labels in rows[split] for name in labels) for split in rows}
        labels = self.labels or tuple(sorted(counts["train"]))
        for split, used in counts.items():
            if unknown := sorted(used.keys() - set(labels)):
                known = f"the labels are {', '.join(labels)}" if self.labels else f"train has {', '.join(labels)}"
                raise DataError(f"data.source {self.source}: {split} has the label {unknown[0]!r}; {known}")
        if len(labels) < 2:
            raise DataError(f"data.source {self.source}: train has {len(labels)} labels; at least two are needed")
        dataset = records.build(replace(self, labels=labels))
        tables = {f"labels of {split}": {name: count[name] for name in labels} for split, count in counts.items()}
        return replace(dataset, facts={**dataset.facts, "classes": len(labels)}, about={**dataset.about, **tables})

    def codec(self, folder: Path) -> RecordCodec:
        known = self if self.labels else replace(self, labels=labelling.read(folder))
        return super(MultiLabelledText, known).codec(folder)

    def elsewhere(self, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
        """Return the data as in FromSource, with the labels of the run. Raises DataError for labels unknown to the run."""
        known: Self = replace(self, labels=labelling.read(folder))
        return super(MultiLabelledText, known).elsewhere(folder, source, fields, splits)
