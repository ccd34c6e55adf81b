"""Texts with labels, for classification."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import labels as labelling
from data import sources
from data.dataset import Columns, Dataset, Spec, fingerprint
from data.text import TextCodec, encode, facts, vocabulary_for
from data.tokenizer import TOKENIZER_FILE, Tokenizer


@dataclass(frozen=True, kw_only=True)
class LabelledText(labelling.Labelled):
    """Batches of [CLS] text [SEP] as `tokens`, `words`, `segments` and `mask` [B, T], and `label` [B]."""

    source: Any = "pydocs:topics"
    "NAME or NAME:ARGUMENT of data.sources, such as files:PATH"
    length: int = 128
    "tokens in a row, T; longer texts are cut"
    vocab_size: int = 4096
    "of the tokenizer that is trained on the source, if one is"
    tokenizer: str | None = None
    "path of a tokenizer.json to use instead; None is that of --init-from, or one trained on the source"

    def __post_init__(self):
        super().__post_init__()
        if self.length < 8:
            raise ValueError(f"length must be at least 8, not {self.length}")

    def spec(self) -> dict[str, Spec]:
        rows, both = (self.batch_size,), (self.batch_size, self.length)
        return {
            "tokens": Spec(both, np.int32),
            "words": Spec(both, np.int32),
            "segments": Spec(both, np.int32),
            "mask": Spec(both, np.bool_),
            "label": Spec(rows, np.int32),
            "example": Spec(rows, np.uint32),
            "valid": Spec(rows, np.float32),
        }

    def build(self, tokenizer: str | None = None) -> Dataset:
        splits = sources.load(self.source)
        labels = labelling.numbered(splits, self.source)
        everything = len(splits["train"])
        splits["train"] = labelling.budget(splits["train"], self.labels_per_class, self.label_seed, self.source)
        vocabulary = vocabulary_for(self, tokenizer, [row["text"] for row in splits["train"]])
        columns, notes = {}, []
        if self.labels_per_class is not None:
            notes.append(f"{len(splits['train'])} of {everything:,} labelled texts are used: {self.labels_per_class} a class")
        for split, rows in splits.items():
            arrays, cut = encode(rows, self.length, vocabulary)
            columns[split] = {**arrays, "label": np.array([labels.index(row["label"]) for row in rows], np.int32)}
            notes += [f"{split}: {note}" for note in cut]
        return Dataset(
            splits={split: Columns(arrays) for split, arrays in columns.items()},
            facts={**facts(vocabulary), **labelling.facts(splits["train"], labels)},
            fingerprint=fingerprint(labels, vocabulary.json, *(x for arrays in columns.values() for x in arrays.values())),
            codec=TextCodec(self.length, vocabulary, labels),
            shown={split: [row["text"] for row in rows] for split, rows in splits.items()},
            notes=notes,
        )

    def codec(self, folder: Path) -> TextCodec:
        return TextCodec(self.length, Tokenizer.load(str(folder / TOKENIZER_FILE)), labelling.read(folder))
