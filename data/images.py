"""Images with labels, all of one size."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import labels as labelling
from data import sources
from data.dataset import Columns, Dataset, Spec, fingerprint
from data.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Images(labelling.Labelled):
    """Batches of `image` float32 [B, *shape] and `label` int32 [B]."""

    source: Any = "digits"
    "NAME or NAME:ARGUMENT of data.sources"
    batch_size: int = 128
    shape: tuple[int, int, int] = (8, 8, 1)
    "height, width, channels"

    def spec(self) -> dict[str, Spec]:
        batch = self.batch_size
        return {
            "image": Spec((batch, *self.shape), np.float32),
            "label": Spec((batch,), np.int32),
            "example": Spec((batch,), np.uint32),
            "valid": Spec((batch,), np.float32),
        }

    def build(self, tokenizer: str | None = None) -> Dataset:
        splits = sources.load(self.source)
        labels = labelling.numbered(splits, self.source)
        splits["train"] = labelling.budget(splits["train"], self.labels_per_class, self.label_seed, self.source)
        codec = ImageCodec(self.shape, labels)
        columns = {
            split: {
                "image": codec.encode(rows)[0]["image"],
                "label": np.array([labels.index(row["label"]) for row in rows], np.int32),
            }
            for split, rows in splits.items()
        }
        return Dataset(
            splits={split: Columns(arrays) for split, arrays in columns.items()},
            facts=labelling.facts(splits["train"], labels),
            fingerprint=fingerprint(labels, *(array for arrays in columns.values() for array in arrays.values())),
            codec=codec,
            shown={split: [np.asarray(row["image"]) for row in rows] for split, rows in splits.items()},
        )

    def codec(self, folder: Path) -> "ImageCodec":
        return ImageCodec(self.shape, labelling.read(folder))


@dataclass(frozen=True)
class ImageCodec:
    """Images of `shape` to arrays."""

    shape: tuple[int, int, int]
    labels: tuple[str, ...]

    @property
    def files(self) -> dict[str, str]:
        return {labelling.FILE: json.dumps(self.labels)}

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, np.ndarray], list[str]]:
        """`image` [rows, *shape]. Raises DataError for a row without an image, or with one of another shape."""
        for i, row in enumerate(rows):
            try:
                shape = np.asarray(row["image"], np.float32).shape
            except KeyError:
                raise DataError(f"row {i} has no image; it has: {', '.join(row)}") from None
            except (ValueError, TypeError):
                raise DataError(f"row {i}: its image is not an array of numbers") from None
            if shape != self.shape:
                raise DataError(f"row {i}: its image is {list(shape)}, not {list(self.shape)}")
        return {"image": np.stack([np.asarray(row["image"], np.float32) for row in rows])}, []

    def token(self, index: int) -> str:
        return str(index)
