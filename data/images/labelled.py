"""Labelled images of one size.

Shapes: B batch, H height, W width, C channels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data import labels as labelling
from data.dataset import Dataset, Examples, Spec, Subset, WithLabels, fingerprint
from data.images.stored import FromImages, ImageCodec, Pictures
from data.mixture import weighted


@dataclass(frozen=True, kw_only=True)
class Images(labelling.Labelled, FromImages):
    """Batches of `image` float32 [B, H, W, C] and `label` int32 [B]."""

    source: Any = "digits"

    def spec(self) -> dict[str, Spec]:
        return {**super().spec(), "label": Spec((self.batch_size,), np.int32)}

    def build(self) -> Dataset:
        images = self.images()
        about, appeared = images.facts, images.column("label")
        labels = labelling.sorted_labels(appeared, about["labels"], self.source, self.splits)
        chosen = self.chosen(labels)
        codec = ImageCodec(self.shape, self.resize, self.convert, labels.names)
        splits: dict[str, Examples] = {
            split: WithLabels(examples, labels.numbers[split]) for split, examples in images.decoded(codec).items()
        }
        part = images.column("part")["train"][chosen]
        mixture = weighted(Subset(splits["train"], chosen), part, about["weights"], self.source)
        splits["train"] = self.oversampled(mixture, labels, chosen)
        return Dataset(
            splits=splits,
            facts={**self.facts(labels, chosen), **self.normalization(about["mean"], about["std"])},
            fingerprint={**about["fingerprint"], "chosen": fingerprint(chosen)},
            codec=codec,
            shown={split: Pictures(examples) for split, examples in splits.items()},
            references=labels.references(chosen),
            notes=[*self.notes_on(labels, chosen), *images.notes],
            about={"source": images.source, **labels.counts(chosen)},
            bad_records=about["bad"],
        )
