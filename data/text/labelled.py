"""Labelled texts for classification."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import labels as labelling
from data.cache import cached
from data.dataset import Dataset, Examples, Spec, Subset, WithLabels, fingerprint
from data.mixture import weighted
from data.store import Stored
from data.text.documents import Documents, documents
from data.text.language_modelling import FromTokens, TextCodec, about, facts, vocabulary_for, write_rows
from data.text.language_modelling import notes as notes_of
from data.text.tokenizer import TOKENIZER_FILE, Tokenizer


@dataclass(frozen=True, kw_only=True)
class LabelledText(labelling.Labelled, FromTokens):
    """Batches of [CLS] text [SEP]: `tokens`, `words`, `segments` and `mask` [B, T], and `label` [B]. Long texts are truncated."""

    JOINS = False  # each text has its own label

    source: Any = "pydocs:topics"

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

    def build(self) -> Dataset:
        texts = documents(self)
        vocabulary = vocabulary_for(self, texts)
        appeared = {split: texts.store(split).column("label") for split in texts.splits}
        labels = labelling.sorted_labels(appeared, texts.about["labels"], self.source, self.splits)
        chosen = self.chosen(labels)
        codec = TextCodec(self, vocabulary, labels.names)
        rows = self.rows(texts, codec)
        splits: dict[str, Examples] = {
            split: WithLabels(Stored(rows / f"{split}.array_record", self.spec()), numbers)
            for split, numbers in labels.numbers.items()
        }
        part = texts.store("train").column("part")[chosen]
        mixture = weighted(Subset(splits["train"], chosen), part, texts.weights, self.source)
        splits["train"] = self.oversampled(mixture, labels, chosen)
        topics = about(texts, rows)
        notes = [*notes_of(texts, topics), *self.notes_on(labels, chosen)]
        for split in splits:
            cut, total = (topics[f"tokens of {split}"][name] for name in ("texts that are cut", "documents"))
            if split == "train" and len(chosen) < len(labels.numbers[split]):  # count the texts in use
                encoded = vocabulary.encode(list(texts.texts(split, chosen)))
                cut, total = sum(len(ids) > self.length - 2 for ids, _ in encoded), len(encoded)
            if cut:
                notes.append(f"{split}: {cut:,} of {total:,} texts are longer than data.length {self.length} and are truncated")
        return Dataset(
            splits=splits,
            facts={**facts(vocabulary), **self.facts(labels, chosen)},
            fingerprint={
                **texts.about["fingerprint"],
                "tokenizer": vocabulary.hash,
                "rows": f"labelled, of {self.length}",
                "chosen": fingerprint(chosen),
            },
            codec=codec,
            shown={split: texts.texts(split, chosen if split == "train" else None) for split in splits},
            references=labels.references(chosen),
            notes=notes,
            about={**topics, **labels.counts(chosen)},
            bad_records=texts.about["bad"],
        )

    def rows(self, texts: Documents, codec: TextCodec) -> Path:
        """Return the cache folder with the tokenized rows of each split, building it if needed."""
        columns = {name: Spec(s.shape[1:], s.dtype) for name, s in self.spec().items() if len(s.shape) == 2}

        def write(folder: Path) -> None:
            tallies = write_rows(
                folder, texts, codec.vocabulary, columns, self.length, lambda encoded, _: map(codec.row, encoded)
            )
            counted = {split: {**tally.about(), "texts that are cut": tally.cut} for split, tally in tallies.items()}
            (folder / "about.json").write_text(json.dumps(counted), "utf-8")

        return cached(f"rows/{fingerprint(texts.folder.name, codec.vocabulary.hash, 'labelled', self.length)}", write)

    def codec(self, folder: Path) -> TextCodec:
        return TextCodec(self, Tokenizer.load(str(folder / TOKENIZER_FILE)), labelling.read(folder))
