"""Pairs of texts with a label, such as premise and hypothesis, or question and answer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data import labels as labelling
from data.dataset import Dataset, Spec, fingerprint
from data.text import records
from data.text.one_or_two import OneOrTwo
from data.text.records import Record, RecordCodec, Selected
from data.text.tokenizer import TOKENIZER_FILE, Tokenizer


@dataclass(frozen=True, kw_only=True)
class SentencePairs(labelling.Labelled, OneOrTwo):
    """Batches of [CLS] text [SEP] second [SEP]: `tokens`, `words`, `segments` and `mask` [B, T], and `label` [B]."""

    READS = ("text", "second", "label")
    NEEDS = ("second",)

    def has_second(self) -> bool:
        return True

    def spec(self) -> dict[str, Spec]:
        return {**super().spec(), "label": Spec((self.batch_size,), np.int32)}

    def answer(self, row: Mapping[str, Any]) -> Record:
        return {"label": row.get("label")}

    def reference(self, record: Record) -> str:
        return record["label"]

    def build(self) -> Dataset:
        found, index = records.records(self), {}
        number = lambda record: -1 if record["label"] is None else index.setdefault(record["label"], len(index))
        appeared = {split: np.fromiter(found.rows(split, number), np.int32) for split in found.splits}
        labels = labelling.sorted_labels(appeared, list(index), self.source, self.splits)
        chosen = self.chosen(labels)
        rows = {split: chosen if split == "train" else np.arange(len(labels.numbers[split])) for split in labels.numbers}
        dataset = records.build(self, {split: Selected(rows[split], labels.numbers[split][rows[split]]) for split in rows})
        return replace(
            dataset,
            splits={**dataset.splits, "train": self.oversampled(dataset.splits["train"], labels, chosen)},
            facts={**dataset.facts, **self.facts(labels, chosen)},
            fingerprint={**dataset.fingerprint, "chosen": fingerprint(chosen)},
            codec=RecordCodec(self, dataset.codec.vocabulary, labels.names),
            notes=[*dataset.notes, *self.notes_on(labels, chosen)],
            about={**dataset.about, **labels.counts(chosen)},
        )

    def codec(self, folder: Path) -> RecordCodec:
        return RecordCodec(self, Tokenizer.load(str(folder / TOKENIZER_FILE)), labelling.read(folder))
